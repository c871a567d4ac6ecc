"""Connected: Ray on this machine, or the cluster at an address; what it has to give, and one sentence for what is wrong."""

import contextlib
import logging
import os
import site
import socket
import threading
import uuid
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import bdray
from bdray.launch import growth
from bdray.launch.ends import dead_nodes, forget
from bdray.launch.vigil import vigil
from bdray.memory import whole_memory
from bdray.needs import Needs
from bdray.signals import kept
from bdray.spec import BadInput
from bdray.store.refusal import shown
from bdray.store.store import Store
from bdray.task import Task

REACH_SECONDS = 5.0
PROBE_SECONDS = 120.0
STOP_SECONDS = 10.0
_UNHEARD = "all references to the actor were removed"
"""What Ray says of an actor whose owner did not answer, or asked for a token that the cluster has not."""


GIB = 2**30
UNITS = {"cpus": "CPUs", "gpus": "GPUs", "memory": "GiB of memory"}


@dataclass(frozen=True)
class Resources:
    """What Ray has to give: its machines now, and what an autoscaler may start beside them."""

    machines: tuple[Needs, ...]
    kinds: tuple[Needs, ...] = ()
    """Each kind of machine that an autoscaler can start."""
    most_cpus: float = 0
    """Of all machines, with those that an autoscaler may start; 0 where it may start none."""
    most_gpus: float = 0

    @property
    def cpus(self) -> float:
        """Of all machines, at the most."""
        return max(self.most_cpus, sum(machine.cpus for machine in self.machines))

    @property
    def gpus(self) -> float:
        """Of all machines, at the most."""
        return max(self.most_gpus, sum(machine.gpus for machine in self.machines))

    @property
    def grows(self) -> bool:
        """Whether there is an autoscaler with more to give."""
        return self.cpus > sum(m.cpus for m in self.machines) or self.gpus > sum(m.gpus for m in self.machines)

    def granted(self, needs: Needs, task: str, given: Collection[str] = ()) -> Needs:
        """What a process of this task gets: no GPU where there is none, unless the sweep itself asks for it, as for all fields
        that are `given`. Raises BadInput for what no machine can ever hold."""
        if not self.gpus and "gpus" not in given:
            needs = needs._replace(gpus=0)
        places = (*self.machines, *self.kinds)
        if any(needs.times_in(place) for place in places):
            return needs
        name = next((n for n in Needs._fields if all(getattr(needs, n) > getattr(place, n) for place in places)), "")
        if name:
            most = max(getattr(place, name) for place in places)
            there = f"this Ray has no {f'machine with more than {most:.3g} ' if most else ''}{UNITS[name]}"
            got = f"{getattr(needs, name):g}" if name in given else f"{getattr(needs, name):g} {UNITS[name]} for a process"
        else:
            there, name = "no machine of this Ray has all of it", next(iter(given), "memory")
            got = f"{told(needs)} for a process"
        whose = f"the sweep's {name}" if name in given else f"the task {task!r}"
        raise BadInput(
            f"{whose}: got {got}, but {there}, so no cell could ever start; lower Sweep({name}=...), or name another cluster "
            "with --address"
        )

    def slots(self, needs: Needs) -> int:
        """How many of such processes can run at once."""
        now = sum(needs.times_in(machine) for machine in self.machines)
        if not self.grows:
            return max(1, now)
        asked = {"cpus": self.most_cpus, **({"gpus": self.most_gpus} if needs.gpus else {})}
        return max(1, now, min(int(self._later(needs, name, most)) for name, most in asked.items()))

    def _later(self, needs: Needs, name: str, most: float) -> float:
        """How many machines that together have so much of this hold, if all are of the kind that makes the most of it."""
        has = [(needs.times_in(kind), getattr(kind, name)) for kind in self.kinds]
        return max((times * most / amount for times, amount in has if amount), default=0)


def told(needs: Needs) -> str:
    """In words."""
    return ", ".join(f"{value:g} {UNITS[name]}" for name, value in needs._asdict().items() if value)


def bundle(needs: Needs) -> dict[str, float]:
    """As Ray is asked for it."""
    asked = {"CPU": needs.cpus, "GPU": needs.gpus, "memory": needs.memory * GIB}
    return {name: amount for name, amount in asked.items() if amount}


@contextlib.contextmanager
def connected(address: str | None, store: Store, root: Path) -> Iterator[Resources]:
    """Ray on this machine, or the cluster at an address (or in RAY_ADDRESS, as a submitted job has it), once it is sure that
    its machines can do the work. Raises BadInput."""
    address = address or os.environ.get("RAY_ADDRESS") or None
    ours = not ray.is_initialized()
    if ours:
        # Ray takes SIGTERM for itself. Its workers look for modules in the working folder before all others, and would find
        # there what this process did not import.
        with kept(), contextlib.chdir(_neutral()):
            _start(address)
    try:
        if address or not ours:
            _probe_nodes(address, store, root)
        forget(dead_nodes())
        with vigil():
            yield _resources()
    finally:
        if ours:
            _stop()


def _neutral() -> str:
    """A folder from which workers import the bdray that this process has, and nothing that it has not."""
    folder = str(Path(str(bdray.__file__)).parent.parent)
    return os.path.abspath(os.sep) if folder in site.getsitepackages() else folder


def _stop() -> None:
    """Ray's own end, which may wait for ever for a Ray that is dead."""
    thread = threading.Thread(target=ray.shutdown, daemon=True)
    thread.start()
    thread.join(STOP_SECONDS)


