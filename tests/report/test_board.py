"""What TensorBoard is given to read: event files, one for every experiment and victim."""

import json
import os
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bdray.report.board
from bdray.report.board import Board, BoardNotWritten
from bdray.run import run, unfinished_row
from bdray.store.row import Row, Scores
from bdray.store.store import Store
from bdray.victim import backdoor
from tests.tiny import quick, tiny


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock of every board in the test; a test moves it."""
    clock = [1000.0]
    monkeypatch.setattr(bdray.report.board, "now", lambda: clock[0])
    return clock


def events_in(data: bytes) -> list[Any]:
    """The events of a file, each with its checksums right."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    events = []
    while data:
        size, size_sum = struct.unpack("<QI", data[:12])
        body, (body_sum,) = data[12 : 12 + size], struct.unpack("<I", data[12 + size : 16 + size])
        assert size_sum == masked_crc32c(data[:8])
        assert body_sum == masked_crc32c(body)
        events.append(Event.FromString(body))
        data = data[16 + size :]
    return events


def paths_of(store: Store, folder: str) -> list[str]:
    return list(store.files.list(f"tensorboard/{folder}"))


def events_of(store: Store, folder: str) -> list[Any]:
    """The events of the one file in a folder."""
    (path,) = paths_of(store, folder)
    assert "tfevents" in path  # else TensorBoard passes it over
    return events_in(store.files.get(path))


def points_of(events: list[Any]) -> dict[str, list[tuple[int, float]]]:
    """Step and value by name."""
    found: dict[str, list[tuple[int, float]]] = {}
    for event in events:
        for value in event.summary.value:
            if value.WhichOneof("value") == "simple_value":
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def setting_of(events: list[Any]) -> dict[str, Any]:
    """The hyperparameters that the HPARAMS tab shows."""
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

    found: dict[str, Any] = {}
    for event in events:
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name == "hparams":
                session = HParamsPluginData.FromString(value.metadata.plugin_data.content).session_start_info
                found |= {name: getattr(v, v.WhichOneof("kind")) for name, v in session.hparams.items()}
    return found


def test_an_experiment_and_its_victim(store: Store, tmp_path: Path) -> None:
    """Everything that is reported, the scores that stand in the row, the setting."""
    experiment = tiny(defense=quick("nft"))
    with Board(store, "victims", experiment.victim_key()) as board:
        victim = backdoor(experiment, store, tmp_path, board)
        board.close(scores=victim.scores)
    with Board(store, "demo", experiment.key()) as board:
        row = run(experiment, store, tmp_path, "demo", board)
        board.close(row)

    trained = points_of(events_of(store, f"victims/{experiment.victim_key()}"))
    assert {"victim/loss", "victim/seconds"} <= trained.keys()
    assert [step for step, _ in trained["victim/loss"]] == [1, 2]
    assert trained["scores/asr"] == [(0, pytest.approx(victim.scores.asr))]
    events = events_of(store, f"demo/{experiment.key()}")
    points = points_of(events)
    curve = store.table("curves", experiment.key())
    assert curve is not None
    for metric in set(curve["metric"].to_pylist()):
        reported = [(p["step"], pytest.approx(p["value"])) for p in curve.to_pylist() if p["metric"] == metric]
        assert points[f"defense/{metric}"] == reported
    for name in ("utility_before", "asr_before", "utility_after", "asr_after", "held_utility_after"):
        assert points[f"scores/{name}"] == [(0, pytest.approx(getattr(row, name)))]
    setting = setting_of(events)
    assert setting["defense"] == "nft"
    assert setting["defense.steps"] == 4
    assert setting["defense.bn"] == experiment.config()["defense"]["bn"]
    assert setting["task.data"] == "miniature"
    assert setting["attack"] == "blend"
    assert events[0].file_version == "brain.Event:2"
    times = [event.wall_time for event in events]
    assert times == sorted(times)
    assert abs(row.time.timestamp() - times[-1]) < 60


def test_settings_are_declared_by_no_run_for_all_others(store: Store, tmp_path: Path) -> None:
    """TensorBoard takes the first declaration that it finds, and shows no setting that it lacks."""
    experiment = tiny()
    with Board(store, "demo", experiment.key()) as board:
        board.close(run(experiment, store, tmp_path, "demo", board))
    tags = [value.tag for event in events_of(store, f"demo/{experiment.key()}") for value in event.summary.value]
    assert "_hparams_/session_start_info" in tags
    assert "_hparams_/experiment" not in tags


def test_a_stored_row_is_left_alone(store: Store, tmp_path: Path) -> None:
    """The same command again finds the row, reports nothing, and keeps the curves."""
    experiment = tiny(defense=quick("fine_tuning"))
    before = {}
    for _ in range(2):
        with Board(store, "demo", experiment.key()) as board:
            board.close(run(experiment, store, tmp_path, "demo", board))
        (path,) = paths_of(store, f"demo/{experiment.key()}")
        before[path] = store.files.get(path)
    assert len(before) == 1
    with Board(store, "victims", experiment.victim_key()) as board:
        board.close(scores=backdoor(experiment, store, tmp_path, board).scores)
    assert not paths_of(store, f"victims/{experiment.victim_key()}")


