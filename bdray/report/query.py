"""Query: one SELECT of DuckDB over the rows, in a process of its own that may read no file, ask no network, and be ended.

A time and a memory limit inside one process do not hold: DuckDB hears of an interrupt only between its chunks, and
`repeat('a', 4000000000)` is one chunk of 8 GB. Imports no torch.
"""

import io
import json
import os
import subprocess
import sys
from typing import Any

import pyarrow as pa

from bdray.spec import BadInput

SECONDS = 30.0
"""For one query, from the start of its process."""
MEMORY = 1 << 30
"""Bytes that DuckDB plans with."""
ADDRESSES = 4 << 30
"""Bytes of address space of its process beside the rows, libraries and threads' stacks included: what DuckDB does not plan."""
ANSWER = 256 << 20
"""Bytes of an answer."""
_CONFIG = {
    "enable_external_access": "false",  # no file, no network, no ATTACH, no COPY
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "allow_persistent_secrets": "false",
    "python_enable_replacements": "false",  # a table's name is never a variable of ours
    "python_scan_all_frames": "false",
    "temp_directory": "",
    "threads": str(min(4, os.cpu_count() or 1)),
    "memory_limit": f"{MEMORY}B",
}
_START = """import json, sys
sys.path[:] = json.loads(sys.argv[1])
from bdray.report.query import _answer
_answer(float(sys.argv[2]))"""


def select(rows: pa.Table, sql: str) -> pa.Table:
    """The answer to one SELECT over the table `rows`. Raises BadInput, with DuckDB's first sentence, for what is no such query,
    and for one that takes more than SECONDS, MEMORY or ANSWER."""
    try:
        sql.encode()
    except UnicodeEncodeError:
        raise BadInput("the query has a character that is no Unicode; expected one SELECT over `rows`") from None
    given = io.BytesIO()
    given.write(json.dumps(sql).encode() + b"\n")
    with pa.ipc.new_stream(given, rows.schema) as stream:
        stream.write_table(rows)
    command = [sys.executable, "-P", "-c", _START, json.dumps([path or "." for path in sys.path]), str(SECONDS)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        try:
            out, err = process.communicate(given.getvalue(), SECONDS)
        except subprocess.TimeoutExpired:
            raise BadInput(f"the query took more than {SECONDS:g} s; ask for less, e.g. with WHERE or LIMIT") from None
        finally:
            process.kill()
    head, _, rest = out.partition(b"\n")
    try:
        said: dict[str, Any] = json.loads(head)
    except ValueError:
        last = (err.decode(errors="replace").strip().splitlines() or [f"status {process.returncode}"])[-1]
        raise BadInput(f"the query needs more memory than it may have, or broke DuckDB ({last}); ask for less") from None
    if "error" in said:
        raise BadInput(said["error"])
    return pa.ipc.open_stream(rest).read_all()


def _answer(seconds: float) -> None:
    """In the process of the query: JSON text and Arrow stream from stdin, a line of JSON and Arrow stream to stdout."""
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # DuckDB draws its progress there
    sql = json.loads(sys.stdin.buffer.readline())
    rows = pa.ipc.open_stream(sys.stdin.buffer).read_all()
    _limit(seconds, ADDRESSES + rows.nbytes)
    out = io.BytesIO()
    try:
        schema, batches = _ask(rows, sql)
        out.write(b"{}\n")
        with pa.ipc.new_stream(out, schema) as stream:
            for batch in batches:
                stream.write_batch(batch)
                if out.tell() > ANSWER:
                    raise BadInput(f"the answer has more than {ANSWER >> 20} MiB; ask for less, e.g. with LIMIT")
    except (BadInput, MemoryError) as error:
        text = str(error) or f"the query needs more than {MEMORY >> 30} GiB of memory; ask for less, e.g. with WHERE or LIMIT"
        out = io.BytesIO(json.dumps({"error": text}).encode() + b"\n")
    with answer:
        answer.write(out.getbuffer())


def _limit(seconds: float, addresses: int) -> None:
    """Where the system can, it ends this process if nobody else does: the parent may be gone."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    for what, most in ((resource.RLIMIT_AS, addresses), (resource.RLIMIT_CPU, int(4 * seconds) + 5), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(what)[1]
        resource.setrlimit(what, (most if hard < 0 else min(most, hard), hard))


def _ask(rows: pa.Table, sql: str) -> tuple[pa.Schema, Any]:
    """The columns of the answer, and its batches one by one. Raises BadInput."""
    import duckdb

    try:
        connection = duckdb.connect(":memory:", config=_CONFIG)
        connection.register("rows", rows)
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET lock_configuration = true")
        kinds = [statement.type.name for statement in connection.extract_statements(sql)]
        if kinds != ["SELECT"]:
            got = "nothing" if not kinds else f"a statement {kinds[0]}" if len(kinds) == 1 else f"{len(kinds)} statements"
            raise BadInput(f"the query: got {got}, expected one SELECT over `rows`")
        reader = connection.sql(sql).to_arrow_reader(10_000)
        return reader.schema, _batches(reader)
    except duckdb.Error as error:
        raise _told(error) from None


def _batches(reader: Any) -> Any:
    import duckdb

    try:
        yield from reader
    except duckdb.Error as error:
        raise _told(error) from None


def _told(error: Exception) -> BadInput:
    """DuckDB's first sentence."""
    if type(error).__name__ == "OutOfMemoryException":
        return BadInput(f"the query needs more than {MEMORY >> 30} GiB of memory; ask for less, e.g. with WHERE or LIMIT")
    return BadInput(f"DuckDB cannot do that: {' '.join(str(error).partition('LINE ')[0].split())}")
