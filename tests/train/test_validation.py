"""Validation inside a real training of a tiny model, generating in-process; the judge is INVENTED."""

import json
from unittest.mock import MagicMock

import heavy  # noqa: F401
import pytest
import torch
from fakes import invented_judge, metrics, write_job
from held_back import HELD_BACK, hold_back
from models import THINKING, tiny_model
from safetensors.torch import load_file
from transformers.integrations import WandbCallback
from transformers.integrations.integration_utils import WandbLogModel

from polaris.errors import BudgetError
from polaris.judge.score import JudgeFailed
from polaris.load import load
from polaris.reward.composite import Weights, reward, score_story
from polaris.reward.quality import overall
from polaris.reward.settings import floors_of
from polaris.runtime import StopFlag
from polaris.train import underway
from polaris.train.build import Built
from polaris.train.checkpoint import complete
from polaris.train.trainer import ReferenceTrainer
from polaris.train.worker import train

pytestmark = pytest.mark.filterwarnings(
    # Those of torch, TRL and transformers at work; none is of our making.
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::UserWarning",
)

OFTEN = {"every_steps": 2, "sampling": {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.3}}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("base"))


def job_with(folder, base, *, more=None, resume=None, **train):
    job = write_job(folder, base, resume=resume, **{"validation": OFTEN, "max_steps": 4} | train)
    hold_back(job.pairs, more=more)
    # So that stories of a few words are neither blank nor without a length penalty.
    text = (
        "reward: {min_words: 2, min_target: 10, lower_floor: 5, upper_floor: 5, lower_cap: 9, upper_cap: 9}"
    )
    job.config.write_text(f"{job.config.read_text()}{text}\n")
    return job


def run(job, judge=invented_judge, stop=None):
    return train(job, load(job.config), stop or StopFlag(), judge=judge)


def rows(job):
    path = job.output / "validation.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def samples(job, step):
    path = job.output / "samples" / f"step-{step:06}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def untimed(found):
    return [
        {k: v for k, v in row.items() if k not in ("seconds", "step_seconds", "step_time")} for row in found
    ]


def weights(job):
    return load_file(job.output / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, base):
    """A training of four steps with a validation before it and after every second."""
    job = job_with(tmp_path_factory.mktemp("whole"), base)
    run(job)
    return job


def test_training_is_the_same_to_the_bit_with_and_without(tmp_path, base, whole):
    without = job_with(tmp_path / "without", base, validation=None)
    run(without)
    assert not (without.output / "validation.jsonl").exists()
    ours, theirs = weights(whole), weights(without)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert untimed(metrics(whole)) == untimed(metrics(without))
    state = [
        torch.load(one.checkpoints / "checkpoint-4" / "rng_state.pth", weights_only=False)["cpu"]
        for one in (whole, without)
    ]
    assert torch.equal(*state)


def test_the_figures_are_those_of_its_own_weights(whole):
    found = rows(whole)
    assert [row["step"] for row in found] == [0, 2, 4]
    config = load(whole.config).reward
    own = Weights(quality=1.0, repetition=0.8, length=0.2, blank=1.0, length_reward=0.0)
    for row in found:
        told = samples(whole, row["step"])
        assert [one["uid"] for one in told] == [uid for uid, *_ in HELD_BACK]
        expected, others = [], []
        for one, (_, prompt, _, target) in zip(told, HELD_BACK, strict=True):
            assert (one["prompt"], one["target"]) == (prompt, target)
            judgement = _judged(one["story"])
            parts = score_story(one["story"], target, judgement, floors=floors_of(config))
            assert one["judgement"]["overall"] == overall(judgement)
            assert one["parts"]["quality"] == parts.quality
            assert one["parts"]["length"] == parts.length
            assert one["words"] == parts.words
            expected.append(reward(parts, own))
            others.append(reward(parts))
        assert [one["reward"] for one in told] == expected
        assert expected != others
        assert row["reward"] == pytest.approx(sum(expected) / 3)
        assert row["reward/length"] > 0
        assert row["reward/quality"] == pytest.approx(sum(one["parts"]["quality"] for one in told) / 3)
        assert row["lengths/words_mean"] == pytest.approx(sum(one["words"] for one in told) / 3)
        assert row["lengths/target_mean"] == pytest.approx((90 + 20 + 120) / 3)
        assert row["lengths/truncated"] == sum(one["cut"] for one in told) / 3
        assert (row["n"], row["failed"], row["judge/calls"]) == (3, 0, 3)


def test_at_wandb_a_validation_stands_beside_its_step(tmp_path, base, monkeypatch):
    told = []

    class Fake(WandbCallback):
        """FAKE service; what is sent there is made by the real callback."""

        def __init__(self):
            self._wandb, self._initialized, self._log_model = MagicMock(), True, WandbLogModel.FALSE
            self._wandb.log = told.append

    validation = Built.validation

    def watched(built, *rest):
        built.trainer.add_callback(Fake())
        return validation(built, *rest)

    monkeypatch.setattr(Built, "validation", watched)
    job = job_with(tmp_path, base, max_steps=2)
    run(job)
    found = [(line["train/global_step"], line["eval/reward"]) for line in told if "eval/reward" in line]
    assert found == [(row["step"], row["reward"]) for row in rows(job)]
    assert [line["train/global_step"] for line in told if "train/reward" in line] == [1, 2]
    assert len(metrics(job)) == 2


