"""A big file is read once while it stays as it is; nothing that the cache holds or lacks is an error."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from polaris import hashes
from polaris.hashes import BIG, hash_of

LATER = time.time_ns() + 3600 * 10**9


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and a clock by which every file has long been written."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hashes.time, "time_ns", lambda: LATER)
    return tmp_path / "cache" / "polaris" / "hashes"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are truly read, in order."""
    names: list[str] = []

    def sha256(path: Path) -> str:
        names.append(path.name)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    monkeypatch.setattr(hashes, "sha256_file", sha256)
    return names


def big(folder: Path, name: str = "weights", first: bytes = b"a") -> Path:
    path = folder / name
    with path.open("wb") as file:
        file.write(first)
        file.truncate(BIG)
    return path


def true(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_big_file_is_read_once_and_a_small_one_always(tmp_path: Path, read: list[str]) -> None:
    path, small = big(tmp_path), tmp_path / "book"
    small.write_bytes(b"a story")
    for _ in range(3):
        assert hash_of(path) == true(path)
        assert hash_of(small) == true(small)
    assert read == ["weights", "book", "book", "book"]


@pytest.mark.parametrize(
    "change",
    [
        lambda path: big(path.parent, first=b"b"),
        lambda path: os.replace(big(path.parent, "other", b"b"), path),
        lambda path: os.truncate(path, BIG + 1),
    ],
    ids=["in place", "replaced", "longer"],
)
def test_a_changed_file_is_read_again_even_with_its_old_time(
    tmp_path: Path, read: list[str], change: Callable[[Path], object]
) -> None:
    path = big(tmp_path)
    before = path.stat()
    first = hash_of(path)
    time.sleep(0.02)
    change(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert hash_of(path) == true(path) != first
    assert len(read) == 2


def test_a_file_that_is_just_being_written_is_not_remembered(
    tmp_path: Path, cache: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = big(tmp_path)
    monkeypatch.setattr(hashes.time, "time_ns", lambda: path.stat().st_mtime_ns + 10**9)
    hash_of(path)
    hash_of(path)
    assert read == ["weights", "weights"] and not cache.exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", "no JSON", '{"path": 1, "state": [], "sha256": "x"}'])
def test_a_broken_cache_only_costs_time(tmp_path: Path, cache: Path, read: list[str], text: str) -> None:
    path = big(tmp_path)
    hash_of(path)
    [kept] = cache.iterdir()
    kept.write_text(text, encoding="utf-8")
    assert hash_of(path) == true(path)
    assert hash_of(path) == true(path)
    assert len(read) == 2


def test_a_cache_that_cannot_be_written_is_no_error(
    tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = big(tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert hash_of(path) == hash_of(path) == true(path)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setattr(hashes.os.path, "expanduser", lambda text: text)
    monkeypatch.chdir(tmp_path)
    assert hash_of(path) == true(path)
    assert len(read) == 3 and not (tmp_path / "relative").exists() and not (tmp_path / "~").exists()
