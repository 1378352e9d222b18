"""Local files and a judge's address in, checkpoints, metrics, a status and the final model out.

The process that `python -m torch.distributed.run --nproc-per-node N -m polaris.train.worker …` starts N
times. It knows no object store but the judge's cache; the stage supervises it.
"""

from __future__ import annotations

import os
import secrets
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from polaris import cpu_engine
from polaris.config import RunConfig
from polaris.errors import BUG, DONE, ConfigError, PolarisError, TransientError
from polaris.load import load
from polaris.recipe import TrainConfig
from polaris.runtime import StopFlag, configure_logging, get_logger
from polaris.train.job import METRICS, MODEL, PIDS, VALIDATION, Job, write_status
from polaris.train.nodes import told_team
from polaris.train.settings import Hardware, steps_per_epoch

if TYPE_CHECKING:
    from polaris.train.build import Built

log = get_logger("worker")


def main(arguments: list[str] | None = None) -> int:
    """Train as one of the processes; return 0, also when stopped by a signal after saving."""
    job = Job.parse(arguments)
    stop = StopFlag()
    stop.install()
    rank = os.environ.get("RANK", "0")
    pids = job.output / PIDS
    pids.mkdir(parents=True, exist_ok=True)
    (pids / rank).write_text(str(os.getpid()), encoding="utf-8")
    quieten()
    try:
        # The supervisor has applied the overrides that the environment holds.
        stopped_by = train(job, load(job.config, environment={}), stop)
    except BaseException as error:
        _report(job.output, error)
        sys.stdout.flush()
        sys.stderr.flush()
        # Other processes may be waiting for this one in a collective: leave now, and torchrun ends them.
        os._exit(1)
    if os.environ.get("LOCAL_RANK", "0") == "0":
        if stopped_by:
            write_status(job.output, 128 + stopped_by, f"stopped by signal {stopped_by} after saving")
        else:
            write_status(job.output, DONE, "done")
    return 0


def quieten() -> None:
    """Log to stderr, stay off the network and leave libraries little to say."""
    configure_logging()
    for name in ("HF_HUB_OFFLINE", "VLLM_NO_USAGE_STATS", "DO_NOT_TRACK"):
        os.environ[name] = "1"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def train(job: Job, config: RunConfig, stop: StopFlag, *, judge: Any = None) -> int | None:
    """Train from the job's files; return the signal that stopped it early, if one did.

    `judge` stands in for the configured one: a callable as `polaris.train.reward.JudgeStory`.

    Raises:
        PolarisError: of the kind that the stage's exit code says.

    """
    settings = config.training(job.arm)
    hardware = _hardware(config, settings)
    from polaris.train import build, callbacks, checkpoint, export

    layout = checkpoint.Layout(settings.world_size, settings.zero_stage)
    resumed = 0
    if job.resume is not None:
        checkpoint.check_layout(job.resume, layout)
        resumed = checkpoint.step_of(job.resume.name) or 0
    built = build.build(job, config, settings, hardware, judge)
    if settings.nodes > 1:
        layout = replace(layout, session=session(resumed))
    if built.trainer.accelerator.is_main_process:
        checkpoint.truncate_metrics(job.output / METRICS, resumed)
        checkpoint.truncate_metrics(job.output / VALIDATION, resumed)
    stopper = callbacks.Stopper(stop)
    built.trainer.add_callback(
        callbacks.Metrics(job.output / METRICS, steps_per_epoch(built.prompts, settings))
    )
    built.trainer.add_callback(stopper)
    if settings.validation is not None:
        built.trainer.add_callback(built.validation(job, config, settings.validation, stopper))
    built.trainer.add_callback(callbacks.Sealer(layout))
    try:
        _run(built, job)
    finally:
        built.close()
    if stopper.stopped_by is None:
        dtype, folder = config.dtype(settings.base), job.output / MODEL
        export.export(built.trainer, built.tokenizer, job.model, folder, dtype=dtype, end_id=built.end_id)
    return stopper.stopped_by


