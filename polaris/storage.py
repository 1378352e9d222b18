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
from typing import Any, Protocol
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
    if config.url.startswith("s3://"):
        return S3Store(config)
    return FileStore(Path(unquote(urlsplit(config.url).path)))


def _checked(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise ValueError(f"'{key}' is no object key")
    return key


def _checked_prefix(prefix: str) -> str:
    if prefix:
        _checked(prefix.removesuffix("/"))
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
        with _arriving(path) as part:
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
        folder = self.root / _checked_prefix(prefix).rpartition("/")[0]
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
        return self.root / _checked(key)

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
def _arriving(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write to; it becomes `path` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


class S3Store:
    """A bucket, or a prefix in one, of any store that speaks S3 with conditional puts."""

    def __init__(self, config: StoreConfig) -> None:
        self.bucket, _, prefix = config.url.removeprefix("s3://").partition("/")
        if not self.bucket:
            raise ConfigError(f"store.url: '{config.url}' names no bucket; write s3://bucket/prefix")
        self.prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.url = config.url.rstrip("/")
        self._config = config
        self._client_: Any = None

    @property
    def _client(self) -> Any:
        if self._client_ is None:
            import boto3
            from botocore.config import Config

            # A session of its own: the default one keeps the first credentials that it ever found.
            self._client_ = boto3.session.Session().client(
                "s3",
                endpoint_url=self._config.endpoint,
                region_name=self._config.region,
                config=Config(
                    retries={"mode": "standard", "total_max_attempts": self._config.retries},
                    s3={"addressing_style": "path" if self._config.path_style else "auto"},
                    request_checksum_calculation=self._config.checksum,
                    response_checksum_validation=self._config.checksum,
                    max_pool_connections=max(16, 2 * self._config.parallel),
                    connect_timeout=10,
                    read_timeout=60,
                ),
            )
        return self._client_

    def get(self, key: str) -> bytes:
        """Return a whole small object; a body that breaks off is asked for again."""
        for tries_left in reversed(range(self._config.retries)):
            body = self._body(key)
            try:
                with self._errors(key):
                    return bytes(body.read())
            except TransientError:
                if not tries_left:
                    raise
        raise AssertionError("unreachable: retries is at least 1")

    def stream(self, key: str) -> Iterator[bytes]:
        """Yield an object in chunks."""
        body = self._body(key)
        with self._errors(key):
            yield from body.iter_chunks(CHUNK)

    def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        """Write a small object."""
        condition = {"IfNoneMatch": "*"} if if_absent else {"IfMatch": if_match} if if_match else {}
        place = {"Bucket": self.bucket, "Key": self._key(key)}
        try:
            with self._errors(key):
                return str(self._client.put_object(Body=data, **place, **condition)["ETag"])
        except NotFound:
            # Stores differ in what a vanished object answers to If-Match.
            raise Conflict(key) from None

    def upload(self, path: Path, key: str, *, progress: Tick | None = None) -> None:
        """Send a file in parallel parts."""
        with self._errors(key):
            how = {"Config": self._transfer(), "Callback": progress}
            self._client.upload_file(str(path), self.bucket, self._key(key), **how)

    def download(self, key: str, path: Path, *, progress: Tick | None = None) -> None:
        """Fetch an object in parallel parts."""
        with self._errors(key), _arriving(path) as part:
            how = {"Config": self._transfer(), "Callback": progress}
            self._client.download_file(self.bucket, self._key(key), str(part), **how)

    def head(self, key: str) -> ObjectInfo | None:
        """Return an object's facts."""
        try:
            with self._errors(key):
                answer = self._client.head_object(Bucket=self.bucket, Key=self._key(key))
        except NotFound:
            return None
        return ObjectInfo(key, answer["ContentLength"], answer["ETag"])

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Page through the keys below the prefix."""
        _checked_prefix(prefix)
        with self._errors(prefix):
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix + prefix):
                for found in page.get("Contents", []):
                    yield ObjectInfo(found["Key"][len(self.prefix) :], found["Size"], found["ETag"])

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, a thousand a request."""
        waiting = [self._key(key) for key in keys]
        for start in range(0, len(waiting), 1000):
            batch = [{"Key": key} for key in waiting[start : start + 1000]]
            with self._errors(batch[0]["Key"]):
                answer = self._client.delete_objects(Bucket=self.bucket, Delete={"Objects": batch})
            for failed in answer.get("Errors", []):
                denied = ConfigError if failed.get("Code") == "AccessDenied" else TransientError
                raise denied(f"store.url: {self.url} keeps '{failed['Key']}': {failed.get('Message')}")

    def _key(self, key: str) -> str:
        return self.prefix + _checked(key)

    def _body(self, key: str) -> Any:
        with self._errors(key):
            return self._client.get_object(Bucket=self.bucket, Key=self._key(key))["Body"]

    def _transfer(self) -> Any:
        from boto3.s3.transfer import TransferConfig

        part = self._config.part_mib << 20
        sizes: dict[str, Any] = {"multipart_threshold": part, "multipart_chunksize": part}
        return TransferConfig(max_concurrency=self._config.parallel, **sizes)

    @contextlib.contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        """Translate boto3's errors into ours, which say what to change."""
        from boto3.exceptions import Boto3Error
        from botocore import exceptions as theirs

        where = f"{self.url} at {self._config.endpoint or 'AWS'}"
        try:
            yield
        except theirs.ClientError as error:
            raise self._translated(error, key, where) from error
        except (theirs.NoCredentialsError, theirs.PartialCredentialsError) as error:
            raise ConfigError(
                f"store.url: no credentials for {where}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
                " or give the pod an identity"
            ) from error
        except (theirs.BotoCoreError, Boto3Error) as error:
            cause = error.__cause__ or error.__context__
            if isinstance(cause, theirs.ClientError):
                raise self._translated(cause, key, where) from error
            raise TransientError(f"store.url: {where} does not answer: {error}") from error

    def _translated(self, error: Any, key: str, where: str) -> Exception:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        code = error.response.get("Error", {}).get("Code", "")
        passing = TransientError(f"store.url: {where} answered {status} {code} for '{key}'")
        if code in ("NoSuchUpload", "RequestTimeout"):
            return passing
        if code == "NoSuchBucket":
            return ConfigError(f"store.url: {where} has no bucket '{self.bucket}'; create it or name another")
        if status == 404:
            return NotFound(key)
        if status in (409, 412):
            return Conflict(key)
        if status in (301, 400, 401, 403):
            return ConfigError(
                f"store.url: {where} refuses '{key}' ({code}); check AWS_ACCESS_KEY_ID,"
                " AWS_SECRET_ACCESS_KEY, store.region and the bucket's policy"
            )
        return passing
