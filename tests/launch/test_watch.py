"""What a launch shows while it works: lines, bars, gauges on /metrics, and the dashboard that draws them."""

import io
import json
import os
import pty
import re
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import ioctl
from pathlib import Path
from typing import Any, TextIO

import pytest
import ray

from bdray.launch.watch import terminal
from bdray.launch.watch.gauges import GAUGES, PAIRS
from bdray.launch.watch.tally import said_setting, said_time, shortened
from bdray.launch.watch.watch import METRICS, Watch


def row(status: str = "done", asr: float | None = 0.5, **more: Any) -> dict[str, Any]:
    whose = {"key": "0123456789abcdef", "attack": "blend", "defense": "nft", "seed": 1}
    return {**whose, "status": status, "asr_after": asr, "utility_after": 0.9, "objective": None, "seconds": 2.0, **more}


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of every watch in the test."""
    clock = Clock()
    monkeypatch.setattr(terminal, "now", clock)
    return clock


def lines_of(stream: io.StringIO) -> list[str]:
    """What was written, without the times of day."""
    lines = stream.getvalue().splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d demo: ", line) for line in lines), lines
    return [line[len("12:03:05 demo: ") :] for line in lines]


class TestLines:
    """Where there is no terminal."""

    def test_victims(self, clock: Clock) -> None:
        stream = io.StringIO()
        watch = Watch("demo", 42, victims=6, epochs=90, stream=stream)
        for tick in range(130):  # an epoch every two seconds, looked at every half second
            watch.victims(tick // 4, 2, tick // 60, 0)
            clock.time += 0.5
        assert lines_of(stream) == [
            "victims 0/6 done, 2 running, 0 failed, 0/90 epochs, ? left",
            "victims 0/6 done, 2 running, 0 failed, 5/90 epochs, 3 min left",
            "victims 0/6 done, 2 running, 0 failed, 10/90 epochs, 3 min left",
            "victims 1/6 done, 2 running, 0 failed, 15/90 epochs, 2 min left",
            "victims 1/6 done, 2 running, 0 failed, 20/90 epochs, 2 min left",
            "victims 1/6 done, 2 running, 0 failed, 25/90 epochs, 2 min left",
            "victims 2/6 done, 2 running, 0 failed, 30/90 epochs, 2 min left",
        ]

    def test_a_failed_victim_is_told_once_and_at_once(self, clock: Clock) -> None:
        stream = io.StringIO()
        watch = Watch("demo", 42, victims=6, epochs=90, stream=stream)
        watch.victims(0, 2, 0, 0)
        for _ in range(3):
            watch.victims(0, 1, 1, 1, {"ab12": "ValueError: bad\n  trigger"})
        assert lines_of(stream)[1:] == ["failed victim ab12: ValueError: bad trigger"]

    def test_cells_follow_victims(self, clock: Clock) -> None:
        stream = io.StringIO()
        with Watch("demo", 42, done=16, failed=1, victims=1, epochs=3, stream=stream) as watch:
            watch.victims(0, 1, 0, 0)
            clock.time += 6
            watch.victims(3, 0, 1, 0)
            watch.running(2)
            clock.time += 10
            watch.cell(row(asr=0.25))
            clock.time += 2
            watch.cell(row(asr=0.03, defense="fine_tuning", utility_after=0.95))
            clock.time += 8
            watch.cell(row(asr=float("nan")))
        best = "lowest ASR 3.0 % (utility 95.0 %, blend, fine_tuning, seed 1)"
        assert lines_of(stream) == [
            "victims 0/1 done, 1 running, 0 failed, 0/3 epochs, ? left",
            "victims 1/1 done, 0 running, 0 failed, 3/3 epochs, took 6 s",
            "cells 16/42 done, 2 running, 1 failed, ? left",
            "cells 17/42 done, 2 running, 1 failed, lowest ASR 25.0 % (utility 90.0 %, blend, nft, seed 1), 4 min left",
            f"cells 19/42 done, 2 running, 1 failed, {best}, 2 min left",
            f"cells 19/42 done, 0 running, 1 failed, {best}, took 20 s",
        ]

    def test_a_failure_is_told_at_once_in_one_short_line(self, clock: Clock) -> None:
        stream = io.StringIO()
        watch = Watch("demo", 3, stream=stream)
        watch.running(1)
        watch.cell(row("failed", None, error="RuntimeError: out of\nmemory " + 300 * "x"))
        watch.cell(row("failed", None))
        told = lines_of(stream)[1:]
        assert told[0].startswith("failed blend x nft seed 1 (0123456789abcdef): RuntimeError: out of memory xxx")
        assert told[0].endswith("x…")
        assert len(told[0]) < 150
        assert told[1] == "failed blend x nft seed 1 (0123456789abcdef): no reason given"

    def test_a_reason_is_told_a_few_times(self, clock: Clock) -> None:
        stream = io.StringIO()
        watch = Watch("demo", 5000, stream=stream)
        for number in range(1000):
            watch.cell(row("failed", None, error="its victim could not be trained", seed=number))
        for number in range(3000):
            watch.cell(row("failed", None, error=f"not {number}"))
        told = [line for line in lines_of(stream) if line.startswith("failed")]
        assert len(told) == 5 + 999
        assert told[3] == "failed blend x nft seed 3 (0123456789abcdef): its victim could not be trained"
        assert told[4].endswith("seed 4 (0123456789abcdef): its victim could not be trained; more of them are only counted")

    def test_the_clock_of_the_cells_starts_when_the_victims_are_done(self, clock: Clock) -> None:
        """Whether or not anything is told before the first of them ends."""
        stream = io.StringIO()
        watch = Watch("demo", 4, victims=1, epochs=1, stream=stream)
        clock.time += 500
        watch.victims(1, 0, 1, 0)
        clock.time += 60
        watch.cell(row())
        assert lines_of(stream)[-1].endswith("3 min left")

    def test_what_takes_no_time_says_nothing_of_the_time_left(self, clock: Clock) -> None:
        stream = io.StringIO()
        watch = Watch("demo", 100, stream=stream)
        watch.running(1)
        for _ in range(50):  # their victim is missing
            watch.cell(row("failed", None, error="no victim"))
        clock.time += 10
        watch.running(2)
        assert lines_of(stream)[-1] == "cells 0/100 done, 2 running, 50 failed, ? left"
        watch.cell(row())
        clock.time += 10
        watch.running(1)
        assert lines_of(stream)[-1].endswith("16 min left")  # 49 more, 20 s each

    def test_epochs_of_an_earlier_launch_say_nothing_of_the_time_left(self, clock: Clock) -> None:
        stream = io.StringIO()
        watch = Watch("demo", 42, victims=1, epochs=100, stream=stream)
        watch.victims(0, 1, 0, 0)
        clock.time += 1
        watch.victims(60, 1, 0, 0)  # it goes on where an earlier launch left it
        clock.time += 59
        watch.victims(61, 1, 0, 0)
        assert lines_of(stream)[-1] == "victims 0/1 done, 1 running, 0 failed, 61/100 epochs, 20 min left"  # 2 in a minute

    def test_a_search(self, clock: Clock) -> None:
        stream = io.StringIO()
        with Watch("demo", 0, objective="defender", stream=stream, skipped=2) as watch:
            watch.running(3)
            clock.time += 10
            watch.cell(row(objective=0.99))
            watch.trial(1, 20, 0.81, False, {"name": "nft", "lr": 0.012345, "bn": "eval"})
            watch.trial(2, 20, 0.5, True, {"name": "nft", "lr": 0.5})
            watch.trial(3, 20, None, False, {"defense.lr": 0.6})
            clock.time += 20
            watch.trial(4, 20, 0.93, False, {"name": "nft", "lr": 0.1})
        assert lines_of(stream) == [
            "cells 0 done, 3 running, 0 failed, 2 skipped, ? left",
            "cells 1 done, 3 running, 0 failed, 2 skipped, best defender 0.99 (blend, nft, seed 1), ? left",
            "trials 4/20 ended (1 stopped early), cells 1 done, 3 running, 0 failed, 2 skipped, "
            "best defender 0.93 (nft lr=0.1), 2 min left",
            "trials 4/20 ended (1 stopped early), cells 1 done, 0 running, 0 failed, 2 skipped, "
            "best defender 0.93 (nft lr=0.1), took 30 s",
        ]

    def test_the_best_may_be_the_smallest(self, clock: Clock) -> None:
        stream = io.StringIO()
        with Watch("demo", 2, objective="risk", mode="min", stream=stream) as watch:
            watch.cell(row(objective=0.4, seed=0))
            watch.cell(row(objective=0.7))
        assert "best risk 0.4 (blend, nft, seed 0)" in lines_of(stream)[-1]

    def test_nothing_new_is_told_rarely(self, clock: Clock) -> None:
        stream = io.StringIO()
        watch = Watch("demo", 42, victims=6, epochs=90, stream=stream)
        for _ in range(2 * 3600):
            watch.victims(4, 2, 0, 0)
            clock.time += 0.5
        assert 6 <= len(lines_of(stream)) <= 7

    def test_a_launch_without_work_says_nothing(self) -> None:
        stream = io.StringIO()
        Watch("demo", 42, done=42, stream=stream).close()
        assert not stream.getvalue()


class TestBars:
    """Where there is a terminal."""

    @staticmethod
    def screen(columns: int, told: Any) -> str:
        """What a terminal of so many columns got."""
        ours, theirs = pty.openpty()
        ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        parts: list[bytes] = []

        def read() -> None:
            while True:
                try:
                    parts.append(os.read(ours, 4096))
                except OSError:  # the other end is closed
                    return

        reader = threading.Thread(target=read)
        reader.start()
        with open(theirs, "w") as stream:
            assert stream.isatty()
            told(stream)
        reader.join()
        os.close(ours)
        return b"".join(parts).decode()

    @staticmethod
    def story(stream: TextIO) -> None:
        with Watch("demo", 4, victims=2, epochs=4, stream=stream) as watch:
            watch.victims(0, 2, 0, 0)
            watch.victims(4, 0, 2, 0)
            watch.running(2)
            watch.cell(row(asr=0.25))
            watch.cell(row("failed", None, error="ValueError: no"))

    def test_a_bar_a_phase_and_failures_above_them(self) -> None:
        screen = self.screen(160, self.story)
        assert "100%|████████████| victims 2/2 done, 0 running, 0 failed, 4/4 epochs, took 0 s" in screen
        assert " 50%|██████      | cells 1/4 done, 0 running, 1 failed, lowest ASR 25.0 % (utility 90.0 %, blend" in screen
        assert "failed blend x nft seed 1 (0123456789abcdef): ValueError: no\r\n" in screen

    @pytest.mark.parametrize("columns", [1, 5, 30])
    def test_a_narrow_terminal(self, columns: int) -> None:
        screen = self.screen(columns, self.story)
        bars = [part for part in re.split(r"[\r\n]", screen) if "%|" in part]
        assert all(len(re.sub(r"\x1b\[[A-Z]", "", bar)) <= columns for bar in bars), bars


class TestHarm:
    """A launch goes on, whatever becomes of its terminal."""

    def test_a_closed_stream(self) -> None:
        stream = io.StringIO()
        watch = Watch("demo", 4, stream=stream)
        watch.running(1)
        stream.close()
        watch.cell(row("failed"))
        watch.close()

    def test_a_terminal_that_went_away(self) -> None:
        ours, theirs = pty.openpty()
        raw = open(theirs, "wb", buffering=0)  # noqa: SIM115
        stream = io.TextIOWrapper(raw, write_through=True)
        watch = Watch("demo", 4, stream=stream)
        watch.running(1)
        os.close(ours)
        for _ in range(3):
            watch.cell(row("failed"))
        watch.close()
        with pytest.raises(OSError, match="Input/output"):
            raw.write(b"gone")
        raw.close()

    def test_no_stream_at_all(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "stderr", None)
        with Watch("demo", 4) as watch:
            watch.cell(row())

    def test_characters_that_the_stream_lacks(self) -> None:
        stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        with Watch("demo", 4, stream=stream) as watch:
            watch.cell(row("failed", error="größer " + 300 * "x"))

    def test_an_error_of_the_launch_is_not_hidden(self) -> None:
        with pytest.raises(KeyError, match="mine"), Watch("demo", 4, stream=io.StringIO()):
            raise KeyError("mine")

    def test_threads(self, clock: Clock) -> None:
        class Slow(io.StringIO):
            """A stream that lets other threads run in the middle of a line."""

            def write(self, text: str) -> int:
                time.sleep(0.0001)
                return super().write(text)

        stream = Slow()
        watch = Watch("demo", 400, stream=stream)

        def tell() -> None:
            for number in range(100):
                watch.cell(row("failed", error=f"{threading.get_ident()} {number}"))

        work = [threading.Thread(target=tell) for _ in range(4)]
        for thread in work:
            thread.start()
        for thread in work:
            thread.join()
        watch.close()
        lines = lines_of(stream)
        assert sum(line.startswith("failed blend x nft seed 1 (0123456789abcdef): ") for line in lines) == 400
        assert lines[-1].startswith("cells 0/400 done, 0 running, 400 failed")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(None, "?"), (0.2, "0 s"), (59, "59 s"), (60, "1 min"), (3540, "59 min"), (3599, "1 h 0 min"), (7800, "2 h 10 min")],
)
def test_times(seconds: float | None, said: str) -> None:
    assert said_time(seconds) == said
    assert said_time(9 * 86400) == "9.0 days"


def test_settings_and_reasons_fit_a_line() -> None:
    assert said_setting({"name": "nft", "lr": 0.0123456, "steps": 9}) == "nft lr=0.0123 steps=9"
    assert len(said_setting({f"field{i}": i for i in range(100)})) == 100
    assert shortened("a\n\tb") == "a b"


def read_lines(port: int) -> list[str]:
    """The lines of /metrics that are values."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return [line for line in answer.read().decode().splitlines() if not line.startswith("#")]