def _judged(story):
    coroutine = invented_judge("", story)
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it does not wait for anything")


def test_its_sampling_is_swapped_in_and_back(tmp_path, base, monkeypatch):
    seen = []
    turn = ReferenceTrainer._generate_single_turn

    def spy(self, prompt_ids, *rest):
        config = self.generation_config
        told = (config.do_sample, config.temperature, config.top_p, config.top_k, config.repetition_penalty)
        seen.append((len(prompt_ids), *told, self.generation_kwargs["repetition_penalty"]))
        return turn(self, prompt_ids, *rest)

    monkeypatch.setattr(ReferenceTrainer, "_generate_single_turn", spy)
    run(
        job_with(
            tmp_path / "a", base, max_steps=1, validation={"every_steps": 1, **OFTEN} | {"every_steps": 1}
        )
    )
    training = (6, True, 1.0, 0.95, 20, 1.1, 1.1)
    validating = (3, True, 0.7, 0.9, 0, 1.3, 1.3)
    assert seen == [validating, training, validating]
    seen.clear()
    cold = {"every_steps": 9, "limit": 2, "sampling": {"temperature": 0}}
    job = job_with(tmp_path / "b", base, max_steps=1, validation=cold)
    run(job)
    assert [(one[0], one[1]) for one in seen] == [(2, False), (6, True)]
    assert [row["step"] for row in rows(job)] == [0]


def test_what_is_left_out_is_counted(tmp_path, base):
    def pair(uid, prompt, story):
        told = {"uid": uid, "prompt": prompt, "story": story, "reasoning": "None.", "target_word_count": 50}
        return told | {"split": "validation"}

    more = [
        pair("long-prompt", "Write of the sea. " * 60, "Short."),
        pair("long-story", "Write of a hen.", "The hen went on and on and on. " * 20),
    ]
    settings = {"every_steps": 9, "limit": 2}
    job = job_with(tmp_path / "a", base, more=more, max_steps=1, validation=settings)
    run(job)
    counts = json.loads((job.output / "counts.json").read_text())
    told = {
        name.removeprefix("validation_"): n for name, n in counts.items() if name.startswith("validation_")
    }
    assert told == {"prompts": 2, "filtered": 1, "unfitting": 1, "beyond_limit": 1, "left_out": 3}
    assert counts["prompts"] == 4
    assert [one["uid"] for one in samples(job, 0)] == ["held-0", "held-1"]
    # A pair whose human story is too long stays where `fitting` is off.
    job = job_with(
        tmp_path / "b", base, more=more, max_steps=1, validation={"every_steps": 9, "fitting": False}
    )
    run(job)
    assert [one["uid"] for one in samples(job, 0)][3:] == ["long-story"]


def test_nothing_held_back_is_said_once(tmp_path, base, capsys):
    job = write_job(tmp_path / "a", base, max_steps=2, validation={"every_steps": 1})
    run(job)
    said = "".join(capsys.readouterr())
    assert said.count("no_validation") == said.count("data.validation_share") == 1
    assert not (job.output / "validation.jsonl").exists()


def test_a_failed_judgement_is_counted_and_no_score(tmp_path, base):
    asked = []

    async def judge(prompt, story):
        asked.append(prompt)
        if prompt.startswith("Write of a dog"):
            raise JudgeFailed("cut")
        return await invented_judge(prompt, story)

    job = job_with(tmp_path / "a", base, max_steps=1)
    run(job, judge)
    [row] = rows(job)
    told = samples(job, 0)
    assert (row["n"], row["failed"]) == (3, 1)
    assert (told[1]["reward"], told[1]["judgement"], told[1]["parts"]["quality"]) == (None, None, None)
    assert row["reward"] == pytest.approx((told[0]["reward"] + told[2]["reward"]) / 2)
    assert row["lengths/words_mean"] == pytest.approx(sum(one["words"] for one in told) / 3)
    assert metrics(job)[0]["judge/failed"] == 0


def test_a_row_that_is_missing_is_made_up_for_with_the_same_stories(tmp_path, base, whole):
    folder = tmp_path / "a"
    job = job_with(folder, base, resume=whole.checkpoints / "checkpoint-2")
    # Killed after the checkpoint of step 2 and before its validation's row; a later row is not to be trusted.
    first, _, last = (whole.output / "validation.jsonl").read_text().splitlines()
    (folder / "validation.jsonl").write_text(f'{first}\n{last}\n{{"step"')
    run(job)
    assert untimed(rows(job)) == untimed(rows(whole))
    for step in (2, 4):
        assert samples(job, step) == samples(whole, step)
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(job).items())


