"""Validation by two processes under ZeRO-3, and by an engine inside the process; the judge is INVENTED."""

import json

import pytest
from fakes import metrics, write_job
from held_back import HELD_BACK, hold_back
from models import tiny_model
from safetensors.torch import load_file
from test_colocate import colocated
from test_colocate import run as run_colocated
from test_zero import torchrun

from polaris.train import underway
from polaris.train.checkpoint import complete
from polaris.train.job import read_status

pytestmark = pytest.mark.slow

VALIDATION = {"every_steps": 1, "sampling": {"temperature": 0.7}}


def rows(job):
    return [json.loads(line) for line in (job.output / "validation.jsonl").read_text().splitlines()]


def told(job, step):
    path = job.output / "samples" / f"step-{step:06}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_two_processes_divide_the_prompts_and_stop_together(tmp_path):
    base = tiny_model(tmp_path / "base")
    settings = {"processes": 2, "zero_stage": 3, "micro_batch": 1, "max_steps": 3, "save_steps": 100}
    often = VALIDATION | {"before_first": False}
    job = write_job(tmp_path / "stopped", base, validation=often, **settings)
    hold_back(job.pairs)
    # Rank 1 asks three times a step and once a validation: this is the second step's.
    code, said = torchrun(job, 2, "faulty.py", FAKE_FAULT_RANK="1", FAKE_FAULT_CALL="8")
    assert code == 1, said
    message = "execute.budget_usd: value 1; spent; checkpoint-2 is saved"
    assert read_status(job.output) == {"code": 4, "message": message}
    assert [path.name for path in complete(job.checkpoints)] == ["checkpoint-2"]
    # Three prompts: one of the two processes has a place too many.
    assert [(row["step"], row["n"], row["judge/calls"]) for row in rows(job)] == [(1, 3, 3)]
    assert [one["uid"] for one in told(job, 1)] == [uid for uid, *_ in HELD_BACK]
    noted = [(note["step"], note["validation"], note["judge/calls"]) for note in underway.read(job.output)]
    assert noted == [(2, True, 2), (2, True, 1)]


def test_an_engine_writes_and_is_compared_as_in_a_step(tmp_path):
    job = colocated(tmp_path / "a", tiny_model(tmp_path / "base"), validation=VALIDATION)
    hold_back(job.pairs)
    code, message, found = run_colocated(job)
    assert code == 0, message
    assert [(row["step"], row["n"], row["failed"]) for row in rows(job)] == [(i, 3, 0) for i in range(3)]
    assert len({one["story"] for step in range(3) for one in told(job, step)}) > 3
    # The first of the two steps is compared too, although the validation before it has sent the weights.
    assert all(0 < row["engine/logprob_max_difference"] < 1e-3 for row in found)


@pytest.mark.acceptance
def test_two_sharded_processes_train_as_without(tmp_path):
    base = tiny_model(tmp_path / "base")
    settings = {"processes": 2, "zero_stage": 3, "micro_batch": 1, "max_steps": 2}
    job = write_job(tmp_path / "with", base, validation=VALIDATION, **settings)
    hold_back(job.pairs)
    without = write_job(tmp_path / "without", base, validation=None, **settings)
    for one in (job, without):
        code, said = torchrun(one, 2)
        assert code == 0, said
    assert [(row["step"], row["n"], row["judge/calls"]) for row in rows(job)] == [(i, 3, 3) for i in range(3)]
    ours, theirs = (load_file(one.output / "model" / "model.safetensors") for one in (job, without))
    assert all((ours[name] == theirs[name]).all() for name in theirs)
    for name in ("reward", "loss", "grad_norm", "judge/calls"):
        assert [row[name] for row in metrics(job)] == [row[name] for row in metrics(without)], name


@pytest.mark.acceptance
def test_an_engine_draws_as_without(tmp_path):
    base = tiny_model(tmp_path / "base")
    job = colocated(tmp_path / "with", base, validation=VALIDATION)
    hold_back(job.pairs)
    without = colocated(tmp_path / "without", base, validation=None)
    found, expected = (run_colocated(one)[2] for one in (job, without))
    assert len(rows(job)) == 3
    for name in ("reward", "entropy", "engine/logprob_max_difference"):
        assert [row[name] for row in found] == [row[name] for row in expected], name
