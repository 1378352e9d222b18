"""Models and files in the store: known by their content as local ones are, fetched once, verified."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import s3
import yaml
from context import make_context, read_output
from hypothesis import given
from hypothesis import strategies as st

from polaris import imports
from polaris.artifact import MANIFEST, Artifact, sha256_file
from polaris.cli import main
from polaris.config import CheckpointModel
from polaris.data import stage as data_stage
from polaris.errors import ConfigError, InputError, TransientError
from polaris.generate import run as generate
from polaris.identity import hash_contents, hash_of_folder
from polaris.imports import find_import, model_files, put_import
from polaris.llm import CallFailed
from polaris.load import load
from polaris.run import Run, open_run
from polaris.serve import checkpoint
from polaris.storage import FileStore, Store

Polaris = Callable[..., int]
MODEL = "imports/models/model/"


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch) -> Polaris:
    """Call the command line as a process would; return its exit code."""

    def called(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["polaris", *map(str, arguments)])
        with pytest.raises(SystemExit) as exited:
            main()
        code = exited.value.code
        return code if isinstance(code, int) else 0

    return called


@pytest.fixture(params=["file", pytest.param("s3", marks=pytest.mark.slow)])
def stored(request: pytest.FixtureRequest, demo: Path) -> Path:
    """The demo's configuration on a store of either kind, its model and files still local."""
    if request.param == "s3":
        server: s3.Server = request.getfixturevalue("s3_server")
        store = {"url": request.getfixturevalue("s3_url"), "endpoint": server.endpoint}
        _edit(demo, lambda raw: raw.update(store=store | {"path_style": True, "region": "us-east-1"}))
    return demo


def _edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    change(raw)
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")


def _name_imports(path: Path) -> None:
    """Let the configuration name the imports in the place of its local folder and files."""

    def change(raw: dict[str, Any]) -> None:
        for name in ("base", "judge"):
            raw["models"][name]["path"] = "store:models/model"
        raw["data"] |= {"books": ["store:data/anthology.epub"], "prompts": "store:data/prompts.jsonl"}
        raw["evaluations"]["story-quality"]["prompts"] = "store:data/heldout.jsonl"

    _edit(path, change)


def _import_all(cli: Polaris, path: Path) -> Path:
    """Import what the demo names and remove the local copies; return where the model was."""
    folder = path.parents[2] / ".polaris" / "model"
    files = [path.parent / name for name in ("anthology.epub", "prompts.jsonl", "heldout.jsonl")]
    assert cli("model", "import", folder, path) == 0
    assert cli("data", "import", *files, path) == 0
    assert cli("data", "import", *files, path) == 0
    for file in files:
        file.unlink()
    return folder.rename(folder.with_name("away"))


def _digests(run: Run) -> dict[str, str]:
    return {name: instance.digest for name, instance in run.plan.instances.items()}


def test_an_import_is_known_by_its_content_as_the_local_folder_is(stored: Path, cli: Polaris) -> None:
    local = open_run(stored)
    (stored.parents[2] / ".polaris" / "model" / ".cache").mkdir()
    (stored.parents[2] / ".polaris" / "model" / ".cache" / "notes").write_text("a download tool's")
    away = _import_all(cli, stored)
    _name_imports(stored)
    run = open_run(stored)
    assert _digests(run) == _digests(local)
    assert run.identity_of_model("base") == local.identity_of_model("base")
    assert run.caveat("small") == local.caveat("small")
    assert not run.work_folder.exists(), "nothing is downloaded to know this"
    folder = run.model_folder("base")
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
    assert all(sha256_file(path) == sha256_file(away / path.name) for path in folder.iterdir())
    assert folder == run.checkpoint_folder("judge") == checkpoint(run, "judge")
    assert folder.is_relative_to(run.work_folder / "inputs")
    heldout = run.local(run.config.evaluations["story-quality"].prompts)
    assert heldout.name == "heldout.jsonl" and heldout.read_text().startswith("{")


def test_the_pairs_of_imported_books_are_those_of_local_ones(demo: Path, cli: Polaris) -> None:
    _without_title(demo.parent / "anthology.epub")
    folder, raw = demo.parent, yaml.safe_load(demo.read_text(encoding="utf-8"))
    local = make_context(folder, raw, "data")
    data_stage.run(local)
    pairs = read_output(local, "pairs.jsonl")
    assert b'"anthology.epub"' in pairs, "the file's name is the title of a book that has none"
    _import_all(cli, demo)
    _name_imports(demo)
    raw = yaml.safe_load(demo.read_text(encoding="utf-8"))
    imported = make_context(folder, raw | {"execute": {"work_dir": "elsewhere"}}, "data")
    imported.progress.delete("")
    data_stage.run(imported)
    assert read_output(imported, "pairs.jsonl") == pairs
    assert imported.instance.digest == local.instance.digest


