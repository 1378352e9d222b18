"""Preemption at its full count: stopped five times and killed three times, in each way of training.

The figures go to docs/measured.md. Takes about ten minutes on two idle cores.
"""

from __future__ import annotations

from collections.abc import Iterator
from signal import SIGKILL, SIGTERM
from typing import Any

import pytest
from fake_endpoint import FakeEndpoint, fake_endpoint
from measured import Figure, write
from preempt import Blow, Judge, Training, check_calls, check_course, differing, make

pytestmark = pytest.mark.acceptance

FIGURES: list[Figure] = []
STEPS = {"max_steps": 12, "save_steps": 2}
RESUMED = [2, 2, 5, 6, 6, 8, 8, 10]
WEIGHTS = "model/model.safetensors"


def blows(*, forgets: bool = False) -> list[Blow]:
    return [
        Blow(SIGTERM, 1, judging=True),
        Blow(SIGKILL, 3, judging=True, forgets=forgets),
        Blow(SIGTERM, 4, judging=True),
        Blow(SIGTERM, 5, judging=True),
        Blow(SIGKILL, 7, forgets=forgets),
        Blow(SIGTERM, 7, judging=True),
        Blow(SIGKILL, 8, judging=True, forgets=forgets),
        Blow(SIGTERM, 9, judging=True),
    ]


@pytest.fixture(scope="module", autouse=True)
def measured(request: pytest.FixtureRequest) -> Iterator[None]:
    """Write what was measured when all cases have passed."""
    FIGURES.clear()
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed == failed and len(FIGURES) == 9:
        write("preemption", "make acceptance", FIGURES)


@pytest.fixture
def judge() -> Judge:
    return Judge()


@pytest.fixture
def asked(judge: Judge) -> Iterator[FakeEndpoint]:
    with fake_endpoint(judge) as found:
        yield found
        judge.end()


def tell(what: str, training: Training, repaid: float, bound: str) -> None:
    asked, steps = len(training.asked.requests), len(training.rows())
    FIGURES.append((f"{what}: steps, data order and weights as planned", f"{steps} of {steps}", "all"))
    FIGURES.append((f"{what}: requests that the judge got, and that are booked", f"{asked} and {asked}", "="))
    FIGURES.append((f"{what}: of them paid for again", f"{repaid:.0f}", bound))


@pytest.mark.parametrize(
    ("what", "settings"),
    [
        ("in-process", {}),
        ("two processes, ZeRO-3", {"processes": 2, "zero_stage": 3, "micro_batch": 1}),
    ],
    ids=["in-process", "sharded"],
)
def test_it_is_the_undisturbed_one_to_the_bit(
    tmp_path: Any, monkeypatch: Any, judge: Judge, asked: FakeEndpoint, what: str, settings: dict[str, Any]
) -> None:
    whole = make(tmp_path / "whole", judge, asked, monkeypatch, **STEPS, **settings)
    whole.run()
    assert check_calls(whole) == 0
    asked.requests.clear()
    training = make(tmp_path / "hit", judge, asked, monkeypatch, **STEPS, **settings)
    training.run(blows())
    assert training.resumed == RESUMED
    check_course(training)
    repaid = check_calls(training)
    # Two of the kills came while one call was unanswered.
    assert repaid == 2
    assert differing(training.rows(), whole.rows()) == {}
    assert training.artifact().read(WEIGHTS) == whole.artifact().read(WEIGHTS)
    tell(f"{what}, parameters bit-equal", training, repaid, "2 in flight")


def test_colocated_what_is_paid_again_is_what_was_lost(
    tmp_path: Any, monkeypatch: Any, judge: Judge, asked: FakeEndpoint
) -> None:
    engine = {"rollout_engine": "vllm", "max_completion_tokens": 24}
    training = make(tmp_path / "hit", judge, asked, monkeypatch, **STEPS, **engine)
    training.run(blows(forgets=True))
    assert training.resumed == RESUMED
    check_course(training)
    repaid = check_calls(training)
    again = [row["step"] for row in training.rows() if row["judge/repaid"]]
    # The eighth may have been begun when the node went.
    assert set(again) - {8} == {3, 4, 7, 9}
    tell("colocated engine, other stories after each kill", training, repaid, "those of lost steps")
