"""A changed setting, file or model changes exactly the digests downstream of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from full_config import CONTENTS, FULL, Where, config_of, digests, of_plan, with_setting

from polaris.errors import ConfigError
from polaris.identity import hash_contents
from polaris.run import open_run


def test_leaving_a_model_out_changes_no_other_result() -> None:
    fewer = with_setting(("evaluations", "second", "models"), ["other", "trained"])
    before, after = digests(config_of(FULL)), digests(fewer)
    assert set(before) - set(after) == {
        f"{kind}.outside.second" for kind in ("generate", "judge", "evaluate")
    }
    assert {name for name in after if after[name] != before[name]} == {"report"}


def test_on_demand_or_not_the_stories_and_scores_are_the_same() -> None:
    later = with_setting(("evaluations", "quality", "on_demand"), True)
    before, after = digests(config_of(FULL)), digests(later)
    assert {name for name in before if after[name] != before[name]} == {"report"}
    assert set(after) - set(before) == {"report.quality"}


EVALUATED = ("generate", "judge", "evaluate")


def _of(evaluation: str, *models: str, kinds: tuple[str, ...] = EVALUATED) -> set[str]:
    return {f"{kind}.{model}.{evaluation}" for kind in kinds for model in models}


TRAINED = {"train", "report", *_of("quality", "trained"), *_of("second", "trained")}
DOWNSTREAM = {
    "/books/a.epub": {"data", "train.plain", *TRAINED},
    "/books/b.epub": {"data", "train.plain", *TRAINED},
    "/prompts.jsonl": {"data", "train.plain", *TRAINED},
    "/quality.jsonl": {"report", *_of("quality", "base", "hub", "trained")},
    "/second.jsonl": {"report", *_of("second", "other", "outside", "trained")},
    "/length.jsonl": {"report", *_of("length", "hub")},
    # The baseline is in each of its evaluation's comparisons.
    "/models/base": TRAINED
    | {"train.plain"}
    | _of("quality", "base")
    | _of("quality", "hub", kinds=("evaluate",)),
    # It writes, and it judges the second evaluation.
    "/models/other": {
        "report",
        *_of("second", "other"),
        *_of("second", "outside", "trained", kinds=("judge", "evaluate")),
    },
}


@pytest.mark.parametrize("path", sorted(DOWNSTREAM))
def test_changed_content_changes_exactly_what_is_downstream(path: str) -> None:
    config = config_of(FULL)
    before = digests(config)
    after = digests(config, {**CONTENTS, Path(path): "another hash"})
    assert {name for name in before if before[name] != after[name]} == DOWNSTREAM[path]


@pytest.mark.parametrize(
    ("where", "value", "expected"),
    [
        (("data", "min_words"), 1001, {"data", "train.plain", *TRAINED}),
        (("arms", "plain", "learning_rate"), 2e-6, {"train.plain", "report"}),
        (("train", "learning_rate"), 2e-6, TRAINED),
        (("evaluations", "quality", "samples"), 2, DOWNSTREAM["/quality.jsonl"]),
        (("evaluations", "quality", "kind"), "length", DOWNSTREAM["/quality.jsonl"]),
        (("evaluations", "length", "targets"), [500, 2000], DOWNSTREAM["/length.jsonl"]),
        (
            ("evaluations", "quality", "bootstrap"),
            200,
            {"report", *_of("quality", "base", "hub", "trained", kinds=("evaluate",))},
        ),
        (
            ("judges", "local", "top_p"),
            0.5,
            {"report", *_of("second", "other", "outside", "trained", kinds=("judge", "evaluate"))},
        ),
    ],
)
def test_a_changed_setting_changes_exactly_what_is_downstream(
    where: Where, value: Any, expected: set[str]
) -> None:
    before, after = digests(config_of(FULL)), digests(with_setting(where, value))
    assert {name for name in before if before[name] != after[name]} == expected


def test_where_files_lie_decides_nothing() -> None:
    moved = {Path(f"/moved{path}"): digest for path, digest in CONTENTS.items()}
    raw: dict[str, Any] = yaml.safe_load(yaml.safe_dump(FULL).replace(" /", " /moved/"))
    assert raw["data"]["books"][0] == "/moved/books/a.epub"
    assert digests(config_of(raw), moved) == digests(config_of(FULL))


def test_the_order_of_keys_decides_nothing(demo: Path) -> None:
    before = {name: instance.digest for name, instance in open_run(demo).plan.instances.items()}
    raw = yaml.safe_load(demo.read_text(encoding="utf-8"))
    demo.write_text(yaml.safe_dump(_reversed(raw), sort_keys=False), encoding="utf-8")
    after = {name: instance.digest for name, instance in open_run(demo).plan.instances.items()}
    assert after == before


def test_files_are_known_by_their_bytes(demo: Path, tmp_path: Path) -> None:
    before = open_run(demo).plan
    shutil.copytree(tmp_path / "examples", tmp_path / "moved" / "examples")
    shutil.copytree(tmp_path / ".polaris", tmp_path / "moved" / ".polaris")
    moved = tmp_path / "moved" / "examples" / "demo"
    assert of_plan(open_run(moved / "demo.yaml").plan) == of_plan(before)
    prompts = moved / "heldout.jsonl"
    prompts.write_text(prompts.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    after = of_plan(open_run(moved / "demo.yaml").plan)
    changed = {name for name, digest in of_plan(before).items() if after[name] != digest}
    assert changed == {"report", *_of("story-quality", "base", "trained")}


def test_a_model_folder_is_known_by_its_files_names_and_bytes(demo: Path, tmp_path: Path) -> None:
    folder = tmp_path / ".polaris" / "model"
    seen = [hash_contents(open_run(demo).config)[folder]]
    (folder / "deep").mkdir()
    assert hash_contents(open_run(demo).config)[folder] == seen[0], "an empty folder is nothing"
    for change in (
        lambda: (folder / "deep" / "extra.json").write_text("{}"),
        lambda: (folder / "deep" / "extra.json").rename(folder / "extra.json"),
        lambda: (folder / "model.safetensors").write_bytes(b"other weights"),
    ):
        change()
        seen.append(hash_contents(open_run(demo).config)[folder])
    assert len(set(seen)) == len(seen)


def test_a_file_that_is_missing_or_unreadable_is_named_by_its_setting(demo: Path) -> None:
    config = open_run(demo).config
    book = demo.parent / "anthology.epub"
    book.unlink()
    with pytest.raises(ConfigError, match=r"^data\.books: '.*anthology\.epub' does not exist; give a file"):
        hash_contents(config)
    book.symlink_to(book)
    with pytest.raises(
        ConfigError, match=r"^data\.books: '.*anthology\.epub' (does not exist|cannot be read)"
    ):
        hash_contents(config)


def _reversed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _reversed(below) for key, below in reversed(value.items())}
    return value