def _without_title(book: Path) -> None:
    """Take the title out of an EPUB, so that the file's name is the book's."""
    with zipfile.ZipFile(book) as archive:
        members = {info: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(book, "w") as archive:
        for info, data in members.items():
            if info.filename.endswith(".opf"):
                before, _, rest = data.partition(b"<dc:title")
                data = before + rest.partition(b"</dc:title>")[2]
            archive.writestr(info, data)


def test_an_evaluation_reads_its_imported_prompts(
    demo: Path, cli: Polaris, monkeypatch: pytest.MonkeyPatch
) -> None:
    _import_all(cli, demo)
    _name_imports(demo)
    raw = yaml.safe_load(demo.read_text(encoding="utf-8"))
    monkeypatch.setenv("POLARIS_ENDPOINTS", '{"base": "http://127.0.0.1:9/v1"}')

    async def away(*_: object, **__: object) -> None:
        raise CallFailed("away")

    monkeypatch.setattr("polaris.llm.ChatClient.complete", away)
    context = make_context(demo.parent, raw, "generate.base.story-quality")
    with pytest.raises(TransientError, match=r"no story for prompt .*: away; 6 failed"):
        generate(context)


def test_importing_the_same_again_does_nothing(
    stored: Path, cli: Polaris, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = stored.parents[2] / ".polaris" / "model"
    assert cli("model", "import", folder, stored) == 0
    store = open_run(stored).store
    before = {info.key: info.etag for info in store.list("imports/")}
    assert cli("model", "import", folder, stored) == 0
    assert capsys.readouterr().out.splitlines() == [
        "store:models/model: imported (2 files, 0.0 MiB)",
        "store:models/model: nothing to do: the store has the same content (2 files, 0.0 MiB)",
    ]
    assert {info.key: info.etag for info in store.list("imports/")} == before
    lost = next(key for key in before if key.endswith(".safetensors"))
    store.delete([lost])
    assert cli("model", "import", folder, stored) == 0
    assert store.head(lost) is not None, "what was lost is put again"


def test_other_content_under_a_taken_name_is_refused_unless_replaced(
    stored: Path, cli: Polaris, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = stored.parents[2] / ".polaris" / "model"
    assert cli("model", "import", folder, stored) == 0
    old = find_import(open_run(stored).store, "models/model")
    (folder / "model.safetensors").write_bytes(b"other weights")
    assert cli("model", "import", folder, stored) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: 'store:models/model' is in ")
    assert "with other content (imported from model, " in said and said.endswith("or --replace it")
    store = open_run(stored).store
    assert find_import(store, "models/model") == old
    assert cli("model", "import", folder, stored, "--replace") == 0
    new = find_import(store, "models/model")
    assert new is not None
    Artifact(store, new, MODEL).verify()
    assert len(list(store.list(MODEL))) == 3, "the old objects are gone"
    assert cli("model", "import", folder, stored, "--name", "second") == 0
    assert find_import(store, "models/second") is not None


def test_a_path_in_the_store_stays_as_it_is(demo: Path) -> None:
    _name_imports(demo)
    config = load(demo)
    dumped = config.model_dump(mode="json")
    assert dumped["models"]["base"]["path"] == "store:models/model"
    assert dumped["data"]["books"] == ["store:data/anthology.epub"]
    assert config.execute.work_dir.is_absolute()


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("MODELS__BASE__PATH", "store:data/model", "expected store:models/NAME, as `polaris model import`"),
        ("MODELS__BASE__PATH", "store:models/a/b", "expected store:models/NAME"),
        ("MODELS__BASE__PATH", "store:models/..", "expected store:models/NAME"),
        ("DATA__PROMPTS", "store:prompts.jsonl", "expected store:data/NAME, as `polaris data import`"),
        ("DATA__PROMPTS", "store:data/My Prompts.jsonl", "expected store:data/NAME"),
    ],
)
def test_a_malformed_path_in_the_store_is_one_line(
    demo: Path, variable: str, value: str, expected: str
) -> None:
    setting = variable.lower().replace("__", ".")
    with pytest.raises(ConfigError) as caught:
        load(demo, {f"POLARIS__{variable}": value})
    [line] = str(caught.value).splitlines()
    assert line.startswith(f"environment: POLARIS__{variable}: {setting}") and expected in line
    assert value in line


def test_a_missing_import_is_named_with_the_command_that_makes_it(demo: Path) -> None:
    _name_imports(demo)
    with pytest.raises(ConfigError) as caught:
        open_run(demo)
    url = (demo.parents[2] / ".polaris" / "store").as_uri()
    assert str(caught.value).splitlines() == [
        f"models.base.path: 'store:models/model' is not in {url};"
        f" run `polaris model import FOLDER {demo} --name model`",
        f"models.judge.path: 'store:models/model' is not in {url};"
        f" run `polaris model import FOLDER {demo} --name model`",
        f"data.books: 'store:data/anthology.epub' is not in {url};"
        f" run `polaris data import anthology.epub {demo}`",
        f"data.prompts: 'store:data/prompts.jsonl' is not in {url};"
        f" run `polaris data import prompts.jsonl {demo}`",
        f"evaluations.story-quality.prompts: 'store:data/heldout.jsonl' is not in {url};"
        f" run `polaris data import heldout.jsonl {demo}`",
    ]


def test_local_paths_ask_the_store_for_nothing(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _edit(demo, lambda raw: raw.update(store={"url": "s3://bucket", "endpoint": "http://127.0.0.1:9"}))
    monkeypatch.setattr("polaris.s3.S3Store._client", property(lambda _: pytest.fail("the store was asked")))
    assert open_run(demo).plan.instances


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("config.json", "has no config.json; give a model's folder"),
        ("model.safetensors", "has no *.safetensors; give a model's folder"),
    ],
)
def test_what_is_no_model_is_refused(
    demo: Path, cli: Polaris, capsys: pytest.CaptureFixture[str], missing: str, said: str
) -> None:
    folder = demo.parents[2] / ".polaris" / "model"
    (folder / missing).unlink()
    assert cli("model", "import", folder, demo) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: '{folder}' ") and said in line
    assert cli("model", "import", folder / "nowhere", demo) == 2
    assert "is no folder; give one that exists, or owner/name@revision" in capsys.readouterr().err


