"""One contract for both stores; what only one of them can get wrong comes after it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import s3

from polaris.config import StoreConfig
from polaris.errors import ConfigError, TransientError
from polaris.s3 import S3Store
from polaris.storage import Conflict, FileStore, NotFound, Store, open_store

MIB = 1 << 20
BAD_KEYS = ["", "/a", "../a", "a/../b", "a/..", "a//b", "a/", "./a", "a\n", "a b", "ä", "a\\b", "/", "a/./b"]


def s3_config(url: str, server: s3.Server, **changed: object) -> StoreConfig:
    fields = {
        "url": url,
        "endpoint": server.endpoint,
        "region": "us-east-1",
        "path_style": True,
        "part_mib": 5,
    }
    return StoreConfig.model_validate({**fields, "retries": 2, **changed})


@pytest.fixture(params=["file", pytest.param("s3", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "file":
        return open_store(StoreConfig(url=(tmp_path / "a store").as_uri()))
    server = request.getfixturevalue("s3_server")
    return open_store(s3_config(request.getfixturevalue("s3_url"), server))


def test_what_is_put_is_what_comes_back(store: Store) -> None:
    data = bytes(range(256)) * 9000
    store.put("a/b/c.bin", data)
    store.put("empty", b"")
    assert store.get("a/b/c.bin") == data
    assert b"".join(store.stream("a/b/c.bin")) == data
    assert store.get("empty") == b""
    store.put("a/b/c.bin", b"new")
    assert store.get("a/b/c.bin") == b"new"


def test_head_tells_size_and_an_etag_that_changes(store: Store) -> None:
    etag = store.put("a/one", b"12345")
    info = store.head("a/one")
    assert info is not None
    assert (info.key, info.size, info.etag) == ("a/one", 5, etag)
    assert store.put("a/one", b"54321") != etag
    assert store.head("a/other") is None
    assert store.head("a") is None
    assert store.head("a/one/below") is None


def test_a_missing_object_is_not_found(store: Store, tmp_path: Path) -> None:
    store.put("there", b"x")
    for key in ("missing", "there/below", "no/such/folder"):
        with pytest.raises(NotFound):
            store.get(key)
        with pytest.raises(NotFound):
            list(store.stream(key))
        with pytest.raises(NotFound):
            store.download(key, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


def test_list_gives_what_begins_with_the_prefix(store: Store) -> None:
    keys = ["a/b/1", "a/b/2", "a/bc", "a/.hidden", "b/a", "c"]
    for key in keys:
        store.put(key, key.encode())
    assert sorted(info.key for info in store.list("")) == sorted(keys)
    assert sorted(info.key for info in store.list("a/")) == ["a/.hidden", "a/b/1", "a/b/2", "a/bc"]
    assert sorted(info.key for info in store.list("a/b")) == ["a/b/1", "a/b/2", "a/bc"]
    assert [(info.key, info.size) for info in store.list("a/b/1")] == [("a/b/1", 5)]
    assert list(store.list("nothing/")) == []
    etags = {info.key: info.etag for info in store.list("a/b/")}
    assert all(store.head(key).etag == etag for key, etag in etags.items())  # type: ignore[union-attr]


def test_delete_takes_what_is_there_and_minds_nothing_else(store: Store) -> None:
    for key in ("a/b/1", "a/b/2", "a/3"):
        store.put(key, b"x")
    store.delete(["a/b/1", "a/b/2", "a/never", "never/was", "a/3/below"])
    assert [info.key for info in store.list("")] == ["a/3"]
    store.delete([])
    store.put("a/b/1", b"again")
    assert store.get("a/b/1") == b"again"


def test_conditional_puts(store: Store) -> None:
    first = store.put("lease", b"one", if_absent=True)
    with pytest.raises(Conflict):
        store.put("lease", b"two", if_absent=True)
    second = store.put("lease", b"two", if_match=first)
    with pytest.raises(Conflict):
        store.put("lease", b"three", if_match=first)
    assert store.get("lease") == b"two"
    store.delete(["lease"])
    with pytest.raises(Conflict):
        store.put("lease", b"four", if_match=second)
    assert store.head("lease") is None


def test_one_of_eight_threads_wins_the_race_for_an_absent_key(store: Store) -> None:
    for turn in range(2):
        assert _winners(store, f"race/{turn}", None) == 1


def test_one_of_eight_threads_wins_the_race_for_a_swap(store: Store) -> None:
    for turn in range(2):
        etag = store.put(f"race/{turn}", b"before")
        assert _winners(store, f"race/{turn}", etag) == 1


def _winners(store: Store, key: str, etag: str | None) -> int:
    barrier = threading.Barrier(8)

    def attempt(number: int) -> bytes | None:
        barrier.wait()
        data = f"writer {number}".encode()
        try:
            store.put(key, data, if_absent=etag is None, if_match=etag)
            return data
        except Conflict:
            return None

    with ThreadPoolExecutor(8) as pool:
        won = [data for data in pool.map(attempt, range(8)) if data]
    assert store.get(key) in won
    return len(won)


@pytest.mark.parametrize("key", BAD_KEYS)
def test_a_key_that_is_no_plain_path_is_refused(store: Store, key: str, tmp_path: Path) -> None:
    calls: list[Callable[[], object]] = [
        lambda: store.get(key),
        lambda: list(store.stream(key)),
        lambda: store.put(key, b""),
        lambda: store.head(key),
        lambda: store.upload(Path(__file__), key),
        lambda: store.download(key, tmp_path / "x"),
        lambda: store.delete([key]),
    ]
    if key not in ("", "a/"):
        calls.append(lambda: list(store.list(key)))
    for call in calls:
        with pytest.raises(ValueError, match="is no object key"):
            call()


def test_files_travel_whole_and_count_their_bytes(store: Store, tmp_path: Path) -> None:
    size = 40 * MIB if isinstance(store, S3Store) else 17 * MIB
    source = tmp_path / "source"
    source.write_bytes(os.urandom(MIB) * (size // MIB) + b"tail")
    lock, sent, fetched = threading.Lock(), [0], [0]

    def count(total: list[int]) -> Callable[[int], None]:
        def tick(moved: int) -> None:
            with lock:
                total[0] += moved

        return tick

    store.upload(source, "big/file", progress=count(sent))
    store.download("big/file", tmp_path / "deep" / "copy", progress=count(fetched))
    assert sent == fetched == [size + 4]
    assert (tmp_path / "deep" / "copy").read_bytes() == source.read_bytes()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["copy"]
    info = store.head("big/file")
    assert info is not None
    assert info.size == size + 4
    if isinstance(store, S3Store):
        assert info.etag.rstrip('"').endswith("-9"), "9 parts of 5 MiB"


def test_a_file_store_shows_an_object_whole_or_not_at_all(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    ended = threading.Event()
    seen: list[bytes] = []

    def read() -> None:
        while not ended.is_set():
            seen.append(store.get("object"))

    bodies = [bytes([letter]) * 300_000 for letter in b"abcdef"]
    store.put("object", bodies[0])
    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(60):
        store.put("object", bodies[turn % len(bodies)])
    ended.set()
    reader.join()
    assert seen
    assert all(data in bodies for data in seen)
    assert list((tmp_path / ".tmp").iterdir()) == [], "nothing half-written is left"


def test_writers_and_deleters_of_one_folder_do_not_trip_each_other(tmp_path: Path) -> None:
    store = FileStore(tmp_path)

    def work(number: int) -> None:
        for _ in range(150):
            store.put(f"shared/folder/{number}", b"x")
            store.delete([f"shared/folder/{number}"])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert list(store.list("")) == []


def test_a_place_that_is_no_folder_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match=r"^store\.url: cannot write below '.*file'.*; name a folder"):
        FileStore(tmp_path / "file").put("key", b"x")
    with pytest.raises(NotFound):
        FileStore(tmp_path / "file").get("key")


def test_a_bucket_must_be_named() -> None:
    with pytest.raises(ConfigError, match=r"names no bucket; write s3://bucket/prefix"):
        open_store(StoreConfig(url="s3:///prefix"))


def test_a_store_without_a_server_is_down_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    store = open_store(
        StoreConfig(
            url="s3://bucket", endpoint="http://127.0.0.1:9", region="us-east-1", path_style=True, retries=1
        )
    )
    begun = time.monotonic()
    calls: list[Callable[[], object]] = [
        lambda: store.get("key"),
        lambda: store.head("key"),
        lambda: store.put("key", b"x"),
        lambda: list(store.list("")),
        lambda: store.delete(["key"]),
        lambda: store.upload(Path(__file__), "key"),
    ]
    for call in calls:
        with pytest.raises(TransientError, match=r"s3://bucket at http://127\.0\.0\.1:9 does not answer"):
            call()
    assert time.monotonic() - begun < 10


@pytest.mark.slow
def test_retries_are_tries_in_all(s3_server: s3.Server, s3_url: str) -> None:
    store = S3Store(s3_config(s3_url, s3_server, retries=3))
    assert store._client.meta.config.retries["total_max_attempts"] == 3


@pytest.mark.slow
def test_wrong_credentials_are_a_configuration_error(
    s3_server: s3.Server, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret-at-all")
    store = open_store(s3_config(s3_url, s3_server))
    for call in (lambda: store.put("key", b"x"), lambda: store.get("key"), lambda: list(store.list(""))):
        with pytest.raises(ConfigError, match="check AWS_ACCESS_KEY_ID") as caught:
            call()
        assert "not-the-secret" not in str(caught.value)


@pytest.mark.slow
def test_no_credentials_are_a_configuration_error(
    s3_server: s3.Server, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(ConfigError, match="no credentials for s3://.*; set AWS_ACCESS_KEY_ID"):
        open_store(s3_config(s3_url, s3_server)).get("key")


@pytest.mark.slow
@pytest.mark.usefixtures("s3_url")
def test_a_missing_bucket_is_a_configuration_error(s3_server: s3.Server) -> None:
    # Reading only: this server makes a bucket for an administrator who writes.
    store = open_store(s3_config("s3://no-such-bucket/x", s3_server))
    for call in (lambda: store.get("key"), lambda: list(store.list(""))):
        with pytest.raises(ConfigError, match="has no bucket 'no-such-bucket'; create it"):
            call()


@pytest.mark.slow
def test_two_prefixes_of_one_bucket_are_two_stores(s3_server: s3.Server, s3_url: str) -> None:
    one, other = open_store(s3_config(f"{s3_url}/one", s3_server)), open_store(s3_config(s3_url, s3_server))
    one.put("key", b"1")
    assert [info.key for info in one.list("")] == ["key"]
    assert [info.key for info in other.list("")] == ["one/key"]
    other.delete([f"one/{number}" for number in range(1200)] + ["one/key"])
    assert list(one.list("")) == []
