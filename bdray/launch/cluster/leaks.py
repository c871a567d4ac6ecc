"""Secrets that stand in a cluster file or go with it, and a store that others read. No secret is ever printed."""

import os
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from bdray.launch.cluster.config import Cluster, Finding
from bdray.wording import printable


class Leak(NamedTuple):
    """A secret: where it stands, what it is, and itself."""

    where: str
    what: str
    value: str


KNOWN = {
    "an AWS access key": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a token of GitHub or GitLab": r"\b(?:gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{15,})",
    "a token of Hugging Face": r"\bhf_[A-Za-z0-9]{20,}",
    "a token of some service": r"\b(?:sk-[\w-]{20,}|xox[abprs]-[\w-]{10,}|AIza[\w-]{30,}|npm_\w{30,}|dckr_pat_[\w-]{10,})",
    "a signed token": r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]+",
}
"""Secrets that are known by how they look."""
LITERAL = r"[\"']?(?![\"'$<~/.`%{]|\\\$)(?P<value>[^\s\"';&|,)]+)"
"""A value that stands there itself: no variable, placeholder or path."""
NAMED = (
    rf"(?<![\w.-])(?P<name>[A-Za-z_][\w.]*)\s*=\s*(?={LITERAL})",
    rf"(?<![\w.-])(?P<name>[A-Za-z_]\w*):\s+(?={LITERAL})",
    rf"(?<![\w-])--(?P<name>[A-Za-z][\w.-]*)[= ]{LITERAL}",
    rf"[\"'](?P<name>[A-Za-z_]\w*)[\"']\s*:\s*{LITERAL}",
    rf"\baws\s+configure\s+set\s+(?P<name>\w+)\s+{LITERAL}",
)
"""Ways in which a command gives a name a value."""
SAID = (
    (r"\b(?:docker|podman|helm)\s+(?:\w+\s+)?login\b[^;&|]*\s-p\s*", "a password"),
    (r"\bsshpass\s+-p\s*", "a password"),
    (r"\b(?:wandb|huggingface-cli|hf)\s+(?:auth\s+)?login\s+(?!-)", "a key"),
    (r"\b(?:Bearer|Basic)\s+", "a token"),
    (r"\blogin\s+\S+\s+password\s+", "a password"),
    (r"\bcurl\b[^;&|]*\s(?:-u|--user)[ =]*[\"']?[^\s:\"'$]+:", "a password"),
    (r"\w://[^\s/@:'\"$<]*:(?=[^\s/@]*@)", "a password"),
    (r"\becho\s+(?=[^|;&\s]+\s*\|[^;&]*(?:--password-stdin|\bsudo\s+-\w*S|\bpasswd\b|\bchpasswd\b))", "a password"),
)
"""What stands before a secret that has no name."""
PARTS = {"secret", "token", "password", "passwd", "passphrase", "pass", "pwd", "apikey", "credential", "credentials", "pat"}
KEYS = {"api", "access", "private", "secret", "auth", "encryption", "account"}
ABOUT = {
    "path",
    "file",
    "name",
    "mode",
    "ref",
    "type",
    "url",
    "uri",
    "dir",
    "stdin",
    "ttl",
    "size",
    "length",
    "count",
    "hop",
    "env",
}
ABOUT |= {"parallelism", "limit", "expiration", "seconds", "generate", "provider", "tokens", "version", "algorithm", "kind"}
"""Last parts of names of what is no secret, though a secret is spoken of."""
WORDS = {"true", "false", "yes", "no", "null", "none", "required", "optional", "token", "disabled", "auto", "host"}
FOLDERS = (
    *(".ssh", ".aws", ".kube", ".gnupg", ".netrc", ".git-credentials", ".docker", ".config/gcloud", ".config/gh", ".azure"),
    *(".config/rclone", ".huggingface", ".cache/huggingface/token", ".pypirc", ".bash_history", ".npmrc", ".vault-token"),
)
"""Of a home: what may never leave its machine."""


def secret_name(name: str) -> bool:
    """Whether what has this name is a secret: RAY_AUTH_TOKEN and secretKey are names of one, secretName is not."""
    parts = [part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)]
    if not parts or parts[-1] in ABOUT or parts[0] == "ssh":  # `ssh_private_key` of Ray is a path
        return False
    keys = any(two in ("key", "keys") and one in KEYS for one, two in pairwise(parts))
    return keys or bool(PARTS & set(parts))


def leaks(value: object, where: str = "") -> Iterator[Leak]:
    """Every secret in what was read from a file."""
    if isinstance(value, dict):
        name, given = value.get("name"), value.get("value")
        if isinstance(name, str) and isinstance(given, str) and _secret(name, given):
            yield Leak(where, f"the value of {name}", given)  # as in an `env` of Kubernetes
        for key, inner in value.items():
            field = f"{where}.{key}" if where else str(key)
            told = inner.get("value") if isinstance(inner, dict) else inner
            if isinstance(told, str) and re.fullmatch(r"[\w.-]+", key) and _secret(key, told):
                yield Leak(where or "the file", f"the value of {key}", told)
            else:
                yield from leaks(inner, field)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from leaks(inner, f"{where}[{number}]")
    elif isinstance(value, str):
        yield from _in_text(value, where)


