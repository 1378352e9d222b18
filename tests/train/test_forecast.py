"""A training's forecast against numbers by hand, and that it is kept as it was at the beginning."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from context import read_output
from fakes import STORIES
from fakes import stage as faked
from qwen35 import CONFIG

from polaris.chat import Prices
from polaris.recipe import HRIConfig, LoraConfig, TrainConfig, ValidationConfig
from polaris.stage import StageContext
from polaris.train import expected, pace, stage
from polaris.train.forecast import Judge, beside, forecast, held_back, training_calls, validations
from polaris.train.pace import ASSUMED, Gpu, Machine, Range, gpu_of, judge_seconds
from polaris.train.shape import computed, read_shape

PAPER = TrainConfig(base="base", judge="judge", processes=4, zero_stage=3)
JUDGE = Judge("critic", Prices(0.5, 3.0))


def changed(**settings: object) -> TrainConfig:
    return PAPER.model_copy(update=settings)


def machine(name: str = ASSUMED, dtype: str = "bfloat16") -> Machine:
    gpu, shape = gpu_of(name), read_shape(CONFIG)
    assert gpu is not None
    return Machine(gpu, shape, computed(shape), dtype)


def test_the_papers_run() -> None:
    found = forecast(PAPER, JUDGE, 1388, 60, machine())
    assert found is not None
    assert found.steps == 173
    # 173 steps of 8 × 6 rows, each reference judged once; before the first step and after 20, 40, … 160.
    assert found.calls == 173 * 8 * 6 + 9 * 60 == 8844
    # 8,000 tokens read at 0.5 and 2,500 written at 3 US$ a million.
    assert found.usd == pytest.approx(8844 * (0.004 + 0.0075))
    assert found.hours is not None
    assert found.hours.low < 48 < found.hours.high < 60, "the paper's own 48 h lie within the range"
    told = found.to_json()
    assert set(told) == {"steps", "calls", "usd", "hours", "hours_low", "hours_high", "assumptions"}
    assert told["hours"] == pytest.approx((told["hours_low"] * told["hours_high"]) ** 0.5, abs=1e-3)
    for said in (
        "173 steps of 8 prompts: 1 × 1,388 prompts, 4 of each pass unused",
        "9 validations of 60 held back pairs, a story and a call each",
        "a call to critic reads 8,000 tokens and writes 2,500: assumed",
        "4 × A100 80 GB, by its data sheet 312 TFLOP/s in bf16 and 2.00 TB/s",
        "about 48 h for 173 steps",
        "10 to 60 s a call, 16 at once",
    ):
        assert said in "\n".join(told["assumptions"]), said


@pytest.mark.parametrize(
    ("train", "steps", "calls"),
    [
        (PAPER, 346, 2 * 173 * 48 - 173 * 8),
        # Injected in steps 0 to 199 only: 27 steps of the second pass find their references in the cache.
        (changed(hri=HRIConfig(until_step=200)), 346, 2 * 173 * 48 - 27 * 8),
        (changed(hri=HRIConfig(until_step=9)), 346, 2 * 173 * 48),
        (changed(hri=HRIConfig(max_weight=0)), 346, 2 * 173 * 48),
    ],
)
def test_a_reference_is_paid_for_once(train: TrainConfig, steps: int, calls: int) -> None:
    assert training_calls(steps, 1388, train) == calls


def test_validations_are_counted_as_they_come() -> None:
    every = ValidationConfig(every_steps=5)
    assert [validations(steps, every) for steps in (0, 1, 4, 5, 9, 10)] == [0, 1, 1, 2, 2, 3]
    later = ValidationConfig(every_steps=5, before_first=False)
    assert [validations(steps, later) for steps in (0, 4, 5, 10)] == [0, 0, 1, 2]
    assert validations(100, None) == 0
    found = forecast(changed(validation=ValidationConfig(limit=10), max_steps=20), JUDGE, 1388, 60, "no GPU")
    assert found is not None
    assert found.calls == 20 * 48 + 2 * 10


def test_held_back_pairs_that_fit() -> None:
    pairs = [
        {"split": split, "story": "four" * tokens}
        for split, tokens in (("train", 5), ("validation", 8192), ("validation", 8193))
    ]
    assert held_back(pairs, PAPER) == 1
    assert held_back(pairs, changed(validation=ValidationConfig(fitting=False))) == 2


def test_what_is_not_known_is_not_invented() -> None:
    assert forecast(PAPER, JUDGE, None, None, "no GPU is here") is None
    found = forecast(changed(max_steps=3), Judge("critic"), None, None, "no GPU is here")
    assert found is not None
    assert (found.steps, found.calls, found.usd, found.hours) == (3, 3 * 48, None, None)
    assert found.to_json()["hours_low"] is None
    assert "hours are not forecast: no GPU is here" in found.assumptions
    assert any("not counted: how many pairs are held back is not known" in one for one in found.assumptions)
    # A judge that this run serves costs nothing a call.
    own = forecast(changed(max_steps=3), Judge("own", outside=False), 8, 0, machine(dtype="float32"))
    assert own is not None
    assert (own.usd, own.hours) == (0.0, None)
    assert "trained in float32" in own.assumptions[-1]
    assert any("no pair is held back" in one for one in own.assumptions)


def test_measured_steps_tell_the_time() -> None:
    found = forecast(PAPER, JUDGE, 1388, 0, 1000.0)
    assert found is not None
    assert found.hours == Range(173_000 / 3600, 173_000 / 3600)
    assert str(found.hours) == "48"


def test_a_steps_time_by_hand() -> None:
    one = Machine(
        Gpu("one", 100e12, 1e12, 80e9), read_shape(CONFIG), computed(read_shape(CONFIG)), "bfloat16"
    )
    train = changed(max_prompt_tokens=256, max_completion_tokens=1024)
    parameters = one.parameters.language
    # Forward, again for its activations, and twice that backward: of 48 rows of 1,280 tokens, on 4 GPUs.
    tokens, attention = 48 * 1280, 2 * 1280 * 16 * 256 * 8
    whole = 4 * (2 * parameters + attention) * tokens / (4 * 100e12)
    assert pace.training_seconds(one, train).high == pytest.approx(whole / 0.10)
    assert pace.training_seconds(one, train).low == pytest.approx(whole * 0.5 / 0.45)
    adapters = changed(max_completion_tokens=1024, lora=LoraConfig())
    assert pace.training_seconds(one, adapters).high == pytest.approx(whole / 0.10 * 3 / 4)
    # Ten rows a GPU at once read all weights, 2 bytes each, for each token that they write.
    writing = pace.writing_seconds(one, train, 40)
    assert writing.high == pytest.approx(1024 * 2 * parameters / 1e12 / 0.15, rel=0.1)
    assert writing.low == pytest.approx(writing.high * 0.15 / 0.75)
    later = pace.writing_seconds(one, train, 400)
    assert later.high > 2 * writing.high, "what does not fit is written later"
    assert pace.writing_seconds(one, train, 800).high == pytest.approx(2 * later.high)


def test_an_accounts_limits_are_a_lower_bound() -> None:
    assert judge_seconds(48, 16, None, None, 10_500) == Range(30, 180)
    assert judge_seconds(48, 16, 30, None, 10_500) == Range(96, 180)
    assert judge_seconds(48, 16, 600, 100_800, 10_500) == Range(300, 300)
    free = forecast(PAPER, JUDGE, 1388, 0, machine())
    slow = forecast(PAPER, Judge("critic", requests_per_minute=1), 1388, 0, machine())
    assert free and slow and free.hours and slow.hours
    assert slow.hours.low - free.hours.low == pytest.approx(173 * (48 * 60 - 30) / 3600)
    assert "at most 1 requests a minute" in slow.assumptions[-1]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100 80 GB"),
        ("NVIDIA A100-SXM4-40GB", "A100 40 GB"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA H200 MIG 1g.18gb", None),
        ("NVIDIA A10G", None),
        ("Tesla T4", None),
    ],
)
def test_a_gpu_is_known_by_its_name(name: str, found: str | None) -> None:
    gpu = gpu_of(name)
    assert (gpu and gpu.name) == found


def test_gpus_that_differ_or_are_too_few_have_no_data_sheet() -> None:
    a100 = "NVIDIA A100-SXM4-80GB"
    assert expected.gpu_here([a100] * 8, 4) == gpu_of(a100)
    assert expected.gpu_here([], 4) == "no GPU is here"
    assert "fewer than train.processes 4" in str(expected.gpu_here([a100], 4))
    assert "(NVIDIA A100-SXM4-80GB, NVIDIA H200)" in str(expected.gpu_here([a100, "NVIDIA H200"], 2))
    assert "(Tesla T4)" in str(expected.gpu_here(["Tesla T4"], 1))


def test_names_come_from_the_driver_if_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\nprintf "NVIDIA H200\\nNVIDIA H200\\n"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert expected.gpu_names() == ["NVIDIA H200"] * 2
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert expected.gpu_names() == []
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    assert expected.gpu_names() == []


def test_what_was_forecast_stands_beside_what_it_took() -> None:
    found = forecast(PAPER, JUDGE, 1388, 60, machine())
    assert found is not None
    assert beside(found.to_json(), 170, 8600.0, 95.5, 40.25) == [
        ("steps", "173", "170"),
        ("judge calls", "8,844", "8,600"),
        ("US$ to the judge", "101.71", "95.50"),
        ("hours", "8.3 to 52.0", "40.2"),
    ]
    nothing = beside({"steps": 3, "calls": 9, "usd": None, "hours": None}, 3, 9, 0.0, 0.0125)
    assert [row[1] for row in nothing] == ["3", "9", "none", "none"]
    assert nothing[3][2] == "0.013"


def context_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> StageContext:
    base = folder / "base"
    base.mkdir(exist_ok=True)
    (base / "config.json").write_text(json.dumps(CONFIG))
    return faked(folder, "http://127.0.0.1:9/v1", monkeypatch)


def test_the_first_attempts_forecast_is_kept_and_comes_into_artifact_and_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expected, "gpu_names", lambda: [])
    monkeypatch.setattr(stage.Trainer, "run", lambda self, stop, tick: _stopped())
    first = context_in(tmp_path, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        stage.run(first)
    kept = expected.kept(first)
    assert kept is not None
    # 3 steps of 2 × 3 rows; in the third, 2 of the references are those of the first pass over 4 prompts.
    assert (kept["steps"], kept["calls"], kept["hours"]) == (3, 3 * 6 - 2, None)
    # No pair is held back; 2,500 tokens written at 1,000 US$ a million.
    assert kept["usd"] == pytest.approx(16 * 2.5)

    second = context_in(tmp_path, monkeypatch)
    monkeypatch.setattr(stage.Trainer, "run", lambda self, stop, tick: _finished(self.job.output))
    monkeypatch.setattr(expected, "forecast", lambda *_: pytest.fail("forecast twice"))
    stage.run(second)
    assert json.loads(read_output(second, "forecast.json")) == kept
    card = read_output(second, "model/README.md").decode()
    assert "## Forecast and what it took" in card
    assert "| steps | 3 | 3 |" in card
    assert "| hours | none | 0.01 |" in card
    assert second.counts["hours"] == pytest.approx(36 / 3600)
    assert not [story for story in STORIES if story in read_output(second, "forecast.json").decode()]


def _stopped() -> None:
    raise KeyboardInterrupt


def _finished(output: Path) -> None:
    (output / "model").mkdir()
    (output / "model" / "model.safetensors").write_bytes(b"no weights")
    rows = [{"step": step, "step_seconds": 12.0, "judge/calls": 6, "hri/references": 2} for step in (1, 2, 3)]
    (output / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (output / "counts.json").write_text('{"prompts": 4, "prompts_filtered": 0}')


def test_a_resumed_training_without_a_forecast_gets_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = context_in(tmp_path, monkeypatch)
    train = context.config.training()
    job = stage.prepare(context, train, stage.Team())
    expected.keep(context, train, stage.replace(job, resume=tmp_path))
    assert expected.kept(context) is None
    assert expected.write(context) is None
