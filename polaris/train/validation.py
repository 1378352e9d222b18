"""Held back pairs and a trainer in, a row and the judged stories of each validation out (recipe §1, §3).

It lies between a step and its checkpoint, and training goes on as if it had not been: whatever draws random
numbers is put back, so that a run's parameters and metrics are those of one that never validates.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy
import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback
from transformers.integrations import WandbCallback

from polaris.artifact import from_rows
from polaris.chat import Usage
from polaris.recipe import ValidationConfig
from polaris.reward.composite import reward
from polaris.reward.quality import quality_parts
from polaris.reward.settings import Settings
from polaris.runtime import get_logger
from polaris.train import checkpoint, rescue
from polaris.train.agreement import Agreement
from polaris.train.callbacks import Stopper
from polaris.train.job import VALIDATION, samples_of
from polaris.train.reward import Reward, Scored, call_figures
from polaris.train.trainer import ReferenceTrainer

Row = dict[str, Any]

PLACE = ("step", "validation")
"""What of a row says where it stands."""

log = get_logger("train")


class Abandoned(Exception):
    """A signal came during a validation before the first step of this start: there is nothing to save."""


class Validation(TrainerCallback):  # type: ignore[misc]
    """Has the held back prompts answered and judged after every so many steps, by all processes together.

    It comes after `Metrics` and before a checkpoint is saved. A validation that is due after the step from
    which a run goes on and has no row is made up for; one that a signal meets leaves no row.

    Args:
        rows: {uid, prompt, target_word_count} of the pairs to validate on.
        settings: when, and how the stories are drawn.
        weigh: weights and clip of the reward.
        trainer: writes the stories.
        judged: judges them.
        agreement: has all processes stop for what one of them met.
        stopper: knows of signals.
        output: the job's folder.
        seed: the run's; with the step it decides what is drawn.

    """

    def __init__(
        self,
        rows: Sequence[Row],
        settings: ValidationConfig,
        weigh: Settings,
        *,
        trainer: ReferenceTrainer,
        judged: Reward,
        agreement: Agreement,
        stopper: Stopper,
        output: Path,
        seed: int,
    ) -> None:
        self.rows = rows
        self.settings = settings
        self.weigh = weigh
        self.trainer = trainer
        self.judged = judged
        self.agreement = agreement
        self.stopper = stopper
        self.output = output
        self.seed = seed
        self._done: set[int] = set()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Validate the base model, or make up for what an earlier attempt could not finish."""
        main = state.is_world_process_zero
        if not self.rows:
            if main:
                log.info(
                    "no_validation",
                    reason="no pair is held back, or none that fits: data.validation_share holds some back,"
                    " and this stage's counts say how many were left out",
                )
            return
        known = checkpoint.read_metrics(self.output / VALIDATION) if main else []
        self._done = set(gather_object([row["step"] for row in known]))
        self._if_due(state, control, begun=False)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Validate after a step whose metrics are written."""
        if self.rows and logs and "loss" in logs:
            self._if_due(state, control)

    def _if_due(self, state: Any, control: Any, *, begun: bool = True) -> None:
        step = int(state.global_step)
        due = step % self.settings.every_steps == 0 if step else self.settings.before_first
        if not due or step in self._done or self.stopper.stopped_by is not None:
            return
        before = rescue.generators()
        self.judged.begin({"step": step, "validation": True})
        try:
            stopped_by = self._validate(step)
        finally:
            rescue.restore(before)
        if not stopped_by or (step in self._done and step >= state.max_steps):
            return
        self.stopper.stopped_by = stopped_by
        if not begun:
            # The trainer would take a step before it looks at `should_training_stop`.
            raise Abandoned
        control.should_save = True
        control.should_training_stop = True

    def _validate(self, step: int) -> int:
        """Write, judge and record, unless a signal comes before the judging; return the signal, 0 for none.

        Raises:
            PolarisError: what the processes agreed on about the judge, or a stale engine.

        """
        begun = time.monotonic()
        trainer = self.trainer
        processes, rank = trainer.accelerator.num_processes, trainer.accelerator.process_index
        own = self.rows[rank::processes]
        padded = [*own, *[self.rows[0]] * (-(-len(self.rows) // processes) - len(own))]
        _seed(f"{self.seed} validation {step} {rank}")
        at_once = trainer.args.per_device_train_batch_size * trainer.args.steps_per_generation
        written: list[list[int]] = []
        for start in range(0, len(padded), at_once):
            if stopped_by := self.stopper.asked():
                return stopped_by
            prompts = [row["prompt"] for row in padded[start : start + at_once]]
            written += trainer.write_stories(prompts, self.settings.sampling)
        if stopped_by := self.stopper.asked():
            return stopped_by
        written = written[: len(own)]
        asked = [row["prompt"][-1]["content"] for row in own]
        targets = [row["target_word_count"] for row in own]
        scored = trainer.wait_for(self.judged.score(asked, written, targets, [False] * len(own)))
        self.agreement()
        usage = self.judged.outcome.usage
        found = gather_object([(rank, list(map(self._sample, own, written, scored)), usage)])
        if trainer.accelerator.is_main_process:
            # Row i was with process i mod `processes`: back into their order.
            shares = [samples for _, samples, _ in sorted(found, key=lambda share: share[0])]
            samples = [shares[i % processes][i // processes] for i in range(len(self.rows))]
            cost = sum((usage for _, _, usage in found), Usage())
            self._record(step, samples, cost, time.monotonic() - begun)
        self._done.add(step)
        return self.stopper.asked()

    def _sample(self, row: Row, ids: list[int], scored: Scored) -> Row:
        parts, judgement = scored.parts, scored.judgement
        return {
            "uid": row["uid"],
            "prompt": row["prompt"][-1]["content"],
            "story": scored.story or "",
            "reward": reward(parts, self.weigh.weights, self.weigh.clip),
            "parts": {name: getattr(parts, name) for name in self.judged.terms()},
            "words": parts.words,
            "target": row["target_word_count"],
            "completion_tokens": len(ids),
            "cut": ids[-1] != self.judged.end_id,
            "judgement": asdict(quality_parts(judgement)) if judgement is not None else None,
        }

    def _record(self, step: int, samples: list[Row], cost: Usage, seconds: float) -> None:
        """Write the stories, then the row that says that they are there."""
        path = self.output / samples_of(step)
        path.parent.mkdir(exist_ok=True)
        part = path.with_suffix(".part")
        part.write_bytes(from_rows(samples))
        os.replace(part, path)
        row = {"step": step, "validation": True} | figures(samples, self.judged.terms()) | call_figures(cost)
        row |= {"seconds": round(seconds, 3)}
        with (self.output / VALIDATION).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, sort_keys=True, allow_nan=False) + "\n")
        show_wandb(self.trainer, row)
        mean = row["reward"]
        log.info(
            "validation",
            step=step,
            n=row["n"],
            failed=row["failed"],
            reward=None if mean is None else round(mean, 4),
            seconds=round(seconds, 1),
        )


def figures(samples: Sequence[Row], terms: Sequence[str]) -> Row:
    """Return a validation's figures, by the names that a step's metrics have.

    `n` stories, `failed` of them without a judgement, which are in no mean of the reward or its quality.
    """
    found: Row = {
        "n": len(samples),
        "failed": sum(sample["judgement"] is None for sample in samples),
        "reward": _mean([sample["reward"] for sample in samples]),
    }
    for name in terms:
        found[f"reward/{name}"] = _mean([sample["parts"][name] for sample in samples])
    return found | {
        "lengths/words_mean": _mean([sample["words"] for sample in samples]),
        "lengths/target_mean": _mean([sample["target"] for sample in samples]),
        "lengths/completion_tokens_mean": _mean([sample["completion_tokens"] for sample in samples]),
        "lengths/truncated": _mean([float(sample["cut"]) for sample in samples]),
    }


def show_wandb(trainer: Any, row: Row) -> None:
    """Show a validation's figures at W&B, as `eval/...` of its step, where `train.report_to` asks for it.

    Its callback alone is told: to the others, `on_log` is a step's row.
    """
    told = {f"eval_{name}": value for name, value in row.items() if name not in PLACE and value is not None}
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, WandbCallback):
            callback.on_log(trainer.args, trainer.state, trainer.control, model=trainer.model, logs=told)


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None


def _seed(name: str) -> None:
    """Seed every generator from a name, CUDA's too."""
    number = random.Random(name).getrandbits(32)
    random.seed(number)
    numpy.random.seed(number)
    torch.manual_seed(number)