def read_metrics(port: int) -> dict[str, float]:
    """Every `ray_bdray_` series on /metrics by name and its own tags, with its value."""
    found = {}
    for line in read_lines(port):
        if line.startswith("ray_bdray_"):
            name, tags, value = re.fullmatch(r"(\w+)\{(.*)\} (\S+)", line).groups()  # type: ignore[union-attr]
            ours = [tag for tag in tags.split(",") if tag.split("=")[0] in ("state", "attack", "defense", "objective")]
            found[f"{name}{{{','.join(sorted(ours))}}}"] = float(value)
    return found


@contextmanager
def exporting_ray() -> Iterator[int]:
    """A local Ray that exports metrics every second instead of every ten; the port of its /metrics. Ray's exporter goes on
    after its shutdown and can crash a process that ends in the usual way, so the process of such a Ray ends with os._exit."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    keep = {name: os.environ.get(name) for name in ("RAY_AUTH_MODE", "RAY_USAGE_STATS_ENABLED")}
    os.environ.update(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0")
    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _metrics_export_port=port,
        _system_config={"metrics_report_interval_ms": 1000},
    )
    yield port
    ray.shutdown()
    for name, value in keep.items():
        os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def wait_for(port: int, expected: dict[str, Any]) -> dict[str, float]:
    """The series, as soon as they hold these or in a minute."""
    for _ in range(60):
        found = read_metrics(port)
        if all(found.get(name) == value for name, value in expected.items()):
            break
        time.sleep(1)
    return found


class TestOnRay:
    def test_gauges_stand_on_metrics(self) -> None:
        """Everything that a launch tells is seen by Prometheus, and no more series than are bounded."""
        words = f"import os; from {__name__} import gauges_stand_on_metrics as check; check(); os._exit(0)"
        root = Path(__file__).parents[2]
        ended = subprocess.run([sys.executable, "-c", words], cwd=root, capture_output=True, text=True, timeout=180)
        assert ended.returncode == 0, ended.stderr


def gauges_stand_on_metrics() -> None:
    """The test above, in a process of its own."""
    with (
        exporting_ray() as port,
        Watch(
            "demo", 1000, done=3, failed=1, victims=4, epochs=8, objective="oracle", stream=io.StringIO(), skipped=2
        ) as watch,
    ):
        watch.victims(5, 1, 2, 1)
        watch.running(3)
        watch.cell(row("failed", None))
        watch.cell(row(asr=0.2, utility_after=0.9))
        watch.cell(row(asr=0.4, utility_after=None))
        watch.cell(row(asr=None, utility_after=0.7, attack="sig"))
        for number in range(PAIRS + 5):
            watch.cell(row(asr=0.75, defense=f"defense{number}"))
        watch.trial(5, 10, None, False, {"name": "nft"}, failed=False)  # a Pareto front has no one objective
        watch.trial(6, 10, None, False, {"name": "nft"})
        watch.trial(7, 10, 0.25, True, {"name": "nft"})
        watch.cell({"key": "of another launch", "status": "done"})
        expected = {
            'ray_bdray_cells{state="done"}': 7.0 + PAIRS + 5,
            'ray_bdray_cells{state="failed"}': 2.0,
            'ray_bdray_cells{state="skipped"}': 2.0,
            'ray_bdray_cells{state="running"}': 3.0,
            'ray_bdray_cells{state="missing"}': 1000.0 - 7 - PAIRS - 5 - 2 - 2 - 3,
            'ray_bdray_victims{state="done"}': 1.0,
            'ray_bdray_victims{state="failed"}': 1.0,
            'ray_bdray_victims{state="running"}': 1.0,
            'ray_bdray_victims{state="missing"}': 1.0,
            'ray_bdray_victim_epochs{state="done"}': 5.0,
            'ray_bdray_victim_epochs{state="missing"}': 3.0,
            'ray_bdray_trials{state="done"}': 5.0,
            'ray_bdray_trials{state="stopped"}': 1.0,
            'ray_bdray_trials{state="failed"}': 1.0,
            'ray_bdray_trials{state="missing"}': 3.0,
            'ray_bdray_best_objective{objective="oracle"}': 0.25,
            'ray_bdray_asr_after{attack="blend",defense="nft"}': pytest.approx(0.3),
            'ray_bdray_utility_after{attack="blend",defense="nft"}': 0.9,
            'ray_bdray_measured_cells{attack="blend",defense="nft"}': 2.0,
            'ray_bdray_utility_after{attack="sig",defense="nft"}': 0.7,
            'ray_bdray_measured_cells{attack="other",defense="other"}': 7.0,
        }
        found = wait_for(port, expected)
        assert {name: found.get(name) for name in expected} == expected
        time.sleep(5)  # more than two export intervals, after which Ray drops what was not recorded again
        found = read_metrics(port)
        assert {name: found.get(name) for name in expected} == expected
        lines = read_lines(port)
    assert {name.split("{")[0] for name in found} == set(METRICS)
    assert sum(name.startswith("ray_bdray_asr_after") for name in found) == PAIRS  # 199 with an ASR, and `other`
    assert not any("0123456789abcdef" in name for name in found)
    assert {line.split("{")[0] for line in lines} >= RAY_METRICS
    assert set(METRICS) == {f"ray_{name}" for name in GAUGES}


DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana.json"
RAY_METRICS = {
    "ray_cluster_active_nodes",
    "ray_resources",
    "ray_node_cpu_utilization",
    "ray_node_mem_used",
    "ray_node_mem_total",
}
"""Of Ray itself, seen on /metrics of any node."""
TRAIN_METRICS = {"ray_train_controller_state", "ray_train_worker_group_start_total_time_s"}
"""Of Ray Train, seen there while a trainer runs."""
TAGS = {"ray_train_run_name", "ray_train_controller_state", "node_type", "Name", "State", "instance"}
"""Those of their tags, and Prometheus's own, that are used."""


