"""The real trainer on a tiny model, its judge failing by FAKE faults: what is trained and what is saved."""

import random

import heavy  # noqa: F401
import pytest
import torch
from fakes import STORIES, invented_judge, metrics, write_job
from models import tiny_model
from safetensors.torch import load_file

from polaris.errors import BudgetError, ConfigError, GuardError, TransientError
from polaris.judge.score import JudgeFailed
from polaris.load import load
from polaris.recipe import ThinkingPenalty
from polaris.runtime import StopFlag
from polaris.train import references, underway
from polaris.train.checkpoint import complete
from polaris.train.trainer import ReferenceTrainer
from polaris.train.worker import train

pytestmark = pytest.mark.filterwarnings(
    # Those of torch, TRL and transformers at work; none is of our making.
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::UserWarning",
)

CALLS_A_STEP = 6


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, base):
    """Train four steps under a judge that works."""
    job = write_job(tmp_path_factory.mktemp("undisturbed"), base, max_steps=4, save_steps=100)
    run(job)
    return job


def run(job, judge=invented_judge, **reward):
    config = load(job.config)
    if reward:
        config = config.model_copy(update={"reward": config.reward.model_copy(update=reward)})
    return train(job, config, StopFlag(), judge=judge)


def failing_from(call, error):
    """Return an INVENTED judge whose calls fail from the given one on, counted from 1."""
    calls = 0

    async def judge(prompt, story):
        nonlocal calls
        calls += 1
        if calls >= call:
            raise error
        return await invented_judge(prompt, story)

    return judge


def saved(job):
    return [path.name for path in complete(job.checkpoints)]


def same_weights(left, right):
    ours, theirs = (load_file(job.output / "model" / "model.safetensors") for job in (left, right))
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (
            BudgetError("execute.budget_usd: value 1; spent"),
            BudgetError,
            "^execute.budget_usd: value 1; spent;",
        ),
        (ConfigError("models.judge: key not accepted"), ConfigError, "^models.judge: key not accepted;"),
        (JudgeFailed("timed out", unavailable=True), TransientError, "^the judge is out: 6 .* timed out;"),
        (JudgeFailed("cut"), GuardError, "^the judge keeps failing: 6 of the last 12 calls.* cut;"),
    ],
)
def test_what_stops_the_judge_stops_the_run_with_the_last_step_saved(
    tmp_path, base, undisturbed, error, kind, message
):
    # From the first call of the third step, or, for what one call is enough for, from its last one.
    call = 3 * CALLS_A_STEP if isinstance(error, BudgetError | ConfigError) else 2 * CALLS_A_STEP + 1
    job = write_job(tmp_path / "a", base, max_steps=4, save_steps=100)
    with pytest.raises(kind, match=f"{message} checkpoint-2 is saved$"):
        run(job, failing_from(call, error), failed_window=10, max_failed_share=0.4)
    assert saved(job) == ["checkpoint-2"]
    assert [row["step"] for row in metrics(job)] == [1, 2]
    [noted] = underway.read(job.output)
    assert (noted["step"], noted["judge/calls"]) == (3, CALLS_A_STEP)
    assert not (job.output / "model").exists()
    # Gone on from there, it is as if nothing had happened: same stories, same order, same weights.
    resumed = write_job(
        tmp_path / "a", base, max_steps=4, save_steps=100, resume=job.checkpoints / "checkpoint-2"
    )
    run(resumed)
    assert [row["step"] for row in metrics(resumed)] == [1, 2, 3, 4]
    assert [row["reward"] for row in metrics(resumed)] == [row["reward"] for row in metrics(undisturbed)]
    assert same_weights(resumed, undisturbed)


def test_a_step_that_is_saved_already_is_not_saved_again(tmp_path, base):
    job = write_job(tmp_path / "a", base)
    with pytest.raises(BudgetError, match="checkpoint-1 is saved$"):
        run(job, failing_from(CALLS_A_STEP + 1, BudgetError("spent")))
    layout = job.checkpoints / "checkpoint-1" / "polaris.json"
    before = layout.stat().st_mtime_ns
    resumed = write_job(tmp_path / "a", base, resume=job.checkpoints / "checkpoint-1")
    with pytest.raises(BudgetError, match="checkpoint-1 is saved$"):
        run(resumed, failing_from(1, BudgetError("spent")))
    assert layout.stat().st_mtime_ns == before


def test_a_penalty_on_thoughts_needs_a_model_that_thinks(tmp_path, base):
    job = write_job(tmp_path / "a", base)
    with pytest.raises(ConfigError, match="^reward.thinking: base does not think; .*models.base.thinking"):
        run(job, thinking=ThinkingPenalty())


def test_a_judge_that_is_out_from_the_start_is_transient(tmp_path, base):
    job = write_job(tmp_path / "a", base)
    error = JudgeFailed("connection failed (6 attempts)", unavailable=True)
    with pytest.raises(TransientError, match="^the judge is out: 6 of this step's 6 calls .*; nothing was"):
        run(job, failing_from(1, error))
    assert not saved(job)


@pytest.mark.parametrize("window", [10, 60])
def test_a_judge_that_always_fails_is_stopped_within_the_limit(tmp_path, base, window):
    job = write_job(tmp_path / "a", base, max_steps=100, save_steps=1000)
    limit = window // 2 // CALLS_A_STEP
    end = f"checkpoint-{limit} is saved" if limit else "nothing was trained yet"
    with pytest.raises(GuardError, match=f"reward.max_failed_share 0.5 .*cut; {end}$"):
        run(job, failing_from(1, JudgeFailed("cut")), failed_window=window)
    if limit:
        assert len(metrics(job)) == limit
    assert saved(job) == ([f"checkpoint-{limit}"] if limit else [])


def test_one_call_in_ten_failing_is_as_if_those_rows_were_not_there(tmp_path, base, monkeypatch):
    seen, drawn = [], random.Random(5)
    generate = ReferenceTrainer._generate_and_score_completions

    def spy(self, inputs):
        out = generate(self, inputs)
        logged = list(self._logs["advantages"])[-len(inputs) :]
        seen.append((self._rewards.clone(), out["is_reference"].clone(), out["advantages"].clone(), logged))
        return out

    async def judge(prompt, story):
        if drawn.random() < 0.1:
            raise JudgeFailed("cut")
        return await invented_judge(prompt, story)

    monkeypatch.setattr(ReferenceTrainer, "_generate_and_score_completions", spy)
    size = 6
    job = write_job(tmp_path / "a", base, group_size=size, micro_batch=6, max_steps=4)
    run(job, judge)
    lost = 0
    for row, (rewards, marks, advantages, logged) in zip(metrics(job), seen, strict=True):
        assert logged == advantages.tolist()
        lost += int(rewards.isnan().sum())
        assert row["judge/failed"] == rewards.isnan().sum()
        assert (advantages[rewards.isnan()] == 0).all()
        for start in range(0, len(rewards), size):
            group = slice(start, start + size)
            kept = ~rewards[group].isnan()
            alone = references.advantages(
                rewards[group][kept], marks[group][kept], int(kept.sum()), row["hri/weight"], 1e-6, 10.0
            )
            torch.testing.assert_close(advantages[group][kept], alone, rtol=1e-5, atol=1e-7)
    assert 0 < lost < 12
    assert not any(story in (job.output / "metrics.jsonl").read_text() for story in STORIES)
