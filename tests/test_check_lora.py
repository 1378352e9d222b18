"""`polaris check` of a training with adapters, and the example for a GPU of 24 GB."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from train.qwen35 import CONFIG_2B

from polaris.checks import base_model, gpus, memory
from polaris.checks.finding import Subject
from polaris.checks.lora import check_lora
from polaris.load import load
from polaris.train.memory import GB, plan
from polaris.train.shape import computed, read_shape

EXAMPLE = Path(__file__).parents[1] / "examples" / "lora-24gb" / "run.yaml"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The base's config.json as the hub would give it."""
    found = json.loads(json.dumps(CONFIG_2B))
    (tmp_path / "config.json").write_text(json.dumps(found))
    monkeypatch.setattr(base_model, "hub_files", lambda repo: tmp_path)
    monkeypatch.setattr(gpus, "visible", lambda: [])
    return dict(found)


def test_the_example_fits_its_gpu_and_says_by_how_much(hub: dict[str, Any]) -> None:
    config = load(EXAMPLE)
    assert config.train is not None
    shape = read_shape(CONFIG_2B)
    sleep = memory.engine_sleeps(config.train)
    assert sleep
    found = plan(shape, computed(shape), config.train, "bfloat16", sleep=sleep, capacity=24 * GB)
    assert found.spare
    assert found.engine is not None and found.engine.at_once == found.engine.rows == 48
    told = re.search(r"the plan: ([\d.]+) GB .* ([\d.]+) GB in the backward", EXAMPLE.read_text())
    assert told is not None
    assert [float(size) for size in told.groups()] == [
        round(found.total(phase) / GB, 1) for phase in ("generate", "backward")
    ]
    without = config.train.model_copy(update={"lora": None})
    assert not plan(shape, computed(shape), without, "bfloat16", sleep=sleep, capacity=24 * GB).fits
    (first, engine) = memory.check_memory(Subject(EXAMPLE, config, gpu_bytes=24e9))
    assert (first.state, engine.state) == ("ok", "ok")


def test_the_check_counts_what_learns(hub: dict[str, Any]) -> None:
    subject = Subject(EXAMPLE, load(EXAMPLE))
    (found,) = check_lora(subject)
    assert (found.state, found.what) == ("ok", "lora")
    assert "rank 32, alpha 64: 33," in found.detail and "parameters learn" in found.detail


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"quantization_config": {"quant_method": "awq"}}, "has quantization_config awq, a quantised base"),
        ({"num_experts": 128}, "has num_experts 128, a mixture of experts"),
    ],
)
def test_a_base_that_gets_no_adapters_is_a_failure(
    hub: dict[str, Any], tmp_path: Path, changed: dict[str, Any], told: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(hub | changed))
    (found,) = check_lora(Subject(EXAMPLE, load(EXAMPLE)))
    assert (found.state, found.what) == ("failed", "lora")
    assert found.detail.startswith(f"train.lora: models.base {told}")
    assert found.fix.startswith("name a dense model")


def test_without_the_models_config_nothing_is_said_of_it(
    hub: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_model, "hub_files", lambda repo: None)
    (found,) = check_lora(Subject(EXAMPLE, load(EXAMPLE)))
    assert (found.state, found.detail.startswith("not checked here: ")) == ("warning", True)
    plain = load(EXAMPLE)
    assert plain.train is not None
    train = plain.train.model_copy(update={"lora": None})
    assert not list(check_lora(Subject(EXAMPLE, plain.model_copy(update={"train": train}))))
