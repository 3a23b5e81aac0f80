"""Where parts go."""
