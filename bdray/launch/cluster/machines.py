"""Machines of AWS: what they may do, who reaches them beside Ray's own rules, and what they cost."""

import re
from collections.abc import Iterator

from bdray.launch.cluster.config import Cluster, Finding, NodeType

MANY = 64
"""Machines, beyond which a number is more likely a slip: some 80 USD an hour of the least GPU."""
LONG = 60
"""Minutes of idling, beyond which a machine costs more than its set-up."""
RIGHTS = re.compile(r"admin|poweruser|fullaccess|organizationaccount|ray-autoscaler-v1|^root$", re.IGNORECASE)
"""Names of roles that may do nearly everything; the last but one is what Ray makes where a file names none."""


def groups(cluster: Cluster) -> Iterator[Finding]:
    """A security group that Ray did not make has rules that this file does not show."""
    name = str((cluster.provider.get("security_group") or {}).get("GroupName") or "")
    own = cluster.written.get("cluster_name", name)
    if name and (name == "default" or not (name.startswith(own) or own.startswith(name))):
        yield Finding.warning(
            f"provider.security_group.GroupName: got {name!r}, which may be there, open to others; name it after the cluster"
        )
    for kind in cluster.kinds:
        for field in ("SecurityGroupIds", "SecurityGroups", "NetworkInterfaces", "LaunchTemplate"):
            if kind.node.get(field):
                yield Finding.warning(
                    f"{kind.name}.node_config.{field}: its rules are not in this file, and not checked; delete it, "
                    "so that Ray's group opens ssh alone"
                )


def profiles(cluster: Cluster) -> Iterator[Finding]:
    """The head may start machines; a worker, which runs the cells, may not."""
    head = _profile(cluster.head)
    if cluster.head.node and head is None:
        yield Finding.error(
            f"{cluster.head.name}.node_config.IamInstanceProfile: got none, so Ray gives the head all rights on EC2 and S3; "
            "name a profile with the head's policy of docs/cluster.md"
        )
    for kind in cluster.kinds:
        profile = _profile(kind)
        if profile is not None and RIGHTS.search(profile):
            yield Finding.error(
                f"{kind.name}.node_config.IamInstanceProfile: got {profile}, whose name says that it may do everything; "
                "docs/cluster.md has a policy for the head and one for workers"
            )
        elif profile is not None and kind.name != cluster.head.name and profile == head:
            yield Finding.error(
                f"{kind.name}.node_config.IamInstanceProfile: got {profile}, the head's, so each cell may start machines; "
                "name one with the workers' policy of docs/cluster.md"
            )


def _profile(kind: NodeType) -> str | None:
    """Its name, without what stands before it in an ARN."""
    given = kind.node.get("IamInstanceProfile")
    name = given.get("Name") or given.get("Arn") if isinstance(given, dict) else given
    return str(name).rpartition("/")[2] if name else None


def credentials(cluster: Cluster) -> Iterator[Finding]:
    """What a machine tells of its role, and to whom."""
    for kind in cluster.kinds:
        where = f"{kind.name}.node_config.MetadataOptions"
        told = kind.node.get("MetadataOptions")
        told = told if isinstance(told, dict) else {}
        if told.get("HttpTokens") != "required":
            yield Finding.warning(
                f"{where}: got HttpTokens {told.get('HttpTokens', 'none')}, so one request that a cell is talked into gives "
                "the machine's credentials away; set {HttpTokens: required}"
            )
        hops = told.get("HttpPutResponseHopLimit", 1)
        if not isinstance(hops, int) or hops > 2:
            yield Finding.warning(
                f"{where}: got HttpPutResponseHopLimit {hops}, expected 1; the container has the machine's network"
            )


def unchecked(cluster: Cluster) -> Iterator[Finding]:
    """What runs as root before any command of this file."""
    for kind in cluster.kinds:
        if str(kind.node.get("ImageId")).startswith("ami-"):
            yield Finding.note(
                f"{kind.name}.node_config.ImageId: whose {kind.node['ImageId']} is, is not checked; know who made it"
            )
        if kind.node.get("UserData"):
            yield Finding.warning(f"{kind.name}.node_config.UserData: it runs as root and is not checked; use setup_commands")


def bounds(cluster: Cluster) -> Iterator[Finding]:
    """Numbers of machines, and of minutes."""
    config = cluster.config
    numbers = {"max_workers": config.get("max_workers", 0)}
    numbers |= {
        f"{kind.name}.{field}": kind.fields.get(field) or 0
        for kind in cluster.kinds
        for field in ("min_workers", "max_workers")
    }
    for field, number in numbers.items() if not cluster.own else ():
        if number > MANY:
            yield Finding.warning(
                f"{field}: got {number}, expected {MANY} at the most; each machine costs about a dollar an hour or more"
            )
    minutes = {"idle_timeout_minutes": config.get("idle_timeout_minutes", 5)}
    minutes |= {f"{kind.name}.idle_timeout_s": (kind.fields.get("idle_timeout_s") or 0) / 60 for kind in cluster.kinds}
    for field, number in minutes.items() if not cluster.own else ():
        if not number <= LONG:
            yield Finding.warning(
                f"{field}: got {number:g} minutes, expected {LONG} at the most; idle machines cost as busy ones do"
            )


def prices(cluster: Cluster) -> Iterator[Finding]:
    """Machines, disks and waits that cost more than they look."""
    if cluster.own:
        return
    for kind in cluster.kinds:
        size = re.search(r"\.(?:metal|(\d+)xlarge)", kind.machine)
        if size and (size[1] is None or int(size[1]) >= (8 if kind.machine.startswith("p") else 12)):
            yield Finding.warning(
                f"{kind.name}: each {kind.machine} costs several dollars an hour or more; a cell needs one GPU or less"
            )
        if kind.node.get("DisableApiTermination"):
            yield Finding.error(
                f"{kind.name}.node_config.DisableApiTermination: `ray down` could not end the machine; delete it"
            )
        for disk in kind.disks:
            if disk.get("DeleteOnTermination") is False:
                yield Finding.warning(
                    f"{kind.name}: a disk outlives its machine and goes on costing; set DeleteOnTermination to true"
                )
            if isinstance(disk.get("VolumeSize"), int) and disk["VolumeSize"] > 2000:
                yield Finding.warning(f"{kind.name}: got a disk of {disk['VolumeSize']} GB, expected 2000 at the most")
    if cluster.provider.get("cache_stopped_nodes", True):
        yield Finding.warning("provider.cache_stopped_nodes is on: disks of stopped machines go on costing; set it to false")
    gpus = [kind for kind in cluster.workers if kind.gpu]
    if gpus and all(kind.spot for kind in gpus):
        yield Finding.note("every type with a GPU is spot, so a sweep waits while none is to be had; add one on demand")
    for kind in cluster.workers:
        if kind.least:
            yield Finding.note(f"{kind.name}: {kind.least} {kind.machine} run, and cost, even with nothing to do")
