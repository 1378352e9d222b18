"""One step's gradient against a loss written by hand in double precision; the judge is INVENTED."""

import math

import heavy  # noqa: F401
import pytest
import torch
from fakes import invented_judge, metrics, write_job
from models import tiny_model
from transformers import AutoModelForCausalLM, TrainerCallback

from polaris.load import load
from polaris.runtime import StopFlag
from polaris.train.trainer import ReferenceTrainer
from polaris.train.worker import train

pytestmark = pytest.mark.filterwarnings(
    # Those of torch, TRL and transformers at work; none is of our making.
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::UserWarning",
)

GROUP, LONGEST, WEIGHT, EPS, GAMMA = 3, 32, 0.4, 1e-6, 0.1


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("base"))


class Keep(TrainerCallback):
    """Keeps a step's gradients, which the clip at 1e9 leaves as they are."""

    def __init__(self):
        self.gradients = {}

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        self.gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def second_step(job, monkeypatch):
    """Return the rows, micro-batches and parameters of the first step with w > 0, and its gradient."""
    kept, seen = Keep(), {"micro": []}
    generate, loss = ReferenceTrainer._generate_and_score_completions, ReferenceTrainer._compute_loss

    def spy(self, inputs):
        out = generate(self, inputs)
        out["row"] = torch.arange(len(inputs))
        if self.state.global_step == 1:
            self.add_callback(kept)
            seen["before"] = {name: value.clone() for name, value in self.model.state_dict().items()}
            seen["rewards"], seen["out"] = self._rewards.tolist(), out
        return out

    def spy_loss(self, model, inputs):
        if self.state.global_step == 1:
            seen["micro"].append(inputs["row"].tolist())
        return loss(self, model, inputs)

    monkeypatch.setattr(ReferenceTrainer, "_generate_and_score_completions", spy)
    monkeypatch.setattr(ReferenceTrainer, "_compute_loss", spy_loss)
    train(job, load(job.config), StopFlag(), judge=invented_judge)
    return seen, kept.gradients


def advantages_by_hand(rewards):
    """The recipe's formula; the last row of each group is its reference."""
    found = []
    for start in range(0, len(rewards), GROUP):
        *policy, reference = rewards[start : start + GROUP]
        mean = sum(policy) / len(policy)
        std = math.sqrt(sum((r - mean) ** 2 for r in policy) / (len(policy) - 1))
        found += [(r - mean) / (std + EPS) for r in policy]
        found.append(max(-10.0, min(10.0, WEIGHT * (reference - mean) / (std + EPS))))
    return found


def loss_by_hand(model, seen, kind, shaping):
    """Return the step's loss and its references' log-probabilities, row after row."""
    out, micro, told = seen["out"], seen["micro"], []
    rows = []
    for i, advantage in enumerate(advantages_by_hand(seen["rewards"])):
        prompt = out["prompt_ids"][i][out["prompt_mask"][i].bool()]
        completion = out["completion_ids"][i][out["completion_mask"][i].bool()]
        ids = torch.cat([prompt, completion])
        scores = model(input_ids=ids[None]).logits[0, len(prompt) - 1 : -1].log_softmax(dim=-1)
        logprobs = scores.gather(1, completion[:, None]).squeeze(1)
        weights = torch.ones_like(logprobs)
        if i % GROUP == GROUP - 1:
            told.append(logprobs.detach())
            p = logprobs.detach().exp()
            weights = GAMMA * p / (p + GAMMA) ** 2 if shaping else weights
        rows.append(-advantage * weights * logprobs)

    def tokens(which):
        return sum(len(rows[i]) for i in which)

    parts = {
        "bnpo": lambda which: sum(rows[i].sum() for i in which) / tokens(which) / len(micro),
        "grpo": lambda which: sum(rows[i].mean() for i in which) / len(which) / len(micro),
        "dr_grpo": lambda which: sum(rows[i].sum() for i in which) / (len(which) * LONGEST) / len(micro),
        "dapo": lambda which: sum(rows[i].sum() for i in which) / tokens(range(len(rows))),
    }
    return sum(parts[kind](which) for which in micro), torch.cat(told)


@pytest.mark.parametrize(
    ("kind", "shaping"),
    [("bnpo", False), ("bnpo", True), ("dapo", True), ("grpo", False), ("dr_grpo", True)],
)
def test_the_gradient_is_the_hand_written_losss(tmp_path, base, monkeypatch, kind, shaping):
    hri = {"warmup_steps": 1, "shaping": "luffy" if shaping else "none"}
    settings = {"loss": kind, "hri": hri, "max_steps": 2, "max_grad_norm": 1e9}
    job = write_job(tmp_path / "a", base, **settings)
    seen, found = second_step(job, monkeypatch)
    assert sorted(sum(seen["micro"], [])) == list(range(6))
    assert len(seen["micro"]) == 2
    shape = (6, seen["out"]["completion_ids"].shape[1]) if shaping else (6,)
    assert seen["out"]["advantages"].shape == shape

    model = AutoModelForCausalLM.from_pretrained(base)
    model.load_state_dict(seen["before"])
    model.double()
    loss, told = loss_by_hand(model, seen, kind, shaping)
    loss.backward()
    expected = {name: p.grad for name, p in model.named_parameters()}
    assert found.keys() == expected.keys()
    size = torch.stack([g.norm() for g in expected.values()]).norm()
    apart = torch.stack([(found[name].double() - g).norm() for name, g in expected.items()]).norm()
    assert size > 1e-3
    assert apart / size < 1e-5
    first, second = metrics(job)
    if shaping:
        assert first["hri/reference_logprob"] is None
        assert second["hri/reference_logprob"] == pytest.approx(float(told.mean()), rel=1e-5)
    else:
        assert "hri/reference_logprob" not in second
