"""Wrong configurations and what a user reads about them; overrides; what must never be shown."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from context import settings

from polaris.cli import main
from polaris.config import RunConfig
from polaris.errors import ConfigError
from polaris.load import load, schema

GOLDEN = Path(__file__).with_name("golden") / "config_errors.txt"
CANARY = "canary-c4f1d2-secret"

Change = Callable[[dict[str, Any]], object]


def at(dotted: str, value: Any) -> Change:
    """Return a change that sets one setting, or deletes it if the value is `...`."""

    def change(config: dict[str, Any]) -> None:
        *above, last = dotted.split("/")
        for key in above:
            config = config.setdefault(key, {})
        if value is ...:
            del config[last]
        else:
            config[last] = copy.deepcopy(value)

    return change


JUDGE, QUALITY, WRITER = "judges/judge", "evaluations/quality", "models/writer"
TRAIN = {"base": "base", "judge": "judge"}
BASE = {"kind": "checkpoint", "path": "."}
TRAINS: tuple[Change, ...] = (at("models/base", BASE), at("train", TRAIN))
"""A run that trains."""

WRONG: dict[str, list[Change]] = {
    "a misspelt section": [at("jugdes", {})],
    "a misspelt key": [at(f"{JUDGE}/temprature", 0.5)],
    "a misspelt key of a model": [at("models/trained", {"kind": "trained", "sevre": {}})],
    "a misspelt key two sections down": [
        at("train", TRAIN | {"hri": {"max_wieght": 1}}),
        at("models/base", BASE),
    ],
    "a missing key": [at(f"{WRITER}/identity", ...)],
    "a missing section": [at("data", ...)],
    "a model of no kind": [at(f"{WRITER}/kind", ...)],
    "a model of an unknown kind": [at(f"{WRITER}/kind", "endpiont")],
    "a model that is text": [at(WRITER, "openai/gpt")],
    "an evaluation of no kind": [at(f"{QUALITY}/kind", ...)],
    "an evaluation of an unknown kind": [at(f"{QUALITY}/kind", "lenght")],
    "a misspelt key of an evaluation": [at(f"{QUALITY}/on_demnad", True)],
    "a setting of another kind of evaluation": [at(f"{QUALITY}/targets", [100])],
    "a target of no words": [at(f"{QUALITY}/kind", "length"), at(f"{QUALITY}/targets", [100, 0])],
    "a target twice": [at(f"{QUALITY}/kind", "length"), at(f"{QUALITY}/targets", [100, 200, 100])],
    "no target": [at(f"{QUALITY}/kind", "length"), at(f"{QUALITY}/targets", [])],
    "an answer longer than the model's context": [
        at("models/base", BASE | {"serve": {"max_model_len": 64}}),
        at(f"{QUALITY}/models", ["base"]),
    ],
    "a number as text": [at(f"{JUDGE}/attempts", "many")],
    "a number out of range": [at(f"{JUDGE}/top_p", 1.5)],
    "a number below its least": [at("seed", -1)],
    "not a finite number": [at("reward/clip", float("inf"))],
    "a fraction of a whole": [at(f"{JUDGE}/repeats", 1.5)],
    "text as a switch": [at(f"{WRITER}/thinking", "perhaps")],
    "a choice that is none": [at(f"{JUDGE}/form", "compcat")],
    "an empty list": [at("data/books", [])],
    "text where a list belongs": [at("data/books", "book.epub")],
    "a number as a name": [at("run", 7)],
    "a name with a capital": [at("run", "My Run")],
    "a model's name with an underscore": [at("models/the_model", {**BASE})],
    "a section left empty": [at("store", None)],
    "a URL with credentials": [at(f"{WRITER}/url", "https://me:hunter2hunter2@example.com/v1")],
    "a store's URL with credentials": [at("store/url", "s3://AKIA:hunter2hunter2@bucket/x")],
    "a store that is none": [at("store/url", "ftp://example.com/x")],
    "an endpoint without its scheme": [at("store/endpoint", "localhost:9000")],
    "a key in place of its variable": [at(f"{WRITER}/api_key_env", "sk-hunter2-hunter2")],
    "a repository without a revision": [at("models/base", {"kind": "checkpoint", "repo": "owner/name"})],
    "two sources of a model": [at("models/base", {"kind": "checkpoint", "path": "x", "repo": "o/n@1"})],
    "limits the wrong way round": [at("data/min_words", 5000)],
    "a judge of an unknown model": [at(f"{JUDGE}/model", "raeder")],
    "an evaluation of an unknown model": [at(f"{QUALITY}/models", ["writer", "trained"])],
    "a baseline that does not write": [at(f"{QUALITY}/baseline", "reader")],
    "a trained model without training": [at("models/trained", {"kind": "trained"})],
    "training from an endpoint": [at("train", {"base": "writer", "judge": "judge"})],
    "training judged by what it trains": [
        at("models/trained", {"kind": "trained"}),
        at("models/base", BASE),
        at("judges/own", {"model": "trained"}),
        at("train", {"base": "base", "judge": "own"}),
    ],
    "arms without training": [at("arms", {"no-hri": {}})],
    "arms that are none": [*TRAINS, at("arms", ["no-hri"])],
    "an arm that is text": [*TRAINS, at("arms/no-hri", "hri/max_weight=0")],
    "an arm's name with a space": [*TRAINS, at("arms", {"no HRI": {}})],
    "a misspelt key of an arm": [*TRAINS, at("arms/no-hri/hri", {"max_wieght": 0})],
    "a wrong value in an arm": [*TRAINS, at("arms", {"fast": {"learning_rate": "high"}, "plain": {}})],
    "a wrong value that arms have from train": [
        *TRAINS,
        at("train/learning_rate", "high"),
        at("arms", {"plain": {}, "fast": {"learning_rate": -1}}),
    ],
    "an arm whose settings do not go together": [
        *TRAINS,
        at("train/hri", {"decay": "linear", "decay_steps": 9}),
        at("arms/steady/hri", {"decay": "none"}),
    ],
    "an arm on other machines": [*TRAINS, at("arms/large", {"processes": 4})],
    "an arm from an endpoint": [*TRAINS, at("arms/other/base", "writer")],
    "an arm of an unknown judge": [*TRAINS, at("arms/other/judge", "jugde")],
    "an arm judged by what this run trains": [
        *TRAINS,
        at("models/trained", {"kind": "trained"}),
        at("judges/own", {"model": "trained"}),
        at("arms/own/judge", "own"),
    ],
    "a model of an unknown arm": [
        *TRAINS,
        at("arms", {"no-hri": {}, "decay": {}}),
        at("models/trained", {"kind": "trained", "arm": "no-hir"}),
    ],
}

BROKEN = {
    "broken YAML": "run: test\nmodels: {writer: [\n",
    "a tab": "run: test\nmodels:\n\twriter: {}\n",
    "two documents": "run: a\n---\nrun: b\n",
    "a list": "- run: test\n",
    "one word": "hello\n",
    "nothing": "",
    "a key twice": "run: test\ndata:\n  books: [a]\n  min_words: 1\n  books: [b]\n",
    "a merge key": "run: test\nmodels:\n  a: &a {kind: trained}\n  b:\n    <<: *a\n",
    "an alias of itself": "run: &a [*a]\n",
    "a mapping as a key": "run: test\n? {a: b}\n: c\n",
    "an unknown tag": "run: !mine test\n",
    "a date that is none": "run: 2026-13-45\n",
    "no text": "run: \x00\n",
}


def written(folder: Path, config: Mapping[str, Any]) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(dict(config), sort_keys=False), encoding="utf-8")
    return path


def errors_of(path: Path, environment: Mapping[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, environment or {})
    return str(caught.value).replace(f"{path.parent}/", "")


def test_every_wrong_configuration_reads_as_the_golden_file_says(tmp_path: Path) -> None:
    found = []
    for name, changes in WRONG.items():
        config = settings(tmp_path)
        for change in changes:
            change(config)
        found.append(f"# {name}\n{errors_of(written(tmp_path, config))}\n")
    for name, text in BROKEN.items():
        (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
        found.append(f"# {name}\n{errors_of(tmp_path / 'run.yaml')}\n")
    (tmp_path / "run.yaml").write_bytes(b"run: \xff\n")
    found.append(f"# another encoding\n{errors_of(tmp_path / 'run.yaml')}\n")
    found.append(f"# no file\n{errors_of(tmp_path / 'missing.yaml')}\n")
    text = "\n".join(found)
    if not GOLDEN.exists():
        GOLDEN.write_text(text, encoding="utf-8")
        pytest.fail(f"{GOLDEN} was missing and is now written: read it")
    assert text == GOLDEN.read_text(encoding="utf-8")
    assert "hunter2" not in text


def test_each_line_begins_with_its_place() -> None:
    lines = [line for line in GOLDEN.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    assert len(lines) > 40
    assert all(line.startswith(("run.yaml", "missing.yaml:")) for line in lines)


def test_every_fault_has_a_line(tmp_path: Path) -> None:
    config = settings(tmp_path)
    for change in (at("seed", "x"), at(f"{JUDGE}/top_p", 0), at(f"{QUALITY}/limti", 3)):
        change(config)
    lines = errors_of(written(tmp_path, config)).splitlines()
    assert [line.split(": ")[1] for line in lines] == [
        "seed",
        "judges.judge.top_p",
        "evaluations.quality.limti",
    ]


def test_the_command_line_prints_them_and_exits_with_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = settings(tmp_path) | {"seed": "x", "sede": 3}
    path = written(tmp_path, config)
    monkeypatch.setattr("sys.argv", ["polaris", "config", "check", str(path)])
    with pytest.raises(SystemExit) as exited:
        main()
    assert exited.value.code == 2
    lines = path.read_text().splitlines()
    assert capsys.readouterr().err.splitlines() == [
        f"error: {path}:{lines.index('seed: x') + 1}: seed: value 'x'; expected a whole number",
        f"error: {path}:{lines.index('sede: 3') + 1}: sede: unknown key (value 3); did you mean 'seed'?",
    ]


def test_variables_override_the_file(tmp_path: Path) -> None:
    path = written(
        tmp_path, settings(tmp_path) | {"judges": {"the-judge": {"model": "reader"}}, "evaluations": {}}
    )
    config = load(
        path,
        {
            "POLARIS__SEED": "7",
            "POLARIS__JUDGES__THE_JUDGE__TOP_P": "0.5",
            "polaris__seed": "8",
            "POLARIS__MODELS__A_NEW_ONE": "{kind: endpoint, identity: x/y, url: 'http://h/v1', model: m}",
            "POLARIS__MODELS__A_NEW_ONE__THINKING": "true",
            "POLARIS__DATA__BOOKS": "[book.epub, other.epub]",
            "POLARIS__EXECUTE__PARALLEL": "3",
            "POLARIS_SEED": "9",
        },
    )
    assert config.seed == 7
    assert config.judges["the-judge"].top_p == 0.5
    assert config.models["a-new-one"].model_dump()["thinking"] is True
    assert config.data.books == (tmp_path / "book.epub", tmp_path / "other.epub")
    assert config.execute.parallel == 3


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("SEED", "many", "seed: value 'many'; expected a whole number"),
        ("STORE__RETRY", "2", "store.retry: unknown key (value 2); did you mean 'retries'?"),
        ("EXECUTE", "{parallel: none}", "execute.parallel: value 'none'; expected a whole number"),
        ("DATA", "{books: [a], min_words: 0}", "data.min_words: value 0; expected a number of at least 1"),
        ("SEED", "[1", "seed: not valid YAML: expected ',' or ']', but got '<stream end>'"),
        ("RUN", "2026-13-45", "run: not valid YAML: month must be in 1..12"),
        (
            "DATA__BOOKS__0",
            "x",
            "data.books is ['book.epub'], which has no settings below it; override it as a whole",
        ),
        ("STORE__URL", "s3://a:hunter2@b", None),
    ],
)
def test_a_bad_override_names_its_variable(
    tmp_path: Path, variable: str, value: str, expected: str | None
) -> None:
    path = written(tmp_path, settings(tmp_path))
    found = errors_of(path, {f"POLARIS__{variable}": value})
    assert "hunter2" not in found
    assert found.startswith(f"environment: POLARIS__{variable}: ")
    if expected:
        assert found == f"environment: POLARIS__{variable}: {expected}"


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "far-away"
    folder.mkdir()
    path = written(folder, {k: v for k, v in settings(folder).items() if k not in ("store", "execute")})
    monkeypatch.chdir(tmp_path)
    config = load(Path("far-away/run.yaml"), {})
    assert config.data.books == (folder / "book.epub",)
    assert config.store.url == (folder / ".polaris/store").as_uri()
    assert config.execute.work_dir == folder / ".polaris/work"
    assert config == load(path, {}), "the working folder decides nothing"
    assert "far-away" not in str(schema())
    assert str(tmp_path) not in str(schema())


def test_the_demo_loads_and_checks(
    demo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model = tmp_path / "another model"
    model.mkdir()
    monkeypatch.setenv("POLARIS__MODELS__BASE__PATH", str(model))
    monkeypatch.setattr("sys.argv", ["polaris", "config", "check", str(demo)])
    with pytest.raises(SystemExit) as exited:
        main()
    assert exited.value.code == 0
    out = capsys.readouterr().out
    assert "nothing wrong" in out
    assert "generate.trained.story-quality" in out
    monkeypatch.setenv("POLARIS__MODELS__BASE__PATH", str(tmp_path / "missing"))
    with pytest.raises(SystemExit) as exited:
        main()
    assert exited.value.code == 2
    assert capsys.readouterr().err.startswith("error: models.base.path: '")


def test_no_secret_of_the_environment_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, settings(tmp_path))
    for name in ("FAKE_API_KEY", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, f"{CANARY}-{name}")
    for command in ("show", "check"):
        monkeypatch.setattr("sys.argv", ["polaris", "config", command, str(path)])
        with pytest.raises(SystemExit) as exited:
            main()
        assert exited.value.code == 0
    monkeypatch.setenv("POLARIS__SEED", f"{CANARY}-FAKE_API_KEY")
    with pytest.raises(SystemExit) as exited:
        main()
    assert exited.value.code == 2
    shown = capsys.readouterr()
    assert "api_key_env: FAKE_API_KEY" in shown.out
    assert CANARY not in shown.out + shown.err
    assert "[redacted]" in shown.err


def test_what_show_prints_is_the_same_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, settings(tmp_path))
    monkeypatch.setattr("sys.argv", ["polaris", "config", "show", str(path)])
    with pytest.raises(SystemExit):
        main()
    (tmp_path / "shown.yaml").write_text(capsys.readouterr().out, encoding="utf-8")
    assert load(tmp_path / "shown.yaml", {}) == load(path, {})


def test_a_checked_configuration_is_frozen(tmp_path: Path) -> None:
    config: RunConfig = load(written(tmp_path, settings(tmp_path)), {})
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 1  # type: ignore[misc]
