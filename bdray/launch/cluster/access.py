"""Who gets in: Ray's authentication, what is reachable from where, and ssh."""

import ipaddress
import re
from collections.abc import Iterator
from typing import Any

from bdray.launch.cluster.commands import Command, check_commands, shown, without_comments
from bdray.launch.cluster.config import Cluster, Finding, NodeType

MODE = re.compile(r"\bRAY_AUTH_MODE=[\"']?([^\s;\"'&|)]+)")
SETS = re.compile(
    r"\b(?:export|declare|typeset|env)\b[^;&|\n]*\bRAY_AUTH_MODE=|(?:^|\s)(?:-e|--env)[= ]+[\"']?RAY_AUTH_MODE="
    r"|(?:^|[;&|(\"'\n])\s*(?:\w+=\S*\s+)*RAY_AUTH_MODE="
)
"""What gives the variable to a program, and does not only name it."""
READS = re.compile(r"\$\{?RAY_AUTH_MODE\b|\bRAY_AUTH_MODE=(?=[\"']?[^\s;\"'&|)])")
CLEARED = re.compile(
    r"\benv\s+(?:-\S+\s+|\w+=\S*\s+)*(?:-i|-|--ignore-environment)\s[^;&|]*\bray\s+start|\bsudo\b[^;&|]*\bray\s+start|\bsu\s[^;&|]*\bray\s+start"
    r"|\bexec\s+-c\b[^;&|]*\bray\s+start"
)
PROFILES = {".bashrc", ".profile", ".bash_profile", ".bash_login", "environment", ".zshrc", "bash.bashrc", "profile"}


def authentication(cluster: Cluster) -> Iterator[Finding]:
    """Said for the head and every type of worker, and the same; a token comes with it."""
    modes = {"the head": _mode(cluster, "head")}
    for kind in cluster.workers:
        modes["the workers" if cluster.own else kind.name] = _mode(cluster, "worker", kind)
    given, listed = {mode for mode in modes.values() if mode}, ", ".join(f"{who} {mode}" for who, mode in modes.items() if mode)
    if missing := [who for who, mode in modes.items() if mode is None]:
        yield Finding.error(f"RAY_AUTH_MODE: {', '.join(missing)} got none, expected token; export it in setup_commands")
    if given - {"token", "disabled"}:
        yield Finding.error(f"RAY_AUTH_MODE: got {listed}, expected token; export it in setup_commands")
    elif len(given) > 1:
        yield Finding.error(f"RAY_AUTH_MODE: got {listed}, so workers could not join; export it once, in setup_commands")
    if given == {"disabled"}:
        yield Finding.warning("RAY_AUTH_MODE=disabled: whoever reaches a port of the cluster runs code on it; expected token")
    if "token" in given and not _token(cluster):
        yield Finding.error("file_mounts: got no token for RAY_AUTH_MODE=token; add `~/.ray/auth_token: ~/.ray/auth_token`")


def _mode(cluster: Cluster, role: str, kind: NodeType | None = None) -> str | None:
    """What Ray starts with: a `ray start` that says another mode than token, or the last that was said."""
    commands = [without_comments(command) for command in cluster.commands(role, kind)]
    found = [mode for command in commands if _reaches_ray(command, commands) for mode in MODE.findall(command)]
    starts = [mode for command in cluster.starts(role) for mode in MODE.findall(without_comments(command)) if mode != "token"]
    return str((starts or found)[-1]) if found or starts else None


def _reaches_ray(command: str, commands: list[str]) -> bool:
    """Whether a command sets the mode where `ray start` reads it: a file that it writes must be read by another command."""
    written = re.search(r"RAY_AUTH_MODE=.*(?:>\s*|\btee\s+(?:-a\s+)?)[\"']?(?!/dev/null)([^\s\"';&|]+)", command, re.DOTALL)
    printed = re.match(r"\s*(?:echo|printf)\b", command)
    if not SETS.search(re.sub(r"\s#[^\"'\n]*", "", command)) or (printed and not written):
        return False
    name = written[1].rpartition("/")[2] if written else ""
    reads = rf"(?:(?:^|[\s'\"])\.|\bsource|\bBASH_ENV=)\s*\S*{re.escape(name)}"
    return not name or name in PROFILES or any(re.search(reads, other) for other in commands if other != command)


def mode_undone(cluster: Cluster) -> Iterator[Finding]:
    """RAY_AUTH_MODE is set, and nothing else is done to it."""
    for where, commands in cluster.written_commands().items():
        for command in map(without_comments, commands):
            if found := CLEARED.search(command):
                yield Finding.error(f"{where}: got {shown(found[0])}, which starts Ray without RAY_AUTH_MODE; start it plainly")
            for line in re.split(r"[;\n]|&&|\|\|", READS.sub("", command)):
                if "RAY_AUTH_MODE" in line:
                    yield Finding.error(f"{where}: got {shown(line)}, so Ray may start without asking for the token; delete it")


