"""Tests of stores that are not on a disk: what a bucket refuses, what is uploaded, and who else may open it. What a store does
once it is open is in test_store.py, on a disk and in a bucket."""

import http.server
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import fsspec
import pyarrow as pa
import pytest
import torch

from bdray.spec import BadInput
from bdray.store.curve import CURVES
from bdray.store.files import Files
from bdray.store.filesystems import with_defaults
from bdray.store.store import Store
from tests.bucket import Server
from tests.store.test_store import finals, keyed, make_row, named

MIB = 2**20


class Scripted:
    """A server of buckets that answers as it is told: a status and a text for each method and path."""

    def __init__(self, answer: Callable[[str, str], tuple[int, str]]) -> None:
        self.seen: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                while self.headers.get("Transfer-Encoding") == "chunked":
                    size = int(self.rfile.readline(), 16)
                    self.rfile.read(size + 2)
                    if size == 0:
                        break
                outer.seen.append(f"{self.command} {self.path}")
                status, text = answer(self.command, self.path)
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.send_header("ETag", '"0"')
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(text.encode())

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"s3://bucket/p?endpoint_override=127.0.0.1:{self._http.server_port}&scheme=http&region=us-east-1"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def scripted(server: Server) -> Iterator[Callable[..., Scripted]]:
    """Makes such servers."""
    made: list[Scripted] = []

    def make(answer: Callable[[str, str], tuple[int, str]]) -> Scripted:
        made.append(Scripted(answer))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def refused(uri: str) -> str:
    """The one sentence for a store that cannot be opened."""
    with pytest.raises(BadInput) as caught:
        Store(uri)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 700
    return text


class TestRefusals:
    def test_no_such_bucket(self, server: Server) -> None:
        text = refused(server.uri("buckett/prefix"))
        assert text.startswith("cannot open the store 's3://buckett/prefix?")
        assert "there is no bucket 'buckett'; create the bucket, or name another with --store" in text

    def test_no_rights(self, server: Server, bucket: Store) -> None:
        bucket.put_row(make_row("k"))
        server.check_rights(True)
        try:
            text = refused(server.fresh())
            assert "The AWS Access Key Id you provided does not exist" in text
            assert "give credentials that may list, read, write and delete there" in text
            tries: list[Callable[[], object]] = [bucket.rows, bucket.index, lambda: bucket.row(keyed("k"))]
            tries.append(bucket.check_writable)
            tries += [lambda: bucket.put_row(make_row("l")), lambda: bucket.victim("v"), lambda: bucket.compact("s")]
            tries += [lambda: bucket.files.delete("rows"), lambda: bucket.files.delete_folder("rows")]
            for attempt in tries:
                with pytest.raises(BadInput, match=r"cannot .* the store 's3:.*give credentials") as caught:
                    attempt()
                assert "\n" not in str(caught.value)
        finally:
            server.check_rights(False)
        assert bucket.row(keyed("k")) is not None

    def test_no_credentials(self, scripted: Callable[..., Scripted], monkeypatch: pytest.MonkeyPatch) -> None:
        """Without any, requests are not signed; a bucket that is not public refuses them."""
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        denied = "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        text = refused(scripted(lambda method, path: (403, denied)).uri)
        assert "ACCESS_DENIED" in text
        assert "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in text

    def test_nobody_answers(self) -> None:
        text = refused("s3://bucket/p?endpoint_override=127.0.0.1:1&scheme=http&region=us-east-1")
        assert "check the network and the address (endpoint_override=HOST:PORT in the URI" in text
        text = refused("gs://anonymous@bucket/p?endpoint_override=127.0.0.1:1&scheme=http&retry_limit_seconds=1")
        assert "Could not connect to server; check the network" in text

    def test_retries_end(self) -> None:
        assert with_defaults("gs://b/p") == "gs://b/p?retry_limit_seconds=10"
        assert with_defaults("gs://b/p?retry_limit_seconds=99") == "gs://b/p?retry_limit_seconds=99"

    def test_azure_without_an_account_or_a_key(self) -> None:
        """In a process of its own: pyarrow's Azure aborts the whole process at some of these questions."""
        for uri in ("abfs://acc:a2V5@127.0.0.1:1/container/path?enable_tls=false", "abfss://container/path"):
            words = [sys.executable, "-c", "import sys; from bdray.store.store import Store; Store(sys.argv[1])", uri]
            answer = subprocess.run(words, capture_output=True, text=True, check=False)
            assert answer.returncode == 1
            assert answer.stderr.splitlines()[-1].startswith("bdray.store.refusal.Refused: cannot ")

    def test_a_policy_may_allow_a_folder_only(self, scripted: Callable[..., Scripted]) -> None:
        """Then the bucket may be listed below it, but not looked at."""
        empty = '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><KeyCount>0</KeyCount></ListBucketResult>'
        server = scripted(lambda method, path: (403, "") if method == "HEAD" else (200, empty))
        assert len(Store(server.uri).rows()) == 0
        assert any(seen.startswith("HEAD") for seen in server.seen)

    def test_secrets_are_not_shown(self, server: Server) -> None:
        uri = server.uri("buckett/p").replace("s3://", "s3://testing:hidden@")
        assert "hidden" not in refused(uri)
        assert "hidden" in Store(uri.replace("buckett", "bucket")).location(), "the workers need it"

    @pytest.mark.parametrize("uri", ["az://container/p", "sftp://host/p"])
    def test_what_to_install(self, uri: str) -> None:
        assert "nstall" in refused(uri)


