"""A file in, its SHA-256 out; a big file's is remembered between commands while the file stays as it is."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path

from polaris.artifact import sha256_file
from polaris.storage import arriving

BIG = 8 << 20
"""Files of fewer bytes are always read: books and prompts are, and it takes no time."""
RACY_NS = 2_000_000_000
"""A file that changed so shortly ago may change again within its timestamp's grain: git's rule."""


def hash_of(path: Path) -> str:
    """Return a file's SHA-256, hexadecimal; raise OSError if it cannot be read."""
    before = path.stat()
    if before.st_size < BIG:
        return sha256_file(path)
    kept = _place(path)
    state = _state(before)
    if kept is not None and (known := _read(kept, path, state)):
        return known
    found = sha256_file(path)
    settled = time.time_ns() - max(before.st_mtime_ns, before.st_ctime_ns) >= RACY_NS
    if kept is not None and settled and _state(path.stat()) == state:
        _write(kept, {"path": os.path.abspath(path), "state": state, "sha256": found})
    return found


def _state(stat: os.stat_result) -> list[int]:
    # Beside what the file's owner can set back, the time of the last change, which nobody can.
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _place(path: Path) -> Path | None:
    """Return the file that remembers a path's hash, None where the user has no cache folder."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():
        base = Path(os.path.expanduser("~"), ".cache")
    if not base.is_absolute():
        return None
    name = hashlib.sha256(os.fsencode(os.path.abspath(path))).hexdigest()
    return base / "polaris" / "hashes" / f"{name[:32]}.json"


def _read(kept: Path, path: Path, state: list[int]) -> str | None:
    try:
        row = json.loads(kept.read_bytes())
        if row["path"] == os.path.abspath(path) and row["state"] == state and len(row["sha256"]) == 64:
            return str(row["sha256"])
    except (OSError, ValueError, TypeError, KeyError):
        pass
    return None


def _write(kept: Path, row: dict[str, object]) -> None:
    # A cache that cannot be written only costs time.
    with contextlib.suppress(OSError), arriving(kept) as part:
        part.write_text(json.dumps(row), encoding="utf-8")
