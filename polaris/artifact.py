"""Objects of a stage in, a verified artifact out: manifest last, reads checked, progress on the side.

An instance's artifact lies at `runs/<run>/<instance>/<digest>/`: `MANIFEST.json`, the objects under
`attempts/<id>/`, and what makes the stage resumable under `progress/`. Nothing is visible before the
manifest, and of two writers the first to put it wins.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from polaris.errors import InputError, TransientError
from polaris.runtime import get_logger, progress
from polaris.storage import Conflict, NotFound, Store

MANIFEST = "MANIFEST.json"
FORMAT = 1
"""The manifest's own format; another one is not read."""
LARGE = 64 << 20
"""Transfers of at least so many bytes show a progress bar."""

log = get_logger("artifact")


@dataclass(frozen=True)
class Entry:
    """One object of an artifact; `key` is relative to the artifact's prefix."""

    name: str
    key: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What an artifact is, where it came from and what it cost. Times are UTC, ISO 8601."""

    run: str
    instance: str
    kind: str
    digest: str
    attempt: str
    objects: tuple[Entry, ...]
    identity: dict[str, Any]
    config: dict[str, Any]
    upstream: dict[str, str]
    versions: dict[str, str]
    started: str
    finished: str
    seconds: float
    counts: dict[str, float] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    format: int = FORMAT

    def to_json(self) -> bytes:
        """Return the manifest as canonical, readable JSON."""
        text = json.dumps(asdict(self), indent=1, sort_keys=True, ensure_ascii=False)
        return f"{text}\n".encode("utf-8", "backslashreplace")

    @classmethod
    def from_json(cls, data: bytes, where: str) -> Manifest:
        """Read a manifest; raise InputError naming `where` if it is none."""
        try:
            raw = json.loads(data)
            if raw["format"] != FORMAT:
                raise ValueError(f"its format is {raw['format']}, not {FORMAT}")
            raw["objects"] = tuple(Entry(**entry) for entry in raw["objects"])
            raw["notes"] = tuple(raw["notes"])
            return cls(**raw)
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{where}: no manifest of this version ({error}); delete it to redo") from None


def artifact_prefix(run: str, instance: str, digest: str) -> str:
    """Return the key prefix of an artifact, with its last slash."""
    return f"runs/{run}/{instance}/{digest}/"


def new_attempt() -> str:
    """Return an attempt's id: time, so that ids sort, and chance, so that they never meet."""
    now = time.time()
    return f"{time.strftime('%Y%m%dt%H%M%S', time.gmtime(now))}{now % 1 * 1000:03.0f}-{secrets.token_hex(3)}"


def find_manifest(store: Store, prefix: str) -> Manifest | None:
    """Return the manifest below a prefix, None while the artifact is incomplete."""
    try:
        return Manifest.from_json(store.get(prefix + MANIFEST), f"{store.url}/{prefix}{MANIFEST}")
    except NotFound:
        return None


def to_rows(data: bytes, where: str) -> list[dict[str, Any]]:
    """Parse JSON lines; raise InputError naming `where` and the line of the first that is no object."""
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{where}:{number}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise InputError(f"{where}:{number}: expected a JSON object, found {type(row).__name__}")
        rows.append(row)
    return rows


def from_rows(rows: Iterable[dict[str, Any]]) -> bytes:
    """Return rows as JSON lines whose bytes depend on the rows alone."""
    # A lone surrogate has no UTF-8; written as a backslash escape it is JSON's own spelling of it.
    lines = (json.dumps(row, sort_keys=True, ensure_ascii=False, allow_nan=False) for row in rows)
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")


