"""Needs: what a process takes of a machine, and what a machine has. Imports nothing."""

from typing import NamedTuple

ROUNDING = 1e-9
"""A tenth of a GPU is ten times in one, and in floating point 9.99... times."""


class Needs(NamedTuple):
    """What one process at work takes of a machine."""

    cpus: float = 1
    """torch gets as many threads."""
    gpus: float = 0
    memory: float = 0
    """GiB."""

    def times_in(self, machine: "Needs") -> int:
        """How many of them such a machine holds at once."""
        shares = [has / takes for has, takes in zip(machine, self, strict=True) if takes]
        return int(min(shares, default=0) + ROUNDING)
