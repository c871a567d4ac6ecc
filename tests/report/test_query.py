"""`--sql`: one SELECT over the rows; what else it may not do, and how long and how large it may be."""

import contextlib
import time
from pathlib import Path

import pyarrow as pa
import pytest

from bdray.report import query
from bdray.spec import BadInput

ROWS = pa.table({"key": ["a", "b"], "spec": ['{"attack": {"rate": 0.1}}'] * 2, "asr_after": [0.25, None]})


def ask(sql: str) -> list[dict[str, object]]:
    return query.select(ROWS, sql).to_pylist()


def test_a_select() -> None:
    assert ask("WITH few AS (SELECT * FROM rows WHERE key = 'b') SELECT key, asr_after FROM few") == [
        {"key": "b", "asr_after": None}
    ]
    assert ask("SELECT avg((spec->>'$.attack.rate')::float8) AS rate FROM rows;") == [{"rate": 0.1}]


def test_what_is_no_single_select(tmp_path: Path) -> None:
    """In one process, since each takes half a second to start: it is the same connection that `select` makes."""
    (tmp_path / "secret.csv").write_text("a\nsecret\n")
    here = tmp_path.as_posix()
    hidden = ROWS  # a name that DuckDB would find in Python
    assert hidden is ROWS
    for sql in (
        "SELECT 1; SELECT 2",
        "",
        "-- nothing",
        "EXPLAIN SELECT 1",
        "PRAGMA version",
        "SET threads = 1",
        "RESET threads",
        "INSTALL httpfs",
        "LOAD httpfs",
        f"ATTACH '{here}/x.db'",
        f"COPY rows TO '{here}/x.csv'",
        f"EXPORT DATABASE '{here}/x'",
        "CREATE TABLE x AS SELECT 1",
        "DELETE FROM rows",
        "CALL pragma_version()",
        "CHECKPOINT",
        f"SELECT * FROM read_csv('{here}/secret.csv')",
        f"SELECT * FROM read_text('{here}/secret.csv')",
        f"SELECT * FROM read_blob('{here}/*')",
        f"SELECT * FROM '{here}/secret.csv'",
        f"SELECT * FROM glob('{here}/*')",
        f"SELECT * FROM sniff_csv('{here}/secret.csv')",
        f"SELECT * FROM query('COPY rows TO ''{here}/y.csv''')",
        "SELECT * FROM read_csv('http://127.0.0.1:9/x.csv')",
        "SELECT * FROM read_parquet('s3://bucket/x')",
        "SELECT getenv('HOME')",
        "SELECT * FROM hidden",
        "SELECT * FROM ROWS_OF_PYTHON",
        "SELECT current_setting('no such setting')",
    ):
        with pytest.raises(BadInput) as caught:
            list(query._ask(ROWS, sql)[1])
        assert "\n" not in str(caught.value)
        assert "secret\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["secret.csv"]


def test_settings_stay_as_they_are() -> None:
    sql = "SELECT name, value FROM duckdb_settings() WHERE name IN ('lock_configuration', 'enable_external_access')"
    assert {str(r["name"]): r["value"] for r in ask(sql)} == {"lock_configuration": "true", "enable_external_access": "false"}


def children() -> set[str]:
    """The processes that this one has started and not buried."""
    found: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that ended meanwhile
            found |= set((task / "children").read_text().split())
    return found


def test_time_is_limited_and_the_process_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "SECONDS", 2.0)
    start, before = time.monotonic(), children()
    with pytest.raises(BadInput, match=r"more than 2 s; ask for less"):
        ask("WITH RECURSIVE a(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM a) SELECT count(*) FROM a")
    assert time.monotonic() - start < 30
    assert children() == before


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("SELECT repeat('a', 4000000000)", "more than 1 GiB of memory"),  # one value, of which no limit of DuckDB's knows
        ("SELECT * FROM range(100000000000)", "more than 256 MiB"),
    ],
)
def test_memory_and_the_answer_are_limited(sql: str, told: str) -> None:
    with pytest.raises(BadInput, match=told):
        ask(sql)


def test_a_query_that_is_no_text() -> None:
    with pytest.raises(BadInput, match="no Unicode"):
        ask("SELECT '\udcff'")
