"""A real `train` stage in, what its checkpoints cost the training out: the other half of `train.py`.

    python benchmarks/train_stage.py FOLDER FOUND.json --steps 12 --save-steps 2 --group-size 3 --tokens 32

`polaris.train.stage.run` trains SmolLM2 on a generated run in a `file://` store: supervisor, torchrun, worker
and background upload are the product's; the worker is this file again, which hands it a judge and notes when
steps begin and end. One thread trains, so that a core is left to the supervisor, as on any node with GPUs:
what is looked for is what the training waits, not what two programs take from each other on few cores.

Afterwards the newest checkpoint is restored from the store into an empty folder (`stage.restore`: download
and checksums), and a worker is started on it, which is timed until its first step could begin.

FOUND.json holds `steps` ([begin, end], monotonic seconds), `saves` and `uploads` (the same), `blocked` (of
each step the seconds in which its thread neither computed nor waited for a core), `download_s`, `load_s`,
`start_s` (the same start without a checkpoint) and `checkpoint_bytes`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from train_setup import (
    STORIES,
    config_of,
    demo_model,
    no_judge,
    pairs_of,
    prepare_environment,
    worker,
    write_job,
)

from polaris.artifact import Artifact, Manifest, Output, Progress
from polaris.run import Run, open_run
from polaris.runtime import StopFlag
from polaris.stage import StageContext
from polaris.train import stage as train_stage
from polaris.train.job import CHECKPOINTS, METRICS, Job
from polaris.train.uploads import Uploads

NOTES = "POLARIS_BENCH_NOTES"
"""The file that a worker notes its times in, and the length of its completions: `PATH:TOKENS`."""


def main() -> int:
    if len(sys.argv) > 1 and sys.argv[1].startswith("--config"):
        return work()
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("found", type=Path)
    for name in ("steps", "save-steps", "group-size", "tokens"):
        parser.add_argument(f"--{name}", type=int, required=True)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    os.environ["BENCH_KEY"] = "no-key-is-needed"
    prepare_environment()
    given.found.write_text(json.dumps(measure(given)), encoding="utf-8")
    return 0


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Run the stage, restore its last checkpoint and load it."""
    notes = given.folder.absolute() / "notes.jsonl"
    os.environ[NOTES] = f"{notes}:{given.tokens}"
    context = make(given)
    uploads: list[list[float]] = []
    _note_calls(Uploads, "_begin", uploads.append)
    train_stage.run(context, worker="train_stage")
    told = [json.loads(line) for line in notes.read_text(encoding="utf-8").splitlines()]
    folder = given.folder / "restored" / CHECKPOINTS
    folder.mkdir(parents=True)
    begun = time.perf_counter()
    newest = train_stage.restore(context, folder)
    download_s = time.perf_counter() - begun
    assert newest is not None
    job = Job(
        context.work / "out" / "config.yaml", context.work / "out" / "pairs.jsonl", demo_model(), folder
    )
    loaded = _start(Job(job.config, job.pairs, job.model, folder.parent, newest), notes)
    return {
        "steps": [note["step"] for note in told if "step" in note],
        "saves": [note["save"] for note in told if "save" in note],
        "uploads": uploads,
        "blocked": [note["blocked"] for note in told if "blocked" in note],
        "download_s": download_s,
        "load_s": loaded,
        "start_s": next(note["load"] for note in told if "load" in note),
        "checkpoint_bytes": sum(path.stat().st_size for path in newest.rglob("*") if path.is_file()),
    }


def make(given: argparse.Namespace) -> StageContext:
    """Write a run whose data stage is finished, and return the context of its train stage."""
    config = config_of(
        demo_model(),
        prompts_per_step=1,
        group_size=given.group_size,
        micro_batch=given.group_size,
        max_steps=given.steps,
        max_completion_tokens=given.tokens,
        save_steps=given.save_steps,
        hri={"warmup_steps": 1},
    )
    long = [(of, " ".join([story] * given.tokens)) for of, story in STORIES]
    pairs = pairs_of(long, given.tokens)
    run = open_run(write_job(given.folder, demo_model(), config, pairs).config)
    instance = run.instance("train")
    folder = run.work_folder / "train"
    folder.mkdir(parents=True)
    return StageContext(
        run=run,
        instance=instance,
        inputs={"data": finished_data(run, pairs)},
        progress=Progress(run.store, run.prefix("train")),
        output=Output(run.store, run.prefix("train"), "bench"),
        work=folder,
        stop=StopFlag(),
    )


