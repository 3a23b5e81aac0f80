"""Contract suites, one per kind of component, for the built-in classes and for yours.

Subclass a suite, give it what it asks for, and let pytest collect it:

    from pipeline.testing.source import SourceContract

    class TestLogs(SourceContract):
        def make(self, tmp_path): ...
"""
