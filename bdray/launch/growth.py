"""What a cluster may grow to. Ray 2.60 has a place for it that nothing fills, so it is read from the file that `ray up` handed
to the autoscaler; where somebody else runs the autoscaler (Kubernetes), `BDRAY_GROWS_TO` says it: "CPU=56,GPU=8"."""

import contextlib
import json
import math
import os
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bdray.needs import Needs
from bdray.spec import BadInput

SECONDS = 120.0
"""What a busy machine may need to start its first worker."""


def most() -> tuple[dict[str, float], tuple[Needs, ...]]:
    """Of CPUs and GPUs, what the autoscaler of the connected Ray may have running at once, and the kinds of machine that it may
    start; nothing where there is none.

    Raises BadInput for a `BDRAY_GROWS_TO` and an autoscaler's file that cannot be read, and where the head starts no worker in
    time.
    """
    if said := os.environ.get("BDRAY_GROWS_TO"):
        total = _parsed(said)
        return total, (Needs(total.get("CPU", 0), total.get("GPU", 0), math.inf),)
    heads = [node["NodeID"] for node in ray.nodes() if node["Alive"] and "node:__internal_head__" in node["Resources"]]
    if not heads:
        return {}, ()
    address = ray.get_runtime_context().gcs_address
    if heads[0] == ray.get_runtime_context().get_node_id():  # this machine, without the second that a worker takes to start
        with contextlib.suppress(OSError):  # of another user or container, which a worker of this Ray shares
            return _offered(handed_over(address, sure=True))
    there = NodeAffinitySchedulingStrategy(heads[0], soft=False)
    try:
        read = ray.remote(handed_over).options(num_cpus=0, scheduling_strategy=there)
        found = ray.get(read.remote(address), timeout=SECONDS)
    except ray.exceptions.GetTimeoutError:
        raise BadInput(
            f"Ray started no worker on its head within {SECONDS:g} s, perhaps because that machine is busy: see `ray status`; "
            "nothing is lost: the same command goes on"
        ) from None
    except ray.exceptions.RayTaskError as error:
        raise BadInput(
            f"cannot read the file of the autoscaler on Ray's head ({error.cause}); say what the cluster may grow to in "
            "BDRAY_GROWS_TO, as in CPU=56,GPU=8, or CPU=0 where it does not grow"
        ) from None
    return _offered(found)


def _offered(config: dict[str, Any] | None) -> tuple[dict[str, float], tuple[Needs, ...]]:
    return (limit(config), kinds(config)) if config else ({}, ())


def limit(config: dict[str, Any]) -> dict[str, float]:
    """The most that workers of a cluster file can offer together: as many of the largest types as the file allows."""
    workers = [kind for name, kind in config["available_node_types"].items() if name != config["head_node_type"]]
    total = {}
    for resource in ("CPU", "GPU"):
        left, total[resource] = config["max_workers"], 0.0
        for kind in sorted(workers, key=lambda kind: -kind["resources"].get(resource, 0)):
            count = min(left, kind["max_workers"])
            total[resource] += count * kind["resources"].get(resource, 0)
            left -= count
    return total


def kinds(config: dict[str, Any]) -> tuple[Needs, ...]:
    """Of a cluster file, each kind of worker that it may start; one that says nothing of its memory has enough."""
    workers = [kind for name, kind in config["available_node_types"].items() if name != config["head_node_type"]]
    has = [kind["resources"] for kind in workers if min(kind["max_workers"], config["max_workers"])]
    return tuple(Needs(one.get("CPU", 0), one.get("GPU", 0), one.get("memory", math.inf) / 2**30) for one in has)


def _parsed(text: str) -> dict[str, float]:
    try:
        return {name.strip(): float(amount) for name, amount in (part.split("=") for part in text.split(","))}
    except ValueError:
        raise BadInput(f"BDRAY_GROWS_TO: got {text!r}, expected what the cluster may grow to, as in CPU=56,GPU=8") from None


def handed_over(address: str, sure: bool = False) -> dict[str, Any] | None:
    """On the head of the Ray at this address: the file that its autoscaler works with; None where it has no autoscaler. Raises
    OSError where this process cannot read the file and, to be `sure`, where it sees no process of that Ray."""
    option, seen = f"--gcs-address={address}", False
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        words = []
        with contextlib.suppress(OSError):  # it has ended meanwhile
            words = process.read_text(errors="replace").split("\0")
        seen |= option in words
        files = [word.partition("=")[2] for word in words if word.startswith("--autoscaling-config=")]
        if option in words and files:
            config: dict[str, Any] = json.loads(Path(files[0]).expanduser().read_text())
            return config
    if sure and not seen:
        raise ProcessLookupError(f"no process of the Ray at {address} to be seen")
    return None