def finished_data(run: Run, pairs: list[dict[str, Any]]) -> Artifact:
    """Make the data stage's artifact of the pairs."""
    instance, at = run.instance("data"), "2026-01-01T00:00:00+00:00"
    output = Output(run.store, run.prefix("data"), "bench")
    output.put_rows("pairs.jsonl", pairs)
    manifest = Manifest(
        run=run.config.run,
        instance="data",
        kind=instance.kind,
        digest=instance.digest,
        attempt="bench",
        objects=tuple(output.entries.values()),
        identity=dict(instance.identity),
        config={},
        upstream={},
        versions={},
        started=at,
        finished=at,
        seconds=0.0,
    )
    return Artifact(run.store, output.commit(manifest))


def _note_calls(kind: type, name: str, note: Callable[[list[float]], Any]) -> None:
    """Have each call of a method noted with its begin and end."""
    called = getattr(kind, name)

    def noted(*args: Any, **kwargs: Any) -> Any:
        begun = time.monotonic()
        try:
            return called(*args, **kwargs)
        finally:
            note([begun, time.monotonic()])

    setattr(kind, name, noted)


def _start(job: Job, notes: Path) -> float:
    """Start a worker on a checkpoint; return the seconds from the trainer's start to its first step."""
    notes.unlink()
    (job.output / METRICS).touch()
    command = [sys.executable, "-m", "train_stage", *job.arguments()]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(
            f"the worker on the restored checkpoint ended with {done.returncode}:\n{done.stderr[-2000:]}"
        )
    told = [json.loads(line) for line in notes.read_text(encoding="utf-8").splitlines()]
    return float(next(note["load"] for note in told if "load" in note))


def work() -> int:
    """Be the product's worker, with a judge of our own, and note when what happens."""
    found = worker()
    path, _, tokens = os.environ[NOTES].rpartition(":")
    from polaris.train import build

    def note(**told: list[float] | float) -> None:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(told) + "\n")

    train, make_trainer = found.train, build.build

    def built(*args: Any) -> Any:
        made = make_trainer(*args)
        made.trainer.generation_config.min_new_tokens = int(tokens)
        made.trainer.add_callback(times(made.trainer, note))
        return made

    setattr(build, "build", built)  # noqa: B010
    found.train = lambda job, config, stop: train(job, config, stop, judge=no_judge)
    return int(found.main(sys.argv[1:]))


def times(trainer: Any, note: Callable[..., None]) -> Any:
    """Return a callback that notes the steps; saves and the start are noted as well."""
    from transformers import TrainerCallback

    _note_calls(type(trainer), "_save_checkpoint", lambda call: note(save=call))
    begin_training = trainer.train
    started = [0.0]

    def begun(*args: Any, **kwargs: Any) -> Any:
        started[0] = time.monotonic()
        return begin_training(*args, **kwargs)

    trainer.train = begun

    class Times(TrainerCallback):  # type: ignore[misc]
        begun = busy = 0.0

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            note(load=time.monotonic() - started[0])

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.begun, self.busy = time.monotonic(), running_s()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            end = time.monotonic()
            note(step=[self.begun, end], blocked=end - self.begun - (running_s() - self.busy))

    return Times()


def running_s() -> float:
    """Return the seconds that this thread has computed or waited for a core (Linux' schedstat)."""
    on_core, waiting, _ = Path("/proc/thread-self/schedstat").read_text(encoding="ascii").split()
    return (int(on_core) + int(waiting)) / 1e9


if __name__ == "__main__":
    sys.exit(main())
