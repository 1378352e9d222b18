"""Models and files imported into the store: known by their content as local ones are."""

from __future__ import annotations

import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import s3
import yaml
from context import make_context, read_output

from polaris.artifact import Artifact, sha256_file
from polaris.cli import main
from polaris.data import stage as data_stage
from polaris.errors import ConfigError, TransientError
from polaris.generate import run as generate
from polaris.imports import find_import
from polaris.llm import CallFailed
from polaris.load import load
from polaris.run import Run, open_run
from polaris.serve import checkpoint
from polaris.storage import Store

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
    monkeypatch.setattr(hub, "snapshot_download", lambda repo, **_: str(folder))
    _edit(demo, lambda raw: raw["models"].update(base={"kind": "checkpoint", "repo": "owner/name@v1"}))
    assert open_run(demo).model_folder("base") == folder
    assert cli("model", "import", "owner/name@v1", demo) == 0
    monkeypatch.setattr(hub, "snapshot_download", lambda repo, **_: pytest.fail("the hub was asked"))
    run = open_run(demo)
    found = run.model_folder("base")
    assert found == run.checkpoint_folder("base") and found.is_relative_to(run.work_folder / "inputs")
    assert (found / "model.safetensors").read_bytes() == b"no weights"
    assert run.identity_of_model("base") == "owner/name@v1"
    assert cli("model", "import", "owner/name@v1", demo) == 0
    assert "store:models/owner--name@v1: nothing to do" in capsys.readouterr().out


def test_of_a_repository_only_what_is_served_is_fetched_and_imported(
    demo: Path, cli: Polaris, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    from huggingface_hub.utils import filter_repo_objects

    served = {"config.json", "model-00001-of-00002.safetensors", "tokenizer.json", "merges.txt"}
    served |= {"model-00002-of-00002.safetensors", "tokenizer.model", "chat_template.jinja"}
    left = {"pytorch_model.bin", "model-q4.gguf", "modeling_own.py", "onnx/model.onnx", "onnx/config.json"}
    left |= {"original/consolidated.safetensors", "README.md", ".gitattributes"}
    asked: list[dict[str, Any]] = []

    def snapshot(repo: str, *, revision: str, **patterns: Any) -> str:
        """A FAKE hub whose local cache holds the whole repository from before."""
        asked.append({"repo": repo, "revision": revision, **patterns})
        for name in served | left:
            (tmp_path / "cache" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "cache" / name).write_text(name)
        return str(tmp_path / "cache")

    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    assert cli("model", "import", "owner/name@v1", demo) == 0
    [one] = asked
    assert (one.pop("repo"), one.pop("revision")) == ("owner/name", "v1")
    assert set(filter_repo_objects(sorted(served | left), **one)) == served
    manifest = find_import(open_run(demo).store, "models/owner--name@v1")
    assert manifest is not None
    assert {entry.name for entry in manifest.objects} == served


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