def _secret(name: str, value: str) -> bool:
    """Whether a value is a secret by its name; of any other key, by its look."""
    if re.match(LITERAL, value) is None or value.lower() in WORDS or re.fullmatch(r"(?:0|[1-9]\d{0,5})(?:\.\d+)?", value):
        return False
    return secret_name(name) or bool(re.search(r"key$", name, re.IGNORECASE) and re.fullmatch(r"(?=.*\d)[\w+/=-]{16,}", value))


def _in_text(text: str, where: str) -> Iterator[Leak]:
    for what, pattern in KNOWN.items():
        for found in re.finditer(pattern, text):
            yield Leak(where, what, found[0])
    for pattern in NAMED:
        for found in re.finditer(pattern, text):
            if _secret(found["name"], found["value"]):
                yield Leak(where, f"the value of {found['name']}", found["value"])
    for pattern, what in SAID:
        for found in re.finditer(pattern + LITERAL.replace("&|,)", "&|,)@"), text):
            yield Leak(where, what, found["value"])


def sentences(found: list[Leak]) -> Iterator[Finding]:
    """One for each secret, without it."""
    said: set[str] = set()
    for where, what, value in found:
        if value not in said:
            said.add(value)
            yield Finding.error(
                f"{where}: got {what} in the file, for all who read it; delete and renew it, and give it by a role or a secret"
            )


def in_comments(text: str) -> list[Leak]:
    """Secrets that are known by how they look, anywhere in a file: a comment is read as well as a field."""
    lines = enumerate(text.splitlines(), 1)
    return [
        Leak(f"line {n}", what, found[0]) for n, line in lines for what, p in KNOWN.items() for found in re.finditer(p, line)
    ]


def hidden(text: str, found: list[Leak]) -> str:
    """A sentence as it may be printed: without secrets, and without control characters."""
    for value in sorted({leak.value for leak in found}, key=len, reverse=True):
        text = text.replace(value, "…") if len(value) > 3 else re.sub(rf"(?<![\w']){re.escape(value)}(?!\w)", "…", text)
    return printable(text)


def mounted(cluster: Cluster) -> Iterator[Finding]:
    """What `ray up` copies to the machines, where each cell can read it."""
    home = Path(os.path.expanduser("~"))
    private = [home / folder for folder in FOLDERS]
    for target, source in cluster.config["file_mounts"].items():
        path = Path(os.path.normpath(os.path.join(os.getcwd(), os.path.expanduser(os.path.expandvars(str(source))))))
        if any(path == folder or path in folder.parents or folder in path.parents for folder in private) or _key(path):
            yield Finding.error(
                f"file_mounts: got {str(source)!r}, with which keys of yours go to every machine; delete it, or name one folder"
            )
        elif re.search(r"(?:^|/)(?:\.ssh|\.bashrc|\.profile)(?:/|$)|^/(?:etc|root|usr|bin|boot)(?:/|$)", str(target)):
            yield Finding.error(
                f"file_mounts: got the target {str(target)!r}, which changes how the machine is logged in to; delete it"
            )
        elif str(source).endswith("auth_token") and re.match(r"/(?:tmp|var|mnt|srv|opt|data|shared)\b", str(target)):
            yield Finding.error(
                f"file_mounts: got the token at {str(target)!r}, where every user may read it; use ~/.ray/auth_token"
            )
    for path in cluster.config.get("cluster_synced_files") or []:
        if any(folder in str(path) for folder in FOLDERS) or str(path).rstrip("/") in ("", "~", "/root", "/home"):
            yield Finding.error(
                f"cluster_synced_files: got {str(path)!r}, with which the head's keys go to every worker; delete it"
            )


def _key(path: Path) -> bool:
    return path.suffix in (".pem", ".key", ".p12", ".pfx", ".kdbx") or path.name.startswith(
        ("id_rsa", "id_ed25519", "id_ecdsa", ".env")
    )


def store(uri: str) -> Iterator[Finding]:
    """Rows and victims on their way, and whose the machine is that they go to."""
    try:
        parts = urlsplit(uri)
        given = {name.lower(): values[-1] for name, values in parse_qs(parts.query).items()}
        endpoint = given.get("endpoint_override", given.get("endpoint", ""))
        host = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}").hostname or ""
    except ValueError:
        yield Finding.error(f"BDRAY_STORE: got {uri!r}, which is no address; expected one such as s3://bucket/folder")
        return
    here = host in ("localhost", "127.0.0.1", "::1")
    if (parts.scheme == "http" or given.get("scheme") == "http" or endpoint.startswith("http://")) and not here:
        yield Finding.error(
            "BDRAY_STORE: got plain http, so whoever is on the way reads and changes rows and victims; use https"
        )
    if endpoint and not host.endswith((".amazonaws.com", ".amazonaws.com.cn", ".googleapis.com")):
        yield Finding.warning(
            f"BDRAY_STORE: all rows and victims go to {host or endpoint!r}; delete endpoint_override unless it is yours"
        )
    if given.get("allow_bucket_deletion", "").lower() in ("true", "1"):
        yield Finding.warning("BDRAY_STORE: got allow_bucket_deletion, which no command of bdray needs; delete it")
