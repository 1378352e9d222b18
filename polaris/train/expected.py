"""A train stage's context in, its forecast kept in the progress out: made once, before the first step."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polaris.artifact import to_rows
from polaris.errors import InputError
from polaris.recipe import TrainConfig
from polaris.runtime import get_logger
from polaris.train.forecast import FORECAST, Judge, forecast, held_back
from polaris.train.job import Job
from polaris.train.pace import Gpu, Machine, gpu_of
from polaris.train.shape import Shape, computed, read_shape

if TYPE_CHECKING:
    from polaris.stage import StageContext

QUERY = ("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
QUERY_S = 20.0

log = get_logger("train")


def gpu_names() -> list[str]:
    """Return the names of this machine's GPUs as their driver gives them; none where it has none."""
    if shutil.which(QUERY[0]) is None:
        return []
    try:
        done = subprocess.run(QUERY, capture_output=True, text=True, timeout=QUERY_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def gpu_here(names: Sequence[str], processes: int) -> Gpu | str:
    """Return the data sheet of the GPUs that a machine's processes would get, else why there is none."""
    if not names:
        return "no GPU is here"
    if len(names) < processes:
        return f"GPUs here: {len(names)}, fewer than train.processes {processes}"
    used = names[:processes]
    first = gpu_of(used[0])
    if first is None or any(gpu_of(name) != first for name in used):
        return f"no one data sheet is known of the GPUs here ({', '.join(dict.fromkeys(used))})"
    return first


def shape_in(folder: Path) -> Shape | str:
    """Return the sizes that a model folder's config.json gives, else why there are none."""
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return read_shape(found)
    except (OSError, ValueError, AttributeError, InputError) as error:
        return f"the base model's sizes cannot be read: {str(error).splitlines()[0]}"


def keep(context: StageContext, train: TrainConfig, job: Job) -> None:
    """Forecast the training and keep it in the progress, unless an earlier attempt has, or took steps."""
    if job.resume is not None or kept(context) is not None:
        return
    pairs = to_rows(job.pairs.read_bytes(), job.pairs.name)
    prompts = sum(pair.get("split", "train") == "train" for pair in pairs)
    judge = Judge.of(context.config, train.judge)
    found = forecast(train, judge, prompts, held_back(pairs, train), _machine(context, train, job))
    assert found is not None
    told = found.to_json()
    context.progress.put(FORECAST, json.dumps(told, indent=1).encode())
    log.info("forecast", **{name: value for name, value in told.items() if name != "assumptions"})


def _machine(context: StageContext, train: TrainConfig, job: Job) -> Machine | str:
    gpu, shape = gpu_here(gpu_names(), train.processes), shape_in(job.model)
    if isinstance(gpu, str):
        return gpu
    if isinstance(shape, str):
        return shape
    return Machine(gpu, shape, computed(shape), context.config.dtype(train.base))


def kept(context: StageContext) -> Mapping[str, Any] | None:
    """Return the forecast that this training began with; None if it began without."""
    data = context.progress.get(FORECAST)
    found: Mapping[str, Any] | None = None if data is None else json.loads(data)
    return found


def write(context: StageContext) -> Mapping[str, Any] | None:
    """Leave the forecast in the artifact, and return it."""
    found = kept(context)
    if found is not None:
        context.output.put(FORECAST, json.dumps(found, indent=1).encode())
    return found