def test_names_that_cannot_be_keys_are_refused(
    demo: Path, cli: Polaris, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, book = demo.parents[2] / ".polaris" / "model", demo.parent / "My Book.epub"
    shutil.copy(demo.parent / "anthology.epub", book)
    assert cli("data", "import", demo.parent / "anthology.epub", book, demo) == 2
    assert "'My Book.epub' cannot be an import's name: " in capsys.readouterr().err
    assert not list(open_run(demo).store.list("imports/")), "nothing is imported before all names are checked"
    assert cli("data", "import", demo.parent / "none.epub", demo) == 2
    assert "none.epub' is no file; give one that exists" in capsys.readouterr().err
    assert cli("model", "import", folder, demo, "--name", "a/b") == 2
    assert "give another with --name" in capsys.readouterr().err
    (folder / "a b.json").touch()
    assert cli("model", "import", folder, demo) == 2
    assert "'a b.json' cannot be an object's name" in capsys.readouterr().err


def test_a_repository_is_taken_from_the_store_before_the_hub(
    demo: Path, cli: Polaris, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    folder = demo.parents[2] / ".polaris" / "model"
    monkeypatch.setattr(hub, "snapshot_download", lambda repo, revision: str(folder))
    _edit(demo, lambda raw: raw["models"].update(base={"kind": "checkpoint", "repo": "owner/name@v1"}))
    assert open_run(demo).model_folder("base") == folder
    assert cli("model", "import", "owner/name@v1", demo) == 0
    monkeypatch.setattr(hub, "snapshot_download", lambda repo, revision: pytest.fail("the hub was asked"))
    run = open_run(demo)
    found = run.model_folder("base")
    assert found == run.checkpoint_folder("base") and found.is_relative_to(run.work_folder / "inputs")
    assert (found / "model.safetensors").read_bytes() == b"no weights"
    assert run.identity_of_model("base") == "owner/name@v1"
    assert cli("model", "import", "owner/name@v1", demo) == 0
    assert "store:models/owner--name@v1: nothing to do" in capsys.readouterr().out


def test_an_interrupted_import_is_gone_on_with(
    stored: Path, cli: Polaris, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stored.parents[2] / ".polaris" / "model"
    store = open_run(stored).store
    sent: list[str] = []
    upload = type(store).upload

    def dying(self: Store, path: Path, key: str, **kwargs: Any) -> None:
        if path.name == "model.safetensors" and len(sent) < 2:
            sent.append("died")
            raise KeyboardInterrupt
        sent.append(path.name)
        upload(self, path, key, **kwargs)

    monkeypatch.setattr(type(store), "upload", dying)
    assert cli("model", "import", folder, stored) == 130
    assert find_import(store, "models/model") is None
    assert cli("model", "import", folder, stored) == 0
    assert sent == ["config.json", "died", "model.safetensors"]


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
