"""Mistakes in a cluster file that Ray's schema lets pass, one function each."""

import importlib.util
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator

from bdray.launch.cluster import access, containers, leaks, machines
from bdray.launch.cluster.config import Cluster, Finding
from bdray.spec import unknown

# What the launcher, the autoscaler and these two providers of Ray 2.60 read; its schema accepts any name here.
_EVERYWHERE = {
    *("type", "use_internal_ips", "use_external_head_ip", "disable_node_updaters", "disable_launch_config_check"),
    *("foreground_node_launch", "worker_liveness_check"),
}
_PROVIDER = {
    "aws": _EVERYWHERE
    | {"region", "availability_zone", "cache_stopped_nodes", "security_group", "key_pair", "aws_credentials", "cloudwatch"},
    "local": _EVERYWHERE | {"head_ip", "worker_ips", "external_head_ip", "coordinator_address"},
}


def provider_fields(cluster: Cluster) -> Iterator[Finding]:
    """A misspelt field of the provider is ignored by Ray."""
    known = _PROVIDER[cluster.provider["type"]]
    for name in sorted(set(map(str, cluster.provider)) - known):
        yield Finding.error(unknown("field of provider", name, known))


def zones(cluster: Cluster) -> Iterator[Finding]:
    """Zones belong to the region."""
    region = cluster.provider.get("region")
    if not cluster.own and not region:
        yield Finding.error("provider.region: got none, expected one such as us-west-2")
    for zone in str(cluster.provider.get("availability_zone", "")).split(","):
        if region and zone.strip() and not zone.strip().startswith(str(region)):
            yield Finding.error(f"provider.availability_zone: got {zone.strip()!r}, expected zones of the region {region!r}")


def counts(cluster: Cluster) -> Iterator[Finding]:
    """Fewest and most machines of a type."""
    for kind in cluster.workers:
        if kind.least > kind.most:
            yield Finding.error(f"{kind.name}: got min_workers {kind.least} and max_workers {kind.most}; lower the first")


def addresses(cluster: Cluster) -> Iterator[Finding]:
    """Own machines: each stands in the file once."""
    head, workers = cluster.provider.get("head_ip"), [str(address) for address in cluster.provider.get("worker_ips", [])]
    if head in workers:
        yield Finding.error(f"provider.worker_ips: got the head's own address {head!r}; list the other machines only")
    for address, times in Counter(workers).items():
        if times > 1:
            yield Finding.error(f"provider.worker_ips: got {address!r} {times} times; list each machine once")


def ssh(cluster: Cluster) -> Iterator[Finding]:
    """How the machines are reached."""
    auth = cluster.config["auth"]
    if "ssh_user" not in auth:
        yield Finding.error("auth.ssh_user: got none, expected the user that ssh logs in as")
    for field in ("ssh_private_key", "ssh_public_key"):
        if field in auth and not os.path.isfile(os.path.expanduser(auth[field])):
            yield Finding.error(f"auth.{field}: no file {auth[field]!r} on this machine; make one with `ssh-keygen`")
    if "ssh_private_key" in auth and not cluster.own:
        kinds = cluster.config["available_node_types"].items()
        if without := [name for name, fields in kinds if not {"KeyName", "UserData"} & set(fields["node_config"])]:
            yield Finding.error(f"auth.ssh_private_key: its EC2 key pair is missing; put KeyName into {', '.join(without)}")


def mounts(cluster: Cluster) -> Iterator[Finding]:
    """Ray stops in the middle of its set-up where a file to copy is not there."""
    for target, source in cluster.config["file_mounts"].items():
        if not os.path.exists(os.path.expanduser(str(source))):
            token = str(target).endswith("auth_token")
            cure = "make it with `ray get-auth-token --generate`" if token else "paths start where `ray up` is typed"
            yield Finding.error(f"file_mounts: no {source!r} on this machine for {target!r}; {cure}")


