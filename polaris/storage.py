"""Keys and bytes in, objects in a store out: `file://` folders and `s3://` buckets behind one interface.

A key is a `/`-separated path of plain names. Every write is atomic: a reader sees the whole object or
none. `put` can be conditional (If-None-Match, If-Match), which leases and manifests build on.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from polaris.config import StoreConfig
from polaris.errors import ConfigError, TransientError

CHUNK = 1 << 20
_KEY = re.compile(r"(?!.*(^|/)\.{1,2}(/|$))[A-Za-z0-9._=+@,-]+(/[A-Za-z0-9._=+@,-]+)*")
_TEMPORARY = ".tmp"

Tick = Callable[[int], None]
"""Called with the number of bytes moved since the last call."""


class NotFound(Exception):
    """No object has this key."""


class Conflict(Exception):
    """A conditional put lost: the object exists, or is no longer the one that was read."""


@dataclass(frozen=True)
class ObjectInfo:
    """One object: key, size in bytes, and an etag that changes whenever its bytes do."""

    key: str
    size: int
    etag: str


class Store(Protocol):
    """Where objects live. Errors: `NotFound`, `Conflict`, ConfigError (access), TransientError (down)."""

    url: str

    def get(self, key: str) -> bytes:
        """Return a whole small object."""

    def stream(self, key: str) -> Iterator[bytes]:
        """Yield an object in chunks of at most 1 MiB."""

    def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        """Write a small object, return its etag; raise Conflict where the condition fails."""

    def upload(self, path: Path, key: str, *, progress: Tick | None = None) -> None:
        """Write a file of any size, in parallel parts where the store knows parts."""

    def download(self, key: str, path: Path, *, progress: Tick | None = None) -> None:
        """Read an object of any size into a file, which appears when it is complete."""

    def head(self, key: str) -> ObjectInfo | None:
        """Return what is known of an object, None if there is none."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects whose key begins with `prefix`, by key."""

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; a missing one is no error."""


def open_store(config: StoreConfig) -> Store:
    """Open the configured store."""
    from polaris.s3 import S3Store

    if config.url.startswith("s3://"):
        return S3Store(config)
    return FileStore(Path(unquote(urlsplit(config.url).path)))


def checked(key: str) -> str:
    """Return a key; raise ValueError if it is none."""
    if not _KEY.fullmatch(key):
        raise ValueError(f"'{key}' is no object key")
    return key


def checked_prefix(prefix: str) -> str:
    """Return the beginning of a key; raise ValueError if it is none."""
    if prefix:
        checked(prefix.removesuffix("/"))
    return prefix


class FileStore:
    """A folder as an object store."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.url = self.root.as_uri()

    def get(self, key: str) -> bytes:
        """Return a whole small object."""
        return b"".join(self.stream(key))

    def stream(self, key: str) -> Iterator[bytes]:
        """Yield an object in chunks."""
        try:
            with self._path(key).open("rb") as file:
                while chunk := file.read(CHUNK):
                    yield chunk
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise NotFound(key) from None
        except PermissionError:
            what = f"store.url: '{self._path(key)}' may not be read by this user"
            raise ConfigError(f"{what}; change its mode or owner") from None

    def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        """Write a small object."""
        with self._temporary() as temporary:
            temporary.write_bytes(data)
            return self._place(temporary, key, if_absent=if_absent, if_match=if_match)

    def upload(self, path: Path, key: str, *, progress: Tick | None = None) -> None:
        """Copy a file in."""
        with self._temporary() as temporary:
            _copy(path, temporary, progress)
            self._place(temporary, key, if_absent=False, if_match=None)

    def download(self, key: str, path: Path, *, progress: Tick | None = None) -> None:
        """Copy an object out."""
        source = self._path(key)
        if not source.is_file():
            raise NotFound(key)
        with arriving(path) as part:
            _copy(source, part, progress)

    def head(self, key: str) -> ObjectInfo | None:
        """Return an object's facts."""
        try:
            stat = self._path(key).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return ObjectInfo(key, stat.st_size, _etag(stat)) if self._path(key).is_file() else None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Walk the folder below the prefix's last slash."""
        folder = self.root / checked_prefix(prefix).rpartition("/")[0]
        for directory, folders, files in os.walk(folder):
            folders.sort()
            if Path(directory) == self.root and _TEMPORARY in folders:
                folders.remove(_TEMPORARY)
            for name in sorted(files):
                path = Path(directory, name)
                key = path.relative_to(self.root).as_posix()
                if key.startswith(prefix) and _KEY.fullmatch(key) and (info := self.head(key)):
                    yield info

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects and the folders they leave empty."""
        for key in keys:
            path = self._path(key)
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                path.unlink()
            with contextlib.suppress(OSError):
                for parent in path.parents:
                    if parent == self.root:
                        break
                    parent.rmdir()

    def _path(self, key: str) -> Path:
        return self.root / checked(key)

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[Path]:
        path = self.root / _TEMPORARY / uuid.uuid4().hex
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield path
        except OSError as error:
            what = f"store.url: cannot write below '{self.root}': {error.strerror}"
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                raise TransientError(f"{what}; make room and run again") from error
            raise ConfigError(f"{what}; name a folder that can be written") from error
        finally:
            with contextlib.suppress(OSError):
                path.unlink()

    def _place(self, temporary: Path, key: str, *, if_absent: bool, if_match: str | None) -> str:
        target = self._path(key)
        etag = _etag(temporary.stat())
        for _ in range(100):
            # A delete in another process takes folders that are empty for a moment, before or after this.
            with contextlib.suppress(FileNotFoundError, FileExistsError):
                target.parent.mkdir(parents=True, exist_ok=True)
            try:
                if if_absent:
                    os.link(temporary, target)
                elif if_match is not None:
                    self._swap(temporary, target, if_match)
                else:
                    os.replace(temporary, target)
                return etag
            except FileExistsError:
                raise Conflict(key) from None
            except FileNotFoundError:
                continue
        raise TransientError(f"store.url: '{self.root}' is being deleted while '{key}' is written")

    def _swap(self, temporary: Path, target: Path, if_match: str) -> None:
        with (self.root / _TEMPORARY / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not target.exists() or _etag(target.stat()) != if_match:
                raise FileExistsError
            os.replace(temporary, target)


def _etag(stat: os.stat_result) -> str:
    return f"{stat.st_ino:x}-{stat.st_size:x}-{stat.st_mtime_ns:x}"


def _copy(source: Path, target: Path, progress: Tick | None) -> None:
    with source.open("rb") as reader, target.open("wb") as writer:
        while chunk := reader.read(16 * CHUNK):
            writer.write(chunk)
            if progress:
                progress(len(chunk))


@contextlib.contextmanager
def arriving(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write to; it becomes `path` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
