"""Machines for `ray up` that are all this one: an sshd of its own answers at many addresses, with a throwaway home.

What a real machine has and this one must not use is replaced in that home's `~/venv/bin`, which the shipped files put first
on the PATH: `ray start` takes free ports and the address that was logged in to, and `ray stop`, which ends every Ray of a
machine, ends the processes of that address only. Each worker has a temporary folder of its own, as on a disk of its own: Ray
gives its sockets the first name that is not there yet, so of two workers that start at once in one folder, one never answers.
And they start one after the other, because they share what real machines have each: Ray's node ends itself where its agents do
not answer within 15 seconds.
"""

import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
REAL = Path(sys.executable).parent

RAY = """#!/bin/bash
node={mark}:$(echo $SSH_CONNECTION | cut -d' ' -f3)
case $1 in
start)
    shift
    extra="--temp-dir={folder}/${{node#*:}}"
    [[ $* == *--head* ]] && extra="--ray-client-server-port={client} --dashboard-port={dashboard}"
    args=("${{@/6379/{port}}}")
    BDRAY_NODE=$node exec flock -o {folder}/starting {real}/ray start "${{args[@]/-port=8076/-port=0}}" \\
        --node-ip-address=${{node#*:}} --dashboard-agent-listen-port=0 --object-store-memory=100000000 $extra ;;
stop)
    for signal in TERM KILL; do
        found=$(grep -lzxs "BDRAY_NODE=$node" /proc/[0-9]*/environ | cut -d/ -f3)
        [ -z "$found" ] || {{ kill -$signal $found 2> /dev/null; sleep 3; }}
    done
    true ;;
*) exec {real}/ray "$@" ;;
esac
"""
# ssh itself takes the ~ of `-i ~/key` for root's true home.
SSH = """#!/bin/bash
for word in "$@"; do
    [[ $before == -i ]] && word=${{word/#~/$HOME}}
    words+=("$word") before=$word
done
exec /usr/bin/ssh -p {ssh} "${{words[@]}}"
"""
SSHD = """Port {ssh}
AddressFamily inet
HostKey {folder}/hostkey
AuthorizedKeysFile {folder}/authorized_keys
AllowUsers {allowed}
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UsePAM no
StrictModes no
MaxSessions 50
MaxStartups 50:30:100
PidFile none
SetEnv {environment}
"""


