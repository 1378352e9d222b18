"""An artifact is seen whole and verified or not at all; of two writers the first counts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polaris import artifact
from polaris.artifact import (
    MANIFEST,
    Artifact,
    Manifest,
    Output,
    Progress,
    artifact_prefix,
    find_manifest,
    from_rows,
    new_attempt,
    to_rows,
)
from polaris.errors import InputError
from polaris.storage import FileStore

PREFIX = artifact_prefix("run", "data", "0123")
ROWS = [{"b": 1, "a": "ü"}, {"story": "She said\u2028nothing.\n"}]


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path / "store")


def manifest_of(output: Output) -> Manifest:
    return Manifest(
        run="run",
        instance="data",
        kind="data",
        digest="0123",
        attempt=output.attempt,
        objects=tuple(output.entries.values()),
        identity={"seed": 1},
        config={"run": "run"},
        upstream={"before": "4567"},
        versions={"polaris": "0"},
        started="2026-01-01T00:00:00+00:00",
        finished="2026-01-01T00:00:01+00:00",
        seconds=1.5,
        counts={"rows": 2},
        cost={"usd": 0.25},
        notes=("ein Vermerk — \ud800",),
    )


def finished(store: FileStore, tmp_path: Path, attempt: str = "a1") -> Artifact:
    output = Output(store, PREFIX, attempt)
    output.put_rows("rows.jsonl", ROWS)
    output.put("model/config.json", b"{}")
    weights = tmp_path / "weights"
    weights.write_bytes(bytes(range(256)) * 100)
    output.put_file("model/deep/weights.bin", weights)
    return Artifact(store, output.commit(manifest_of(output)))


def object_of(store: FileStore, name: str) -> Path:
    return store.root / PREFIX / "attempts" / "a1" / name


def test_a_manifest_comes_back_as_it_was(store: FileStore, tmp_path: Path) -> None:
    written = finished(store, tmp_path).manifest
    found = find_manifest(store, PREFIX)
    assert found == written
    assert found is not None
    assert found.to_json() == written.to_json()
    assert json.loads(store.get(PREFIX + MANIFEST))["objects"][0]["key"].startswith("attempts/a1/")


def test_nothing_is_visible_before_the_manifest(store: FileStore) -> None:
    Output(store, PREFIX, "a1").put("rows.jsonl", b"{}\n")
    assert find_manifest(store, PREFIX) is None


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "not JSON", '{"objects": [1], "notes": [], "format": 1}', "\udc80"]
)
def test_what_is_no_manifest_is_named(store: FileStore, text: str) -> None:
    store.put(PREFIX + MANIFEST, text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=r"runs/run/data/0123/MANIFEST\.json: no manifest of this version"):
        find_manifest(store, PREFIX)


def test_a_manifest_of_another_format_is_not_read(store: FileStore, tmp_path: Path) -> None:
    later = replace(finished(store, tmp_path).manifest, format=2)
    with pytest.raises(InputError, match="its format is 2, not 1"):
        Manifest.from_json(later.to_json(), "here")


def test_objects_come_back_by_name(store: FileStore, tmp_path: Path) -> None:
    found = finished(store, tmp_path)
    assert found.names() == ["model/config.json", "model/deep/weights.bin", "rows.jsonl"]
    assert found.read("model/config.json") == b"{}"
    assert found.rows("rows.jsonl") == ROWS
    found.verify()
    with pytest.raises(
        InputError, match=r"^data \(0123\) has no object 'row\.jsonl'; it has model/config\.json, "
    ):
        found.read("row.jsonl")


def test_a_flipped_byte_is_found_on_reading(store: FileStore, tmp_path: Path) -> None:
    found = finished(store, tmp_path)
    path = object_of(store, "model/deep/weights.bin")
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(bytes(data))
    found.verify()
    where = r"attempts/a1/model/deep/weights\.bin does not match its sha256; restore it, or delete .*MANIF"
    with pytest.raises(InputError, match=where):
        found.read("model/deep/weights.bin")
    with pytest.raises(InputError, match=where):
        found.download(tmp_path / "out")
    assert not (tmp_path / "out/model/deep/weights.bin").exists(), "a corrupt file is not left to be used"


def test_a_truncated_object_is_found(store: FileStore, tmp_path: Path) -> None:
    found = finished(store, tmp_path)
    object_of(store, "rows.jsonl").write_bytes(b"{}")
    with pytest.raises(InputError, match="does not match its sha256"):
        found.rows("rows.jsonl")
    with pytest.raises(InputError, match=r"rows\.jsonl has 2 bytes, not \d+"):
        found.verify()


def test_a_missing_object_is_found(store: FileStore, tmp_path: Path) -> None:
    found = finished(store, tmp_path)
    object_of(store, "model/config.json").unlink()
    for read in (
        lambda: found.read("model/config.json"),
        found.verify,
        lambda: found.download(tmp_path / "out"),
    ):
        with pytest.raises(InputError, match=r"model/config\.json is missing; restore it"):
            read()


def test_download_keeps_names_and_skips_what_is_there(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, out = finished(store, tmp_path), tmp_path / "out"
    found.download(out, "model/")
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.*")) == [
        "config.json",
        "deep/weights.bin",
    ]
    fetched: list[str] = []
    monkeypatch.setattr(store, "download", lambda key, path, **_: fetched.append(key))
    found.download(out, "model/")
    assert fetched == []
    (out / "config.json").write_bytes(b"[]")
    with pytest.raises(InputError, match=r"config\.json does not match"):
        found.download(out, "model/")
    assert len(fetched) == 1
    assert fetched[0].endswith("model/config.json")


def test_of_two_writers_the_first_counts_and_the_second_returns_it(store: FileStore, tmp_path: Path) -> None:
    first = finished(store, tmp_path, "a1").manifest
    second = finished(store, tmp_path, "a2").manifest
    assert (first.attempt, second.attempt) == ("a1", "a1")
    object_of(store, "rows.jsonl").unlink()
    with pytest.raises(InputError, match=r"attempts/a1/rows\.jsonl is missing"):
        finished(store, tmp_path, "a3")


def test_many_writers_at_once_agree(store: FileStore, tmp_path: Path) -> None:
    for number in range(8):
        (tmp_path / f"w{number}").mkdir()
    with ThreadPoolExecutor(8) as pool:
        found = list(
            pool.map(lambda number: finished(store, tmp_path / f"w{number}", f"a{number}"), range(8))
        )
    assert len({each.manifest.attempt for each in found}) == 1
    assert found[0].manifest == find_manifest(store, PREFIX)


def test_attempts_sort_by_time_and_never_meet() -> None:
    found = [new_attempt() for _ in range(200)]
    assert len(set(found)) == 200
    assert [name[:16] for name in found] == sorted(name[:16] for name in found)


def test_rows_have_the_same_bytes_whatever_the_order_of_their_keys() -> None:
    assert (
        from_rows([{"b": 1, "a": "ü"}]) == from_rows([{"a": "ü", "b": 1}]) == '{"a": "ü", "b": 1}\n'.encode()
    )
    assert from_rows([]) == b""
    with pytest.raises(ValueError, match="not JSON compliant"):
        from_rows([{"a": float("nan")}])


TEXT = st.text(st.characters(exclude_categories=())) | st.sampled_from(
    ["\ud800", "\\\ud800", "\\u", "a\r\n\u2028"]
)


@given(st.lists(st.dictionaries(TEXT, st.one_of(TEXT, st.integers(), st.none(), st.booleans()), max_size=3)))
def test_rows_with_lone_surrogates_are_valid_json_and_stable(rows: list[dict[str, object]]) -> None:
    data = from_rows(rows)
    assert data.count(b"\n") == len(rows)
    read = to_rows(data, "here")
    # Two lone halves side by side are, in JSON, one whole character.
    assert read == json.loads(json.dumps(rows))
    assert len(read) == len(rows)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"a": 1}\n\n  \n{"a"', "here:4: not JSON"),
        (b"[1]\n", "here:1: expected a JSON object, found list"),
        (b'{"a": 1}\n\xff\n', "here:2: not JSON"),
    ],
)
def test_a_row_that_is_none_is_named_by_its_line(data: bytes, expected: str) -> None:
    with pytest.raises(InputError, match=f"^{expected}"):
        to_rows(data, "here")


def test_pieces_of_progress(store: FileStore) -> None:
    progress = Progress(store, PREFIX)
    assert progress.get("stories.jsonl") is None
    progress.put("stories.jsonl", b"1")
    progress.put("stories.jsonl", b"2")
    progress.put("scores/1", b"")
    assert Progress(store, PREFIX).get("stories.jsonl") == b"2", "the next attempt sees it"
    assert sorted(progress.names()) == ["scores/1", "stories.jsonl"]
    assert progress.names("sc") == ["scores/1"]
    progress.delete("sc")
    assert progress.names() == ["stories.jsonl"]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.bin").write_bytes(b"a" * 1000)
    (folder / "deep" / "b.bin").write_bytes(b"b")
    return folder


def test_a_folder_of_progress_comes_back_whole(store: FileStore, checkpoint: Path, tmp_path: Path) -> None:
    progress = Progress(store, PREFIX)
    progress.put_folder("step-4", checkpoint)
    progress.put_folder("step-2", checkpoint)
    assert progress.folders() == ["step-2", "step-4"]
    progress.get_folder("step-4", tmp_path / "out")
    assert (tmp_path / "out/deep/b.bin").read_bytes() == b"b"
    assert (tmp_path / "out/a.bin").read_bytes() == b"a" * 1000
    progress.delete("step-4")
    assert progress.folders() == ["step-2"]


def test_a_folder_cut_off_while_it_is_written_is_absent(
    store: FileStore, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = Progress(store, PREFIX)
    progress.put_folder("step-4", checkpoint)
    (checkpoint / "a.bin").write_bytes(b"changed")
    upload = store.upload

    def cut_off(path: Path, key: str, **rest: object) -> None:
        if path.name == "b.bin":
            raise KeyboardInterrupt
        upload(path, key)

    for name in ("step-4", "step-6"):
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(store, "upload", cut_off)
            progress.put_folder(name, checkpoint)
    assert progress.folders() == [], "a folder that is written anew counts as absent until it is whole"
    with pytest.raises(InputError, match="step-4 is incomplete"):
        progress.get_folder("step-4", tmp_path / "out")


def test_a_folder_loses_its_index_before_its_files(
    store: FileStore, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = Progress(store, PREFIX)
    progress.put_folder("step-4", checkpoint)
    requests: list[list[str]] = []
    monkeypatch.setattr(store, "delete", lambda keys: requests.append(list(keys)))
    progress.delete("step-4")
    assert [len(keys) for keys in requests] == [1, 2]
    assert requests[0][0].endswith("step-4/COMPLETE.json")


@pytest.mark.parametrize("harm", ["flip", "remove"])
def test_a_harmed_folder_of_progress_is_named(
    store: FileStore, checkpoint: Path, tmp_path: Path, harm: str
) -> None:
    progress = Progress(store, PREFIX)
    progress.put_folder("step-4", checkpoint)
    path = store.root / progress.prefix / "step-4" / "a.bin"
    if harm == "flip":
        path.write_bytes(b"b" * 1000)
    else:
        path.unlink()
    expected = (
        r"step-4/a\.bin (does not match its sha256|is missing); delete what lies below .*/step-4/ to go on"
    )
    with pytest.raises(InputError, match=expected):
        progress.get_folder("step-4", tmp_path / "out")


def test_a_large_object_shows_its_progress(
    store: FileStore, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars: list[tuple[float, str, list[float]]] = []

    class Bar:
        def __init__(self, total: float, what: str) -> None:
            self.moved: list[float] = []
            bars.append((total, what, self.moved))

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: Iterable[object]) -> None:
            return None

        def advance(self, n: float) -> None:
            self.moved.append(n)

    monkeypatch.setattr(artifact, "progress", Bar)
    monkeypatch.setattr(artifact, "LARGE", 3 << 20)
    (checkpoint / "a.bin").write_bytes(b"x" * ((3 << 20) + 700_000))
    progress = Progress(store, PREFIX)
    progress.put_folder("step-4", checkpoint)
    progress.get_folder("step-4", tmp_path / "out")
    assert [(total, what) for total, what, _ in bars] == [
        (3, "upload step-4/a.bin (MiB)"),
        (3, "download step-4/a.bin (MiB)"),
    ]
    assert all(sum(moved) >= total for total, _, moved in bars)
