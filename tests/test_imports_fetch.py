"""Imports fetched from a store: once, verified, whoever asks for them at once; one hash here and there."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polaris import imports
from polaris.artifact import MANIFEST, sha256_file
from polaris.errors import ConfigError, InputError
from polaris.identity import hash_contents, hash_of_folder
from polaris.imports import find_import, model_files, put_import
from polaris.models import CheckpointModel
from polaris.storage import FileStore

MODEL = "imports/models/model/"


def _model(folder: Path) -> dict[str, Path]:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(random.Random(7).randbytes(300_000))
    return model_files(folder)


def test_a_copy_is_fetched_once_and_again_when_it_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileStore(tmp_path / "store")
    put_import(store, "models/model", _model(tmp_path / "model"), "model")
    manifest = find_import(store, "models/model")
    assert manifest is not None
    inputs = tmp_path / "inputs"
    folder = imports.fetch(store, manifest, inputs)
    with monkeypatch.context() as patched:
        patched.setattr("polaris.artifact.sha256_file", lambda _: pytest.fail("it was hashed again"))
        assert imports.fetch(store, manifest, inputs) == folder
    weights = folder / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(b"flipped" + data[7:])
    os.utime(weights, ns=(0, time.time_ns() + 1))
    imports.fetch(store, manifest, inputs)
    assert weights.read_bytes() == data
    (inputs / f"{folder.name}.json").write_text("no JSON")
    assert imports.fetch(store, manifest, inputs) == folder


def test_a_corrupt_import_is_named_and_never_used(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "store")
    put_import(store, "models/model", _model(tmp_path / "model"), "model")
    manifest = find_import(store, "models/model")
    assert manifest is not None
    [entry] = [entry for entry in manifest.objects if entry.name == "model.safetensors"]
    data = store.get(MODEL + entry.key)
    store.put(MODEL + entry.key, b"x" + data[1:])
    for _ in range(2):
        with pytest.raises(InputError, match=r"model\.safetensors does not match its sha256; restore it"):
            imports.fetch(store, manifest, tmp_path / "inputs")
    store.put(MODEL + MANIFEST, b"{}")
    with pytest.raises(InputError, match="imports/models/model/MANIFEST.json: no manifest of this version"):
        find_import(store, "models/model")


def test_a_folder_that_cannot_hold_an_import_is_named(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "store")
    put_import(store, "models/model", _model(tmp_path / "model"), "model")
    manifest = find_import(store, "models/model")
    assert manifest is not None
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"^execute\.work_dir: '.*' cannot take models/model \(0 MiB\): "):
        imports.fetch(store, manifest, tmp_path / "file")


FETCH = """
import sys
from pathlib import Path
from polaris import storage
from polaris.imports import fetch, find_import

store = storage.FileStore(Path(sys.argv[1]))
copy = storage._copy

def counted(source, target, tick):
    with open(sys.argv[3], "a") as log:
        log.write(f"{source.name}\\n")
    copy(source, target, tick)
    if source.name == sys.argv[4]:
        import os, signal
        os.kill(os.getpid(), signal.SIGKILL)

storage._copy = counted
print(fetch(store, find_import(store, "models/model"), Path(sys.argv[2])))
"""
"""Fetches an import, noting each object that it copies; dies after the one named last, as if killed."""


def test_two_processes_fetch_it_once_and_a_killed_one_is_gone_on_from(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "store")
    put_import(store, "models/model", _model(tmp_path / "model"), "model")
    inputs, log = tmp_path / "inputs", tmp_path / "log"

    def begin(dies_after: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", FETCH, store.root, inputs, log, dies_after]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    killed = begin("model.safetensors")
    killed.communicate()
    assert killed.returncode == -9
    assert list(inputs.rglob("*.part")) and not list(inputs.rglob("model.safetensors"))
    both = [begin("nothing") for _ in range(2)]
    said = {process.communicate()[0].splitlines()[-1] for process in both}
    assert [process.returncode for process in both] == [0, 0] and len(said) == 1
    folder = Path(said.pop())
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
    assert sha256_file(folder / "model.safetensors") == sha256_file(tmp_path / "model/model.safetensors")
    assert sorted(log.read_text().split()) == ["config.json", *["model.safetensors"] * 2]


NAMES = st.text(alphabet="aZ09._-=+@,", min_size=1, max_size=8).filter(lambda name: name[0] != ".")


@given(
    st.dictionaries(
        st.lists(NAMES, min_size=1, max_size=3).map("/".join), st.binary(max_size=4), min_size=1, max_size=6
    )
)
def test_a_folder_and_its_import_have_one_hash(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]
) -> None:
    folder = tmp_path_factory.mktemp("model")
    written = {}
    for name, data in files.items():
        try:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        except OSError:
            continue  # A name is both a file's and a folder's.
        written[name] = sha256_file(folder / name)
    store = FileStore(tmp_path_factory.mktemp("store"))
    put_import(store, "models/any", imports.files_below(folder), "any")
    manifest = find_import(store, "models/any")
    assert manifest is not None
    model = CheckpointModel(kind="checkpoint", path=folder)
    assert imports.content_hash(manifest) == hash_contents(model)[folder] == hash_of_folder(written)
