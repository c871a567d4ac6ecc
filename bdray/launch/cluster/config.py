"""A cluster file as `ray up` sees it, and what may be said of one."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

from bdray.spec import Config


class Finding(NamedTuple):
    """One sentence on a file."""

    kind: str
    text: str

    @classmethod
    def error(cls, text: str) -> Self:
        """It cannot work, or it lets strangers in."""
        return cls("error", text)

    @classmethod
    def warning(cls, text: str) -> Self:
        """It works, but hardly as it is meant."""
        return cls("warning", text)

    @classmethod
    def note(cls, text: str) -> Self:
        """Worth knowing."""
        return cls("note", text)


@dataclass(frozen=True)
class NodeType:
    """One kind of machine of a cluster."""

    name: str
    fields: Config

    @property
    def node(self) -> Config:
        """What EC2 is asked for."""
        return dict(self.fields["node_config"])

    @property
    def disks(self) -> list[Config]:
        """Its EBS volumes."""
        devices = self.node.get("BlockDeviceMappings")
        found = [device.get("Ebs") for device in devices if isinstance(device, dict)] if isinstance(devices, list) else []
        return [disk for disk in found if isinstance(disk, dict)]

    @property
    def machine(self) -> str:
        """Its EC2 instance type."""
        return str(self.node.get("InstanceType", "no InstanceType"))

    @property
    def spot(self) -> bool:
        """Whether the cloud may take it back at any time, for a lower price."""
        options = self.node.get("InstanceMarketOptions")
        return isinstance(options, dict) and options.get("MarketType") == "spot"

    @property
    def gpu(self) -> bool:
        """Whether it has a GPU: it says so, or its instance type is of a family (g, p) that has."""
        return bool(self.fields["resources"].get("GPU") or re.match(r"[gp]\d", self.machine))

    @property
    def least(self) -> int:
        """Machines that run even with nothing to do."""
        return int(self.fields.get("min_workers", 0))

    @property
    def most(self) -> int:
        """Machines, at most."""
        return int(self.fields["max_workers"])


@dataclass(frozen=True)
class Cluster:
    """A file that Ray has filled its defaults into, and the file without them."""

    config: Config
    written: Config

    @property
    def provider(self) -> Config:
        """Where the machines come from."""
        return dict(self.config["provider"])

    @property
    def own(self) -> bool:
        """Whether the machines are one's own."""
        return bool(self.provider["type"] == "local")

    @property
    def head(self) -> NodeType:
        """What the head is of; of no type that is there, an empty one."""
        name = self.config.get("head_node_type", "")
        empty: Config = {"node_config": {}, "resources": {}, "max_workers": 0}
        return NodeType(name, self.config["available_node_types"].get(name, empty))

    @property
    def kinds(self) -> list[NodeType]:
        """Every type of machine of a cloud; none of one's own."""
        return [] if self.own else [NodeType(name, fields) for name, fields in self.config["available_node_types"].items()]

    @property
    def workers(self) -> list[NodeType]:
        """The workers' types; own machines are all of one, which is the head's too."""
        kinds = self.config["available_node_types"]
        return [NodeType(name, fields) for name, fields in kinds.items() if self.own or name != self.head.name]

    @property
    def docker(self) -> Config:
        """The container; nothing where Ray runs on the machine itself."""
        docker = self.config.get("docker") or {}
        return dict(docker) if docker.get("container_name") else {}

    def commands(self, role: str, kind: NodeType | None = None) -> list[str]:
        """All that sets the environment of Ray on the head or on a worker, in its order."""
        docker = self.docker
        own = {} if kind is None else kind.fields
        options = [*docker.get("run_options", []), *docker.get(f"{role}_run_options", [])]
        options += (own.get("docker") or {}).get("worker_run_options") or []
        first = [] if docker else own.get("initialization_commands", self.config.get("initialization_commands", []))
        setup = own.get("worker_setup_commands", self.config.get(f"{role}_setup_commands", []))
        start = self.config.get(f"{role}_start_ray_commands") or []
        return [str(command) for command in (*options, *(first or []), *(setup or []), *start)]

    def written_commands(self) -> dict[str, list[str]]:
        """Every command of the file, by the field in which it stands."""
        fields = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")
        found = {field: self.written.get(field) for field in (*fields, "head_start_ray_commands", "worker_start_ray_commands")}
        for name, kind in (self.written.get("available_node_types") or {}).items():
            found |= {f"{name}.{field}": kind.get(field) for field in ("initialization_commands", "worker_setup_commands")}
        return {field: [str(command) for command in commands or []] for field, commands in found.items()}

    def variable(self, name: str, role: str, kind: NodeType | None = None) -> str | None:
        """The last value that an environment variable is given; None where it has none."""
        found = re.findall(rf"\b{name}=[\"']?([^\s;\"']+)", "\n".join(self.commands(role, kind)))
        return str(found[-1]) if found else None

    def starts(self, role: str) -> list[str]:
        """Its `ray start` commands."""
        return [text for text in self.config.get(f"{role}_start_ray_commands", []) if re.search(r"\bray start\b", text)]

    def sentence(self, path: Path) -> str:
        """What `ray up` would start, and how it is typed."""
        if self.own:
            machines = self.provider.get("worker_ips", [])
            return f"head {self.provider.get('head_ip')}, {len(machines)} workers; RAY_UP_enable_autoscaler_v2=0 ray up {path}"
        kinds = [f"{kind.least} to {kind.most} {kind.machine}{' (spot)' if kind.spot else ''}" for kind in self.workers]
        most = min(self.config["max_workers"], sum(kind.most for kind in self.workers))
        return f"head {self.head.machine}, up to {most} workers: {', '.join(kinds)}; ray up {path}"
