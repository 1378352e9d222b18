"""Pairs and a base model in, the trained model and its metrics out: the `train` stage's supervisor.

It imports no torch: it restores what an earlier attempt saved, starts the training processes, uploads
their checkpoints while they train, and turns how they ended into the stage's exit code.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from polaris.artifact import to_rows
from polaris.errors import InputError, TransientError
from polaris.load import dump
from polaris.recipe import TrainConfig
from polaris.runtime import get_logger, progress
from polaris.stage import StageContext, versions
from polaris.train import checkpoint, expected, records, spent, underway
from polaris.train.card import CARD, Facts, card
from polaris.train.helper import help_out
from polaris.train.job import (
    CONFIG,
    COST,
    COUNTS,
    EVENTS,
    METRICS,
    MODEL,
    REPAID,
    VALIDATION,
    Job,
    judge_environment,
)
from polaris.train.nodes import Team, team_of
from polaris.train.orphans import end_orphans
from polaris.train.settings import require_reporters, total_steps
from polaris.train.supervise import WORKER, Trainer
from polaris.train.uploads import Uploads

_SHOWN = ("loss", "reward", "hri/weight", "engine/logprob_max_difference", "step_seconds")
"""Figures beside the progress bar."""

Row = dict[str, Any]

log = get_logger("train")


def run(context: StageContext, *, worker: str = WORKER) -> None:
    """Train, or go on training, and write `model/…`, `metrics.jsonl` and the validations.

    Of several nodes only the one with rank 0 writes; the others end well without an artifact.

    Raises:
        PolarisError: as the worker reported: a wrong setting, a corrupt input, a guard, a signal.

    """
    settings = context.config.training(context.instance.params.get("arm"))
    require_reporters(settings)
    team = team_of(settings)
    job = prepare(context, settings, team)
    judge = context.endpoint(context.config.judges[settings.judge].model)
    trainer = Trainer(
        job,
        settings.processes,
        judge_environment(judge) | _wandb(settings, context.instance.digest),
        team=team,
        identifier=context.instance.digest,
        worker=worker,
    )
    if not team.leads:
        help_out(context, job, trainer, team)
        return
    expected.keep(context, settings, job)
    uploads = Uploads(context, job, team)
    with progress(planned_steps(settings, job), "optimiser steps") as bar:

        def on_tick() -> None:
            rows = checkpoint.read_metrics(job.output / METRICS)
            for row in rows[round(bar.done) :]:
                bar.advance(
                    1, **{name.replace("/", "_"): row[name] for name in _SHOWN if row.get(name) is not None}
                )
            uploads.poll()

        bar.advance(0)
        try:
            trainer.run(context.stop, on_tick)
        finally:
            on_tick()
            try:
                book_unfinished(context, job.output)
            except TransientError as error:
                # How the training ended matters more; the next start books it.
                log.warning("not_booked", reason=str(error))
            uploads.finish()
    write(context, settings, job)


def _wandb(settings: TrainConfig, digest: str) -> dict[str, str]:
    """Return what makes a training that goes on the same run at W&B."""
    wanted = "wandb" in settings.report_to
    return {"WANDB_RUN_ID": digest, "WANDB_RESUME": "allow"} if wanted else {}


def prepare(context: StageContext, settings: TrainConfig, team: Team) -> Job:
    """Lay out the work folder: configuration, pairs, the newest complete checkpoint, the metrics up to it."""
    output = context.work / "out"
    end_orphans(output)
    shutil.rmtree(output / MODEL, ignore_errors=True)
    output.mkdir(parents=True, exist_ok=True)
    config = output / CONFIG
    # The file that this was read from may change before the workers read it, and what they then make would
    # not be what the digest says.
    config.write_text(dump(context.config), encoding="utf-8")
    pairs = output / "pairs.jsonl"
    pairs.write_bytes(context.inputs["data"].read("pairs.jsonl"))
    arm = context.instance.params.get("arm")
    job = Job(config, pairs, context.model_folder(settings.base), output, arm=arm)
    resume = restore(context, job.checkpoints, team)
    last_step = checkpoint.step_of(resume.name) or 0 if resume else 0
    if team.leads:
        book_unfinished(context, output)
        spent.rewind(context.progress, METRICS, output / METRICS, last_step)
        records.restore(context.progress, output, last_step)
    else:
        # Node 0 books from the store; what lies here is of an attempt that it has seen the end of.
        underway.forget(output)
    if resume:
        log.info("resume", checkpoint=resume.name)
    return replace(job, resume=resume)


def restore(context: StageContext, folder: Path, team: Team | None = None) -> Path | None:
    """Return the newest complete checkpoint, of this machine or of the store; drop unfinished ones.

    Where several nodes train, or trained, the files on one of them are a part only, and the store's count
    alone. A corrupt one in the store is dropped if an earlier one can be read.

    Raises:
        InputError: none of the checkpoints can be read; names the newest one's object.

    """
    team = team or Team()
    for path in folder.glob(f"{checkpoint.PREFIX}*"):
        if not (team.alone and checkpoint.is_complete(path) and not checkpoint.read_layout(path).session):
            shutil.rmtree(path)
    local = {path.name for path in checkpoint.complete(folder)}
    corrupt: dict[str, InputError] = {}
    for name in reversed(checkpoint.ordered({*local, *context.progress.folders()})):
        if name not in local:
            try:
                _fetch(context, name, folder)
            except InputError as error:
                corrupt[name] = error
                continue
        for bad, reason in corrupt.items():
            log.warning("checkpoint_corrupt", reason=str(reason), instead=name)
            if team.leads:
                context.progress.delete(f"{bad}/")
        return folder / name
    if corrupt:
        raise next(iter(corrupt.values()))
    return None


def _fetch(context: StageContext, name: str, folder: Path) -> None:
    part = folder / f"arriving-{name}"
    shutil.rmtree(part, ignore_errors=True)
    context.progress.get_folder(name, part)
    part.rename(folder / name)


def book_unfinished(context: StageContext, output: Path) -> None:
    """Remember what a step cost that the workers did not finish, however they ended.

    It is known from this machine's files and from every node's copy in the store; rows must still be those
    that the workers left.
    """
    copies = [context.progress.get(name) or b"[]" for name in context.progress.names(underway.PIECE)]
    notes = [note for copy in copies for note in json.loads(copy)] + underway.read(output)
    if not notes:
        return
    told = [row for name in (METRICS, VALIDATION) for row in _rows_of(context, output, name)]
    spent.book(context.progress, underway.untold(notes, map(underway.place, told)))
    underway.forget(output)
    context.progress.delete(underway.PIECE)


def _rows_of(context: StageContext, output: Path, name: str) -> list[Row]:
    return to_rows(context.progress.get(name) or b"", name) + checkpoint.read_metrics(output / name)


def planned_steps(settings: TrainConfig, job: Job) -> int:
    """Return about how many steps there will be: prompts that turn out too long make it fewer."""
    pairs = to_rows(job.pairs.read_bytes(), job.pairs.name)
    return total_steps(sum(pair.get("split", "train") == "train" for pair in pairs), settings)


def write(context: StageContext, settings: TrainConfig, job: Job) -> None:
    """Upload the model, its card and the metrics; fill in counts, cost and notes."""
    lost = spent.read(context.progress)
    rows, validations = (
        [row | {REPAID: spent.repaid(row, lost)} for row in checkpoint.read_metrics(job.output / name)]
        for name in (METRICS, VALIDATION)
    )
    for path in sorted((job.output / MODEL).iterdir()):
        context.output.put_file(f"{MODEL}/{path.name}", path)
    context.output.put_rows(METRICS, rows)
    tensorboard = "tensorboard" in settings.report_to
    records.write(context.output, job.output, rows, validations, tensorboard=tensorboard)
    judged = [*rows, *validations]
    counts: dict[str, Any] = json.loads((job.output / COUNTS).read_text(encoding="utf-8"))
    context.counts |= counts
    context.counts |= {
        "steps": len(rows),
        "rows": len(rows) * settings.prompts_per_step * settings.group_size,
        "judge_calls": _total(rows, "judge/calls"),
        "judge_failed": _total(rows, "judge/failed"),
        "references": _total(rows, "hri/references"),
        "references_failed": _total(rows, "hri/reference_failed"),
        "references_clipped": _total(rows, "hri/clipped"),
        "hours": (_total(rows, "step_seconds") + _total(validations, "seconds")) / 3600,
        "validations": len(validations),
        "validation_stories": _total(validations, "n"),
        "validation_failed": _total(validations, "failed"),
    }
    context.counts |= {f"judge_{name}": _total(judged, key) + lost[name] for name, key in EVENTS.items()}
    context.counts["judge_repaid"] = _total(judged, REPAID)
    context.cost |= {name: _total(judged, key) + lost[name] for name, key in COST.items()}
    if context.counts["judge_schema_fallbacks"]:
        endpoint = f"models.{context.config.judges[settings.judge].model}"
        context.notes.append(f"{endpoint}: enforces no JSON schema, so the judge gets it in its prompt")
    caveat = context.caveat(settings.judge)
    if caveat:
        context.notes.append(caveat)
    data, identity_of_model = context.inputs["data"], context.run.identity_of_model
    facts = Facts(
        config=context.config,
        digest=context.instance.digest,
        identity=context.instance.identity,
        base=identity_of_model(settings.base),
        judge=identity_of_model(context.config.judges[settings.judge].model),
        caveat=caveat,
        versions=versions(),
        pairs=data.rows("pairs.jsonl"),
        data_digest=data.manifest.digest,
        data_counts=data.manifest.counts,
        rows=rows,
        counts=context.counts,
        cost=context.cost,
        validations=validations,
        forecast=expected.write(context),
    )
    context.output.put(f"{MODEL}/{CARD}", card(facts).encode())
    for folder in (job.checkpoints, job.output / MODEL):
        shutil.rmtree(folder, ignore_errors=True)


def _total(rows: list[Row], name: str) -> float:
    return float(sum(row.get(name) or 0.0 for row in rows))