def _token(cluster: Cluster) -> bool:
    mounted = any(str(target).rstrip("/").endswith((".ray/auth_token", "/.ray")) for target in cluster.config["file_mounts"])
    names = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    return mounted or all(any(cluster.variable(name, role) for name in names) for role in ("head", "worker"))


def commands(cluster: Cluster) -> Iterator[Finding]:
    """What every command may not do."""
    yield from check_commands(Command(where, text) for where, texts in cluster.written_commands().items() for text in texts)


def ports(cluster: Cluster) -> Iterator[Finding]:
    """Ray's own rules open ssh and what the machines need among themselves; a file can only add to them."""
    for rule in records((cluster.provider.get("security_group") or {}).get("IpPermissions")):
        opened = [rule.get(field) for field in ("IpProtocol", "FromPort", "ToPort")]
        ssh = opened in (["tcp", 22, 22], ["6", 22, 22])
        what = f"provider.security_group: got {'ssh' if ssh else f'{opened[0]} {opened[1]} to {opened[2]}'} open to"
        for whom, everybody in _sources(rule):
            cure = "expected ssh alone; delete the rule, `ray dashboard` tunnels through ssh"
            if not ssh and whom.startswith("the group") and " of account " not in whom:
                yield Finding.warning(f"{what} {whom}, {cure}")
            elif not ssh:
                yield Finding.error(f"{what} {whom}, {cure}")
            elif everybody:
                yield Finding.warning(f"{what} {whom}, which is everybody; name your own network, such as 203.0.113.0/24")


def _sources(rule: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    """Whom a rule lets in, and whether that is everybody."""
    ranges = [source for field in ("IpRanges", "Ipv6Ranges", "PrefixListIds") for source in records(rule.get(field))]
    if ranges:
        named = [str(value) for source in ranges for field, value in source.items() if field != "Description"]
        yield ", ".join(named), any(name.endswith("/0") for name in named)
    for pair in records(rule.get("UserIdGroupPairs")):
        account = f" of account {pair['UserId']}" if pair.get("UserId") else ""
        yield f"the group {pair.get('GroupId', pair.get('GroupName'))}{account}", False


def dashboard(cluster: Cluster) -> Iterator[Finding]:
    """It shows everything, and submits jobs; and Ray's own addresses are those of one machine."""
    starts = " ".join(cluster.starts("head"))
    for host in re.findall(r"--dashboard-host[= ]['\"]?([^\s'\"]*)", starts):
        if host not in ("127.0.0.1", "localhost", "::1"):
            yield Finding.error(
                f"head_start_ray_commands: got --dashboard-host={host}, expected 127.0.0.1; `ray dashboard` tunnels through ssh"
            )
    for role in ("head", "worker"):
        for address in re.findall(r"--node-ip-address[= ]['\"]?([^\s'\"]*)", " ".join(cluster.starts(role))):
            if reach(address) != "a network":
                yield Finding.error(
                    f"{role}_start_ray_commands: got --node-ip-address={address}, expected one of the machines' own network; "
                    "delete it, Ray finds it"
                )


def public_machines(cluster: Cluster) -> Iterator[Finding]:
    """Own machines speak to one another in the clear, on all ports."""
    fields = {"head_ip": [cluster.provider.get("head_ip")], "worker_ips": cluster.provider.get("worker_ips") or []}
    for field, addresses in fields.items() if cluster.own else ():
        for address in addresses:
            if reach(str(address)) == "everybody":
                yield Finding.warning(
                    f"provider.{field}: got {address}, which the whole internet reaches, and with it every port of Ray; "
                    "name the machines by an address of their own network"
                )
            elif reach(str(address)) == "nobody":
                yield Finding.error(f"provider.{field}: got {address}, expected an address that the other machines reach")
    if cluster.own and cluster.provider.get("coordinator_address"):
        yield Finding.warning("provider.coordinator_address: it asks nobody for a password; list the machines in worker_ips")


def reach(address: str) -> str:
    """Who reaches an address: `everybody`, `nobody` (it names no machine) or `a network`; a name may be of any network."""
    try:
        parsed = ipaddress.ip_address(address.strip("[]"))
    except ValueError:
        return "nobody" if address in ("localhost", "*", "") else "everybody" if "curl" in address else "a network"
    if parsed.is_unspecified or parsed.is_loopback or parsed.is_multicast:
        return "nobody"
    return "everybody" if parsed.is_global else "a network"


def login(cluster: Cluster) -> Iterator[Finding]:
    """Who Ray is on the machines, and what is between it and them."""
    auth = cluster.config["auth"]
    if auth.get("ssh_user") in ("root", "Administrator"):
        yield Finding.warning(f"auth.ssh_user: got {auth['ssh_user']}, so each cell may do everything; expected a plain user")
    if proxy := auth.get("ssh_proxy_command"):
        yield Finding.warning(
            f"auth.ssh_proxy_command: got {shown(proxy)}; Ray does not check whom it speaks to, so what is between reads all "
            "that it sends, the token too; delete it, or go through a machine of your own"
        )


def records(value: object) -> list[dict[str, Any]]:
    """The groups of fields of a list that Ray's schema does not look into; nothing of what is none."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
