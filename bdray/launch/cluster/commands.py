"""Shell commands of a cluster file that open a machine to others. Each is looked at as text: nothing is run."""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

from bdray.launch.cluster.config import Finding
from bdray.launch.cluster.containers import run_options


class Command(NamedTuple):
    """A command, and the field in which it stands."""

    where: str
    text: str


class Danger(NamedTuple):
    """What a command must not say. `why` ends with the cure."""

    pattern: str
    why: str


_SUDO = r"(?:sudo\s+(?:-\S+\s+)*)?(?:env\s+)?(?:/\S*/)?"
_SHELL = rf"{_SUDO}(?:ba|da|z|k|fi)?sh(?![\w.])"
_INTERPRETER = rf"{_SUDO}(?:python[\d.]*|perl|ruby|node)\s*(?:-(?:\s[^;&|\n]*)?)?(?:$|[;&|\n])"
_FETCH = r"(?:curl|wget|base64)\b"
_PRIVATE = (
    r"(?:\.(?:ssh|aws|kube|gnupg|netrc|git-credentials|docker/config|config/gcloud|config/gh)|id_(?:rsa|ed25519|ecdsa))\b"
)
_CARRY = r"(?:cp|mv|scp|rsync|curl|wget|nc|tar|cat|tee|s3|gsutil|gcloud|rclone)"
_OPENERS = (
    "socat|ncat|netcat|ngrok|cloudflared|chisel|frpc|frps|rathole|localtunnel|nginx|haproxy|caddy|x11vnc|vncserver|telnetd"
)
_NO = r"[=: ]+[\"']?(?:false|no|off|0)\b"

