"""Every configuration that is shipped, from wherever it lies, is loaded, unfolded and checked."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from train.qwen35 import CONFIG

from polaris.check import check
from polaris.checks import base_model, data, gpus
from polaris.fields import stored_as
from polaris.hashes import hash_of
from polaris.identity import contents_of
from polaris.imports import data_name, put_import
from polaris.load import load
from polaris.run import open_run
from polaris.storage import open_store

ROOT = Path(__file__).parents[1]
CHART = ROOT / "charts" / "polaris"
DEMO = ROOT / "examples" / "demo"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def _mapping(found: Any) -> dict[str, Any] | None:
    """Return a values file's `config`, which may be text; None if it has none."""
    config = (found or {}).get("config")
    return yaml.safe_load(config) if isinstance(config, str) else config


def _shipped() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield where a configuration is and what it is."""
    for path in sorted((ROOT / "examples").glob("*/*.yaml")):
        yield str(path.relative_to(ROOT)), yaml.safe_load(path.read_text(encoding="utf-8"))
    tryout = CHART / "files" / "tryout.yaml"
    yield str(tryout.relative_to(ROOT)), yaml.safe_load(tryout.read_text(encoding="utf-8"))
    profile = _mapping(yaml.safe_load((CHART / "values-a100x4.yaml").read_text(encoding="utf-8")))
    assert profile
    yield "charts/polaris/values-a100x4.yaml", profile
    for path in sorted((CHART / "ci").glob("*.yaml")):
        found = _mapping(yaml.safe_load(path.read_text(encoding="utf-8")))
        if found:
            yield str(path.relative_to(ROOT)), found if "run" in found else _over(profile, found)
    for path in sorted((ROOT / "jobs").glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            if "run.yaml" in ((document or {}).get("data") or {}):
                yield str(path.relative_to(ROOT)), yaml.safe_load(document["data"]["run.yaml"])


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Lay values over others as Helm does."""
    both = {key for key in above if isinstance(above[key], dict) and isinstance(below.get(key), dict)}
    return {**below, **above, **{key: _over(below[key], above[key]) for key in both}}


SHIPPED = dict(_shipped())


def test_all_of_them_are_found() -> None:
    assert {
        "examples/demo/demo.yaml",
        "examples/paper/run.yaml",
        "charts/polaris/files/tryout.yaml",
        "charts/polaris/values-a100x4.yaml",
        "charts/polaris/ci/a100x4-values.yaml",
        "charts/polaris/ci/minimal-external-values.yaml",
    } <= set(SHIPPED)


def _placed(folder: Path, raw: dict[str, Any]) -> Path:
    """Write a configuration with a store and a revision of its own; what it names is the demo's data."""
    raw = {**raw, "store": {"url": "store"}, "execute": {**raw.get("execute", {}), "work_dir": "work"}}
    place = folder / "a" / "b"
    place.mkdir(parents=True)
    path = place / "run.yaml"
    text = yaml.safe_dump(raw, sort_keys=False).replace("@REVISION", f"@{COMMIT}")
    path.write_text(text, encoding="utf-8")
    config = load(path, {})
    store = open_store(config.store)
    for setting, named in contents_of(config):
        stored = stored_as(named)
        if setting.startswith("models."):
            model = folder / "any-model"
            model.mkdir(exist_ok=True)
            (model / "config.json").write_text(json.dumps(CONFIG))
            (model / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
            if stored:
                put_import(store, stored, {file.name: file for file in model.iterdir()}, "a test")
            elif not named.exists():
                shutil.copytree(model, named)
        elif stored:
            source = DEMO / stored.removeprefix("data/")
            put_import(store, data_name(source), {source.name: source}, "a test")
        elif not named.exists():
            named.parent.mkdir(exist_ok=True)
            shutil.copy(DEMO / named.name, named)
            assert hash_of(named)
    return path


@pytest.mark.parametrize("where", SHIPPED)
def test_it_loads_and_nothing_is_wrong_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    # The demo's stories stand in for the books, and are shorter than those of a full run.
    monkeypatch.setenv("POLARIS__DATA__MIN_WORDS", "200")
    monkeypatch.setattr(base_model, "hub_files", lambda repo: None)
    monkeypatch.setattr(gpus, "visible", lambda: [])
    monkeypatch.setattr(data, "find_spec", lambda name: None)
    path = _placed(tmp_path, SHIPPED[where])
    run = open_run(path)
    assert run.plan.instances["report"].needs
    for arm, train in run.config.trainings().items():
        assert train.rows_per_step % (train.world_size * train.micro_batch) == 0, arm
    # Of endpoints that are outside no key is here.
    found = [one for one in check(path) if not one.what.startswith("models.")]
    assert not [str(one) for one in found if one.state == "failed"]