def start(cluster: Cluster) -> Iterator[Finding]:
    """One head that starts workers, and workers that find it."""
    for role, flags in (("head", ("--head", "--autoscaling-config")), ("worker", ("--address",))):
        commands = " ".join(cluster.starts(role))
        if not commands:
            yield Finding.error(f"{role}_start_ray_commands: got no `ray start`, so no Ray would run there")
        for flag in flags if commands else ():
            if not re.search(rf"{flag}(?![\w-])", commands):
                why = "no worker would ever start" if flag == "--autoscaling-config" else f"it would be no {role}"
                yield Finding.error(f"{role}_start_ray_commands: got `ray start` without {flag}, so {why}; add it")
    head, worker = " ".join(cluster.starts("head")), " ".join(cluster.starts("worker"))
    if re.search(r"--head(?![\w-])", worker):
        yield Finding.error("worker_start_ray_commands: got --head, so each worker would be a cluster of its own; delete it")
    hosts = re.findall(r"--address[= ][\"']?([^\s\"':]+)", worker)
    if strangers := set(hosts) - {"$RAY_HEAD_IP", "${RAY_HEAD_IP}", str(cluster.provider.get("head_ip", "$RAY_HEAD_IP"))}:
        yield Finding.error(
            f"worker_start_ray_commands: got --address={min(strangers)}, so they would join another cluster; use $RAY_HEAD_IP"
        )
    listens, looks = re.search(r"--port[= ](\d+)", head), re.search(r"--address[= ]\S+?:(\d+)", worker)
    port = listens[1] if listens else "6379"
    if head and looks and looks[1] != port:
        yield Finding.error(f"worker_start_ray_commands: got port {looks[1]}, expected the head's, {port}")


def store(cluster: Cluster) -> Iterator[Finding]:
    """Rows outlive the machines."""
    where = cluster.variable("BDRAY_STORE", "head")
    if where is None:
        yield Finding.warning("no BDRAY_STORE: rows stay on the head unless each sweep names a --store; export it")
    elif "://" not in where and not cluster.own:
        yield Finding.warning(f"BDRAY_STORE={where}: a folder, which goes with the machines; expected a bucket, s3://...")
    elif "://" not in where and not where.startswith(("/", "~", "$", "<")):
        yield Finding.error(f"BDRAY_STORE: got {where!r}, expected a bucket, or a full path that all machines share")
    everywhere = [cluster.commands("head"), cluster.commands("worker"), *cluster.written_commands().values()]
    text = "\n".join(command for commands in everywhere for command in commands)
    for uri in dict.fromkeys(re.findall(r"\bBDRAY_STORE=[\"']?([^\s;\"']+)", text)):
        yield from leaks.store(uri)


def head_works(cluster: Cluster) -> Iterator[Finding]:
    """The head of a GPU cluster is small, and holds what cannot be lost."""
    cpus = cluster.head.fields["resources"].get("CPU")
    if not cluster.own and cluster.head.fields["node_config"] and cpus != 0 and any(kind.gpu for kind in cluster.workers):
        offered = "all its" if cpus is None else cpus
        yield Finding.warning(
            f"the head offers {offered} CPUs to cells that slow its driver down; give it resources {{CPU: 0}}"
        )


def tools(cluster: Cluster) -> Iterator[Finding]:
    """What `ray up` itself needs on this machine."""
    if not cluster.own and importlib.util.find_spec("boto3") is None:
        yield Finding.warning("`ray up` on AWS needs boto3, which is not installed here; pip install 'bdray[cluster]'")


RULES: tuple[Callable[[Cluster], Iterator[Finding]], ...] = (
    *(provider_fields, zones, counts, addresses, ssh, mounts, start, access.authentication, access.mode_undone, access.ports),
    *(access.dashboard, access.public_machines, access.login, machines.groups, machines.profiles, machines.credentials),
    *(machines.unchecked, containers.container, containers.images, leaks.mounted, access.commands, store, head_works),
    *(machines.bounds, machines.prices, tools),
)
