"""A launch whose Ray dies under it: played with a Ray that answers as it is told."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray

from bdray.launch import vigil as vigils
from bdray.launch.vigil import vigil
from bdray.signals import orderly
from bdray.spec import BadInput


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> dict:
    """This process' own node, as Ray's table has it, beside one that is dead and of no account."""
    own = {"NodeID": "here", "Alive": True}
    monkeypatch.setattr(ray, "nodes", lambda: [own, {"NodeID": "there", "Alive": False}])
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "here"))
    monkeypatch.setattr(vigils, "EVERY", 0.02)
    monkeypatch.setattr(vigils, "LOOK", 0.02)
    monkeypatch.setattr(vigils, "HEARD", 0.3)
    monkeypatch.setattr(vigils, "SILENCE", 0.4)
    return own


def alone() -> bool:
    return not [thread for thread in threading.enumerate() if thread.name.startswith("bdray")]


def test_nothing_happens_while_it_lives(node: dict) -> None:
    with vigil():
        time.sleep(0.6)
    assert alone()


def test_a_dead_raylet_is_one_sentence(node: dict) -> None:
    node["Alive"] = False
    with pytest.raises(BadInput, match=r"its raylet\) has died; nothing is lost: the same command goes on"), vigil():
        time.sleep(10)
    assert alone()


def test_so_is_a_head_that_answers_no_more(node: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(ray, "nodes", lambda: over.wait(20) or [])
    with pytest.raises(BadInput, match=r"has not answered for 0\.4 s; nothing is lost"), vigil():
        time.sleep(10)
    over.set()


def test_and_what_ray_raises_once_it_is_gone(node: dict) -> None:
    with pytest.raises(BadInput, match="Ray has ended the launch: System error: lost; nothing is lost"), vigil():
        raise ray.exceptions.RaySystemError("lost")


def test_ctrl_c_stays_ctrl_c(node: dict) -> None:
    with pytest.raises(KeyboardInterrupt), vigil():
        raise KeyboardInterrupt
    with pytest.raises(BadInput, match="a full disk"), vigil():
        raise BadInput("a full disk")
    assert alone()


def test_a_signal_that_also_ended_ray_is_what_ended_the_launch(node: dict, capsys: pytest.CaptureFixture[str]) -> None:
    """The main thread hears of it after the death of Ray."""
    node["Alive"] = False
    with orderly("stopped", last=False) as ending:
        late = threading.Timer(0.15, os.kill, (os.getpid(), signal.SIGUSR1))
        late.start()
        with pytest.raises(KeyboardInterrupt), vigil():
            time.sleep(10)
        assert ending.status == vigils._Vigil()._last() == 128 + signal.SIGUSR1
    assert capsys.readouterr().err == "\nbdray: stopped\n"
    assert alone()


def test_what_ray_says_does_not_steer_the_terminal(node: dict, capsys: pytest.CaptureFixture[str]) -> None:
    with vigil():
        watch = vigils._Vigil()
        watch.trouble = "lost \x1b]0;pwned\x07"
        assert watch._last() == 2
    assert capsys.readouterr().err == "bdray: lost \\x1b]0;pwned\\x07\n"


def test_a_daemon_that_was_killed_is_seen_at_once() -> None:
    """Before anybody waited for it, as a child's death is when Ray's head has not heard of it."""
    daemon = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert not vigils._ended(Path(f"/proc/{daemon.pid}"))
        daemon.kill()
        until = time.monotonic() + 20
        while not vigils._ended(Path(f"/proc/{daemon.pid}")):
            assert time.monotonic() < until
            time.sleep(0.01)
    finally:
        daemon.communicate()
    assert vigils._ended(Path(f"/proc/{daemon.pid}"))
