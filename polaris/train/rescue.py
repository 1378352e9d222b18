"""A trainer whose next step cannot be finished in, a checkpoint as its last finished step left it out."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy
import torch
from accelerate import PartialState
from accelerate.utils import gather
from transformers import TrainerCallback

from polaris.train.checkpoint import PREFIX, is_complete

Generators = tuple[Any, Any, torch.Tensor, torch.Tensor | None]


class Rescue(TrainerCallback):  # type: ignore[misc]
    """Remembers the random generators before each step, for a checkpoint that is saved in its middle.

    Weights, optimiser and data order are then still those of the last finished step; the generators alone
    have moved on, and with them the resumed run would write other stories than it would have.
    """

    def __init__(self) -> None:
        self._before: Generators | None = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Remember the generators; a resumed run has loaded its own by now."""
        self._before = generators()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Remember them anew: what follows, a validation, may be what cannot be finished."""
        self._before = generators()

    def save(self, trainer: Any) -> int:
        """Save the last finished step unless that is done; return its number, 0 if there is none.

        Every process must call it: a checkpoint is written by all of them.
        """
        step = int(trainer.state.global_step)
        folder = Path(trainer.args.output_dir) / f"{PREFIX}{step}"
        missing = torch.tensor([step > 0 and not is_complete(folder)], device=PartialState().device)
        if gather(missing).any():
            if self._before is not None:
                restore(self._before)
            trainer._save_checkpoint(trainer.model, trial=None)
            trainer.callback_handler.on_save(trainer.args, trainer.state, trainer.control)
        return step


def generators() -> Generators:
    """Return the states of this process's random generators."""
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return random.getstate(), numpy.random.get_state(), torch.get_rng_state(), cuda


def restore(found: Generators) -> None:
    """Put such states back."""
    random.setstate(found[0])
    numpy.random.set_state(found[1])
    torch.set_rng_state(found[2])
    if found[3] is not None:
        torch.cuda.set_rng_state(found[3])
