"""`polaris check` of a run that trains: versions, GPUs, memory, disk, data, steps and a judge's call."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from fake_endpoint import Reply, fake_endpoint
from train.qwen35 import CONFIG

from polaris.check import check
from polaris.checks import base_model, data, disk, forecast, gpus, judges, memory, versions
from polaris.checks.finding import Finding, Subject
from polaris.cli import main
from polaris.errors import InputError
from polaris.judge.rubric import load_rubric
from polaris.load import load
from polaris.train.shape import computed, read_shape

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "examples" / "demo"
KEY = "sk-of-this-test-0123456789"


@pytest.fixture(autouse=True)
def _no_gpu_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(gpus, "visible", lambda: [])
    monkeypatch.setattr(base_model, "hub_files", lambda repo: None)
    monkeypatch.setattr(data, "find_spec", lambda name: None)


@pytest.fixture
def a100x4(tmp_path: Path) -> dict[str, Any]:
    """The paper's configuration as the chart ships it, with sizes for a model and the demo's books."""
    found = yaml.safe_load((ROOT / "charts/polaris/values-a100x4.yaml").read_text(encoding="utf-8"))["config"]
    for name in ("anthology.epub", "prompts.jsonl", "heldout.jsonl", "length.jsonl"):
        shutil.copy(DEMO / name, tmp_path / name)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(CONFIG))
    found["store"] = {"url": "store"}
    found["models"]["base"] = {"kind": "checkpoint", "path": "model", "thinking": True}
    found["data"] = {
        "books": ["anthology.epub"],
        "prompts": "prompts.jsonl",
        "min_words": 200,
        "max_words": 650,
    }
    # One judge of one name, with the key of these tests.
    found["models"]["critic"] = found["models"].pop("gemini") | {"api_key_env": "OPENAI_API_KEY"}
    found["judges"] = {"critic": found["judges"]["training"] | {"model": "critic"}}
    found["train"]["judge"] = "critic"
    del found["models"]["gpt"]
    found["evaluations"] = {}
    found["execute"] = {"work_dir": "work"}
    return dict(found)


def subject(folder: Path, found: dict[str, Any], **changed: Any) -> Subject:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(found), encoding="utf-8")
    return Subject(path, load(path), **changed)


def only(findings: list[Finding], what: str) -> Finding:
    (found,) = [one for one in findings if one.what == what]
    return found


def test_the_papers_configuration_fits_when_the_engine_sleeps(
    tmp_path: Path, a100x4: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "engine_sleeps", lambda train: True)
    found = list(memory.check_memory(subject(tmp_path, a100x4)))
    assert [(one.state, one.what) for one in found] == [("ok", "memory"), ("ok", "engine")]
    assert "fits 80 GB, which is assumed: --gpu-gb names another" in found[0].detail
    assert "ZeRO 0" in found[0].detail and "ZeRO 2" in found[0].detail
    titles, *rows = found[0].table
    assert titles == ("GB a GPU", "generate", "backward", "step", "assumption")
    assert [row[0] for row in rows][-2:] == ["sum", "margin"]
    assert all(row[-1] for row in rows)
    assert "of 12 rows at a time" in found[1].detail


def test_what_does_not_fit_is_a_failure_where_the_gpu_is_known(
    tmp_path: Path, a100x4: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "engine_sleeps", lambda train: False)
    (assumed, _) = memory.check_memory(subject(tmp_path, a100x4))
    assert (assumed.state, "does not fit 80 GB" in assumed.detail) == ("warning", True)
    (named, engine) = memory.check_memory(subject(tmp_path, a100x4, gpu_bytes=40e9))
    assert (named.state, engine.state) == ("failed", "failed")
    assert "micro_batch: 1" in named.fix
    assert "raise train.engine_memory 0.3 to 0.52" in engine.fix
    monkeypatch.setattr(gpus, "visible", lambda: [24_000_000_000])
    (here, _) = memory.check_memory(subject(tmp_path, a100x4))
    assert (here.state, "does not fit 24 GB" in here.detail) == ("failed", True)


def test_the_settings_decide_whether_the_engine_sleeps(tmp_path: Path, a100x4: dict[str, Any]) -> None:
    train = subject(tmp_path, a100x4).config.train
    assert train is not None
    assert isinstance(memory.engine_sleeps(train), bool)


def test_a_model_that_is_not_at_hand_is_said_to_be_so(tmp_path: Path, a100x4: dict[str, Any]) -> None:
    a100x4["models"]["base"] = {"kind": "checkpoint", "repo": f"owner/name@{'a' * 40}"}
    asked = subject(tmp_path, a100x4)
    for found in (memory.check_memory(asked), disk.check_disk(asked)):
        (one,) = found
        assert (one.state, one.detail.startswith("not checked here: ")) == ("warning", True)


def test_a_config_json_from_the_hub_is_enough(
    tmp_path: Path, a100x4: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_model, "hub_files", lambda repo: tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    a100x4["models"]["base"] = {"kind": "checkpoint", "repo": f"owner/name@{'a' * 40}"}
    found = base_model.find_base(subject(tmp_path, a100x4))
    assert found is not None
    assert found.parameters == computed(read_shape(CONFIG))


def test_weights_are_counted_where_they_are(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "BF16", "shape": [3, 4], "data_offsets": [0, 24]}}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(24))
    found = base_model.weights_of(tmp_path)
    assert found is not None
    assert (found.language, found.source) == (12, "counted in the safetensors files")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": path.name, "b": "another.safetensors"}}))
    assert base_model.weights_of(tmp_path) is None, "half a download"
    index.unlink()
    path.write_bytes(b"no weights")
    with pytest.raises(InputError, match="no safetensors file"):
        base_model.weights_of(tmp_path)


@pytest.mark.parametrize(
    ("here", "state", "told"),
    [
        ([], "warning", "not checked here: no GPU here; train.processes 4 needs 4 GPUs"),
        (None, "warning", "not checked here: torch is not installed"),
        ([80_000_000_000] * 4, "ok", "4 for train.processes 4: 80 GB, 80 GB"),
        ([80_000_000_000], "failed", "train.processes: value 4; 1 GPU is visible"),
    ],
)
def test_gpus_are_counted(
    tmp_path: Path,
    a100x4: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    here: list[int] | None,
    state: str,
    told: str,
) -> None:
    monkeypatch.setattr(gpus, "visible", lambda: here)
    monkeypatch.setattr(gpus, "find_spec", lambda name: object())
    monkeypatch.setattr(gpus, "kernels_error", lambda: "")
    found = list(gpus.check_gpus(subject(tmp_path, a100x4)))
    assert (found[0].what, found[0].state) == ("gpus", state)
    assert told in found[0].detail
    assert state != "failed" or found[0].fix.startswith("set train.processes")
    assert len(found) == 1


def test_nothing_is_served_on_gpus_that_train(
    tmp_path: Path, a100x4: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpus, "visible", lambda: [80_000_000_000] * 4)
    monkeypatch.setattr(gpus, "kernels_error", lambda: "")
    a100x4["execute"] = {"parallel": 2}
    assert all(one.state != "failed" for one in gpus.check_gpus(subject(tmp_path, a100x4)))
    a100x4["evaluations"] = {
        "quality": {
            "kind": "story-quality",
            "prompts": "heldout.jsonl",
            "models": ["hri"],
            "judge": "critic",
        }
    }
    found = [one for one in gpus.check_gpus(subject(tmp_path, a100x4)) if one.state == "failed"]
    (told,) = [(one.detail, one.fix) for one in found]
    served = "execute.parallel 2 lets a model be served beside a training, on the same GPUs"
    assert told == (served, "set execute.parallel: 1")


def test_kernels_that_are_there_and_broken_are_told_of(
    tmp_path: Path, a100x4: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpus, "visible", lambda: [80_000_000_000] * 4)
    monkeypatch.setattr(gpus, "find_spec", lambda name: object())
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "fla").mkdir()
    (tmp_path / "fla" / "__init__.py").write_text("raise RuntimeError('no triton here')")
    monkeypatch.setattr(gpus, "kernels_error", gpus.kernels_error.__wrapped__)
    (_, found) = gpus.check_gpus(subject(tmp_path, a100x4))
    assert (found.state, found.what) == ("warning", "gpus")
    assert found.detail.endswith("fla-core, which cannot be imported: RuntimeError: no triton here")


def test_the_disk_holds_what_a_training_keeps(
    tmp_path: Path, a100x4: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = subject(tmp_path, a100x4)
    for free, here, state in ((900e9, [], "ok"), (9e9, [], "warning"), (9e9, [1], "failed")):
        monkeypatch.setattr(disk.shutil, "disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        monkeypatch.setattr(gpus, "visible", lambda here=here: here)
        (found,) = disk.check_disk(asked)
        assert found.state == state
        assert "of 126.3 each" in found.detail
        assert bool(found.fix) == (state != "ok")
        assert "and in the store, on the same disk, the checkpoints again" in found.detail
        assert "or store.url" in found.fix or not found.fix
    (elsewhere,) = disk.check_disk(subject(tmp_path, a100x4, can_i=lambda *_: True))
    assert "a disk of its own" in elsewhere.detail
    a100x4["store"] = {"url": "s3://somewhere/else"}
    (found,) = disk.check_disk(subject(tmp_path, a100x4))
    assert "in the store" not in found.detail
    assert "up to 416.4:" in found.detail


def test_pairs_are_counted_and_what_counts_tokens_may_be_missing(
    tmp_path: Path, a100x4: dict[str, Any]
) -> None:
    found = list(data.check_data(subject(tmp_path, a100x4)))
    assert only(found, "data").detail == "14 pairs to train on, 0 held back, 0 stories left out of 14"
    assert "transformers, torch, trl not installed" in only(found, "tokens").detail
    assert "a step for each 8 prompts" in only(found, "schedule").detail
    a100x4["data"]["books"] = ["gone.epub"]
    found = list(data.check_data(subject(tmp_path, a100x4)))
    assert only(found, "data").state == "warning"


def test_a_step_is_48_rows_and_1388_prompts_make_173(tmp_path: Path, a100x4: dict[str, Any]) -> None:
    train = subject(tmp_path, a100x4).config.train
    assert train is not None
    assert data.schedule(1388, train) == (
        "48 rows a step = 8 prompts × 6 rows = 4 processes × 2 rows × 6 accumulated;"
        " 173 steps for 1,388 prompts, 4 of each pass unused"
    )
    assert data.schedule(None, train.model_copy(update={"max_steps": 7})).endswith("7 steps (max_steps)")


@pytest.mark.slow
def test_the_real_tokenizer_counts_as_the_training_does(
    tmp_path: Path, a100x4: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    smollm2 = os.environ.get("POLARIS_DEMO_MODEL")
    if not smollm2:
        pytest.skip("POLARIS_DEMO_MODEL names no folder with the demo's model: `make test` sets it")
    from train import heavy

    assert heavy.trl
    monkeypatch.setattr(data, "find_spec", find_spec)
    a100x4["models"]["base"] = {"kind": "checkpoint", "path": smollm2}
    a100x4["train"]["max_completion_tokens"] = 160
    found = list(data.check_data(subject(tmp_path, a100x4)))
    assert only(found, "tokens").state == "ok"
    assert "14 prompts; 0 longer than max_prompt_tokens 256" in only(found, "tokens").detail
    assert "14 cut at 160 tokens" in only(found, "tokens").detail
    assert "1 step for 14 prompts, 6 of each pass unused" in only(found, "schedule").detail
    a100x4["train"] |= {"prompts_per_step": 16, "micro_batch": 4}
    found = list(data.check_data(subject(tmp_path, a100x4)))
    assert only(found, "tokens").state == "failed"
    assert "too few for one step" in only(found, "tokens").detail
    assert "a step for each 16 prompts" in only(found, "schedule").detail


@pytest.mark.parametrize(
    ("version", "bounds", "fits"),
    [
        ("1.16.0", "<1.17,>=1.15", True),
        ("1.17.0", "<1.17,>=1.15", False),
        ("1.9", "<1.17,>=1.15", False),
        ("0.31.0+cpu", "<=0.31.0", True),
        ("0.31.1", "<=0.31", False),
        ("5.2", ">=5.2.0", True),
        ("2.6.0rc1", ">=2.6", True),
        ("2.0", "", True),
        ("2.0", "==2.0", True),
    ],
)
def test_versions_are_compared(version: str, bounds: str, fits: bool) -> None:
    assert versions.within(version, bounds) is fits


def test_a_package_out_of_range_fails_and_one_that_is_missing_is_told(
    tmp_path: Path, a100x4: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = subject(tmp_path, a100x4)
    there = {"trl": "1.2.0", "torch": "2.9.0+cu128"}
    monkeypatch.setattr(versions, "_installed", there.get)
    found = list(versions.check_versions(asked))
    assert [one.state for one in found] == ["failed", "ok", "warning"]
    assert found[0].fix.startswith("pip install 'trl")
    assert "torch 2.9.0+cu128" in found[1].detail
    assert (
        "transformers, deepspeed, accelerate, datasets, tensorboard, vllm are not installed"
        in found[2].detail
    )


def test_books_without_a_story_to_train_on_are_a_fault(tmp_path: Path, a100x4: dict[str, Any]) -> None:
    a100x4["data"] |= {"min_words": 900_000, "max_words": 1_000_000}
    asked = subject(tmp_path, a100x4)
    [found] = data.check_data(asked)
    assert (found.state, found.fix) == (
        "failed",
        "give books with stories of 900,000 to 1,000,000 words, or set data.min_words and max_words",
    )
    [untold] = forecast.check_forecast(asked)
    assert untold.state == "warning" and "there are none" in untold.detail


def judged(request: dict[str, Any], number: int) -> Reply:
    found: dict[str, Any] = {dimension.key: 1 for dimension in load_rubric().dimensions}
    usage = {"prompt_tokens": 2000, "completion_tokens": 500, "total_tokens": 2500}
    return Reply(json.dumps(found | {"bonus": None, "penalty": None}), usage=usage)


def test_a_judge_is_asked_only_on_demand_and_its_call_is_priced(
    tmp_path: Path, a100x4: dict[str, Any]
) -> None:
    a100x4["judges"]["critic"]["form"] = "compact"
    with fake_endpoint(judged) as server:
        a100x4["models"]["critic"] |= {
            "url": server.url,
            "usd_per_million_prompt_tokens": 1.0,
            "usd_per_million_completion_tokens": 10.0,
        }
        (silent,) = judges.check_judges(subject(tmp_path, a100x4))
        assert server.requests == []
        (found,) = judges.check_judges(subject(tmp_path, a100x4, ask=True))
        assert len(server.requests) == 1
    assert (silent.state, "--ask" in silent.fix) == ("warning", True)
    assert (found.state, found.what) == ("ok", "judges.critic")
    assert "2,000 tokens read, 500 written, 0.0070 USD" in found.detail
    assert "48 calls a step cost 0.34 USD" in found.detail
    assert not (tmp_path / "store").exists()


def test_a_judge_that_gives_no_judgement_fails(tmp_path: Path, a100x4: dict[str, Any]) -> None:
    with fake_endpoint(lambda *_: Reply("no JSON")) as server:
        a100x4["models"]["critic"]["url"] = server.url
        (found,) = judges.check_judges(subject(tmp_path, a100x4, ask=True))
    assert (found.state, "no valid judgement" in found.detail) == ("failed", True)
    assert KEY not in str(found)


def test_a_finding_and_its_table_are_shown_at_any_width(
    tmp_path: Path,
    a100x4: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = subject(tmp_path, a100x4).path
    wide = told(path, monkeypatch, capsys)
    assert "GB a GPU" in wide
    assert all(line == line.rstrip() for line in wide.splitlines())
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    narrow = re.sub(r"\x1b\[[0-9;]*m", "", told(path, monkeypatch, capsys))
    assert max(len(line) for line in narrow.splitlines() if "/" not in line) <= 80
    assert "--gpu-gb" in narrow
    assert list(check(path))[0].state == "ok"


def told(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr(sys, "argv", ["polaris", "check", str(path)])
    monkeypatch.setattr("polaris.checks.endpoints.TIMEOUT_S", 0.1)
    monkeypatch.setattr("polaris.check.CHECKS", {"memory": memory.check_memory})
    with pytest.raises(SystemExit):
        main()
    return capsys.readouterr().out
