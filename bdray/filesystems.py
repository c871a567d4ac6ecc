"""Which file system an URI means: pyarrow's own, or one of fsspec's where pyarrow has none."""

import os
from typing import Any
from urllib.parse import urlsplit

from pyarrow import fs

DEFAULTS = {"s3": "allow_delayed_open=true", "gs": "retry_limit_seconds=10", "gcs": "retry_limit_seconds=10"}
"""What an URI says unless it says otherwise: on S3, one PUT for a small file, where pyarrow takes three requests; on Google's,
an end to retries, where pyarrow goes on for fifteen minutes."""


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
