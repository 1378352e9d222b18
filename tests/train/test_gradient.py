"""One step's gradient against a loss written by hand in double precision; the judge is INVENTED."""

import heavy  # noqa: F401
import pytest
import torch
from by_hand import Step, apart, loss_by_hand
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

GROUP = 3


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


@pytest.mark.parametrize(
    ("kind", "shaping", "again"),
    [
        ("bnpo", False, False),
        ("bnpo", True, False),
        ("bnpo", True, True),
        ("dapo", True, False),
        ("grpo", False, False),
        ("dr_grpo", True, False),
    ],
)
def test_the_gradient_is_the_hand_written_losss(tmp_path, base, monkeypatch, kind, shaping, again):
    hri = {"warmup_steps": 1, "shaping": "luffy" if shaping else "none"}
    settings = {"loss": kind, "hri": hri, "max_steps": 2, "max_grad_norm": 1e9}
    job = write_job(tmp_path / "a", base, gradient_checkpointing=again, **settings)
    seen, found = second_step(job, monkeypatch)
    assert sorted(sum(seen["micro"], [])) == list(range(6))
    assert len(seen["micro"]) == 2
    shape = (6, seen["out"]["completion_ids"].shape[1]) if shaping else (6,)
    assert seen["out"]["advantages"].shape == shape

    model = AutoModelForCausalLM.from_pretrained(base)
    model.load_state_dict(seen["before"])
    model.double()
    step = Step(rewards=seen["rewards"], micro=seen["micro"])
    step.add_rows(seen["out"])
    loss, told = loss_by_hand(model, step, GROUP, kind, shaping)
    loss.backward()
    assert apart(found, model) < 1e-5
    first, second = metrics(job)
    if shaping:
        assert first["hri/reference_logprob"] is None
        assert second["hri/reference_logprob"] == pytest.approx(float(told.mean()), rel=1e-5)
    else:
        assert "hri/reference_logprob" not in second
