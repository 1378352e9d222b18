"""The trainer's events in; metrics rows, complete checkpoints, an orderly stop and NaN guard out."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather
from transformers import TrainerCallback

from polaris.errors import GuardError
from polaris.runtime import StopFlag
from polaris.train.checkpoint import Layout, write_layout


class Metrics(TrainerCallback):  # type: ignore[misc]
    """One row an optimiser step: appended to a JSONL file that the supervisor follows.

    Raises GuardError, before any checkpoint of that step, when loss or gradient is no number.
    """

    def __init__(self, path: Path, steps_per_epoch: int) -> None:
        self.path = path
        self.steps_per_epoch = steps_per_epoch
        self._begun = time.monotonic()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the step's clock."""
        self._begun = time.monotonic()

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Write the row of a step that has just been taken."""
        if not logs or "loss" not in logs:
            return
        if state.is_world_process_zero:
            row = {name: _json(value) for name, value in logs.items()}
            row |= {"step": state.global_step, "epoch": state.global_step / self.steps_per_epoch}
            row |= {"step_seconds": round(time.monotonic() - self._begun, 3)}
            line = json.dumps(row, sort_keys=True, allow_nan=False)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        for name in ("loss", "grad_norm"):
            if name in logs and not math.isfinite(logs[name]):
                raise GuardError(
                    f"{name} is {logs[name]} at step {state.global_step}: training has diverged; lower"
                    " train.learning_rate, or look at that step's row in metrics.jsonl"
                )


class Stopper(TrainerCallback):  # type: ignore[misc]
    """Turns one process's SIGTERM into the same decision everywhere: save at this step's end and stop."""

    def __init__(self, stop: StopFlag) -> None:
        self.stop = stop
        self.stopped_by: int | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Catch signals again: libraries that started since may have taken them."""
        self.stop.install()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Agree; a checkpoint that only some processes write is none."""
        signal_number = self.asked()
        if signal_number and state.global_step < state.max_steps:
            self.stopped_by = signal_number
            control.should_save = True
            control.should_training_stop = True

    def asked(self) -> int:
        """Return the signal that one of the processes has got, 0 for none; all of them must call it."""
        own = torch.tensor([self.stop.signal or 0], device=PartialState().device)
        return int(gather(own).max())


class Sealer(TrainerCallback):  # type: ignore[misc]
    """Marks a checkpoint as complete once every process has written its part."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Wait for all, then write the mark, on every node: each has its own ranks' files."""
        PartialState().wait_for_everyone()
        if state.is_local_process_zero:
            write_layout(Path(args.output_dir) / f"checkpoint-{state.global_step}", self.layout)


def _json(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
