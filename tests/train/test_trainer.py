"""The real trainer on a tiny random model, generating in-process; the judge is INVENTED."""

import json
import math

import heavy  # noqa: F401
import pytest
import torch
from fakes import STORIES, invented_judge, metrics, write_job
from models import PLAIN, THINKING, tiny_model
from safetensors.torch import load_file

from polaris.errors import GuardError, InputError
from polaris.judge.score import JudgeFailed
from polaris.load import load
from polaris.runtime import StopFlag
from polaris.train import references
from polaris.train.trainer import ReferenceTrainer
from polaris.train.worker import train

pytestmark = pytest.mark.filterwarnings(
    # Those of torch, TRL and transformers at work; none is of our making.
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::UserWarning",
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("base"))


def run(job, judge=invented_judge, stop=None):
    return train(job, load(job.config), stop or StopFlag(), judge=judge)


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_advantages_references_and_rewards(tmp_path, base, monkeypatch):
    seen = []
    generate = ReferenceTrainer._generate_and_score_completions

    def spy(self, inputs):
        out = generate(self, inputs)
        seen.append((self._rewards.clone(), out, [row["reference_ids"] for row in inputs], self))
        return out

    monkeypatch.setattr(ReferenceTrainer, "_generate_and_score_completions", spy)
    job = write_job(tmp_path / "a", base)
    assert run(job) is None
    rows = metrics(job)
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert [row["hri/weight"] for row in rows] == pytest.approx([0.0, 0.2, 0.4])
    for step, (rewards, out, ids, _) in enumerate(seen):
        marks = out["is_reference"]
        assert marks.tolist() == ([False] * 6 if step == 0 else [False, False, True] * 2)
        expected = references.advantages(rewards, marks, 3, rows[step]["hri/weight"], 1e-6, 10.0)
        assert torch.equal(out["advantages"], expected)
        for i in (2, 5) if step else ():
            length = int(out["completion_mask"][i].sum())
            assert out["completion_ids"][i, :length].tolist() == ids[i]
        policy = rewards[~marks]
        assert rows[step]["reward"] == pytest.approx(float(policy.mean()), rel=1e-5)
    trainer = seen[-1][3]
    assert list(trainer._logs["advantages"]) == pytest.approx(out["advantages"].tolist())
    assert rows[2]["hri/references"] == 2
    assert rows[2]["hri/reference_reward"] == pytest.approx(float(rewards[marks].mean()), rel=1e-5)
    assert not any(story in job.output.joinpath("metrics.jsonl").read_text() for story in STORIES)


def test_at_weight_zero_and_its_eps_the_advantages_are_trls_own_to_the_bit(tmp_path, base, monkeypatch):
    seen = []
    overwrite = ReferenceTrainer._overwrite

    def spy(self, out, weight, own):
        theirs = out["advantages"].clone()
        overwrite(self, out, weight, own)
        seen.append((self._rewards, theirs, out["advantages"]))

    monkeypatch.setattr(ReferenceTrainer, "_overwrite", spy)
    run(write_job(tmp_path / "a", base, hri={"max_weight": 0, "eps": 1e-4}))
    assert len(seen) == 3
    for rewards, theirs, ours in seen:
        assert all(len(set(group.tolist())) > 1 for group in rewards.view(-1, 3))
        assert torch.equal(ours, theirs)
        assert ours.abs().max() > 0.5


def test_decayed_and_ended_weights_reach_the_steps(tmp_path, base):
    hri = {"warmup_steps": 1, "decay": "linear", "decay_steps": 4, "final_weight": 0.2, "until_step": 3}
    job = write_job(tmp_path / "a", base, max_steps=4, hri=hri)
    run(job)
    rows = metrics(job)
    assert [row["hri/weight"] for row in rows] == pytest.approx([0, 0.4, 0.35, 0])
    assert [row["hri/references"] for row in rows] == [0, 2, 2, 0]
    assert not any("hri/reference_logprob" in row for row in rows)


def test_level_groups_are_warned_of_once_a_crossing(tmp_path, base, monkeypatch, capsys):
    figures, levels = references.figures, iter([2, 2, 1, 2, 0])

    def told(*args):
        return figures(*args) | {"hri/level_groups": float(next(levels))}

    monkeypatch.setattr(references, "figures", told)
    run(write_job(tmp_path / "a", base, max_steps=5))
    said = [line for line in "".join(capsys.readouterr()).splitlines() if "max_level_share" in line]
    assert all("2 of 2" in line for line in said)
    assert [line.partition("step=")[2].split()[0] for line in said] == ["1", "4"]