class Machines:
    """Addresses of one network that `ray up` can log in to. Everything that ran there is gone when it closes."""

    def __init__(
        self, folder: Path, network: str, theirs: dict[str, str] | None = None, ours: dict[str, str] | None = None
    ) -> None:
        """What is in the environment of the machines, and of whoever types `ray up`."""
        self.folder, self.network = folder, network
        self.mark = f"bdray-{uuid.uuid4().hex[:8]}"
        self.home, self.laptop = folder / "node", folder / "laptop"
        self.ssh, self.port, self.client, self.dashboard = free_ports(4)
        common = {"BDRAY_MARK": self.mark, "RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "120"}
        self.theirs = {**common, "RAY_TMPDIR": str(folder / "ray"), **(theirs or {})}
        self.ours = {**common, "RAY_TMPDIR": str(self.laptop), **(ours or {})}

    def __enter__(self) -> "Machines":
        with contextlib.ExitStack() as stack:
            self._fill_homes()
            self._open_sshd(stack)
            stack.callback(self.stop)
            self._undo = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._undo.close()

    @property
    def key(self) -> Path:
        """The private key that every machine lets in."""
        return self.laptop / ".ssh/key"

    def _fill_homes(self) -> None:
        """A home for the machines, with what `ray up` would have installed, and one for whoever types `ray up`."""
        facts = {**vars(self), "real": REAL}
        for place in ("node/venv/bin", "laptop/.ray", "laptop/.ssh", "laptop/bin", "ray"):
            (self.folder / place).mkdir(parents=True)
        (self.home / "venv/bin/bdray").symlink_to(REAL / "bdray")
        for program, text in (("node/venv/bin/ray", RAY), ("node/venv/bin/ssh", SSH), ("laptop/bin/ssh", SSH)):
            (self.folder / program).write_text(text.format(**facts))
            (self.folder / program).chmod(0o755)
        (self.laptop / ".ray/auth_token").write_text(uuid.uuid4().hex)
        for path in (self.key, self.folder / "hostkey"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
        shutil.copy(self.key.with_suffix(".pub"), self.folder / "authorized_keys")

    def trust(self, public_key: str) -> None:
        """Let one more key in."""
        with open(self.folder / "authorized_keys", "a") as file:
            file.write(f"{public_key}\n")

    def _open_sshd(self, stack: contextlib.ExitStack) -> None:
        route = ["dev", "lo", "table", "local"]
        subprocess.run(["ip", "route", "replace", "local", self.network, *route], check=True)
        stack.callback(subprocess.run, ["ip", "route", "del", "local", self.network, *route], check=True)
        environment = " ".join(f'"{name}={value}"' for name, value in {**self.theirs, "HOME": self.home}.items())
        config = self.folder / "sshd_config"
        facts = {"ssh": self.ssh, "folder": self.folder, "allowed": f"root@{self.network}", "environment": environment}
        config.write_text(SSHD.format(**facts))
        Path("/run/sshd").mkdir(exist_ok=True)
        log = stack.enter_context((self.folder / "sshd.log").open("w"))
        server = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", config], stderr=log)
        stack.callback(_end, server)
        until(lambda: _answers("127.0.0.1", self.ssh), 10)

    def environment(self) -> dict[str, str]:
        """Of who types `ray up`."""
        own = {
            "HOME": str(self.laptop),
            "TMPDIR": str(self.folder),
            "PATH": f"{self.laptop / 'bin'}:{REAL}:{os.environ['PATH']}",
        }
        cleared = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "BDRAY_"))}
        return {**cleared, **self.ours, **own}

    def run(self, *words: str, seconds: float = 400, **environment: str) -> str:
        """A command of who types `ray up`, at the root of the repository; what it prints."""
        done = subprocess.run(
            words,
            cwd=ROOT,
            env={**self.environment(), **environment},
            capture_output=True,
            text=True,
            timeout=seconds,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
        return done.stdout + done.stderr

    def processes(self, word: str = "") -> list[int]:
        """What runs on the machines now, and has a word on its command line."""
        return processes(f"BDRAY_MARK={self.mark}", word)

    def stop(self) -> None:
        """End everything that runs on the machines."""
        kill(f"BDRAY_MARK={self.mark}")
        name = hashlib.sha256(self.mark.encode()).hexdigest()[:10]
        for folder in Path("/tmp").glob(f"ray_ssh_*/{name}"):
            shutil.rmtree(folder, ignore_errors=True)


def processes(variable: str, word: str = "") -> list[int]:
    """What runs with `NAME=value` in its environment, and has a word on its command line."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            pid = int(entry.name)
            ours = variable.encode() in (entry / "environ").read_bytes().split(b"\0")
            if ours and word.encode() in (entry / "cmdline").read_bytes():
                found.append(pid)
    return found


def kill(variable: str, word: str = "") -> None:
    """End it, and what it starts meanwhile, with no time to say goodbye."""
    for _ in range(5):
        for pid in processes(variable, word):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def until(true: Callable[[], object], seconds: float) -> None:
    """Wait for something to be true; fails where it does not become so."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.3)


@contextlib.contextmanager
def running(*words: str | Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program in the background."""
    program = subprocess.Popen(
        words, env=environment or None, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    )
    try:
        yield program
    finally:
        _end(program)


def _answers(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), 1):
        return True
    return False


def _end(program: subprocess.Popen[bytes]) -> None:
    program.terminate()
    try:
        program.wait(5)
    except subprocess.TimeoutExpired:
        program.kill()
        program.wait()