def test_a_row_that_is_there_is_not_written_again(tmp_path, base, whole):
    job = job_with(tmp_path / "a", base, resume=whole.checkpoints / "checkpoint-4")
    text = (whole.output / "validation.jsonl").read_text()
    (job.output / "validation.jsonl").write_text(text)
    run(job)
    assert (job.output / "validation.jsonl").read_text() == text
    assert not (job.output / "samples").exists()


def stop_at(call, stop, what=None):
    """Return a judge that has a signal come at a call, or raises."""
    calls = []

    async def judge(prompt, story):
        calls.append(prompt)
        if len(calls) == call:
            if what is not None:
                raise what
            stop.signal = 15
        return await invented_judge(prompt, story)

    return judge


def test_what_ends_a_validation_leaves_its_step_saved(tmp_path, base, whole):
    spent = BudgetError("execute.budget_usd: value 1; spent")
    # Before the first step 3 calls, of a step 6, of the second step's validation 3.
    job = job_with(tmp_path / "a", base, save_steps=100)
    with pytest.raises(BudgetError, match="spent; checkpoint-2 is saved$"):
        run(job, stop_at(3 + 6 + 6 + 2, StopFlag(), spent))
    assert [path.name for path in complete(job.checkpoints)] == ["checkpoint-2"]
    assert [row["step"] for row in metrics(job)] == [1, 2]
    assert [row["step"] for row in rows(job)] == [0]
    [noted] = underway.read(job.output)
    assert (noted["step"], noted["validation"], noted["judge/calls"]) == (2, True, 3)
    resumed = job_with(tmp_path / "a", base, save_steps=100, resume=job.checkpoints / "checkpoint-2")
    run(resumed)
    assert untimed(rows(resumed)) == untimed(rows(whole))
    assert untimed(metrics(resumed)) == untimed(metrics(whole))
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(resumed).items())


def test_a_signal_while_a_validation_is_judged_lets_it_end_and_takes_no_further_step(tmp_path, base):
    stop = StopFlag()
    job = job_with(tmp_path / "a", base, save_steps=100)
    assert run(job, stop_at(3 + 6 + 6 + 2, stop), stop) == 15
    assert [path.name for path in complete(job.checkpoints)] == ["checkpoint-2"]
    assert [row["step"] for row in rows(job)] == [0, 2]
    assert [row["step"] for row in metrics(job)] == [1, 2]


def test_a_signal_in_a_validation_that_is_made_up_for_takes_no_step(tmp_path, base):
    stop = StopFlag()
    job = job_with(tmp_path / "a", base, save_steps=100)
    run(job, stop_at(3 + 6 + 6, stop), stop)
    resumed = job_with(tmp_path / "a", base, save_steps=100, resume=job.checkpoints / "checkpoint-2")
    stop, calls = StopFlag(), []

    async def judge(prompt, story):
        calls.append(prompt)
        stop.signal = 15
        return await invented_judge(prompt, story)

    assert run(resumed, judge, stop) == 15
    assert len(calls) == 3
    assert [row["step"] for row in metrics(resumed)] == [1, 2]
    assert [row["step"] for row in rows(resumed)] == [0, 2]


def test_a_signal_before_or_in_a_validation_saves_its_step_without_a_row(tmp_path, base, monkeypatch):
    stop = StopFlag()
    job = job_with(tmp_path / "a", base, save_steps=100)
    assert run(job, stop_at(3 + 6 + 6, stop), stop) == 15
    assert [path.name for path in complete(job.checkpoints)] == ["checkpoint-2"]
    assert [row["step"] for row in rows(job)] == [0]
    stop, write = StopFlag(), ReferenceTrainer.write_stories

    def stories(self, *rest):
        if self.state.global_step == 2:
            stop.signal = 15
        return write(self, *rest)

    monkeypatch.setattr(ReferenceTrainer, "write_stories", stories)
    job = job_with(tmp_path / "b", base, save_steps=100)
    assert run(job, stop=stop) == 15
    assert [path.name for path in complete(job.checkpoints)] == ["checkpoint-2"]
    assert [row["step"] for row in rows(job)] == [0]


def test_a_signal_before_the_first_step_ends_it_with_nothing_to_save(tmp_path, base):
    stop = StopFlag()
    stop.signal = 15
    job = job_with(tmp_path / "a", base)
    assert run(job, stop=stop) == 15
    assert not rows(job) and not complete(job.checkpoints)
    assert not (job.output / "model").exists()


def test_thoughts_that_never_end_have_no_story(tmp_path):
    model = tiny_model(tmp_path / "thinker", template=THINKING)
    job = job_with(tmp_path / "a", model, thinking=True, max_steps=1, max_completion_tokens=64)
    run(job)
    [row] = rows(job)
    assert (row["reward/blank"], row["judge/calls"], row["lengths/truncated"]) == (1, 0, 1)
    assert {one["story"] for one in samples(job, 0)} == {""}