DANGERS = (
    Danger(
        r"(?<!proxy=)(?<!PROXY=)(?<!proxy=[\"'])(?<!PROXY=[\"'])\b(?i:http|ftp|git(?:\+http)?)://"
        r"(?!localhost|127\.|\[::1\]|169\.254\.|\$)[^\s\"'|;&)]+",
        "which comes unencrypted, so whoever is on the way can change it; use https",
    ),
    Danger(
        r"--trusted-host\b|PIP_TRUSTED_HOST|\bcurl\b[^|;&]*\s(?:--insecure\b|-(?!-)[a-zA-Z]*k[a-zA-Z]*\b)|--no-check-certificate"
        rf"|GIT_SSL_NO_VERIFY|http\.sslVerify{_NO}|PYTHONHTTPSVERIFY=0|--no-verify-ssl|ssl[_-]verify{_NO}|strict-ssl{_NO}"
        r"|NODE_TLS_REJECT_UNAUTHORIZED=[\"']?0|--allow-unauthenticated|--allow-insecure\S*|--insecure-registr\S*",
        "so nobody checks whose files come; delete it",
    ),
    Danger(
        rf"\|\s*{_SHELL}|\|\s*{_INTERPRETER}|{_SHELL}\s+(?:-\S+\s+)*[\"']?(?:<\(|\$\(|`)\s*{_FETCH}"
        rf"|(?:\beval\b|\bsource\b|(?<![\w./])\.)\s[^;&|]*{_FETCH}",
        "which runs whatever comes on that day; fetch a file once, check it, and keep it in the repository",
    ),
    Danger(
        r"\bsshd\b|sshd_config|authorized_keys|sudoers|\bvisudo\b|\bchpasswd\b|\b(?:useradd|adduser)\b|/etc/(?:shadow|passwd|pam\.d)\b"
        r"|\bpasswd\s|\busermod\b(?![^;&|]*-aG\s+docker)|(?i:PasswordAuthentication|PermitRootLogin|PermitEmptyPasswords)"
        r"|ssh-copy-id|ssh-import-id|NOPASSWD",
        "which changes who may log in; delete it, Ray's key is all that is needed",
    ),
    Danger(
        r"(?i:StrictHostKeyChecking)[= ]+[\"']?(?:no|off|accept-new)|(?i:UserKnownHostsFile)[= ]+[\"']?/dev/null|ssh-keyscan",
        "so that anybody can pass for the other machine; delete it and give the machine's key",
    ),
    Danger(
        rf"\b(?:{_OPENERS})\b|(?<![\w.])nc\b[^;&|]*\s-\w*l|(?<![\w.-])ssh\s[^;&|]*(?<=\s)-\w*[RDg](?![a-z])|\bhttp\.server\b"
        r"|\btailscale\s+(?:funnel|serve)|\bkubectl\s+(?:proxy|port-forward|expose)",
        "which lets others in past Ray's token and ssh; delete it, `ray dashboard` tunnels through ssh",
    ),
    Danger(
        r"--[\w.-]*(?:host|bind|ip|addr(?:ess)?|listen)[\w-]*[= ]+[\"']?(?:tcp://)?(?:\[?::\]?|\*)(?![\w.:/])|--bind[_-]all"
        r"|(?<![\d.\w-])0\.0\.0\.0(?![\d.])|\btcp://:\d+",
        "which listens to everybody; listen on 127.0.0.1, and come through ssh",
    ),
    Danger(
        r"\bufw\b|\bip6?tables\b|\bnft\b|\bfirewall-cmd\b|\bsetenforce\b|ip_forward"
        r"|\bsystemctl\b[^;&|]*\b(?:stop|disable|mask)\b[^;&|]*\b(?:ufw|firewalld|iptables|nftables|apparmor|auditd)\b"
        r"|authorize-security-group|modify-security-group|modify-instance-metadata",
        "which changes what is reachable, where no rule of this file can see it; delete it",
    ),
    Danger(
        r"--acl[= ]+[\"']?(?:public|authenticated)\S*|put-(?:bucket|object)-acl|put-bucket-(?:policy|website)"
        r"|(?:put|delete)-public-access-block|\bs3\s+(?:website|presign)\b|--grant-(?:read|write|full)\S*"
        r"|allUsers|allAuthenticatedUsers",
        "which opens the bucket to strangers; delete it",
    ),
    Danger(r"\baws\s+(?:iam|sts|organizations)\b|security-credentials", "which deals in rights; delete it, profiles give them"),
    Danger(
        rf"\b{_CARRY}\b[^;&|]*{_PRIVATE}|{_PRIVATE}[^;&|]*\|\s*\w+",
        "which carries this or that machine's keys about; delete it",
    ),
    Danger(
        r"--[\w.-]*(?:token|password)=(?:''|\"\"|\s|$)|--auth[= ]+[\"']?none\b|--no-auth\S*"
        r"|--without-password|--disable-auth\S*",
        "which asks nobody for a password; set one, or delete the command",
    ),
    Danger(r"--ray-debugger-external|(?i:RAY_DEBUGGER_EXTERNAL)", "which opens Ray's debugger to the network; delete it"),
    Danger(r"--system-config\b[^;]*(?i:auth_mode)", "which sets the authentication behind RAY_AUTH_MODE's back; delete it"),
    Danger(r"\bumask\s+[0-7]{0,3}[0145]\b", "so that everybody may write the files made after it; use 077"),
    Danger(r"\btelnet\b|\brlogin\b|\brsh\b", "which sends all in the clear; use ssh"),
)
ADDRESSES = re.compile(r"--(?:dashboard-host|node-ip-address)[= ]+[\"']?[^\s\"']*")
"""Of `ray start`; two other rules look at them."""
TOKEN = re.compile(r"auth[_-]token|RAY_AUTH_TOKEN\b|(?<!\w)\.ray(?=[/\s\"';]|$)")
HARMLESS = re.compile(
    r"RAY_AUTH_TOKEN_PATH=\S+|chmod\s+(?:-R\s+)?(?:0?[0-7]00|u=\S*|go?-[rwxX]+|go=\S*)\s+[^;&|]+|mkdir\s[^;&|]+"
    r"|\btest\s+-\w\s+\S+|\[\s+-\w\s+\S+\s+\]|\bls\s[^;&|]*"
)
"""Ways to name the token, or its folder, that give it to nobody."""
CHMOD = re.compile(r"\bchmod\s+(?:-[a-zA-Z]+\s+)*([0-7]{3,4}|[ugoa]*[-+=][\w,+=-]*)\s+([^;&|\"'\n]+)")
KEPT = re.compile(
    r"\.ray\b|auth_token|\.ssh\b|\.aws\b|\.kube\b|/etc\b|/root\b|\.env\b|(?:^|\s)(?:~|/|\$\{?HOME\}?|/home/\w+)/?(?:\s|$)"
)
"""Files and folders that only their owner may read."""
INDEXES = {"pypi.org", "download.pytorch.org", "pypi.nvidia.com", "conda.anaconda.org", "repo.anaconda.com"}


