"""A step's rows, rewards and micro-batches in, its loss by the recipe's formulas, row by row, out.

Nothing of the package is used but what a step was made of.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch

LONGEST, WEIGHT, EPS, GAMMA = 32, 0.4, 1e-6, 0.1


@dataclass
class Step:
    """What one optimiser step was made of, over all processes.

    Attributes:
        rewards: of all rows, row after row; the last row of each group is its reference.
        prompts: each row's tokens without padding.
        completions: the same of what is trained.
        micro: the rows of each micro-batch of each process; every process has as many.

    """

    rewards: list[float] = field(default_factory=list)
    prompts: list[torch.Tensor] = field(default_factory=list)
    completions: list[torch.Tensor] = field(default_factory=list)
    micro: list[list[int]] = field(default_factory=list)

    def add_rows(self, out: dict[str, Any]) -> None:
        """Add one process's rows, as the trainer has them: (B, T) tokens and masks."""
        for i in range(len(out["prompt_ids"])):
            self.prompts.append(out["prompt_ids"][i][out["prompt_mask"][i].bool()])
            self.completions.append(out["completion_ids"][i][out["completion_mask"][i].bool()])


def advantages_by_hand(rewards: list[float], group: int) -> list[float]:
    """The recipe's formula; the last row of each group is its reference."""
    found = []
    for start in range(0, len(rewards), group):
        *policy, reference = rewards[start : start + group]
        mean = sum(policy) / len(policy)
        std = math.sqrt(sum((r - mean) ** 2 for r in policy) / (len(policy) - 1))
        found += [(r - mean) / (std + EPS) for r in policy]
        found.append(max(-10.0, min(10.0, WEIGHT * (reference - mean) / (std + EPS))))
    return found


def loss_by_hand(
    model: Any, step: Step, group: int, kind: str, shaping: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the step's loss and its references' log-probabilities, row after row.

    Several processes take the mean of their gradients, each the mean over its own micro-batches: with as many
    in each that is the mean over all of them.
    """
    rows, told = [], []
    for i, advantage in enumerate(advantages_by_hand(step.rewards, group)):
        prompt, completion = step.prompts[i], step.completions[i]
        ids = torch.cat([prompt, completion])
        scores = model(input_ids=ids[None]).logits[0, len(prompt) - 1 : -1].log_softmax(dim=-1)
        logprobs = scores.gather(1, completion[:, None]).squeeze(1)
        weights = torch.ones_like(logprobs)
        if i % group == group - 1:
            told.append(logprobs.detach())
            p = logprobs.detach().exp()
            weights = GAMMA * p / (p + GAMMA) ** 2 if shaping else weights
        rows.append(-advantage * weights * logprobs)
    micro = step.micro

    def tokens(which: Any) -> int:
        return sum(len(rows[i]) for i in which)

    parts = {
        "bnpo": lambda which: sum(rows[i].sum() for i in which) / tokens(which) / len(micro),
        "grpo": lambda which: sum(rows[i].mean() for i in which) / len(which) / len(micro),
        "dr_grpo": lambda which: sum(rows[i].sum() for i in which) / (len(which) * LONGEST) / len(micro),
        "dapo": lambda which: sum(rows[i].sum() for i in which) / tokens(range(len(rows))),
    }
    return sum(parts[kind](which) for which in micro), torch.cat(told)


def apart(found: dict[str, torch.Tensor], model: Any) -> float:
    """Return how far gradients are from those of the model, as a share of the latter's norm."""
    expected = {name: p.grad for name, p in model.named_parameters()}
    assert found.keys() == expected.keys()
    size = torch.stack([g.norm() for g in expected.values()]).norm()
    assert size > 1e-3
    differences = [(found[name].double() - g).norm() for name, g in expected.items()]
    return float(torch.stack(differences).norm() / size)
