"""A worker that keeps its second step's rows, micro-batches and whole gradients; the judge is INVENTED.

DeepSpeed shares out each gradient among the processes: all of them gather it just before it is used.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import heavy
import torch
from fakes import invented_judge

from polaris.load import load
from polaris.runtime import StopFlag
from polaris.train.job import Job
from polaris.train.trainer import ReferenceTrainer
from polaris.train.worker import quieten, train

rank = int(os.environ["RANK"])
seen: dict[str, Any] = {"micro": [], "gradients": {}}
generate, loss = ReferenceTrainer._generate_and_score_completions, ReferenceTrainer._compute_loss


def spy(self: Any, inputs: Any) -> Any:
    out = generate(self, inputs)
    out["row"] = torch.arange(len(inputs)) + rank * len(inputs)
    if self.state.global_step == 1:
        seen["rewards"] = self._rewards.tolist()
        names = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "is_reference")
        seen["out"] = {name: out[name].clone() for name in names}
    return out


def spy_loss(self: Any, model: Any, inputs: Any) -> Any:
    if self.state.global_step == 1:
        seen["micro"].append(inputs["row"].tolist())
    return loss(self, model, inputs)


def keep_gradients() -> None:
    engine = heavy.deepspeed.DeepSpeedEngine
    step = engine.step

    def keep_and_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if seen["micro"] and self.is_gradient_accumulation_boundary():
            for name, parameter in self.module.named_parameters():
                found = heavy.deepspeed.utils.safe_get_full_grad(parameter)
                seen["gradients"][name] = found.detach().clone()
        return step(self, *args, **kwargs)

    engine.step = keep_and_step


if __name__ == "__main__":
    quieten()
    job = Job.parse()
    ReferenceTrainer._generate_and_score_completions = spy
    ReferenceTrainer._compute_loss = spy_loss
    keep_gradients()
    train(job, load(job.config), StopFlag(), judge=invented_judge)
    torch.save(seen, job.output / f"seen-{rank}.pt")
    sys.exit(0)
