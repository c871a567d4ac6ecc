"""Sweeps: Ray Tune search definitions and nothing else, one `sweep` a file."""
