"""Which file system an URI means: pyarrow's own, or one of fsspec's where pyarrow has none."""

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pyarrow import fs

from bdray.spec import BadInput, at_home
from bdray.wording import quoted

DEFAULTS = {"s3": "allow_delayed_open=true", "gs": "retry_limit_seconds=10", "gcs": "retry_limit_seconds=10"}
"""What an URI says unless it says otherwise: on S3, one PUT for a small file, where pyarrow takes three requests; on Google's,
an end to retries, where pyarrow goes on for fifteen minutes."""


def place(text: str, what: str = "store") -> str:
    """Where a store is, as a person writes it: a folder, with `~` for the home folder, or an URI; one of a folder of this
    machine (`file:///srv/store`) becomes that folder. A relative folder stays one. Raises BadInput for what names no place.
    """
    variable = f"--{what} or BDRAY_{what.upper()}"
    if not text.strip():
        kinds = "a folder or an URI" if what == "store" else "a folder"
        raise BadInput(f"got an empty {variable}, expected {kinds}; name one, or unset it")
    if "\x00" in text or not _encodes(text):
        raise BadInput(f"got {quoted(text)} for {variable}, expected a folder or an URI in UTF-8; rename the folder")
    scheme = re.match(r"(file|s3|gs|gcs|abfss?|az|hdfs|https?):/*", text)
    if scheme and not text.startswith(f"{scheme[1]}://"):
        rest = text[len(scheme[0]) :]
        raise BadInput(
            f"got {quoted(text)} for {variable}, expected an URI with two slashes after the colon; write "
            f"{scheme[1]}://{'/' if scheme[1] == 'file' else ''}{rest}, or ./{text} for a folder of that name"
        )
    if scheme and scheme[1] == "file":
        parts = urlsplit(text)
        if parts.netloc not in ("", "localhost") or not parts.path.strip("/"):
            raise BadInput(
                f"got {quoted(text)} for {variable}, expected a folder of this machine, with three slashes as in "
                "file:///srv/store"
            )
        return at_home(unquote(parts.path))
    return text if scheme or "://" in text else at_home(text)


def _encodes(text: str) -> bool:
    """Whether it is UTF-8: on Linux a word is bytes, and pyarrow takes no others."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def data_folder(text: str) -> Path:
    """The folder of the data sets, written as a store's is. Raises BadInput for an URI of anything but a folder."""
    found = place(text, "data")
    if "://" in found:
        raise BadInput(
            f"got {quoted(found)} for --data or BDRAY_DATA, expected a folder of this machine; data sets are read from disks: "
            "mount it, or copy it"
        )
    return Path(found)


def with_defaults(uri: str) -> str:
    """The URI with what `DEFAULTS` adds to it."""
    default = DEFAULTS.get(uri.partition("://")[0], "")
    if not default or default.partition("=")[0] in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}{default}"


def open_uri(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system and the path in it. Raises OSError, ValueError, ImportError (which says what to install) or
    NotImplementedError."""
    if "://" not in uri:
        return fs.LocalFileSystem(), os.path.abspath(uri)
    try:
        system, root = fs.FileSystem.from_uri(uri)
    except (ValueError, NotImplementedError) as error:
        from fsspec.core import url_to_fs

        parts = urlsplit(uri)
        if not parts.netloc or parts.scheme in ("http", "https"):  # a web server takes no files
            raise
        try:
            other, root = url_to_fs(uri)
        except ImportError as missing:
            raise (missing if "Unrecognized" in str(error) else error) from None
        except Exception:
            raise error from None
        system = fs.PyFileSystem(Handler(other))
    return system, str(root)


def uploads_in_parts(uri: str) -> fs.FileSystem:
    """For files of many megabytes: where S3's beginning of an upload in parts is delayed, and then fails, pyarrow uploads an
    empty object in its place."""
    return open_uri(uri.replace("allow_delayed_open=true", "allow_delayed_open=false"))[0]


class Handler(fs.FSSpecHandler):
    """Lists what is there now, and says when it was written."""

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        self.fs.invalidate_cache()
        return list(super().get_file_info(paths))

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        """fsspec's `find` and `isdir` take a network that is down for an empty folder; `ls` does not. A link, which a disk and
        sftp have, is of no known type and is not followed."""
        self.fs.invalidate_cache()
        found, folders = [], [selector.base_dir]
        while folders:
            folder = folders.pop()
            try:
                infos = self.fs.ls(folder, detail=True)
            except FileNotFoundError:
                continue
            for info in infos:
                if info.get("islink") or info["type"] == "link":
                    found.append(fs.FileInfo(info["name"], fs.FileType.Unknown))
                elif info["name"].strip("/") != folder.strip("/"):
                    found.append(self._create_file_info(info["name"], info))
                    if selector.recursive and info["type"] == "directory":
                        folders.append(info["name"])
        return found

    @staticmethod
    def _create_file_info(path: str, info: dict[str, Any]) -> fs.FileInfo:
        """The time has another name in each file system."""
        times = [info.get(name) for name in ("mtime", "modified", "LastModified", "last_modified", "created")]
        known = next((t for t in times if isinstance(t, int | float) or hasattr(t, "timestamp")), None)
        return fs.FSSpecHandler._create_file_info(path, {**info, "mtime": known})
