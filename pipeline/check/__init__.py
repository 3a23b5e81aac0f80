"""Checks of values: written in YAML, brought to columns, counted in the flow, judged at the end."""