@pytest.mark.parametrize("step", [1, 2, 3])
def test_resumed_run_is_bit_equal(tmp_path, base, step):
    # The second checkpoint lies between two passes over the pairs, the third at the end.
    whole = write_job(tmp_path / "whole", base)
    run(whole)
    resumed = write_job(tmp_path / "resumed", base, resume=whole.checkpoints / f"checkpoint-{step}")
    lines = (whole.output / "metrics.jsonl").read_text().splitlines()
    (resumed.output / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines) + '{"step"')
    run(resumed)
    ours, theirs = weights(resumed.output / "model"), weights(whole.output / "model")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert [row["step"] for row in metrics(resumed)] == [1, 2, 3]
    assert not torch.equal(theirs["lm_head.weight"], weights(base)["lm_head.weight"])


def test_final_model(tmp_path, base):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    job = write_job(tmp_path / "a", base, max_steps=1, dtype="bfloat16")
    run(job)
    folder = job.output / "model"
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    assert tokenizer.chat_template == PLAIN
    ends = model.generation_config.eos_token_id
    assert tokenizer.convert_tokens_to_ids("<|end|>") in (ends if isinstance(ends, list) else [ends])


def test_a_tied_model_is_saved_whole(tmp_path):
    from transformers import AutoModelForCausalLM

    tied = tiny_model(tmp_path / "tied", tied=True)
    job = write_job(tmp_path / "a", tied, max_steps=1, dtype="bfloat16")
    run(job)
    model = AutoModelForCausalLM.from_pretrained(job.output / "model")
    assert torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)


def test_thoughts_without_an_end_are_blank_and_cost_no_call(tmp_path):
    model = tiny_model(tmp_path / "thinker", template=THINKING)
    job = write_job(tmp_path / "a", model, thinking=True, max_steps=2, max_completion_tokens=64)
    run(job)
    first, second = metrics(job)
    assert first["reward/blank"] == 1
    assert first["judge/calls"] == 0
    assert second["judge/calls"] == second["hri/references"] == 2


def test_references_that_do_not_begin_are_left_out(tmp_path):
    model = tiny_model(tmp_path / "thinker", template=THINKING)
    job = write_job(tmp_path / "a", model, thinking=True, max_steps=2, max_completion_tokens=16)
    run(job)
    assert json.loads((job.output / "counts.json").read_text())["references_left_out"] == len(STORIES)
    assert metrics(job)[1]["hri/references"] == 0


def test_stopping_saves_and_says_so(tmp_path, base):
    stop = StopFlag()

    async def judge(prompt, story):
        stop.signal = 15
        return await invented_judge(prompt, story)

    job = write_job(tmp_path / "a", base, save_steps=100)
    assert run(job, judge, stop) == 15
    assert [path.name for path in job.checkpoints.glob("checkpoint-*")] == ["checkpoint-1"]
    assert (job.checkpoints / "checkpoint-1" / "polaris.json").exists()
    assert not (job.output / "model").exists()


def test_failed_judgements_are_no_rewards(tmp_path, base, caplog, capsys):
    async def judge(prompt, story):
        if story in STORIES:
            raise JudgeFailed("cut")
        return await invented_judge(prompt, story)

    job = write_job(tmp_path / "a", base, max_steps=2)
    run(job, judge)
    row = metrics(job)[1]
    assert row["judge/failed"] == row["hri/reference_failed"] == 2
    assert row["hri/reference_reward"] is None
    said = caplog.text + "".join(capsys.readouterr())
    assert not any(story in said for story in STORIES)


def test_nan_loss_stops_the_run_before_it_is_saved(tmp_path, base, monkeypatch):
    advantages = references.advantages

    def poisoned(*args):
        return advantages(*args).fill_(math.nan)

    monkeypatch.setattr(references, "advantages", poisoned)
    job = write_job(tmp_path / "a", base)
    with pytest.raises(GuardError, match="loss is nan at step 1"):
        run(job)
    assert not list(job.checkpoints.glob("checkpoint-*"))


def test_too_few_prompts(tmp_path, base):
    job = write_job(tmp_path / "a", base, max_prompt_tokens=16)
    with pytest.raises(InputError, match="max_prompt_tokens 16"):
        run(job)


def test_an_engine_that_sleeps_is_compared_before_it_does():
    done = []

    class Engine:
        """A FAKE engine, which has no weights while it sleeps."""

        def sleep(self, level):
            done.append(f"sleep {level}")

    trainer = object.__new__(ReferenceTrainer)
    trainer._compare_engine = lambda: done.append("compare")
    engine = Engine()
    trainer._compare_before_sleep(engine)
    trainer._unproven = True
    engine.sleep(level=2)
    trainer._compare_once()
    engine.sleep(level=2)
    assert done == ["compare", "sleep 2", "sleep 2"]
