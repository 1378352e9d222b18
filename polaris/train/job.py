"""What a training worker is told and what it answers: arguments, the judge's address, a status file.

Shared by the supervisor, which imports no torch, and the worker.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from polaris.chat import COST as COST_FIELDS
from polaris.chat import Endpoint, Usage
from polaris.errors import (
    BudgetError,
    ConfigError,
    GuardError,
    InputError,
    PolarisError,
    TransientError,
)

JUDGE_ENV = "POLARIS_TRAIN_JUDGE"
"""JSON object: the judge's endpoint without its key."""
KEY_ENV = "POLARIS_TRAIN_JUDGE_KEY"
"""The judge's key, by environment only: arguments and files are visible to others."""

CONFIG = "config.yaml"
STATUS = "status.json"
METRICS = "metrics.jsonl"
VALIDATION = "validation.jsonl"
"""A row a validation."""
SAMPLES = "samples"
"""Folder of a file a validation, with what was written and how it was judged."""
TENSORBOARD = "tensorboard"
"""Folder of TensorBoard's event file."""
COUNTS = "counts.json"
MODEL = "model"
PIDS = "pids"
CHECKPOINTS = "checkpoints"

SPENT = "spent.json"
"""Progress piece of the stage: what steps cost that were lost and taken again, the paid calls of each
(`paid`), how many answers its first taking found in the cache (`found`), and the starts of the processes
whose notes of an unfinished step are in it (`booked`)."""
REPAID = "judge/repaid"
"""A row's calls that were paid for once before, in a step that was lost, and whose answers were of no use."""
COST = {name: "judge/cached" if name == "cached_calls" else f"judge/{name}" for name in COST_FIELDS}
"""A part of a manifest's `cost` → the figure of a step in the metrics that it sums up."""
EVENTS = {name: f"judge/{name}" for name in Usage().events()}
"""The same for every other counter of the judge's calls; a manifest's `counts` hold it as `judge_NAME`."""

KINDS: tuple[type[PolarisError], ...] = (ConfigError, InputError, BudgetError, GuardError, TransientError)
"""Errors that end a training with a code of their own."""


def samples_of(step: int) -> str:
    """Return the name of the file of the stories that the validation after a step wrote."""
    return f"{SAMPLES}/step-{step:06}.jsonl"


@dataclass(frozen=True)
class Job:
    """Local paths of one training: everything a worker reads and writes.

    Attributes:
        config: the run's configuration as the supervisor loaded it, overrides included: YAML.
        pairs: JSONL rows {uid, prompt, story, reasoning, target_word_count, split}.
        model: folder of the base model.
        output: folder of checkpoints, metrics, status and the final model.
        resume: folder of the checkpoint to go on from.
        arm: the training's name under `arms`; None is `train` itself.

    """

    config: Path
    pairs: Path
    model: Path
    output: Path
    resume: Path | None = None
    arm: str | None = None

    def arguments(self) -> list[str]:
        """Return the worker's command line arguments."""
        return [f"--{name}={value}" for name, value in asdict(self).items() if value is not None]

    @classmethod
    def parse(cls, arguments: list[str] | None = None) -> Job:
        """Read `arguments` back."""
        parser = argparse.ArgumentParser(prog="polaris.train.worker")
        for name in ("config", "pairs", "model", "output"):
            parser.add_argument(f"--{name}", type=Path, required=True)
        parser.add_argument("--resume", type=Path)
        parser.add_argument("--arm")
        return cls(**vars(parser.parse_args(arguments)))

    @property
    def checkpoints(self) -> Path:
        """Folder of the `checkpoint-N` folders."""
        return self.output / CHECKPOINTS


def judge_environment(judge: Endpoint) -> dict[str, str]:
    """Return the variables that tell a worker where the judge is."""
    public = {name: value for name, value in asdict(judge).items() if name != "api_key"}
    return {JUDGE_ENV: json.dumps(public), KEY_ENV: judge.api_key}


def judge_endpoint(environment: Mapping[str, str] = os.environ) -> Endpoint:
    """Read those variables back."""
    return Endpoint(**json.loads(environment[JUDGE_ENV]), api_key=environment.get(KEY_ENV, ""))


def write_status(output: Path, code: int, message: str) -> None:
    """Write how the worker ended, unless one that failed earlier has: the first failure is the cause."""
    path = output / STATUS
    part = path.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps({"code": code, "message": message}), encoding="utf-8")
    try:
        os.link(part, path)
    except FileExistsError:
        pass
    finally:
        part.unlink()


def read_status(output: Path) -> dict[str, Any] | None:
    """Return {code, message}; None if no process got as far as writing it."""
    try:
        found: dict[str, Any] = json.loads((output / STATUS).read_text(encoding="utf-8"))
        return found
    except FileNotFoundError:
        return None


def error_of(code: int, message: str) -> PolarisError | None:
    """Return the error that ends a process with `code`, None if that is no code of an error's own."""
    return next((kind(message) for kind in KINDS if kind.code == code), None)