class TestUploads:
    def test_a_small_file_is_one_request(self, scripted: Callable[..., Scripted]) -> None:
        server = scripted(lambda method, path: (200, ""))
        files = Files(server.uri)
        server.seen.clear()
        files.put("a/b", b"x" * MIB)
        assert server.seen == ["PUT /bucket/p/a/b"]

    @pytest.mark.parametrize("size", [0, 1, 11 * MIB, 33 * MIB])
    def test_any_size(self, bucket: Store, size: int) -> None:
        data = os.urandom(1000) * (size // 1000) + b"x" * (size % 1000)
        bucket.files.put("a/b", b"before")
        bucket.files.put("a/b", data)
        assert bucket.files.get("a/b") == data
        assert bucket.files.info("a/b").size == size

    @pytest.mark.parametrize("at", ["uploads", "partNumber=2", "uploadId=u$"])
    def test_one_that_fails_is_never_completed(self, scripted: Callable[..., Scripted], at: str) -> None:
        """The upload cannot be begun, one of its parts is refused, it cannot be completed."""
        begun = "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"
        wrong = "<Error><Code>InvalidRequest</Code><Message>no</Message></Error>"

        def answer(method: str, path: str) -> tuple[int, str]:
            last = method == "POST" and path.endswith("uploadId=u")
            if (last if at.endswith("$") else at in path) and method in ("PUT", "POST"):
                return 400, wrong
            return 200, begun if path.endswith("uploads") else ""

        server = scripted(answer)
        files = Files(server.uri)
        with pytest.raises(BadInput, match="cannot write to the store"):
            files.put("a", b"x" * (33 * MIB))
        completed = [seen for seen in server.seen if seen.startswith("POST") and seen.endswith("uploadId=u")]
        assert len(completed) == (at.endswith("$"))
        assert "PUT /bucket/p/a" not in server.seen, "an object in its place"

    def test_what_is_no_bytes_replaces_nothing(self, anywhere: Store) -> None:
        anywhere.files.put("a", b"before")
        with pytest.raises(TypeError):
            anywhere.files.put("a", {"no": "bytes"})  # type: ignore[arg-type]
        assert anywhere.files.get("a") == b"before"

    def test_ctrl_c_in_the_middle(self, bucket: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        """It comes when the upload has begun and nothing is written yet: pyarrow would complete an empty object."""
        real = bucket.files.system

        class Pressed:
            def open_output_stream(self, path: str) -> pa.NativeFile:
                stream = real.open_output_stream(path)
                os.kill(os.getpid(), signal.SIGINT)
                return stream

        bucket.files.put("a", b"before")
        monkeypatch.setattr(bucket.files, "system", Pressed())
        with pytest.raises(KeyboardInterrupt):
            bucket.files.put("a", b"after")
        monkeypatch.undo()
        while any(thread.name.startswith("upload") for thread in threading.enumerate()):
            time.sleep(0.01)
        assert bucket.files.get("a") in (b"before", b"after")


class TestWhoElse:
    def test_another_process_by_location(self, bucket: Store) -> None:
        bucket.put_row(make_row("k"))
        words = "import sys; from bdray.store.store import Store; print(Store(sys.argv[1]).rows()['key'].to_pylist())"
        answer = subprocess.run(
            [sys.executable, "-c", words, bucket.location()], capture_output=True, text=True, check=True, cwd="/"
        )
        assert answer.stdout == f"['{keyed('k')}']\n"
        assert answer.stderr == ""

    def test_a_folder_below(self, anywhere: Store) -> None:
        anywhere.files.put("ray/sweep/state", b"x")
        below = Files(anywhere.location("ray/sweep"))
        assert below.get("state") == b"x"
        assert Files(below.location()).exists("state")
        anywhere.files.delete_folder("ray/sweep")
        assert finals(anywhere) == []
        anywhere.files.delete_folder("ray/sweep")

    def test_the_command_line(self, bucket: Store) -> None:
        """It ends by itself, and prints nothing of pyarrow's."""
        bucket.put_row(make_row("k"))
        words = ["table", "--store", bucket.uri, "--sql", "SELECT key FROM rows", "--csv"]
        answer = subprocess.run(
            [sys.executable, "-m", "bdray", *words], capture_output=True, text=True, timeout=60, check=False
        )
        assert (answer.returncode, answer.stdout.split(), answer.stderr) == (0, ["key", keyed("k")], "")

    def test_the_address_from_the_environment(self, bucket: Store, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        bucket.put_row(make_row("k"))
        place = bucket.uri.partition("?")[0]
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
            monkeypatch.setenv(name, f"http://{server.address}")
            store = Store(place)
            store.put_row(make_row(name))
            assert len(Store(store.location()).rows()) >= 2
            monkeypatch.delenv(name)

    def test_a_fork(self, bucket: Store) -> None:
        """A child of a process that has used the bucket."""
        bucket.put_row(make_row("parent"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # fork in a process with threads
            child = multiprocessing.get_context("fork").Process(target=_in_a_fork, args=(bucket,))
            child.start()
        child.join(60)
        assert child.exitcode == 0
        assert sorted(named(bucket.rows(), "child 0", "child 1", "parent")) == ["child 0", "child 1", "parent"]

    def test_threads(self, bucket: Store) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda i: bucket.put_row(make_row(f"{i:03}")), range(40)))
        assert sorted(named(bucket.rows(), *(f"{i:03}" for i in range(40)))) == [f"{i:03}" for i in range(40)]
        bucket.compact("s")
        assert finals(bucket) == ["rows/s.ID.parquet"]


def _in_a_fork(store: Store) -> None:
    assert store.row(keyed("parent")) is not None
    for number, one in enumerate((store, Store(store.location()))):
        one.put_row(make_row(f"child {number}"))
        one.files.put("large", b"x" * (12 * MIB))
    assert len(store.rows()) == 3


class TestFsspec:
    @pytest.fixture
    def memory(self) -> Iterator[Store]:
        """A store in a file system that pyarrow does not have."""
        yield Store(f"memory://bdray-{uuid.uuid4().hex}/prefix")
        system = fsspec.filesystem("memory")
        system.store.clear()
        system.pseudo_dirs[:] = [""]

    def test_everything_in_it(self, memory: Store) -> None:
        memory.check_writable()
        assert len(memory.rows()) == 0
        for i in range(3):
            memory.put_row(make_row(str(i)))
        memory.compact("s")
        memory.put_row(make_row("3"))
        assert sorted(named(memory.rows())) == ["0", "1", "2", "3"]
        assert memory.row(keyed("1")) is not None
        memory.put_table(
            "curves",
            "k",
            pa.Table.from_pylist([{"key": "k", "of": "victim", "step": 1, "metric": "loss", "value": 1.0}], CURVES),
        )
        assert memory.table("curves", "k") is not None
        memory.put_victim_part("v", "attack", {"x": torch.ones(3)})
        memory.put_victim("v", {"model": {"x": torch.ones(3)}}, {})
        assert memory.victim("v") is not None
        assert memory.victim("w") is None
        memory.checkpoint("v").save({"x": torch.ones(3)}, 2)
        found = memory.checkpoint("v").load()
        assert found is not None
        assert found[1] == 2
        memory.checkpoint("v").delete()
        assert memory.files.info("victims/v/victim.json").mtime_ns is not None
        assert len(Store(memory.location()).rows()) == 4
        memory.files.delete_folder("victims")
        assert finals(memory) == ["curves/k.parquet", "rows/s.ID.parquet", f"rows/s/{keyed('3')}.ID.parquet"]

    @pytest.mark.parametrize("kind", [RuntimeError, ConnectionError])
    def test_what_it_refuses(self, memory: Store, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]) -> None:
        """Libraries below fsspec raise errors of their own; fsspec itself takes an OSError for a file that is not there."""

        def refuse(*_: object, **__: object) -> None:
            raise kind("HTTP status 401\nmore")

        memory.put_row(make_row("k"))
        system = fsspec.filesystem("memory")
        for name in ("pipe_file", "cat_file", "ls", "info", "rm"):
            monkeypatch.setattr(type(system), name, refuse)
        tries: list[Callable[[], object]] = [memory.rows, lambda: memory.put_row(make_row("l"))]
        for attempt in [*tries, lambda: memory.victim("v"), lambda: memory.files.delete_folder("rows")]:
            with pytest.raises(BadInput, match=r"cannot .* the store 'memory:.*: HTTP status 401; give credentials"):
                attempt()
