"""Containers that hold nothing: options of `docker run` that give a cell its machine, and images of strangers."""

import posixpath
import re
import shlex
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import ray

from bdray.launch.cluster.config import Cluster, Finding


class Option(NamedTuple):
    """One option of `docker run` by its long name, without dashes."""

    name: str
    value: str


SHORT = {"v": "volume", "p": "publish", "P": "publish-all", "u": "user", "e": "env", "c": "cpu-shares", "m": "memory"}
VALUED = "vpuecmhlaw"
"""Short options that take a value."""
FLAGS = {"privileged", "publish-all", "rm", "init", "read-only", "detach", "tty", "interactive", "no-healthcheck"}
"""Long options that need no value."""
NAMESPACES = {"network": "network", "net": "network", "pid": "processes", "ipc": "memory", "uts": "name", "userns": "users"}
NAMESPACES |= {"cgroupns": "control groups"}
SYSTEM = {"etc", "root", "var", "run", "proc", "sys", "boot", "usr", "bin", "sbin", "lib", "lib64", "dev"}
DEVICES = ("/dev/nvidia", "/dev/dri", "/dev/kfd", "/dev/infiniband", "/dev/fuse", "nvidia.com/", "/dev/shm")
REGISTRIES = {"docker.io", "index.docker.io", "registry.hub.docker.com", "ghcr.io", "quay.io", "public.ecr.aws", "gcr.io"}


def options(words: Iterable[object]) -> list[Option]:
    """A list of options, as the shell and docker read it."""
    text = " ".join(str(word) for word in words)
    try:
        rest = shlex.split(text)
    except ValueError:  # a quote that does not end
        rest = text.split()
    found = []
    while rest:
        word = rest.pop(0)
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            if not equals and name not in FLAGS and rest and not rest[0].startswith("-"):
                value = rest.pop(0)
            found.append(Option(name, value))
        elif word.startswith("-"):
            for at, letter in enumerate(word[1:], 2):
                if letter in VALUED:
                    found.append(
                        Option(SHORT.get(letter, letter), word[at:].removeprefix("=") or (rest.pop(0) if rest else ""))
                    )
                    break
                found.append(Option(SHORT.get(letter, letter), ""))
    return found


def run_options(where: str, words: Iterable[object]) -> Iterator[Finding]:
    """What is wrong with options of `docker run`."""
    for option in options(words):
        if why := _why(*option):
            value = f"={option.value}" if option.value else ""
            yield Finding.error(f"{where}: got --{option.name}{value}, {why}")


def _why(name: str, value: str) -> str:
    """What an option gives away, and the cure; nothing of one that is harmless."""
    lower = value.lower()
    if name == "privileged" and lower not in ("false", "0", "f"):
        return "which gives every cell the machine; delete it, --gpus is enough for a GPU"
    if name in NAMESPACES and lower.partition(":")[0] in ("host", "container"):
        cure = "Ray gives the network by itself" if NAMESPACES[name] == "network" else "--shm-size makes room in /dev/shm"
        return f"which shares the machine's {NAMESPACES[name]} with every cell; delete it, {cure}"
    if name == "cap-add":
        return "a right over the machine that no cell needs; delete it"
    if name == "security-opt" and re.search(r"unconfined|disable|no-new-privileges[=:]false|systempaths", lower):
        return "which takes the container's walls down; delete it"
    if name in ("device", "device-cgroup-rule") and not value.startswith(DEVICES):
        return "a device of the machine; delete it, --gpus gives the GPUs"
    if name in ("volume", "mount") and (source := _source(name, value)) and private(source):
        return f"so that every cell reaches {source} of the machine; mount a folder of data, such as /mnt/data, or delete it"
    if name == "volumes-from":
        return "the folders of another container; mount one folder of data"
    if name in ("user", "group-add") and lower.partition(":")[0] in ("root", "0", "docker", "sudo"):
        return "whose files and rights are the machine's; delete it"
    if name in ("publish", "publish-all"):
        return "which opens a port of the container to all who reach the machine; delete it"
    if name == "runtime" and lower not in ("nvidia", "runc", "runsc", "crun"):
        return "a runtime that is not known here; delete it, --gpus chooses nvidia"
    return ""