def _run(built: Built, job: Job) -> None:
    """Train; where the processes agree that the judge is at fault, save the last finished step and raise.

    Raises:
        PolarisError: what they agreed on, and what is saved.

    """
    from polaris.train.rescue import Rescue
    from polaris.train.validation import Abandoned

    trainer, rescue = built.trainer, Rescue()
    trainer.add_callback(rescue)
    try:
        trainer.train(resume_from_checkpoint=str(job.resume) if job.resume else None)
    except Abandoned:
        return
    except PolarisError as error:
        if error is not built.agreement.error:
            raise
        step = rescue.save(trainer)
        saved = f"checkpoint-{step} is saved" if step else "nothing was trained yet"
        raise type(error)(f"{error}; {saved}") from None


def _hardware(config: RunConfig, settings: TrainConfig) -> Hardware:
    """Look for GPUs; without any fit the libraries to the CPU before they are imported.

    Raises:
        ConfigError: there are more GPUs than processes, or fewer.

    """
    import torch

    hardware = Hardware(torch.cuda.is_available(), config.dtype(settings.base))
    if hardware.cuda:
        require_gpus(torch.cuda.device_count(), settings.processes)
    else:
        cpu_engine.fit_training(engine=settings.rollout_engine == "vllm", zero=settings.zero_stage > 0)
    return hardware


def require_gpus(visible: int, processes: int) -> None:
    """Raise ConfigError unless this node has one GPU for each of its processes.

    Nothing else would say so: GPUs beyond the processes stay idle to the end, and a process without one
    dies of CUDA's own words.
    """
    if visible == processes:
        return
    are = "1 GPU is" if visible == 1 else f"{visible} GPUs are"
    ask, outside = "more", ""
    if visible > processes:
        ask = "fewer"
        outside = "; on a machine of your own name those to be used in CUDA_VISIBLE_DEVICES"
    raise ConfigError(
        f"train.processes: value {processes}; {are} visible to this pod: set train.processes (and"
        f" zero_stage) or ask for {ask} GPUs (training.gpus in the chart){outside}"
    )


def session(resumed: int) -> str:
    """Return a name for this start, the same in every process.

    Raises:
        TransientError: the nodes go on from different steps; they restored at different times.

    """
    import torch
    from accelerate import PartialState
    from accelerate.utils import gather

    own = torch.tensor([[resumed, secrets.randbits(62)]], device=PartialState().device)
    steps, marks = gather(own).T.tolist()
    if len(set(steps)) > 1:
        found = ", ".join(map(str, sorted(set(steps))))
        raise TransientError(f"the nodes would go on from different checkpoints (steps {found}): start again")
    return f"{marks[0]:x}"


def _lost(error: BaseException) -> bool:
    """Tell whether it is another process's end that a collective has met: gloo knows no class of its own."""
    from torch.distributed import DistError

    return isinstance(error, DistError) or (
        isinstance(error, RuntimeError) and "gloo/transport" in str(error).replace(os.sep, "/")
    )


def _report(output: Path, error: BaseException) -> None:
    team = told_team()
    if not team.alone and _lost(error):
        said = str(error).splitlines()[0].split(". This is")[0].rpartition("] ")[2]
        error = TransientError(f"{team.others} of this training is gone, and its log says why: {said}")
    if isinstance(error, PolarisError):
        write_status(output, error.code, str(error))
        log.error("failed", code=error.code, reason=str(error))
        return
    write_status(output, BUG, f"{type(error).__name__}: {error}".splitlines()[0])
    traceback.print_exception(error)


def _leave(code: int) -> NoReturn:
    """End the process at once: engine, CUDA and NCCL may crash or hang while one is taken down."""
    if (wandb := sys.modules.get("wandb")) is not None:
        wandb.finish()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _leave(main())