def test_what_does_nothing_leaves_nothing(store: Store) -> None:
    Board(store, "demo", "cell").close(unfinished_row(tiny(), "demo", "skipped", "makes no sense"))
    board = Board(store, "demo", "cell")
    board("defense", 1)
    board.close()
    assert not paths_of(store, "demo")


def test_a_repetition_replaces_the_history(store: Store, clock: list[float]) -> None:
    for number in (5, 3):
        board = Board(store, "demo", "cell")
        for step in range(number):
            board("defense", step + 1, loss=float(number))
        board.close()
    assert points_of(events_of(store, "demo/cell")) == {"defense/loss": [(1, 3.0), (2, 3.0), (3, 3.0)]}


def test_an_earlier_try_is_kept_until_the_end_and_told_to_be_forgotten(store: Store, clock: list[float]) -> None:
    """TensorBoard, having read a file, looks for a newer one only as long as the old one is there."""
    killed = Board(store, "demo", "cell")
    killed("defense", 1, loss=1.0)
    again = Board(store, "demo", "cell")
    again("defense", 1, loss=2.0)
    old, new = (events_in(store.files.get(path)) for path in sorted(paths_of(store, "demo/cell")))
    assert points_of(old) == {"defense/loss": [(1, 1.0)]}
    assert points_of(new) == {"defense/loss": [(1, 2.0)]}
    assert new[1].session_log.status == new[1].session_log.START
    again.close()
    assert points_of(events_of(store, "demo/cell")) == {"defense/loss": [(1, 2.0)]}


def test_it_is_written_at_once_and_then_every_few_seconds(store: Store, clock: list[float]) -> None:
    board = Board(store, "demo", "cell")
    seen = []
    for step in range(8):
        board("defense", step, loss=0.5)
        seen.append(len(points_of(events_of(store, "demo/cell"))["defense/loss"]))
        clock[0] += 2
    assert seen == [1, 1, 1, 4, 4, 4, 7, 7]
    board.close()
    assert len(points_of(events_of(store, "demo/cell"))["defense/loss"]) == 8


def test_what_is_not_a_number_is_no_score(store: Store) -> None:
    board = Board(store, "victims", "cell")
    board("victim", 1, loss=0.5)
    board.close(scores=Scores(utility=0.9, asr=float("nan")))
    assert points_of(events_of(store, "victims/cell")).keys() == {"victim/loss", "scores/utility"}


def test_no_thread_and_no_open_file_is_left(store: Store) -> None:
    """Workers stay for many cells: what one leaves behind adds up."""
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for number in range(20):
        board = Board(store, "demo", str(number))
        board("defense", 1, loss=0.5)
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) <= files


def test_without_tensorboardx_nothing_is_written(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorboardX"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    experiment = tiny(defense=quick("fine_tuning"))
    with Board(store, "demo", experiment.key()) as board:
        row = run(experiment, store, tmp_path, "demo", board)
        board.close(row)
    assert row.status == "done"
    assert not store.files.list("tensorboard")


def test_what_cannot_be_written_harms_nobody(store: Store, tmp_path: Path) -> None:
    """One warning, and the row is made."""
    store.files.put("tensorboard", b"a file where a folder should be")
    experiment = tiny(defense=quick("fine_tuning"))
    board = Board(store, "demo", experiment.key())
    with pytest.warns(BoardNotWritten, match="TensorBoard's files are not written") as told:
        row = run(experiment, store, tmp_path, "demo", board)
    board.close(row)
    assert len(told) == 1
    assert row.status == "done"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store in a bucket of a server on this machine."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="results")
    yield Store(f"s3://results/bdray?endpoint_override={host}:{port}&scheme=http&region=us-east-1&allow_delayed_open=true")
    server.stop()


def test_a_bucket_gets_whole_files_twice_a_minute(bucket: Store, clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    put, puts = bucket.files.put, list[str]()

    def counted(path: str, data: bytes) -> None:
        puts.append(path)
        put(path, data)

    monkeypatch.setattr(bucket.files, "put", counted)
    row = Row(**{**vars(unfinished_row(tiny(), "demo", "done", "")), "asr_after": 0.25})
    for _ in range(2):
        board = Board(bucket, "demo", "cell")
        for step in range(40):
            board("defense", step + 1, loss=1 / (step + 1))
            clock[0] += 2
        board.close(Row(**{**vars(row), "time": unfinished_row(tiny(), "demo", "done", "").time}))
        assert len(puts) == 4  # at 0, 30 and 60 s, and at the end
        assert len(set(puts)) == 1
        points = points_of(events_of(bucket, "demo/cell"))
        assert [step for step, _ in points["defense/loss"]] == list(range(1, 41))
        assert points["scores/asr_after"] == [(0, 0.25)]
        puts.clear()
    assert json.loads(row.spec)["attack"]["name"] == setting_of(events_of(bucket, "demo/cell"))["attack"]
