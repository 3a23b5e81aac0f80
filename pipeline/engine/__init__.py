"""Where and when the worker runs."""