def queries() -> list[tuple[dict[str, Any], str]]:
    """Every panel of the dashboard with each of its expressions, and the expressions of its variables."""
    dashboard = json.loads(DASHBOARD.read_text())
    found = [(panel, target["expr"]) for panel in dashboard["panels"] for target in panel.get("targets", [])]
    variables = dashboard["templating"]["list"]
    return found + [(v, v["query"]["query"]) for v in variables if v["type"] == "query"]


def names_in(expression: str) -> tuple[set[str], set[str]]:
    """The metrics and the tags of an expression."""
    without_texts = re.sub(r'"[^"]*"', '""', expression)
    lists = re.findall(r"by \(([^)]*)\)", without_texts)
    matchers = re.findall(r"\{([^}]*)\}", without_texts)
    tags = {tag.strip() for tag in ",".join(lists).split(",")} | {
        m.split("=")[0].strip() for m in ",".join(matchers).split(",")
    }
    bare = re.sub(r"by \([^)]*\)|\{[^}]*\}|\[[^]]*\]", "", without_texts)
    return set(re.findall(r"\b(ray_\w+)", bare)), tags - {""}


class TestDashboard:
    """`deploy/grafana.json`, as Grafana imports it. Its expressions were also put to a Prometheus, by hand."""

    def test_it_shows_every_gauge_and_nothing_that_is_not_exported(self) -> None:
        used = set[str]().union(*(names_in(expression)[0] for _, expression in queries()))
        assert used == set(METRICS) | RAY_METRICS | TRAIN_METRICS

    @pytest.mark.parametrize(("panel", "expression"), queries())
    def test_an_expression(self, panel: dict[str, Any], expression: str) -> None:
        """Its brackets close, its tags are those of its metrics, and what is of a sweep is of the chosen one."""
        depth = 0
        for character in re.sub(r'"[^"]*"', "", expression):
            depth += (character in "([{") - (character in ")]}")
            assert depth >= 0
        assert depth == 0
        metrics, tags = names_in(expression)
        assert metrics
        ours = {name.removeprefix("ray_") for name in metrics & set(METRICS)}
        assert tags <= set[str]().union(TAGS if metrics - set(METRICS) else set(), *(GAUGES[name][1] for name in ours))
        if ours and "label_values" not in expression:
            assert expression.count('sweep=~"$sweep"') == sum(expression.count(name) for name in ours)
        legends = [set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) for target in panel.get("targets", [])]
        assert set[str]().union(*legends) <= set[str]().union(TAGS, *(GAUGES[name][1] for name in ours))

    def test_what_grafana_wants_of_a_dashboard(self) -> None:
        dashboard = json.loads(DASHBOARD.read_text())
        ids = [panel["id"] for panel in dashboard["panels"]]
        assert len(set(ids)) == len(ids)
        assert dashboard["uid"]
        assert dashboard["schemaVersion"] >= 39
        taken: set[tuple[int, int]] = set()
        for panel in dashboard["panels"]:
            place = panel["gridPos"]
            here = {
                (x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])
            }
            assert max(x for x, _ in here) < 24
            assert not here & taken, panel["title"]
            taken |= here
            for target in panel.get("targets", []):
                assert target["datasource"]["uid"] == "${datasource}"
        assert [v["name"] for v in dashboard["templating"]["list"]] == ["datasource", "sweep"]


def test_the_gauges_are_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "watch.md").read_text()
    assert set(re.findall(r"`(ray_bdray_\w+)`", text)) == set(METRICS)
