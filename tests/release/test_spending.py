"""What a run has spent, read from a real `file://` store, and what it has yet to do."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from context import settings
from fake_cluster import NOW, job_pod, running, stage_job

from polaris.artifact import MANIFEST, Manifest, Progress, from_rows
from polaris.budget import open_budget
from polaris.cli.cost import print_costs
from polaris.release.cost import Spent, Work
from polaris.release.objects import Snapshot
from polaris.release.spending import Cluster, works_of
from polaris.run import Run, open_run

TRAIN = {"base": "base", "judge": "judge", "prompts_per_step": 2, "group_size": 3, "micro_batch": 1}

GPU = {
    "spec": {"template": {"spec": {"containers": [{"resources": {"limits": {"nvidia.com/gpu": 1}}}]}}},
}


def opened(folder: Path, *, cheap: bool = False, budget: float | None = None, **train: object) -> Run:
    """Return a run that trains, writes with a paid model and with its own, and judges with a paid one.

    A `cheap` one asks both at the flex tier, and the judge of its evaluation by batch.
    """
    found = settings(folder)
    for name in ("writer", "reader"):
        found["models"][name] |= {"usd_per_million_prompt_tokens": 2, "usd_per_million_completion_tokens": 8}
        if cheap:
            found["models"][name]["service_tier"] = "flex"
    found["judges"]["judge"]["batch"] = cheap
    found["execute"]["budget_usd"] = budget
    base = folder / "base"
    base.mkdir(exist_ok=True)
    (base / "config.json").write_text("{}")
    found["models"] |= {"base": {"kind": "checkpoint", "path": "base"}, "trained": {"kind": "trained"}}
    found["evaluations"]["quality"]["models"] = ["writer", "trained"]
    found |= {"train": TRAIN | train}
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(found), encoding="utf-8")
    return open_run(path)


def finish(
    run: Run, name: str, *, counts: dict[str, float], cost: dict[str, float], seconds: float = 60
) -> None:
    instance = run.instance(name)
    times = {"started": "2026-01-01T00:00:00+00:00", "finished": "2026-01-01T00:01:00+00:00"}
    manifest = Manifest(
        run=run.config.run,
        instance=name,
        kind=instance.kind,
        digest=instance.digest,
        attempt="1",
        objects=(),
        identity={},
        config={},
        upstream={},
        versions={},
        seconds=seconds,
        counts=counts,
        cost=cost,
        **times,
    )
    run.store.put(f"{run.prefix(name)}{MANIFEST}", manifest.to_json())


def work(found: tuple[list[Work], list[str]], name: str) -> Work:
    return next(one for one in found[0] if one.name == name)


def test_before_the_pairs_are_made_nobody_can_tell_the_steps(tmp_path: Path) -> None:
    works = works_of(opened(tmp_path))
    assert work(works, "train").calls_left is None
    assert any("give --steps" in line for line in works[1])
    assert work(works_of(opened(tmp_path), steps=173), "train").calls_left == 173 * 6
    # Two prompts in the file: two stories, two judgements each model.
    assert work(works, "judge.writer.quality") == Work("judge.writer.quality", "", "reader", Spent(), 2.0)
    assert work(works, "generate.trained.quality").calls_left == 0, "its own model costs nothing a call"
    paid = work(works, "generate.writer.quality")
    assert (paid.asked, paid.calls_left) == ("writer", 2.0)
    assert paid.tokens_left is not None
    assert paid.tokens_left[1] == 2 * 64, "cut at max_tokens"


def test_flex_and_batch_are_forecast_and_what_they_saved_is_told(tmp_path: Path) -> None:
    run = opened(tmp_path, cheap=True, max_steps=4)
    found = works_of(run)
    tiers = {one.name: one.tier for one in found[0] if one.asked}
    assert tiers == {
        "train": "flex",
        "generate.writer.quality": "flex",
        "judge.writer.quality": "batch",
        "judge.trained.quality": "batch",
    }
    finish(run, "judge.writer.quality", counts={"batch_calls": 2}, cost={"calls": 2, "usd": 0.5})
    works, said = works_of(run)
    assert work((works, said), "judge.writer.quality").saved == pytest.approx(0.5)
    assert "judge.writer.quality: 2 of 2 calls by batch at half price" in said
    plain = works_of(opened(tmp_path, max_steps=4))
    assert {one.tier for one in plain[0]} == {"standard"}


def test_the_table_tells_of_the_budget_and_of_what_was_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = opened(tmp_path, cheap=True, budget=5.0, max_steps=4)
    finish(run, "judge.writer.quality", counts={"batch_calls": 2}, cost={"calls": 2, "usd": 0.5})
    budget = open_budget(run.config, run.store)
    assert budget is not None

    def shown(as_json: bool = False) -> str:
        print_costs(run, *works_of(run), (None, None), None, as_json=as_json)
        return capsys.readouterr().out

    assert "\nBudget: 5.00 USD, 0.00 spent\n" in shown()
    asyncio.run(budget.reserve(1.2345))
    budget.settle(1.2345, 1.2345)
    assert "\nBudget: 5.00 USD, 0.00 spent, 1.23 held by processes that run or were killed\n" in shown()
    budget.close()
    assert "\nBudget: 5.00 USD, 1.23 spent\n" in shown()
    assert "0.50 USD (about 0.50 more without batch and flex)\n" in shown()
    assert json.loads(shown(as_json=True))["budget"] == {
        "usd": 5.0,
        "spent": pytest.approx(1.2345),
        "held": 0,
    }
    run = opened(tmp_path, budget=2.0, max_steps=4)
    assert "\nThe judges' calls to come need 0.94 USD: raise execute.budget_usd\n" in shown()
    run = opened(tmp_path, max_steps=4)
    assert "Budget" not in shown()
    assert json.loads(shown(as_json=True))["budget"] is None


def test_a_training_under_way_and_what_its_lost_steps_cost(tmp_path: Path) -> None:
    run = opened(tmp_path)
    finish(run, "data", counts={"train": 11, "validation": 2}, cost={})
    step = {"judge/calls": 6, "judge/prompt_tokens": 600, "judge/completion_tokens": 60, "judge/usd": 0.5}
    progress = Progress(run.store, run.prefix("train"))
    progress.put("metrics.jsonl", from_rows([{**step, "step": n, "step_seconds": 10} for n in (1, 2)]))
    progress.put("spent.json", json.dumps({"calls": 6, "usd": 0.25, "prompt_tokens": 600}).encode())
    found = work(works_of(run), "train")
    assert found.spent == Spent(18, 1800, 120, 1.25)
    # 11 pairs fill 5 steps of 2 prompts × 3 rows.
    assert found.calls_left == 3 * 6
    finish(run, "train", counts={}, cost={"calls": 30, "usd": 2.5, "cached_calls": 4})
    found = work(works_of(run), "train")
    assert (found.spent, found.calls_left, found.state) == (Spent(30, usd=2.5), 0.0, "complete")


def test_validations_to_come_are_counted(tmp_path: Path) -> None:
    run = opened(tmp_path, validation={"every_steps": 2, "limit": 3})
    finish(run, "data", counts={"train": 11, "validation": 4}, cost={})
    # 5 steps of 6 rows; before the first, after the second and after the fourth, 3 stories each.
    works = works_of(run)
    assert work(works, "train").calls_left == 5 * 6 + 3 * 3
    assert "train has 3 validations left, of at most 3 held back pairs each" in works[1]
    progress = Progress(run.store, run.prefix("train"))
    progress.put("metrics.jsonl", from_rows([{"step": 1, "step_seconds": 10, "judge/calls": 6}]))
    cluster = Cluster(Snapshot(NOW), templates={"stage-train.yaml": GPU})
    works = works_of(run, cluster)
    assert work(works, "train").calls_left == 4 * 6 + 2 * 3
    assert work(works, "train").gpu_s_left == 40
    assert "the time of train's validations to come is not known yet" in works[1]
    progress.put("validation.jsonl", from_rows([{"step": 0, "step_seconds": 7, "judge/calls": 3}]))
    works = works_of(run, cluster)
    train = work(works, "train")
    assert (train.spent.calls, train.calls_left, train.gpu_s_left) == (9, 4 * 6 + 2 * 3, 40 + 2 * 7)
    # Without the data nobody knows how many pairs are held back.
    bare = tmp_path / "bare"
    bare.mkdir()
    works = works_of(opened(bare, max_steps=4))
    assert work(works, "train").calls_left == 4 * 6
    assert (
        "train's validations are not counted: data has yet to tell how many pairs are held back" in works[1]
    )


def test_a_finished_training_is_told_beside_its_forecast(tmp_path: Path) -> None:
    run = opened(tmp_path, max_steps=4)
    told = {"steps": 4, "calls": 24, "usd": 1.5, "hours": 2.0, "hours_low": 1.0, "hours_high": 4.0}
    Progress(run.store, run.prefix("train")).put("forecast.json", json.dumps(told).encode())
    counts = {"steps": 4, "hours": 2.25}
    finish(run, "train", counts=counts, cost={"calls": 25, "usd": 1.25})
    assert (
        "train was forecast: steps 4, it took 4; judge calls 24, it took 25; US$ to the judge 1.50, it took"
        " 1.25; hours 1.0 to 4.0, it took 2.2" in works_of(run)[1]
    )


def test_what_is_under_way_is_not_forecast_again(tmp_path: Path) -> None:
    run = opened(tmp_path, max_steps=4)
    Progress(run.store, run.prefix("generate.writer.quality")).put("rows/a-0.json", b"{}")
    event = {"what": "judgements", "done": 1, "total": 2, "cached": 0, "usd": 0.01}
    cluster = Cluster(Snapshot(NOW), progress={"judge.writer.quality": event})
    works = works_of(run, cluster)
    assert work(works, "train").calls_left == 4 * 6
    assert work(works, "generate.writer.quality").calls_left == 1.0
    judge = work(works, "judge.writer.quality")
    assert (judge.spent, judge.calls_left) == (Spent(1, usd=0.01), 1.0)


def test_gpu_time_by_pods_else_by_manifests(tmp_path: Path) -> None:
    run = opened(tmp_path, max_steps=4)
    gpus = {"resources": {"limits": {"nvidia.com/gpu": 4}}}
    four = {"spec": {"template": {"spec": {"containers": [gpus]}}}}
    one = {"spec": {"template": {"spec": {"containers": [{"resources": {"limits": {"nvidia.com/gpu": 1}}}]}}}}
    Progress(run.store, run.prefix("train")).put(
        "metrics.jsonl", from_rows([{"step": 1, "step_seconds": 9.0}])
    )
    job = stage_job(run.instance("train"), begun=100)
    snapshot = Snapshot(NOW, jobs=[job], pods=[job_pod(job, "Running", running(90), gpus=4)])
    finish(run, "generate.trained.quality", counts={}, cost={}, seconds=600)
    templates = {"stage-train.yaml": four, "serve-trained.yaml": one}
    works = works_of(run, Cluster(snapshot, {"train": "running"}, {}, templates))
    train = work(works, "train")
    assert (train.wall_s, train.gpu_s, train.gpu_s_left) == (100.0, 400.0, 3 * 9.0 * 4)
    assert work(works, "service-trained").gpu_s == 600.0
    assert work(works, "generate.trained.quality").wall_s == 600.0
    assert any("pods are gone" in line for line in works[1])
    # Without a cluster there are times and no GPUs.
    works = works_of(run)
    assert work(works, "generate.trained.quality").wall_s == 600.0
    assert all(one.gpu_s is None and one.gpu_s_left is None for one in works[0])


def test_prompts_that_only_the_pods_can_read_leave_no_forecast(tmp_path: Path) -> None:
    run = opened(tmp_path, max_steps=4)
    (tmp_path / "prompts.jsonl").unlink()
    works = works_of(run)
    assert work(works, "judge.writer.quality").calls_left is None
    assert any("no forecast for judge.writer.quality" in line for line in works[1])


@pytest.mark.parametrize("made", [False, True])
def test_what_is_made_on_demand_counts_once_it_is_made(tmp_path: Path, made: bool) -> None:
    run = opened(tmp_path, max_steps=4)
    name = "judge.writer.quality"
    plan = replace(run.plan, instances=dict(run.plan.instances))
    plan.instances[name] = replace(plan.instances[name], on_demand=True)
    run = replace(run, plan=plan)
    if made:
        finish(run, name, counts={}, cost={"calls": 2, "usd": 1.0})
    works, said = works_of(run)
    assert (name in [one.name for one in works]) == made
    assert any(name in line for line in said) != made
