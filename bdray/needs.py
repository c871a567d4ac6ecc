"""Needs: what a process takes of a machine, and what a machine has. Imports nothing."""

from typing import NamedTuple


class Needs(NamedTuple):
    """What one process at work takes of a machine."""

    cpus: float = 1
    """torch gets as many threads."""
    gpus: float = 0
    memory: float = 0
    """GiB."""

    def times_in(self, machine: "Needs") -> int:
        """How many of them such a machine holds at once."""
        shares = [has // takes for has, takes in zip(machine, self, strict=True) if takes]
        return int(min(shares, default=0))
