"""What a run costs: judge calls counted as training and evaluation really make them, and their prices."""

from __future__ import annotations

from typing import Any

import pytest
from fake_cluster import NOW, ago, job_pod, running, stage_job, terminated

from polaris.chat import Prices
from polaris.plan import Instance
from polaris.recipe import HRIConfig, TrainConfig
from polaris.release.cost import (
    Spent,
    Work,
    at_least,
    cheaper,
    forecast,
    gpus_of,
    pods_time,
    story_tokens,
    template_gpus,
    training_seconds_left,
)
from polaris.release.objects import Snapshot
from polaris.train.forecast import training_calls

PAPER = TrainConfig(base="base", judge="judge")
PLAIN = PAPER.model_copy(update={"hri": HRIConfig(max_weight=0)})


@pytest.mark.parametrize(
    ("steps", "prompts", "train", "calls"),
    [
        # The paper's run: 173 steps of 8 prompts, 5 rollouts and the reference each.
        (173, 1390, PAPER, 173 * 8 * 6),
        (0, 1390, PAPER, 0),
        # In a second pass the references' judgements are in the cache.
        (346, 1390, PAPER, 2 * 173 * 8 * 6 - 173 * 8),
        (346, 1390, PLAIN, 2 * 173 * 8 * 6),
        # Fewer prompts than fill a step: each of them is new.
        (3, 4, PLAIN, 3 * 48),
    ],
)
def test_training_calls(steps: int, prompts: int, train: TrainConfig, calls: int) -> None:
    assert training_calls(steps, prompts, train) == calls


def test_a_call_costs_what_earlier_calls_to_the_same_model_took() -> None:
    prices = {"reader": Prices(2.0, 8.0), "writer": Prices(1.0, 1.0)}
    works = [
        Work("train", "running", "reader", Spent(100, 400_000, 50_000, 1.2), 50.0),
        Work("judge.m.q", "", "reader", Spent(), 10.0),
        Work("judge.n.q", "running", "reader", Spent(3, usd=0.02), 7.0),
        Work("generate.w.q", "", "writer", Spent(), 4.0, (1000.0, 9000.0)),
        Work("report", "", ""),
    ]
    costs = forecast(works, prices, prompt_tokens=1, completion_tokens=1)
    train, judge, _, writer, report = [row.to_come for row in costs.rows]
    assert train == Spent(50, 200_000, 25_000, 0.6)
    assert judge == Spent(10, 40_000, 5_000, 0.12)
    assert writer == Spent(4, 1000, 9000, 0.01)
    assert report == Spent()
    assert costs.spent == Spent(103, 400_000, 50_000, 1.22)
    assert costs.to_come.calls == 71
    assert costs.to_come.usd == pytest.approx(0.6 + 0.12 + 0.084 + 0.01)
    assert "a call to reader reads 4,000 tokens and writes 500: measured over 100 calls of this run" in (
        costs.assumptions
    )


def test_before_the_first_call_the_tokens_are_assumed_and_said_to_be() -> None:
    costs = forecast([Work("train", "", "reader", Spent(), 8304.0)], {"reader": Prices(2.0, 8.0)})
    assert costs.to_come.prompt_tokens == 8304 * 8000
    assert costs.to_come.usd == pytest.approx(8304 * (8000 * 2 + 2500 * 8) / 1e6)
    assert any("--prompt-tokens" in line and "8,000" in line for line in costs.assumptions)
    free = forecast([Work("train", "", "own", Spent(), 10.0)], {})
    assert free.to_come.usd == 0
    assert any("own costs nothing a token" in line for line in free.assumptions)


def test_what_is_to_come_by_batch_or_flex_is_forecast_at_half_price() -> None:
    prices = {"reader": Prices(2.0, 8.0, half_price_tier=0.5), "plain": Prices(2.0, 8.0, half_price_tier=0.6)}
    works = [
        Work("train", "", "reader", calls_left=10.0, tier="flex"),
        Work("judge.m.q", "", "reader", calls_left=10.0, tier="batch"),
        Work("judge.n.q", "", "reader", calls_left=10.0),
        Work("judge.n.r", "", "plain", calls_left=10.0, tier="flex"),
    ]
    costs = forecast(works, prices, prompt_tokens=1000, completion_tokens=1000)
    assert [row.to_come and row.to_come.usd for row in costs.rows] == pytest.approx([0.05, 0.05, 0.1, 0.06])
    (said,) = [line for line in costs.assumptions if line.startswith("reader costs")]
    assert said.endswith("; half price by batch; half price by flex, as long as that has room")
    (said,) = [line for line in costs.assumptions if line.startswith("plain costs")]
    assert said.endswith("; 0.6 of the price by flex, as long as that has room")