def _source(name: str, value: str) -> str:
    """What of the machine is mounted; nothing where it is a volume of Docker's own."""
    if name == "mount":
        fields = dict(part.strip().partition("=")[::2] for part in value.split(","))
        source = fields.get("source", fields.get("src", ""))
    else:
        source = value.partition(":")[0]
    return source if source.startswith(("/", "~", "$", ".")) else ""


def private(path: str) -> bool:
    """Whether a folder of a machine holds its system, its users' homes, or keys."""
    path = re.sub(r"^(?:~|\$\{?HOME\}?|\$\{?PWD\}?)(?=/|$)", "/home/me", path)
    parts = posixpath.normpath(posixpath.join("/", path)).strip("/").split("/")
    if parts[0] in ("", "*") or path.startswith("$"):
        return True
    if parts[:2] == ["dev", "shm"] or "/" + "/".join(parts) == "/dev/infiniband":
        return False
    if parts[0] == "home":
        return len(parts) < 3 or parts[2].startswith(".") or any(part.startswith(".") for part in parts[2:])
    return parts[0] in SYSTEM or any(part in (".ssh", ".aws", ".ray", ".kube") or part.endswith(".sock") for part in parts)


def container(cluster: Cluster) -> Iterator[Finding]:
    """Options of the container that Ray runs in, on the head and on every type of worker."""
    docker = cluster.config.get("docker") or {}
    for field in ("run_options", "head_run_options", "worker_run_options"):
        yield from run_options(f"docker.{field}", docker.get(field) or [])
    for kind in cluster.workers:
        own = kind.fields.get("docker") or {}
        yield from run_options(f"{kind.name}.docker.worker_run_options", own.get("worker_run_options") or [])


def images(cluster: Cluster) -> Iterator[Finding]:
    """A container of this Ray, the same tomorrow, and one Python on all machines."""
    docker = cluster.docker
    named = {f"docker.{field}": str(docker[field]) for field in ("image", "head_image", "worker_image") if docker.get(field)}
    for kind in cluster.workers:
        if own := (kind.fields.get("docker") or {}).get("worker_image"):
            named[f"{kind.name}.docker.worker_image"] = str(own)
    pythons: dict[str, str] = {}
    for field, name in named.items():
        yield from image(field, name)
        version, *parts = tag(name).split("-")
        if ray_itself(name) and version == ray.__version__:
            pythons[field] = next((part for part in parts if part.startswith("py")), "the image's own")
    if len(set(pythons.values())) > 1:
        listed = ", ".join(f"{field} {python}" for field, python in pythons.items())
        yield Finding.error(f"the head and the workers need the same Python: got {listed}; change the tags")


def image(field: str, name: str, public: bool = True) -> Iterator[Finding]:
    """One image, and whose it is; `public` where it may not be of somebody on a registry that is open to all."""
    version = tag(name).partition("-")[0]
    if "@sha256:" in name:
        return  # which never changes, and somebody looked at it
    if version in ("", "latest", "nightly", "main", "master"):
        yield Finding.error(f"{field}: got {name!r}, which changes by itself; name a version, :{ray.__version__}-py311")
    elif ray_itself(name):
        if version != ray.__version__:
            yield Finding.error(f"{field}: got Ray {version}, expected {ray.__version__}, the one installed here")
    elif _base(name) in ("ray", "ray-ml", "ray-llm") or (public and _host(name) in REGISTRIES):
        yield Finding.warning(
            f"{field}: got {name!r}, a stranger's unless it is yours; expected rayproject/ray, or its @sha256:"
        )


def tag(name: str) -> str:
    """Of an image."""
    return name.rpartition("/")[2].partition("@")[0].partition(":")[2]


def ray_itself(name: str) -> bool:
    """Whether an image is one that Ray publishes."""
    return re.fullmatch(r"(?:(?:index\.)?docker\.io/)?rayproject/ray:.*", name) is not None


def _base(name: str) -> str:
    return name.rpartition("/")[2].partition("@")[0].partition(":")[0]


def _host(name: str) -> str:
    first, slash, _ = name.partition("/")
    return first if slash and ("." in first or ":" in first or first == "localhost") else "docker.io"
