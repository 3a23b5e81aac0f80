"""Tests. A busy machine fails none: Hypothesis sets no time limits here, those of pytest hold."""

from importlib.util import find_spec

if find_spec("hypothesis"):  # the environment of Airflow has none
    from hypothesis import HealthCheck, settings

    settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("patient")
