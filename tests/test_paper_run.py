"""The paper's run as it is shipped: from its file to what TRL and DeepSpeed are given."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from train.qwen35 import CONFIG

from polaris.checks import base_model, gpus
from polaris.cli import main
from polaris.config import RunConfig
from polaris.load import load
from polaris.recipe import TrainConfig
from polaris.train.memory import GB, plan
from polaris.train.settings import Hardware, accumulation, grpo_arguments, total_steps
from polaris.train.shape import computed, read_shape

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "paper" / "run.yaml"
VALUES = ROOT / "charts" / "polaris" / "values-a100x4.yaml"
PROMPTS = 1388
OF_A_GPU = {"bf16", "use_cpu", "model_init_kwargs", "dataloader_pin_memory", "vllm_enable_sleep_mode"}
"""Arguments that are others on a machine without a GPU."""


def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    """Return what a command prints."""
    monkeypatch.setattr(sys, "argv", ["polaris", *words])
    # DeepSpeed says on being imported what it runs on.
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main()
    return capsys.readouterr().out


def of_chart(folder: Path) -> Path:
    """Return a file with the chart's configuration."""
    path = folder / "a100x4.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(VALUES.read_text(encoding="utf-8"))["config"]))
    return path


def with_data(folder: Path) -> Path:
    """Return a copy of the example with sizes for a model, and the demo's books for the paper's."""
    found = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    for name in ("anthology.epub", "prompts.jsonl", "heldout.jsonl", "length.jsonl"):
        shutil.copy(ROOT / "examples" / "demo" / name, folder / name)
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(json.dumps(CONFIG))
    found["models"]["base"] = {"kind": "checkpoint", "path": "model", "thinking": True}
    found["data"] |= {"min_words": 200, "max_words": 650}
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(found, sort_keys=False))
    return path


def arguments_of(train: TrainConfig, config: RunConfig, *, cuda: bool, output: Path) -> dict[str, Any]:
    return grpo_arguments(
        train,
        Hardware(cuda, config.dtype(train.base)),
        steps=total_steps(PROMPTS, train),
        seed=config.seed,
        thinking=config.thinking(train.base),
        end_id=7,
        output=output,
    )


def _taken(arguments: dict[str, Any], processes: int) -> None:
    """Have TRL and DeepSpeed read what they will be given; each refuses what it does not know."""
    from train import heavy
    from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

    stage = arguments["deepspeed"]["zero_optimization"]
    # With it in place the whole process would count as one of DeepSpeed's.
    taken = heavy.GRPOConfig(**{name: arguments[name] for name in arguments if name != "deepspeed"})
    filled = HfTrainerDeepSpeedConfig(arguments["deepspeed"])
    filled.trainer_config_process(taken)
    # This process counts itself alone; the four of the run make 48 rows.
    assert taken.generation_batch_size * processes == 48
    assert filled.config["train_batch_size"] * processes == 48
    assert filled.config["gradient_clipping"] == 1.0
    assert heavy.deepspeed.runtime.zero.config.DeepSpeedZeroConfig(**stage).stage == 3


@pytest.mark.slow
def test_the_papers_run_is_what_the_paper_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = read_shape(CONFIG)
    for path in (EXAMPLE, of_chart(tmp_path)):
        shown = tmp_path / "shown.yaml"
        shown.write_text(command(capsys, monkeypatch, "config", "show", str(path)), encoding="utf-8")
        config = load(shown, {})
        assert config == load(path, {})
        for train in config.trainings().values():
            processes = train.nodes * train.processes
            assert processes * train.micro_batch * accumulation(train) == train.rows_per_step == 48
            assert (train.prompts_per_step, train.group_size, processes) == (8, 6, 4)
            assert total_steps(PROMPTS, train) == 173
            dtype = config.dtype(train.base)
            memory = plan(shape, computed(shape), train, dtype, sleep=True, capacity=80 * GB)
            assert memory.spare, f"{memory.peak / GB:.1f} GB"
            assert memory.engine and memory.engine.at_once >= 1

            ours = arguments_of(train, config, cuda=True, output=tmp_path)
            here = arguments_of(train, config, cuda=False, output=tmp_path)
            assert {name for name in ours if ours[name] != here[name]} == OF_A_GPU
            _taken(here, processes)

    for key in ("GEMINI_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setattr(gpus, "visible", lambda: [])
    monkeypatch.setattr(base_model, "hub_files", lambda repo: pytest.fail("the model lies in a folder"))
    out = command(capsys, monkeypatch, "check", str(with_data(tmp_path)))
    unseen = [line for line in out.splitlines() if "not checked here: " in line]
    for what in ("judges", "gpus", "engine and trainer", "padding"):
        assert [line for line in unseen if line.startswith(f"warning  {what} ")], what
    assert "no GPU here; train.processes 4 needs 4 GPUs" in out
    assert "every training: " in out and "fits 80 GB, which is assumed" in out
    assert "48 rows a step = 8 prompts × 6 rows = 4 processes × 2 rows × 6 accumulated" in out


def test_chart_and_example_are_one_recipe(tmp_path: Path) -> None:
    """They differ in the arm, in where files lie, and in nothing else."""
    example, chart = load(EXAMPLE, {}), load(of_chart(tmp_path), {})
    arms = set(example.arms)
    ours, theirs = (json.loads(config.model_dump_json()) for config in (example, chart))
    assert set(ours.pop("arms")) == arms == {"no-hri"} and not theirs.pop("arms")
    ours["models"] = {name: model for name, model in ours["models"].items() if name not in arms}
    for found in ours["evaluations"].values():
        found["models"] = [model for model in found["models"] if model not in arms]
    for found in (ours, theirs):
        for evaluation in found["evaluations"].values():
            evaluation["prompts"] = Path(evaluation["prompts"]).name
        found["data"]["books"] = [Path(book).name for book in found["data"]["books"]]
        found["data"]["prompts"] = Path(found["data"]["prompts"]).name
        # The chart sets these.
        del found["store"], found["execute"]["work_dir"], found["execute"]["report_file"]
    assert set(ours) == set(theirs)
    for section in ours:
        assert ours[section] == theirs[section], section


def test_the_arms_differ_in_what_they_are_for() -> None:
    config = load(EXAMPLE, {})
    train, plain = config.training(), config.training("no-hri")
    assert (train.hri.max_weight, plain.hri.max_weight) == (0.4, 0.0)
    assert train == plain.model_copy(update={"hri": train.hri})
    assert config.evaluations["story-quality"].models == ("base", "no-hri", "hri")
    assert config.evaluations["story-quality"].baseline == "base"
    judges = {
        name: config.models[judge.model].model_dump()["identity"] for name, judge in config.judges.items()
    }
    assert judges == {"training": "google/gemini-3-flash-preview", "test": "openai/gpt-5.4"}


def test_the_secret_of_the_profile_has_every_judges_key() -> None:
    values = yaml.safe_load(VALUES.read_text(encoding="utf-8"))
    asked = {
        model.get("api_key_env", "OPENAI_API_KEY")
        for model in values["config"]["models"].values()
        if model["kind"] == "endpoint"
    }
    assert asked <= set(values["credentials"]["keys"])
