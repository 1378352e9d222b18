"""A training that is stopped and killed goes on as if nothing had happened; the judge is FAKE.

One small case each; the full counts are in `test_acceptance_preemption.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from signal import SIGKILL, SIGTERM

import pytest
from fake_endpoint import FakeEndpoint, fake_endpoint
from preempt import Blow, Judge, check_calls, check_course, differing, make

pytestmark = pytest.mark.slow


@pytest.fixture
def judge() -> Judge:
    return Judge()


@pytest.fixture
def asked(judge: Judge) -> Iterator[FakeEndpoint]:
    with fake_endpoint(judge) as found:
        yield found
        judge.end()


def test_in_process_it_is_the_undisturbed_one_to_the_bit(tmp_path, monkeypatch, judge, asked):
    settings = {"max_steps": 5, "save_steps": 2}
    whole = make(tmp_path / "whole", judge, asked, monkeypatch, **settings)
    whole.run()
    assert check_calls(whole) == 0
    asked.requests.clear()
    # Stopped it saves its step; killed in its fourth it loses what was judged, and keeps the answers.
    training = make(tmp_path / "hit", judge, asked, monkeypatch, **settings)
    training.run([Blow(SIGTERM, 1, judging=True), Blow(SIGKILL, 3, judging=True)])
    assert training.resumed == [2, 2]
    check_course(training)
    assert check_calls(training) == 1, "the call that was under way, and no other, was paid for again"
    assert differing(training.rows(), whole.rows()) == {}
    name = "model/model.safetensors"
    assert training.artifact().read(name) == whole.artifact().read(name)


def test_colocated_what_is_paid_again_is_what_was_lost(tmp_path, monkeypatch, judge, asked):
    settings = {"max_steps": 4, "save_steps": 2, "rollout_engine": "vllm", "max_completion_tokens": 24}
    training = make(tmp_path / "hit", judge, asked, monkeypatch, **settings)
    training.run([Blow(SIGKILL, 3, judging=True, forgets=True)])
    assert training.resumed == [2]
    check_course(training)
    # The four policy rows of the third step, and all of the fourth but the references that it shares.
    assert check_calls(training) > 4
    assert [row["judge/repaid"] > 0 for row in training.rows()] == [False, False, True, True]


def test_two_sharded_processes_go_on_together(tmp_path, monkeypatch, judge, asked):
    settings = {"max_steps": 3, "save_steps": 1, "processes": 2, "zero_stage": 3, "micro_batch": 1}
    training = make(tmp_path / "hit", judge, asked, monkeypatch, **settings)
    training.run([Blow(SIGKILL, 2, judging=True)])
    assert training.resumed == [2]
    check_course(training)
    # The stories are the same to the bit: all that was answered is found.
    assert check_calls(training) == 1