class Artifact:
    """A finished artifact; whatever is read is checked against the manifest.

    `prefix` is where it lies if not where a run's instance does.
    """

    def __init__(self, store: Store, manifest: Manifest, prefix: str | None = None) -> None:
        self.store = store
        self.manifest = manifest
        self.prefix = prefix or artifact_prefix(manifest.run, manifest.instance, manifest.digest)
        self._entries = {entry.name: entry for entry in manifest.objects}

    def names(self) -> list[str]:
        """Return the objects' names."""
        return sorted(self._entries)

    def read(self, name: str) -> bytes:
        """Return an object's bytes; raise InputError naming it if it is missing or not as written."""
        entry = self._entry(name)
        try:
            data = self.store.get(self.prefix + entry.key)
        except NotFound:
            raise self._corrupt(entry, "is missing") from None
        if len(data) != entry.size or hashlib.sha256(data).hexdigest() != entry.sha256:
            raise self._corrupt(entry, "does not match its sha256")
        return data

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Return a JSONL object's rows."""
        return to_rows(self.read(name), f"{self.manifest.instance}/{name}")

    def download(self, folder: Path, prefix: str = "") -> None:
        """Write the objects whose names begin with `prefix` below a folder, verified, names below it kept."""
        wanted = [entry for entry in self.manifest.objects if entry.name.startswith(prefix)]
        for entry in wanted:
            path = folder / entry.name.removeprefix(prefix)
            if path.is_file() and path.stat().st_size == entry.size and sha256_file(path) == entry.sha256:
                continue
            try:
                _download(self.store, self.prefix + entry.key, path, entry.size, entry.name)
            except NotFound:
                raise self._corrupt(entry, "is missing") from None
            if sha256_file(path) != entry.sha256:
                path.unlink()
                raise self._corrupt(entry, "does not match its sha256")

    def verify(self) -> None:
        """Raise InputError for the first object that is missing or of another size."""
        for entry in self.manifest.objects:
            info = self.store.head(self.prefix + entry.key)
            if info is None:
                raise self._corrupt(entry, "is missing")
            if info.size != entry.size:
                raise self._corrupt(entry, f"has {info.size} bytes, not {entry.size}")

    def _entry(self, name: str) -> Entry:
        if name not in self._entries:
            raise InputError(
                f"{self.manifest.instance} ({self.manifest.digest}) has no object '{name}'; it has"
                f" {', '.join(self.names())}"
            )
        return self._entries[name]

    def _corrupt(self, entry: Entry, what: str) -> InputError:
        return InputError(
            f"{self.store.url}/{self.prefix}{entry.key} {what}; restore it, or delete"
            f" {self.prefix}{MANIFEST} to make {self.manifest.instance} again"
        )


class Output:
    """The objects of one attempt, invisible until its manifest is put."""

    def __init__(self, store: Store, prefix: str, attempt: str) -> None:
        self.store = store
        self.prefix = prefix
        self.attempt = attempt
        self.entries: dict[str, Entry] = {}

    def put(self, name: str, data: bytes) -> None:
        """Write a small object."""
        entry = self._entry(name, len(data), hashlib.sha256(data).hexdigest())
        self.store.put(self.prefix + entry.key, data)
        self.entries[name] = entry

    def put_rows(self, name: str, rows: Iterable[dict[str, Any]]) -> None:
        """Write rows as JSON lines."""
        self.put(name, from_rows(rows))

    def put_file(self, name: str, path: Path) -> None:
        """Write a file of any size."""
        entry = self._entry(name, path.stat().st_size, sha256_file(path))
        _upload(self.store, path, self.prefix + entry.key, name)
        self.entries[name] = entry

    def keep_file(self, name: str, path: Path, sha256: str) -> bool:
        """Write a file unless it is there; return whether it had to be.

        An object of this size counts as the file, so the attempt's id must stand for its content.
        """
        entry = self._entry(name, path.stat().st_size, sha256)
        info = self.store.head(self.prefix + entry.key)
        missing = info is None or info.size != entry.size
        if missing:
            _upload(self.store, path, self.prefix + entry.key, name)
        self.entries[name] = entry
        return missing

    def commit(self, manifest: Manifest) -> Manifest:
        """Put the manifest unless another attempt's is there; return the one that counts.

        Raises InputError if the other attempt's objects are not all there.
        """
        try:
            self.store.put(self.prefix + MANIFEST, manifest.to_json(), if_absent=True)
            return manifest
        except Conflict:
            winner = find_manifest(self.store, self.prefix)
            if winner is None:
                raise TransientError(f"{self.prefix}{MANIFEST} vanished while it was checked") from None
            Artifact(self.store, winner, self.prefix).verify()
            return winner

    def _entry(self, name: str, size: int, sha256: str) -> Entry:
        return Entry(name, f"attempts/{self.attempt}/{name}", size, sha256)


