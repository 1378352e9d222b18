"""`polaris check --parity`: trainer, engine and padded rows of a model give one text the same figures."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from models import tiny_model
from train.fakes import write_config
from train.qwen35 import CONFIG

from polaris.checks import base_model, gpus, parity
from polaris.checks.finding import Finding, Subject
from polaris.checks.parity import ENGINE, PADDING, Compared, check_parity, of_engine, of_padding
from polaris.imports import model_files, model_name, put_import
from polaris.load import load
from polaris.run import inputs_of
from polaris.storage import open_store
from polaris.train.compare import Answer

ANSWER = Answer(device="cuda", dtype="bfloat16", tokens=133, padding=0.01, engine=0.02)


@pytest.fixture(autouse=True)
def _no_gpu_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "visible", lambda: [])
    monkeypatch.setattr(base_model, "hub_files", lambda repo: None)


def subject(folder: Path, model: Path, *, asked: bool = True, **train: Any) -> Subject:
    path = write_config(folder / "run.yaml", model, **{"rollout_engine": "vllm"} | train)
    return Subject(path, load(path), parity=asked)


def states(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(one.state, one.what) for one in findings]


def base_of(asked: Subject) -> Compared:
    (train,) = asked.config.trainings().values()
    return Compared(train.base, train)


def test_unasked_it_says_how_to_ask_and_loads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "_ask", lambda question: pytest.fail("a model was loaded"))
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(json.dumps(CONFIG))
    found = list(check_parity(subject(tmp_path, tmp_path / "base", asked=False)))
    assert states(found) == [("warning", ENGINE), ("warning", PADDING)]
    assert all(one.detail.startswith("not checked here: ") for one in found)
    assert all("`--parity` loads models.base" in one.fix for one in found)
    assert "above train.engine_max_difference 0.5" in found[0].detail
    # Without linear attention, or an engine, there is less to fear.
    plain = {**CONFIG["text_config"], "layer_types": ["full_attention"] * 32}
    (tmp_path / "base" / "config.json").write_text(json.dumps(plain))
    assert not list(
        check_parity(subject(tmp_path, tmp_path / "base", asked=False, rollout_engine="transformers"))
    )


def test_what_cannot_be_loaded_here_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "_ask", lambda question: pytest.fail("a model was loaded"))
    (tmp_path / "base").mkdir()
    asked = subject(tmp_path, tmp_path / "base")
    (engine, padding) = check_parity(asked)
    assert states([engine, padding]) == [("warning", ENGINE), ("warning", PADDING)]
    assert "there are no *.safetensors files in " in padding.detail

    tiny_model(tmp_path / "base")
    monkeypatch.setattr(parity, "free_memory", lambda: 1e9)
    (engine, _) = check_parity(asked)
    assert "no GPU here, and in memory there are 1.0 free" in engine.detail
    monkeypatch.setattr(gpus, "visible", lambda: [1_000_000_000])
    (engine, _) = check_parity(asked)
    assert engine.detail.endswith("this GPU has 1.0")
    monkeypatch.setattr(parity, "find_spec", lambda name: None)
    (engine, _) = check_parity(asked)
    assert "torch, transformers, trl are not installed" in engine.detail

    document = yaml.safe_load(asked.path.read_text())
    document["models"]["base"] = {"kind": "checkpoint", "repo": f"owner/name@{'a' * 40}"}
    asked.path.write_text(yaml.safe_dump(document))
    asked = Subject(asked.path, load(asked.path), parity=True)
    (engine, _) = check_parity(asked)
    assert engine.detail.startswith(f"not checked here: models.base.repo: 'owner/name@{'a' * 40}' cannot be")
    # A cache may hold a part of it.
    (tmp_path / "part").mkdir()
    monkeypatch.setattr(parity, "find_spec", find_spec)
    monkeypatch.setattr(parity, "fetch_repository", lambda repo, setting: tmp_path / "part")
    (engine, _) = check_parity(asked)
    assert engine.detail.startswith("not checked here: there are no *.safetensors files in")


def test_an_import_is_fetched_to_be_compared(tmp_path: Path) -> None:
    repo = f"owner/name@{'a' * 40}"
    asked = subject(tmp_path, tmp_path)
    document = yaml.safe_load(asked.path.read_text())
    document["models"]["base"] = {"kind": "checkpoint", "repo": repo}
    asked.path.write_text(yaml.safe_dump(document))
    config = load(asked.path)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"no weights")
    put_import(open_store(config.store), model_name(repo), model_files(folder), repo)
    (found, why) = parity.weights_folder(config, "base")
    assert (why, found and (found / "model.safetensors").read_bytes()) == ("", b"no weights")
    assert found and found.is_relative_to(inputs_of(config))


def test_a_difference_is_judged_by_the_trainings_own_limit(tmp_path: Path) -> None:
    base = base_of(subject(tmp_path, tmp_path, engine_max_difference=0.1))
    for judge, field in ((of_engine, "engine"), (of_padding, "padding")):
        fine, over = (judge(base, replace(ANSWER, **{field: by})) for by in (0.1, 0.5))
        assert (fine.state, fine.fix) == ("ok", "")
        assert "of 133 tokens differ by 0.1 between" in fine.detail
        assert "bfloat16 on cuda" in fine.detail
        assert over.state == "failed"
        assert over.detail.endswith("more than train.engine_max_difference allows: 0.1")
        assert over.fix
        assert judge(base, replace(ANSWER, **{field: float("inf")})).state == "failed"


def test_in_float32_padding_may_change_next_to_nothing(tmp_path: Path) -> None:
    base = base_of(subject(tmp_path, tmp_path))
    fine, over = (
        of_padding(base, replace(ANSWER, dtype="float32", device="cpu", padding=by)) for by in (1e-5, 0.1)
    )
    assert (fine.state, over.state) == ("ok", "failed")
    assert over.detail.endswith("more than float32's rounding allows: 0.01")


def test_an_engine_that_does_not_start_is_a_fault_only_where_the_training_runs(tmp_path: Path) -> None:
    base = base_of(subject(tmp_path, tmp_path))
    silent = replace(ANSWER, engine=None, engine_error="ValueError: no kernel")
    assert of_engine(base, silent).state == "failed"
    elsewhere = of_engine(base, replace(silent, device="cpu"))
    assert elsewhere.state == "warning"
    assert elsewhere.detail.endswith("it does not start here: ValueError: no kernel")


def test_a_comparison_that_ends_without_an_answer_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = subject(tmp_path, tiny_model(tmp_path / "base"))

    def ended(code: int, said: str) -> None:
        done = subprocess.CompletedProcess([], code, said)
        monkeypatch.setattr(parity.subprocess, "run", lambda *_, **__: done)

    ended(1, "Traceback\nOSError: no file named model.safetensors\n\n")
    (found,) = check_parity(asked)
    assert found.state == "failed"
    assert found.detail.endswith("cannot be loaded: OSError: no file named model.safetensors")
    ended(-9, "")
    (found,) = check_parity(asked)
    assert (found.state, "signal 9 ended the comparison" in found.detail) == ("warning", True)


def test_padded_rows_of_a_tiny_model_are_compared_in_a_process_of_its_own(tmp_path: Path) -> None:
    asked = subject(tmp_path, tiny_model(tmp_path / "base"), rollout_engine="transformers")
    (found,) = check_parity(asked)
    assert (found.state, found.what) == ("ok", PADDING)
    assert "between padded and unpadded rows, float32 on cpu" in found.detail


@pytest.mark.slow
def test_the_real_engine_and_the_real_model_agree(tmp_path: Path) -> None:
    smollm2 = os.environ.get("POLARIS_DEMO_MODEL")
    if not smollm2:
        pytest.skip("POLARIS_DEMO_MODEL names no folder with the demo's model: `make test` sets it")
    found = list(check_parity(subject(tmp_path, Path(smollm2), engine_max_difference=0.01)))
    assert states(found) == [("ok", ENGINE), ("ok", PADDING)], [str(one) for one in found]