@pytest.mark.parametrize(
    ("counts", "saved", "said"),
    [
        ({}, 0.0, []),
        ({"batch_calls": 0, "flex_calls": 0}, 0.0, []),
        ({"batch_calls": 3000}, 12.0, ["x: 3,000 of 3,000 calls by batch at half price"]),
        # 1,500 calls at full price and 1,500 at half of it are 0.75 of the price of all.
        ({"flex_calls": 1500}, 4.0, ["x: 1,500 of 3,000 calls by flex at half price"]),
        (
            {"batch_calls": 1000, "flex_calls": 500},
            4.0,
            [
                "x: 1,000 of 3,000 calls by batch at half price",
                "x: 500 of 3,000 calls by flex at half price",
            ],
        ),
    ],
)
def test_what_batch_and_flex_saved(counts: dict[str, float], saved: float, said: list[str]) -> None:
    found = cheaper("x", counts, Spent(3000, usd=12.0), Prices(2.0, 8.0, half_price_tier=0.5))
    assert found == (pytest.approx(saved), said)
    assert cheaper("x", {}, Spent(), Prices()) == (0.0, [])


def test_what_nobody_can_tell_is_none_and_no_zero() -> None:
    costs = forecast([Work("train", "", "reader", Spent(), None)], {})
    assert costs.rows[0].to_come is None
    assert costs.gpu_hours is None


def test_the_steps_to_come_take_as_long_as_the_last_ones() -> None:
    rows: list[dict[str, Any]] = [{"step_seconds": 1000.0}, *({"step_seconds": 60.0} for _ in range(10))]
    assert training_seconds_left(rows, 5) == 300.0
    assert training_seconds_left([], 5) is None


def test_a_story_takes_as_many_tokens_as_its_target_at_most_its_limit() -> None:
    assert story_tokens([1000, 10_000], 8192) == 1400 + 8192


def test_gpus_are_counted_over_containers_and_machines() -> None:
    def container(count: str, **more: Any) -> dict[str, Any]:
        return {"resources": {"limits": {"nvidia.com/gpu": count, "memory": "1Gi"}}, **more}

    spec = {"containers": [container("2"), {"name": "sidecar"}]}
    assert gpus_of(spec) == 2
    assert gpus_of(spec | {"initContainers": [container("1", restartPolicy="Always"), container("8")]}) == 3
    assert template_gpus({"spec": {"parallelism": 2, "template": {"spec": spec}}}) == 4
    assert template_gpus(None) == 0


def test_the_time_of_pods() -> None:
    job = stage_job(Instance("train", "train", {}, (), (), {}, "a" * 16), begun=1000)
    first = job_pod(job, "Failed", terminated(1, at=600), gpus=4)
    second = job_pod(job, "Running", running(), gpus=4)
    second["status"]["startTime"] = ago(500)
    beside = job_pod(job, "Running", running(), gpus=4)
    beside["status"]["startTime"] = ago(450)
    snapshot = Snapshot(NOW)
    assert pods_time([], snapshot) is None
    assert pods_time([first], snapshot) == (400.0, 1600.0)
    assert pods_time([first, second, beside], snapshot) == (900.0, 4 * (400.0 + 500.0 + 450.0))


def test_a_server_took_at_least_the_time_of_those_who_used_it() -> None:
    work = at_least(Work("service-reader", "", wall_s=10.0, gpu_s=10.0), 100.0, 2)
    assert (work.wall_s, work.gpu_s) == (100.0, 200.0)
    work = at_least(Work("service-reader", "", wall_s=500.0, gpu_s=500.0), 100.0, 1)
    assert (work.wall_s, work.gpu_s) == (500.0, 500.0)
    assert at_least(Work("service-reader", ""), 100.0, 0).gpu_s is None