class Progress:
    """What lets the next attempt of the same instance go on; each piece is complete or absent."""

    _INDEX = "COMPLETE.json"

    def __init__(self, store: Store, prefix: str) -> None:
        self.store = store
        self.prefix = f"{prefix}progress/"

    def put(self, name: str, data: bytes) -> None:
        """Keep a small piece."""
        self.store.put(self.prefix + name, data)

    def get(self, name: str) -> bytes | None:
        """Return a piece, None if there is none."""
        try:
            return self.store.get(self.prefix + name)
        except NotFound:
            return None

    def names(self, prefix: str = "") -> list[str]:
        """Return the names of the pieces that begin with `prefix`."""
        return [info.key.removeprefix(self.prefix) for info in self.store.list(self.prefix + prefix)]

    def delete(self, prefix: str) -> None:
        """Drop the pieces that begin with `prefix`; a folder's index goes first."""
        keys = [self.prefix + name for name in self.names(prefix)]
        # One request is not atomic: an index must not outlive its files.
        self.store.delete([key for key in keys if key.endswith(f"/{self._INDEX}")])
        self.store.delete([key for key in keys if not key.endswith(f"/{self._INDEX}")])

    def put_folder(self, name: str, folder: Path) -> None:
        """Keep a folder's files; its index, written last, makes it complete."""
        self.complete_folder(name, self.put_files(name, folder))

    def put_files(self, name: str, folder: Path) -> list[dict[str, Any]]:
        """Keep files of a folder, which is incomplete from now on; return the index of these files."""
        self.store.delete([f"{self.prefix}{name}/{self._INDEX}"])
        index = []
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            relative = path.relative_to(folder).as_posix()
            _upload(self.store, path, f"{self.prefix}{name}/{relative}", f"{name}/{relative}")
            index.append({"name": relative, "size": path.stat().st_size, "sha256": sha256_file(path)})
        return index

    def complete_folder(self, name: str, index: list[dict[str, Any]]) -> None:
        """Make a folder complete, whose files somebody, or several together, have put."""
        self.put(f"{name}/{self._INDEX}", json.dumps(index, indent=1).encode())

    def folders(self) -> list[str]:
        """Return the complete folders' names, sorted."""
        ending = f"/{self._INDEX}"
        return sorted(name.removesuffix(ending) for name in self.names() if name.endswith(ending))

    def get_folder(self, name: str, folder: Path) -> None:
        """Fetch a complete folder, verified; raise InputError naming a file that is not as written."""
        data = self.get(f"{name}/{self._INDEX}")
        if data is None:
            raise InputError(f"{self.prefix}{name} is incomplete")
        for entry in json.loads(data):
            path = folder / entry["name"]
            key = f"{self.prefix}{name}/{entry['name']}"
            try:
                _download(self.store, key, path, entry["size"], f"{name}/{entry['name']}")
            except NotFound:
                raise self._corrupt(name, key, "is missing") from None
            if sha256_file(path) != entry["sha256"]:
                path.unlink()
                raise self._corrupt(name, key, "does not match its sha256")

    def _corrupt(self, name: str, key: str, what: str) -> InputError:
        return InputError(
            f"{self.store.url}/{key} {what}; delete what lies below {self.prefix}{name}/ to go on from an"
            " earlier piece"
        )


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _upload(store: Store, path: Path, key: str, what: str) -> None:
    size = path.stat().st_size
    if size < LARGE:
        store.upload(path, key)
        return
    with progress(size >> 20, f"upload {what} (MiB)") as bar:
        store.upload(path, key, progress=lambda moved: bar.advance(moved / 2**20))


def _download(store: Store, key: str, path: Path, size: int, what: str) -> None:
    if size < LARGE:
        store.download(key, path)
        return
    with progress(size >> 20, f"download {what} (MiB)") as bar:
        store.download(key, path, progress=lambda moved: bar.advance(moved / 2**20))
