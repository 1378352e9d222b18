"""The GPUs of this machine in, whether they are as many as the training's processes out."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec

from polaris.checks.base_model import find_base
from polaris.checks.finding import Finding, Subject, failed, unchecked
from polaris.checks.trainings import at_once, of_each
from polaris.errors import ConfigError
from polaris.recipe import TrainConfig
from polaris.train.worker import require_gpus

LONGEST_S = 120.0
"""The kernels' import reads torch and triton from the disk."""


def visible() -> list[int] | None:
    """Return the bytes of memory of each GPU that torch sees, None where torch is not installed."""
    if find_spec("torch") is None:
        return None
    import torch

    if not torch.cuda.is_available():
        return []
    return [
        torch.cuda.get_device_properties(number).total_memory for number in range(torch.cuda.device_count())
    ]


def check_gpus(subject: Subject) -> Iterator[Finding]:
    """Count the GPUs; look for the kernels that linear attention wants on them."""
    if not subject.config.trainings():
        return
    found = visible()
    # All trainings have the same machines.
    yield from _counted(subject.config.training(), found)
    together, parallel = at_once(subject.config), subject.config.execute.parallel
    if found and parallel > 1 and subject.can_i is None and (together > 1 or subject.config.evaluations):
        others = (
            f"{together} trainings run at once" if together > 1 else "a model be served beside a training"
        )
        told = f"execute.parallel {parallel} lets {others}, on the same GPUs"
        yield failed("gpus", told, "set execute.parallel: 1")
    yield from of_each(subject.config, lambda train: _unseen(subject, train, found))


def _counted(train: TrainConfig, found: list[int] | None) -> Iterator[Finding]:
    if not found:
        why = "torch is not installed" if found is None else "no GPU here"
        wanted = "1 GPU" if train.processes == 1 else f"{train.processes} GPUs"
        on = f" on each of {train.nodes} nodes" if train.nodes > 1 else ""
        yield unchecked(
            "gpus",
            f"{why}; train.processes {train.processes} needs {wanted}{on}, or it trains on the CPU",
        )
    else:
        try:
            require_gpus(len(found), train.processes)
        except ConfigError as error:
            detail, _, fix = str(error).partition(": set ")
            yield failed("gpus", detail, f"set {fix}")
        else:
            sizes = ", ".join(f"{size / 1e9:.0f} GB" for size in found)
            yield Finding("ok", "gpus", f"{len(found)} for train.processes {train.processes}: {sizes}")


def _unseen(subject: Subject, train: TrainConfig, found: list[int] | None) -> Iterator[Finding]:
    base = find_base(subject, train)
    if base is None or not base.shape.linear_layers:
        return
    why = "is not installed" if find_spec("fla") is None else kernels_error() if found else ""
    if why:
        told = f"the linear-attention layers want the kernels of fla-core, which {why}"
        fix = "`pip install fla-core` where it trains on GPUs; without them they are slow and take memory"
        yield Finding("warning", "gpus", told, fix) if found else unchecked("linear attention", told, fix)


@functools.cache
def kernels_error() -> str:
    """Return why the kernels cannot be imported, '' if they can; transformers quietly does without."""
    command = [sys.executable, "-c", "from fla.ops.gated_delta_rule import chunk_gated_delta_rule"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_S)
    except subprocess.TimeoutExpired:
        return f"could not be imported within {LONGEST_S:g} s"
    said = done.stderr.strip().splitlines()[-1:]
    return f"cannot be imported: {said[0] if said else 'no word'}" if done.returncode else ""
