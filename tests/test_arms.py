"""Arms: trainings that are `train` but for what they say, as settings, as instances and as what uses them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from context import make_artifact, settings
from test_load import BASE, TRAIN, errors_of, written
from train.qwen35 import CONFIG

from polaris.checks import base_model, disk, gpus, memory, versions
from polaris.checks.finding import Finding, Subject
from polaris.cli.writing import _default
from polaris.config import section_of
from polaris.errors import ConfigError, InputError
from polaris.imports import fetch_repository
from polaris.load import dump, load
from polaris.plan import as_of, train_instance
from polaris.release.spending import works_of
from polaris.run import Run, open_run
from polaris.stage import newest_status, run_stage
from polaris.train.job import Job
from polaris.train.orphans import end_orphans
from polaris.train.shape import computed, read_shape

SECOND = {"model": "writer"}


@pytest.fixture
def raw(tmp_path: Path) -> dict[str, Any]:
    """A run of a base, what `train` makes of it, and an arm of no human reference."""
    found = settings(tmp_path)
    found["models"] |= {
        "base": BASE | {"path": "model"},
        "plain": {"kind": "trained", "arm": "no-hri"},
        "full": {"kind": "trained"},
    }
    found["judges"]["second"] = SECOND
    found["train"] = TRAIN | {"hri": {"max_weight": 0.3, "warmup_steps": 7}, "lora": {"rank": 8}, "epochs": 2}
    found["arms"] = {"no-hri": {"hri": {"max_weight": 0.0}}}
    found["evaluations"]["quality"] |= {"models": ["base", "plain", "full"], "baseline": "base"}
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    return found


def opened(folder: Path, raw: dict[str, Any]) -> Run:
    return open_run(written(folder, raw))


def test_an_arm_is_train_but_for_what_it_says(tmp_path: Path, raw: dict[str, Any]) -> None:
    raw["arms"] |= {"same": None, "empty": {}, "whole": {"lora": None, "judge": "second", "epochs": 1}}
    config = load(written(tmp_path, raw), {})
    train, arm = config.training(), config.training("no-hri")
    assert (arm.hri.max_weight, arm.hri.warmup_steps) == (0.0, 7), "the rest of a section is train's"
    assert arm.model_copy(update={"hri": train.hri}) == train
    assert config.training("same") == config.training("empty") == train
    whole = config.training("whole")
    assert (whole.lora, whole.judge, whole.epochs) == (None, "second", 1.0)
    assert whole.hri == train.hri
    assert list(config.trainings()) == [None, "no-hri", "same", "empty", "whole"]
    assert [section_of(arm) for arm in (None, "same")] == ["train", "arms.same"]
    with pytest.raises(ConfigError, match=r"^arms\.nothing: this configuration has no such training"):
        config.training("nothing")


def test_what_is_shown_reads_back_the_same(tmp_path: Path, raw: dict[str, Any]) -> None:
    raw["arms"]["whole"] = {"lora": None, "validation": None}
    config = load(written(tmp_path, raw), {})
    text = dump(config)
    (tmp_path / "shown.yaml").write_text(text, encoding="utf-8")
    assert load(tmp_path / "shown.yaml", {}) == config
    shown = yaml.safe_load(text)
    assert list(shown["arms"]) == ["no-hri", "whole"]
    assert shown["arms"]["no-hri"].keys() == shown["train"].keys(), "an arm is shown whole"


def test_variables_reach_an_arm_and_arms_follow_train(tmp_path: Path, raw: dict[str, Any]) -> None:
    variables = {
        "POLARIS__TRAIN__EPOCHS": "3",
        "POLARIS__ARMS__NO_HRI__HRI__WARMUP_STEPS": "9",
        "POLARIS__ARMS__AN_OTHER__LEARNING_RATE": "2.0e-6",
    }
    config = load(written(tmp_path, raw), variables)
    assert (config.training("no-hri").epochs, config.training("an-other").epochs) == (3.0, 3.0)
    assert config.training("no-hri").hri.warmup_steps == 9
    assert config.training("an-other").learning_rate == 2e-6
    told = errors_of(written(tmp_path, raw), {"POLARIS__ARMS__NO_HRI__EPOCHS": "many"})
    assert (
        told
        == "environment: POLARIS__ARMS__NO_HRI__EPOCHS: arms.no-hri.epochs: value 'many'; expected a number"
    )


def test_a_fault_of_train_is_said_once_and_that_of_an_arm_is_its_own(
    tmp_path: Path, raw: dict[str, Any]
) -> None:
    raw["train"]["learning_rate"] = "fast"
    raw["arms"] |= {"same": None, "own": {"learning_rate": "slow"}}
    told = errors_of(written(tmp_path, raw)).splitlines()
    assert [line.split(": ")[1] for line in told] == ["train.learning_rate", "arms.own.learning_rate"]
    raw["train"] = "whatever"
    [told] = errors_of(written(tmp_path, raw)).splitlines()
    assert "train: value 'whatever'; expected a mapping" in told


def test_each_arm_is_an_instance_that_its_models_wait_for(tmp_path: Path, raw: dict[str, Any]) -> None:
    raw["models"]["own"] = BASE | {"path": "model"}
    raw["judges"]["own"] = {"model": "own"}
    raw["arms"]["judged"] = {"judge": "own"}
    found = opened(tmp_path, raw).plan.instances
    trainings = {name: one for name, one in found.items() if one.kind == "train"}
    assert {name: (one.params, one.needs, one.services) for name, one in trainings.items()} == {
        "train": ({}, ("data",), ()),
        "train.no-hri": ({"arm": "no-hri"}, ("data",), ()),
        "train.judged": ({"arm": "judged"}, ("data",), ("own",)),
    }
    assert [train_instance(arm) for arm in (None, "judged")] == ["train", "train.judged"]
    assert found["generate.plain.quality"].needs == ("train.no-hri",)
    assert found["generate.full.quality"].needs == ("train",)
    assert found["generate.base.quality"].needs == ()
    assert set(trainings) <= set(found["report"].needs)
    plan = opened(tmp_path, raw).plan
    assert plan.selected(["train*"]) == {"data", *trainings}
    assert plan.selected(["evaluate.plain.quality"]).isdisjoint({"train", "train.judged"})


def test_an_arm_is_trained_anew_even_where_it_changes_nothing(tmp_path: Path, raw: dict[str, Any]) -> None:
    """So a run can train twice by the same settings and show how far the two are apart."""
    raw["arms"]["same"] = {}
    before = opened(tmp_path, raw).plan.instances
    digests = {one.digest for one in before.values() if one.kind == "train"}
    assert len(digests) == 3
    raw["arms"]["same"] = {"learning_rate": 2e-6}
    after = opened(tmp_path, raw).plan.instances
    changed = {name for name in before if before[name].digest != after[name].digest}
    assert changed == {"train.same", "report"}, "an arm's settings are nobody else's"


def test_a_run_serves_and_names_what_the_arm_made(tmp_path: Path, raw: dict[str, Any]) -> None:
    run = opened(tmp_path, raw)
    digests = {name: run.plan.instances[name].digest for name in ("train", "train.no-hri")}
    assert run.identity_of_model("full") == f"trained:{digests['train']}"
    assert run.identity_of_model("plain") == f"trained:{digests['train.no-hri']}"
    assert run.checkpoint_folder("plain").name == digests["train.no-hri"]
    assert run.checkpoint_folder("full").name == digests["train"]
    assert _default(run.config) == "full", "not the arm's, though it is named first"
    raw["models"]["local"] = {"kind": "trained", "arm": "no-hri"}
    raw["judges"]["local"] = {"model": "local"}
    assert "a small local model" in str(opened(tmp_path, raw).caveat("local"))


def test_a_worker_is_told_which_arm_it_is(tmp_path: Path) -> None:
    job = Job(tmp_path / "c", tmp_path / "p", tmp_path / "m", tmp_path / "o", arm="no-hri")
    assert Job.parse(job.arguments()) == job
    assert Job.parse(Job(tmp_path, tmp_path, tmp_path, tmp_path).arguments()).arm is None


def test_a_trainings_error_names_the_arm_where_the_setting_is_its_own(
    tmp_path: Path, raw: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw["arms"]["no-hri"]["max_prompt_tokens"] = 99
    run = opened(tmp_path, raw)
    told = "too long for train.max_prompt_tokens 99; train.prompts_per_step 8, stages.train.scratch"
    said = "too long for arms.no-hri.max_prompt_tokens 99; train.prompts_per_step 8, stages.train.scratch"
    assert as_of(run.config, run.plan.instances["train"], told) == told
    assert as_of(run.config, run.plan.instances["train.no-hri"], told) == said

    def ends(*_: object) -> None:
        raise InputError(told)

    monkeypatch.setattr("polaris.stage._make", ends)
    assert run_stage(run.path, "train.no-hri") == InputError.code
    status = newest_status(run.store, run.prefix("train.no-hri"))
    assert status["reason"] == said


def test_the_forecast_has_a_row_for_each_training(tmp_path: Path, raw: dict[str, Any]) -> None:
    raw["arms"]["short"] = {"max_steps": 2, "judge": "second"}
    run = opened(tmp_path, raw)
    make_artifact(run, "data", {"pairs.jsonl": []})
    works, said = works_of(run, steps=10)
    found = {one.name: (one.asked, one.calls_left) for one in works if one.name.startswith("train")}
    # The manifest of made up data counts no pairs: one step at least.
    assert found["train"][0] == found["train.no-hri"][0] == "reader"
    assert found["train.short"][0] == "writer"
    assert any(line.startswith("train.short has 2 of 2 steps left") for line in said)


# Checks


QWEN = read_shape(CONFIG)


@pytest.fixture
def big(monkeypatch: pytest.MonkeyPatch, raw: dict[str, Any]) -> dict[str, Any]:
    """The same on four GPUs of nobody's, with the paper's base."""
    monkeypatch.setattr(gpus, "visible", lambda: [])
    base = base_model.Base("base", QWEN, computed(QWEN))
    for module in (memory, disk, gpus):
        monkeypatch.setattr(module, "find_base", lambda *_: base)
    raw["train"] |= {"processes": 4, "zero_stage": 3, "lora": None}
    return raw


def looked(folder: Path, raw: dict[str, Any], **changed: Any) -> Subject:
    path = written(folder, raw)
    return Subject(path, load(path, {}), **changed)


def of(found: list[Finding], what: str) -> list[Finding]:
    return [one for one in found if one.what == what]


def test_the_memory_of_trainings_that_need_the_same_is_told_once(tmp_path: Path, big: dict[str, Any]) -> None:
    found = list(memory.check_memory(looked(tmp_path, big)))
    assert [(one.state, one.what) for one in found] == [("ok", "memory"), ("ok", "engine")]
    assert all(one.detail.startswith("every training: ") for one in found)
    del big["arms"], big["models"]["plain"]
    big["evaluations"] = {}
    (alone, _) = memory.check_memory(looked(tmp_path, big))
    assert found[0].detail == f"every training: {alone.detail}"


def test_an_arm_that_needs_more_memory_fails(tmp_path: Path, big: dict[str, Any]) -> None:
    big["arms"] |= {
        "long": {"max_completion_tokens": 65536, "micro_batch": 2},
        "lean": {"engine_memory": 0.1},
    }
    found = list(memory.check_memory(looked(tmp_path, big, gpu_bytes=80e9)))
    plans, engines = of(found, "memory"), of(found, "engine")
    assert [(one.state, one.detail.split(": ")[0]) for one in plans][:2] == [
        ("ok", "train, arms.no-hri"),
        ("failed", "arms.long"),
    ]
    assert "each of these under arms.long needs less" in plans[1].fix
    bad = [one for one in engines if one.state == "failed"]
    assert [one.detail.split(": ")[0] for one in bad] == ["arms.lean"]
    assert bad[0].fix.startswith("raise arms.lean.engine_memory 0.1 to ")


@pytest.mark.parametrize(
    ("parallel", "told"), [(1, "the largest of 3 trainings needs up to"), (2, "2 trainings")]
)
def test_the_disk_holds_the_trainings_that_run_at_once(
    tmp_path: Path, big: dict[str, Any], parallel: int, told: str
) -> None:
    big["arms"]["same"] = None
    big["execute"]["parallel"] = parallel
    (found,) = disk.check_disk(looked(tmp_path, big))
    one, model = 126.3, 18.8
    need = parallel * (3 * one + model) + model + parallel * 3 * one + 3 * model
    assert told in found.detail
    said = float(found.detail.partition("up to ")[2].split(":")[0].replace(",", ""))
    assert said == pytest.approx(need, rel=0.01), "the base lies there once, every result stays in the store"


def test_trainings_at_once_on_the_same_gpus_are_refused(
    tmp_path: Path, big: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpus, "visible", lambda: [80_000_000_000] * 4)
    big["execute"]["parallel"] = 3
    found = list(gpus.check_gpus(looked(tmp_path, big)))
    assert [one.fix for one in found if one.state == "failed"] == ["set execute.parallel: 1"]
    elsewhere = list(gpus.check_gpus(looked(tmp_path, big, can_i=lambda *_: True)))
    assert not [one for one in elsewhere if one.state == "failed"], "each pod has GPUs of its own"


def test_versions_are_those_that_some_training_needs(tmp_path: Path, big: dict[str, Any]) -> None:
    big["train"] |= {"zero_stage": 0, "rollout_engine": "transformers", "processes": 1}
    big["models"]["base"]["serve"] = {"engine": "transformers"}
    for name in ("plain", "full"):
        big["models"][name]["serve"] = {"engine": "transformers"}
    assert {"deepspeed", "vllm"}.isdisjoint(versions._wanted(looked(tmp_path, big)))
    big["arms"]["no-hri"] |= {"zero_stage": 2, "rollout_engine": "vllm"}
    assert {"deepspeed", "vllm"} <= set(versions._wanted(looked(tmp_path, big)))


def test_the_word_revision_is_refused_before_anybody_asks_the_hub(
    tmp_path: Path, big: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from polaris.checks.content import check_plan
    from polaris.cli.run import _require_revisions

    monkeypatch.undo()
    monkeypatch.setattr(base_model, "hub_files", lambda repo: pytest.fail("the hub was asked"))
    monkeypatch.setenv("FAKE_API_KEY", "none")
    big["models"]["base"] = {"kind": "checkpoint", "repo": "owner/name@REVISION"}
    subject = looked(tmp_path, big)
    assert base_model.find_base(subject) is None
    told = "models.base.repo: value 'owner/name@REVISION'"
    fix = "put the commit of the repository in the place of REVISION"
    (found,) = check_plan(subject)
    assert (found.state, found.detail, found.fix) == ("failed", told, fix)
    for call in (
        lambda: fetch_repository("owner/name@REVISION", "models.base.repo"),
        lambda: _require_revisions(open_run(subject.path)),
    ):
        with pytest.raises(ConfigError) as caught:
            call()
        assert str(caught.value) == f"{told}; {fix}"


def test_another_trainings_processes_are_left_alone(tmp_path: Path) -> None:
    """The folders of `train` and `train.no-hri` begin with the same letters."""
    code = "import time; time.sleep(600)"
    other = subprocess.Popen([sys.executable, "-c", code, f"--output={tmp_path}/train.no-hri/out"])
    try:
        end_orphans(tmp_path / "train" / "out")
        assert other.poll() is None
        end_orphans(tmp_path / "train.no-hri" / "out")
        assert other.wait(60) == -9
    finally:
        other.kill()
        other.wait()


def test_a_model_whose_arm_is_not_trained_yet_is_said_to_be_so(tmp_path: Path, raw: dict[str, Any]) -> None:
    from polaris.serve import checkpoint

    run = opened(tmp_path, raw)
    with pytest.raises(InputError, match=r"models\.plain: train\.no-hri is not complete"):
        checkpoint(run, "plain")
    with pytest.raises(InputError, match=r"models\.full: train is not complete"):
        checkpoint(run, "full")