def _start(address: str | None) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        try:
            # All of the machine's memory, not the part that Ray finds free at this moment: what is asked for are reservations.
            ray.init(_memory=whole_memory(), **quiet)
        except Exception as error:  # of no kind of its own where a daemon did not come up
            cure = "end what else keeps it busy, or free some memory, and try again"
            raise BadInput(f"cannot start Ray on this machine: {_line(error)}; {cure}") from None
        return
    if "://" in address:
        raise BadInput(
            f"got --address {address}, expected HOST:PORT of a head node, or auto on a machine of the cluster; from outside "
            f"submit a job: ray job submit --address {address} --working-dir . -- bdray sweep ..."
        )
    if address != "auto" and address != "local":
        _reach(address)
    try:
        ray.init(address=address, runtime_env=_package(), **quiet)
    except ConnectionError as error:
        raise BadInput(
            f"no Ray cluster answers at {address!r}: {_line(error)}; check that it is the head's port (6379 unless chosen), "
            "and where it asks for a token set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH"
        ) from None
    except RuntimeError as error:
        raise BadInput(_mismatch(address, str(error))) from None
    except Exception as error:  # authentication and what Ray makes of it
        raise BadInput(f"cannot use the Ray cluster at {address!r}: {_line(error)}; see docs/cluster.md") from None


def _reach(address: str) -> None:
    """Ray itself would try for a minute."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise BadInput(f"got --address {address!r}, expected HOST:PORT, as in 10.0.0.1:6379, or auto")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS):
            pass
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or _line(error)
        raise BadInput(
            f"no Ray cluster at {address!r}: {why}; check the address, start one with `ray start --head` or `ray up`, or leave "
            "--address out to use this machine"
        ) from None


def _mismatch(address: str, text: str) -> str:
    """Ray's six lines on versions, as one sentence."""
    if "Version mismatch" not in text:
        return f"cannot use the Ray cluster at {address!r}: {_line(text)}; see docs/cluster.md"
    found = [line.strip() for line in text.splitlines() if line.strip().startswith(("Ray:", "Python:"))]
    theirs, ours = " and ".join(found[:2]).replace(":", ""), " and ".join(found[2:4]).replace(":", "")
    return (
        f"the cluster at {address!r} runs {theirs}, and this machine {ours}; they must be the same: install those here, or "
        "submit a job to the cluster"
    )


def _package() -> dict[str, Any]:
    """What a cluster's machines need of this one: bdray itself, the tasks in it."""
    return {"py_modules": [str(Path(str(bdray.__file__)).parent)], "excludes": ["**/__pycache__"]}


def _resources() -> Resources:
    machines = tuple(
        Needs(has.get("CPU", 0), has.get("GPU", 0), has.get("memory", 0) / GIB)
        for has in (node["Resources"] for node in ray.nodes() if node["Alive"])
    )
    most, kinds = growth.most()
    return Resources(machines, kinds, most.get("CPU", 0), most.get("GPU", 0))


def _probe_nodes(address: str | None, store: Store, root: Path) -> None:
    """Whether each machine imports bdray and the tasks, and sees the store and the data folder, and whether Ray's head reaches
    this process: it asks the owner of an actor whether somebody still holds it, and ends the actor if it gets no answer."""
    sign = f".here.{uuid.uuid4().hex}"
    store.files.put(sign, b"bdray")
    try:
        probe = ray.remote(_Probe)
        answers, probes = {}, []
        for node in ray.nodes():
            if node["Alive"]:
                where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                probes.append(probe.options(num_cpus=0, scheduling_strategy=where).remote())
                answers[node["NodeManagerAddress"]] = probes[-1].trouble.remote(
                    store.location(), sign, str(root.absolute()) if root.is_dir() else ""
                )
        for host, answer in answers.items():
            try:
                trouble = ray.get(answer, timeout=PROBE_SECONDS)
            except ray.exceptions.GetTimeoutError:
                trouble = f"gave no answer within {PROBE_SECONDS:g} s; see `ray status`"
            except ray.exceptions.RayError as error:
                if _UNHEARD in str(error):
                    raise BadInput(
                        f"the Ray cluster at {address or 'hand'} gets no answer from this process: set RAY_AUTH_MODE here to "
                        "what the cluster was started with, token or disabled; from outside its network submit a job: see "
                        "docs/cluster.md"
                    ) from None
                trouble = f"cannot run a task: {_cause(error)}; install bdray's requirements on it"
            if trouble:
                raise BadInput(f"the cluster's node {host} {trouble}")
    finally:
        store.files.delete(sign)


class _Probe:
    def trouble(self, location: str, sign: str, root: str) -> str:
        """What is wrong with the machine that this runs on; empty if nothing is."""
        return _probe(location, sign, root)


def _probe(location: str, sign: str, root: str) -> str:
    try:
        Task.names()
        for name in Task.names():
            Task.member(name)
    except ImportError as error:
        return f"cannot import the tasks ({error}); install what they need on every node, or use an image that has it"
    try:
        seen = Store(location).files.exists(sign)
    except BadInput as error:
        return f"cannot use the store ({error})"
    if not seen:
        return f"does not see the store {shown(location)!r}; name a folder that all machines share, or a bucket, with --store"
    if root and not os.path.isdir(root):
        return f"has no data folder {root!r}; put the data sets there on every machine, or name a shared one with --data"
    return ""


def _cause(error: BaseException) -> str:
    text = [line for line in str(error).splitlines() if line.strip()]
    return " ".join(text[-1].split())[:300] if text else type(error).__name__


def _line(error: object) -> str:
    return " ".join(str(error).split())[:200]