def shown(text: str) -> str:
    """A piece of a command, as it is put into a sentence."""
    short = " ".join(text.split())
    return f"`{short[:60]}{'…' if len(short) > 60 else ''}`"


def without_comments(text: str) -> str:
    """A command less what the shell ignores: from a # outside of quotes on."""
    quote, kept, ignored = "", [], False
    for before, char in zip(f" {text}", text, strict=False):
        if ignored:
            ignored = char != "\n"
        elif quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char == "#" and before in " \t\n;&|(":
            ignored = True
        if not ignored:
            kept.append(char)
    return "".join(kept)


def known_dangers(command: Command) -> Iterator[Finding]:
    """What the table above names."""
    text = ADDRESSES.sub("", command.text)
    for danger in DANGERS:
        if found := re.search(danger.pattern, text):
            yield Finding.error(f"{command.where}: got {shown(found[0])}, {danger.why}")


def readable(command: Command) -> Iterator[Finding]:
    """What only its owner may read stays so."""
    for mode, paths in CHMOD.findall(command.text):
        if _for_others(mode) and KEPT.search(paths):
            yield Finding.error(
                f"{command.where}: got {shown(f'chmod {mode} {paths}')}, so that every user of the machine may read it; use 600"
            )


def _for_others(mode: str) -> bool:
    """Whether a mode lets every user read or write."""
    if mode.isdigit():
        return bool(int(mode[-1]) & 6)
    parts = [part.replace("=", "+").partition("+") for part in mode.split(",")]
    return any(set("rw") & set(what) and (not whom or set("oa") & set(whom)) for whom, _, what in parts)


def token(command: Command) -> Iterator[Finding]:
    """The token comes with file_mounts, and goes nowhere."""
    if found := TOKEN.search(HARMLESS.sub("", command.text)):
        yield Finding.error(
            f"{command.where}: got a command on {shown(found[0])}, the key to every machine; delete it, file_mounts brings it"
        )


def packages(command: Command) -> Iterator[Finding]:
    """Where pip and its like take packages from."""
    named = r"(?:--(?:extra-)?index-url|--(?:default-)?index|--find-links|(?<=\s)-[if]|PIP_\w*INDEX_URL|UV_\w*INDEX\w*)[= ]+[\"']?(https://[^\s\"']+)"
    for address in re.findall(named, command.text):
        if (host := _host(address)) not in INDEXES:
            yield Finding.warning(
                f"{command.where}: got packages from {host!r}, which runs its code on every machine; expected pypi.org"
            )


def containers(command: Command) -> Iterator[Finding]:
    """A container of its own is as open as one of Ray's."""
    for words in re.findall(r"\b(?:docker|podman|nerdctl)\s+(?:container\s+)?(?:run|create|exec)\s+([^;&|]+)", command.text):
        yield from run_options(command.where, [words])


def _host(address: str) -> str:
    try:
        return urlsplit(address).hostname or address
    except ValueError:
        return address


RULES: tuple[Callable[[Command], Iterator[Finding]], ...] = (known_dangers, readable, token, packages, containers)


def check_commands(commands: Iterable[Command]) -> Iterator[Finding]:
    """What all of these rules say; each sentence once."""
    said = set()
    for where, text in commands:
        for rule in RULES:
            for finding in rule(Command(where, without_comments(text))):
                if finding not in said:
                    said.add(finding)
                    yield finding
