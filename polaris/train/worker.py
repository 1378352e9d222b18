"""Local files and a judge's address in, checkpoints, metrics, a status and the final model out.

The process that `python -m torch.distributed.run --nproc-per-node N -m polaris.train.worker …` starts N
times. It knows no object store but the judge's cache; the stage supervises it.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from polaris.artifact import to_rows
from polaris.chat import Usage
from polaris.config import RunConfig, TrainConfig
from polaris.errors import BUG, DONE, ConfigError, PolarisError
from polaris.judge.parse import Judgement
from polaris.judge.score import Judge, open_judge
from polaris.load import load
from polaris.runtime import StopFlag, configure_logging, get_logger
from polaris.storage import open_store
from polaris.train import cpu_engine
from polaris.train.job import COUNTS, METRICS, MODEL, PIDS, Job, JudgeAddress, write_status

log = get_logger("worker")

_WHOLE_ROWS = "All reward functions returned None"


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
        stopped_by = train(job, load(job.config), stop)
    except BaseException as error:
        _report(job.output, error)
        sys.stdout.flush()
        sys.stderr.flush()
        # Other processes may be waiting for this one in a collective: leave now, and torchrun ends them.
        os._exit(1)
    if rank == "0":
        if stopped_by:
            write_status(job.output, 128 + stopped_by, f"stopped by signal {stopped_by} after saving")
        else:
            write_status(job.output, DONE, "done")
    return 0


def quieten() -> None:
    """Log to stderr, stay off the network and keep story text out of the log."""
    configure_logging()
    for name in ("HF_HUB_OFFLINE", "VLLM_NO_USAGE_STATS", "DO_NOT_TRACK"):
        os.environ[name] = "1"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # TRL warns of a row without a reward by printing the whole row.
    logging.getLogger("trl.trainer.grpo_trainer").addFilter(
        lambda record: not record.getMessage().startswith(_WHOLE_ROWS)
    )


def train(job: Job, config: RunConfig, stop: StopFlag, *, judge: Any = None) -> int | None:
    """Train from the job's files; return the signal that stopped it early, if one did.

    `judge` stands in for the configured one: a callable as `polaris.train.reward.JudgeStory`.

    Raises:
        PolarisError: of the kind that the stage's exit code says.

    """
    settings = config.train
    if settings is None:
        raise ConfigError("train: this configuration trains nothing; add a train section")
    cpu_engine.prepare_environment_without_cuda()
    from polaris.train import callbacks, checkpoint, export
    from polaris.train.settings import accumulation

    accumulation(settings)
    layout = checkpoint.Layout(settings.processes, settings.zero_stage)
    resumed = 0
    if job.resume is not None:
        checkpoint.check_layout(job.resume, layout)
        resumed = checkpoint.step_of(job.resume.name) or 0
    stopper = callbacks.Stopper(stop)
    trainer, tokenizer, end_id = build(job, config, settings, judge)
    if trainer.accelerator.is_main_process:
        checkpoint.truncate_metrics(job.output / METRICS, resumed)
    trainer.add_callback(callbacks.Metrics(job.output / METRICS))
    trainer.add_callback(stopper)
    trainer.add_callback(callbacks.Sealer(layout))
    trainer.train(resume_from_checkpoint=str(job.resume) if job.resume else None)
    if stopper.stopped_by is None:
        dtype = config.dtype(settings.base)
        export.export(trainer, tokenizer, job.model, job.output / MODEL, dtype=dtype, end_id=end_id)
    return stopper.stopped_by


def build(job: Job, config: RunConfig, settings: TrainConfig, judge: Any) -> tuple[Any, Any, int]:
    """Return the trainer, its tokenizer and the end-of-turn token's id."""
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer, PrinterCallback
    from transformers.utils import logging as transformers_logging
    from trl import GRPOConfig

    from polaris.train import references
    from polaris.train.dataset import training_rows
    from polaris.train.reward import Reward
    from polaris.train.settings import Hardware, grpo_arguments
    from polaris.train.trainer import ReferenceTrainer

    transformers_logging.disable_progress_bar()
    hardware = Hardware(torch.cuda.is_available(), config.dtype(settings.base))
    thinking = config.thinking(settings.base)
    if not hardware.cuda:
        cpu_engine.apply(engine=settings.rollout_engine == "vllm")
    tokenizer = AutoTokenizer.from_pretrained(job.model, padding_side="left", truncation_side="left")
    end, end_id = references.end_token(tokenizer, [{"role": "user", "content": ""}], thinking)
    # A converted tokenizer may name another token; the template's is the one that ends a turn.
    tokenizer.eos_token = end
    rows, counts = training_rows(to_rows(job.pairs.read_bytes(), job.pairs.name), tokenizer, settings, thinking)
    arguments = GRPOConfig(
        **grpo_arguments(
            settings, hardware, seed=config.seed, thinking=thinking, end_id=end_id, output=job.checkpoints
        )
    )
    usage = None
    if judge is None:
        judge, usage = _judge(config, settings)
    if int(os.environ.get("RANK", "0")) == 0:
        (job.output / COUNTS).write_text(json.dumps(counts.to_json()), encoding="utf-8")
    trainer = ReferenceTrainer(
        hri=settings.hri,
        engine_max_difference=settings.engine_max_difference,
        model=str(job.model),
        reward_funcs=Reward(
            judge,
            config.reward,
            tokenizer,
            thinking=thinking,
            end_id=end_id,
            processes=settings.processes,
            usage=usage,
        ),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer, tokenizer, end_id


def _judge(config: RunConfig, settings: TrainConfig) -> tuple[Any, Any]:
    """Return the configured judge as a callable, and a function that tells its usage."""
    name = settings.judge
    own = config.judges[name]
    # Each process has a client of its own, and the limit is the endpoint's.
    own = own.model_copy(update={"concurrency": max(1, own.concurrency // settings.processes)})
    shared = config.model_copy(update={"judges": {**config.judges, name: own}})
    opened: Judge = open_judge(shared, name, JudgeAddress.from_environment(), open_store(config.store))

    async def ask(prompt: str, story: str) -> Judgement:
        return (await opened.score(prompt, story)).judgement

    def usage() -> Usage:
        return opened.client.usage

    return ask, usage


def _report(output: Path, error: BaseException) -> None:
    if isinstance(error, PolarisError):
        write_status(output, error.code, str(error))
        log.error("failed", code=error.code, reason=str(error))
        return
    write_status(output, BUG, f"{type(error).__name__}: {error}".splitlines()[0])
    traceback.print_exception(error)


if __name__ == "__main__":
    sys.exit(main())
