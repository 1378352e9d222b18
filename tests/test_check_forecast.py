"""`polaris check`'s forecast of every training: figures by hand, and what is not known is said to be so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from train.qwen35 import CONFIG

from polaris.check import CHECKS
from polaris.checks import data
from polaris.checks.data import check_data, prompts_key
from polaris.checks.finding import Finding, Subject
from polaris.checks.forecast import check_forecast
from polaris.load import load
from polaris.train import expected

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _no_gpu_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-this-test-0123456789")
    monkeypatch.setattr(expected, "gpu_names", lambda: [])
    monkeypatch.setattr(data, "find_spec", lambda name: None)


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    """The paper's training as the chart ships it, on the demo's book, with a judge of a price."""
    text = (ROOT / "charts/polaris/values-a100x4.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)["config"]
    for name in ("anthology.epub", "prompts.jsonl"):
        shutil.copy(ROOT / "examples" / "demo" / name, tmp_path / name)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(CONFIG))
    found["store"] = {"url": "store"}
    found["models"] = {
        "base": {"kind": "checkpoint", "path": "model", "thinking": True},
        "critic": found["models"]["gemini"]
        | {"usd_per_million_prompt_tokens": 0.5, "usd_per_million_completion_tokens": 3.0},
    }
    found["judges"] = {"critic": {"model": "critic"}}
    found["train"]["judge"] = "critic"
    found["data"] = {"books": ["anthology.epub"], "prompts": "prompts.jsonl", "min_words": 200}
    found["evaluations"] = {}
    found["execute"] = {"work_dir": "work"}
    return found


def findings(folder: Path, config: dict[str, Any], **changed: Any) -> list[Finding]:
    return list(check_forecast(subject(folder, config, **changed)))


def subject(folder: Path, config: dict[str, Any], **changed: Any) -> Subject:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return Subject(path, load(path), **changed)


def test_the_books_tell_the_steps(tmp_path: Path, config: dict[str, Any]) -> None:
    assert list(CHECKS).index("forecast") > list(CHECKS).index("data")
    config["train"]["epochs"] = 3
    (found,) = findings(tmp_path, config)
    assert (found.state, found.what) == ("ok", "forecast")
    # 14 pairs: one step of 8 prompts a pass; the second and third find their references in the cache.
    assert found.detail.startswith("3 steps, 128 judge calls, 1.47 US$, 0.")
    assert found.detail.endswith(" hours")
    titles, steps, calls, usd, hours = found.table
    assert titles == ("forecast", "figure", "assumption")
    assert steps == ("steps", "3", "3 steps of 8 prompts: 3 × 14 prompts, 6 of each pass unused")
    assert calls[:2] == ("judge calls", "128")
    assert "no pair is held back" in calls[2]
    assert usd[:2] == ("US$", "1.47")
    assert "reads 8,000 tokens and writes 2,500: assumed" in usd[2]
    assert "4 × A100 80 GB (assumed: no GPU is here)" in hours[2]


def test_max_steps_tell_them_where_no_book_does(tmp_path: Path, config: dict[str, Any]) -> None:
    config["data"]["books"] = ["gone.epub"]
    (found,) = findings(tmp_path, config)
    assert (found.state, found.fix) == ("warning", "or set train.max_steps")
    assert "not checked here: the steps follow from the pairs" in found.detail
    config["train"]["max_steps"] = 173
    (found,) = findings(tmp_path, config)
    assert found.state == "ok"
    assert found.detail.startswith("173 steps, 8,304 judge calls, 95.50 US$, ")
    (tmp_path / "broken.epub").write_bytes(b"no book")
    config["data"]["books"] = ["broken.epub"]
    (found,) = findings(tmp_path, config)
    assert (found.state, found.detail[:9]) == ("ok", "173 steps")


def test_a_budget_that_is_less_is_a_warning(tmp_path: Path, config: dict[str, Any]) -> None:
    # 14 prompts: but for the first step all references are in the cache, 173 × 48 − 172 × 8 calls.
    config["train"]["max_steps"] = 173
    config["execute"]["budget_usd"] = 80.0
    assert [one.state for one in findings(tmp_path, config)] == ["ok"]
    config["execute"]["budget_usd"] = 79.0
    _, found = findings(tmp_path, config)
    assert (found.state, found.what) == ("warning", "budget")
    assert found.detail == "execute.budget_usd 79 is less than the 79.67 US$ that the trainings' judges cost"
    assert found.fix.startswith("raise it, or lower train.max_steps")
    # Each alone is within it: 79.67 US$, and 95.50 without references to find in the cache.
    config["execute"]["budget_usd"] = 150.0
    config["arms"] = {"plain": {"hri": {"max_weight": 0}}}
    *_, found = findings(tmp_path, config)
    assert "less than the 175.17 US$" in found.detail


def test_without_prices_nobody_knows_the_cost(tmp_path: Path, config: dict[str, Any]) -> None:
    config["models"]["critic"] |= dict.fromkeys(
        ("usd_per_million_prompt_tokens", "usd_per_million_completion_tokens"), 0.0
    )
    (found,) = findings(tmp_path, config)
    assert "48 judge calls, US$ unknown (models.critic has no price)" in found.detail
    assert found.table[3][1] == "–"


def test_every_arm_is_forecast_and_the_books_are_read_once(
    tmp_path: Path, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config["arms"] = {"plain": {"hri": {"max_weight": 0}}, "long": {"epochs": 2, "prompts_per_step": 4}}
    asked = subject(tmp_path, config)
    read = []
    monkeypatch.setattr(
        data, "read_epub", lambda *args, real=data.read_epub, **more: _noted(read, real, args, more)
    )
    list(check_data(asked))
    found = list(check_forecast(asked))
    assert len(read) == 1
    assert [one.detail.partition(" judge")[0] for one in found] == [
        "train: 1 step, 48",
        # 14 prompts: 3 steps of 4 × 6 rows a pass, whose references the second pass finds in the cache.
        "arms.long: 6 steps, 132",
        "arms.plain: 1 step, 48",
    ]
    # What `data` found to be left by its tokens is what is forecast.
    asked.seen[prompts_key(asked.config.arms["long"])] = 8
    _, long, _ = check_forecast(asked)
    assert long.detail.startswith("arms.long: 4 steps, 88 judge calls")


def _noted(read: list[Any], real: Any, args: Any, more: Any) -> Any:
    read.append(args)
    return real(*args, **more)


def test_hours_only_where_the_gpus_are_known(
    tmp_path: Path, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config["train"]["max_steps"] = 173
    (found,) = findings(tmp_path, config, gpu_bytes=24e9)
    assert found.detail.endswith("--gpu-gb 24 says how large the GPUs are and not which")
    monkeypatch.setattr(expected, "gpu_names", lambda: ["NVIDIA H100 80GB HBM3"] * 4)
    (found,) = findings(tmp_path, config)
    assert "4 × H100 SXM, by its data sheet 989 TFLOP/s" in found.table[-1][2]
    monkeypatch.setattr(expected, "gpu_names", lambda: ["NVIDIA H100 80GB HBM3"])
    (found,) = findings(tmp_path, config)
    assert found.detail.endswith("GPUs here: 1, fewer than train.processes 4")
    monkeypatch.setattr(expected, "gpu_names", lambda: [])
    (tmp_path / "model" / "config.json").write_text("{}")
    (found,) = findings(tmp_path, config)
    assert "hours are not forecast: config.json: num_hidden_layers" in found.detail
    (tmp_path / "model" / "config.json").unlink()
    (found,) = findings(tmp_path, config)
    assert found.detail.endswith("hours are not forecast: the config.json of models.base is not at hand")


def test_a_run_that_trains_nothing_has_no_forecast(tmp_path: Path, config: dict[str, Any]) -> None:
    del config["train"]
    assert findings(tmp_path, config) == []
