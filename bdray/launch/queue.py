"""Queue: which worker of Ray Train trains which victim. Imports neither torch nor Ray Train: the actor that it lives in starts
while the workers do."""

from bdray.launch.ends import LIVES, End, first
from bdray.spec import Config

LONGEST_WAIT = 60.0
"""Seconds between two attempts, at the most."""


def wait(times: int) -> float:
    """Seconds before the next attempt, after so many in a row that showed nothing: whatever ended them may pass."""
    return min(LONGEST_WAIT, 2.0 ** (times - 1)) if times > 0 else 0.0


class Queue:
    """Who trains which victim. A worker's unfinished claim goes back when the worker of its rank is replaced. What ended the
    worker counts for the victim that it had, and for no other: after `LIVES` ends without an epoch done the victim is lost, or
    failed if each time it raised, and the others go on. Ray may call a method twice, and begins a lost queue anew, with every
    victim pending: those that are done are found in the store, those in training are claimed there."""

    def __init__(self, jobs: dict[str, Config], team: bool = False) -> None:
        """`team`: all workers train one victim, which the one of rank 0 has taken."""
        self.jobs, self.team = jobs, team
        self.pending = list(jobs)
        self.claims: dict[int, tuple[str, str]] = {}
        self.epochs = dict.fromkeys(jobs, 0)
        self.ends: dict[str, list[End]] = {key: [] for key in jobs}
        self.finished: set[str] = set()
        self.errors: dict[str, tuple[str, str]] = {}
        self.reasons: dict[str, str] = {}
        self.refused = ""
        self.counted = self.idle = 0

    def take(self, rank: int, token: str) -> tuple[str, Config] | None:
        """The next victim for the worker of this rank; the token tells a restarted worker from the one before it."""
        claim = self.claims.pop(rank, None)
        if claim is not None and claim[1] not in self.finished:
            self.pending.insert(0, claim[1])
        self.pending = [key for key in self.pending if key not in self.finished]
        if not self.pending or self.refused:
            return None
        key = self.pending.pop(0)
        self.claims[rank] = (token, key)
        return key, self.jobs[key]

    def ended(self, ends: dict[int, tuple[str, str]]) -> None:
        """Workers of these ranks ended so, as kind and reason; Ray Train replaces the whole group. The loss of a machine counts
        for nobody."""
        found = {rank: End(kind, reason) for rank, (kind, reason) in ends.items()}  # type: ignore[arg-type]
        if self.team:
            found = {0: first(found.values())}
        self.idle += all(end.kind != "machine" for end in found.values())
        for rank, end in found.items():
            key = self.claims[rank][1] if rank in self.claims else ""
            if key and key not in self.finished and end.kind != "machine":
                self._count(key, end)

    def _count(self, key: str, end: End) -> None:
        self.counted += 1
        ends = self.ends[key]
        # The first of a team to complain knows best why, unless one of it was simply gone.
        said = self.reasons.pop(key, "")
        ends.append(End(end.kind, said) if said and end.kind == "raised" else end)
        if len(ends) < LIVES:
            return
        if all(end.kind == "raised" for end in ends):
            self.finish(key, f"it raised {LIVES} times before another epoch was done: {ends[-1].reason}")
        else:
            self.finish(key, f"its worker died {LIVES} times before another epoch was done: {first(ends).reason}", "lost")

    def patience(self) -> float:
        """Seconds that a new worker waits before it asks for its first victim: longer after each end in a row."""
        return wait(self.idle)

    def complain(self, key: str, reason: str) -> None:
        """One of a team cannot go on; the first to say so knows best why."""
        self.reasons.setdefault(key, reason)

    def progress(self, key: str, epoch: int) -> None:
        """An epoch is done."""
        if epoch > self.epochs[key]:
            self.epochs[key], self.idle = epoch, 0
            self.ends[key].clear()

    def finish(self, key: str, error: str = "", status: str = "failed") -> None:
        """A victim is in the store, cannot be trained, is lost, or is another launch's just now."""
        self.finished.add(key)
        if error:
            self.errors[key] = status, error
        else:
            self.idle = 0

    def refuse(self, error: str) -> None:
        """The store takes no more: nobody gets another victim, and the launch is to end with this."""
        self.refused = self.refused or error

    def refusal(self) -> str:
        """Why the launch is to end; empty if it is not."""
        return self.refused

    def state(self) -> tuple[int, int, int, dict[str, tuple[str, str]]]:
        """Epochs done, victims in training, victims finished, and why some are not to be had, as status and reason by key."""
        running = sum(key not in self.finished for _, key in self.claims.values())
        return sum(self.epochs.values()), running, len(self.finished), self.errors

    def shown(self) -> tuple[int, int, int]:
        """What only grows as long as the training gets anywhere: victims finished, epochs done, ends that a victim is to blame
        for."""
        return len(self.finished), sum(self.epochs.values()), self.counted
