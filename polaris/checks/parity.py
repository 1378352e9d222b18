"""A run's base models in, whether trainer, engine and padded rows agree on one text's log-probabilities out.

The models are loaded by a program of its own (`polaris.train.compare`) and only on demand: of a real model
that takes minutes.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from polaris.checks import gpus
from polaris.checks.base_model import config_json, source_of, weights_of
from polaris.checks.finding import Finding, Subject, failed, unchecked
from polaris.config import RunConfig
from polaris.errors import PolarisError
from polaris.imports import fetch, fetch_repository
from polaris.models import CheckpointModel
from polaris.recipe import TrainConfig
from polaris.run import inputs_of
from polaris.runtime import die_with_parent, get_logger
from polaris.train.compare import MODULE, Answer, Question
from polaris.train.memory import GB
from polaris.train.settings import Hardware
from polaris.train.shape import read_shape
from polaris.train.supervise import worker_environment

ENGINE, PADDING = "engine and trainer", "padding"
NEEDS = ("torch", "transformers", "trl")
EXACT, ROUNDED = 0.01, 0.25
"""What padding may change in float32, where it is 1e-5 by rounding, and in bfloat16."""
LONGEST_S = 1800.0
"""A comparison that takes longer is given up: reading a large model from a slow disk takes minutes."""
ROOM = 1.15
"""Bytes that a loaded model takes for each byte of its weights, and then EXTRA."""
EXTRA = 1.5 * GB
"""Libraries, one text's activations, and on a CPU the engine's cache, bytes."""

log = get_logger("check")


@dataclass(frozen=True)
class Compared:
    """A base model to compare, by the first training that starts from it."""

    name: str
    train: TrainConfig

    @property
    def limit(self) -> float:
        """Largest |Δ log-probability| that the training tolerates."""
        return self.train.engine_max_difference

    @property
    def engine(self) -> bool:
        """Whether an engine writes the rollouts."""
        return self.train.rollout_engine == "vllm"


def check_parity(subject: Subject) -> Iterator[Finding]:
    """Compare each base model, if that is wanted; else say what was not compared, and how to."""
    bases: dict[str, Compared] = {}
    for train in subject.config.trainings().values():
        bases.setdefault(train.base, Compared(train.base, train))
    for base in bases.values():
        yield from _compared(subject, base) if subject.parity else _untried(subject, base)


def _untried(subject: Subject, base: Compared) -> Iterator[Finding]:
    fix = f"`--parity` loads models.{base.name} and compares them: minutes for a large one"
    if base.engine:
        yield unchecked(
            ENGINE,
            "whether they give one text the same log-probabilities; the training compares them in its first"
            f" steps and stops above train.engine_max_difference {base.limit:g}",
            fix,
        )
    data = config_json(subject.config, base.name)
    if data is not None and read_shape(data).linear_layers:
        yield unchecked(
            PADDING, "whether padded and unpadded rows of the real model have the same log-probabilities", fix
        )


def _compared(subject: Subject, base: Compared) -> Iterator[Finding]:
    told = ([ENGINE] if base.engine else []) + [PADDING]
    folder, why = weights_folder(subject.config, base.name)
    if folder is not None:
        why = _unfit(folder, subject.config.dtype(base.name), base.train)
    if folder is None or why:
        yield from (unchecked(what, why) for what in told)
        return
    log.info("comparing log-probabilities", model=base.name, note="a large model takes minutes to load")
    with tempfile.TemporaryDirectory() as output:
        answer = _ask(_question(subject.config, base, folder, Path(output) / "answer.json"))
    if isinstance(answer, Finding):
        yield answer
        return
    if base.engine:
        yield of_engine(base, answer)
    yield of_padding(base, answer)


def weights_folder(config: RunConfig, name: str) -> tuple[Path | None, str]:
    """Return where the model's weights lie on this disk, fetched if need be; None and why, if they cannot be.

    The copy of an import is the run's own, which its training finds.
    """
    model = config.models[name]
    assert isinstance(model, CheckpointModel)
    source = source_of(config, name)
    try:
        if source is not None and source.artifact is not None:
            artifact = source.artifact
            return fetch(artifact.store, artifact.manifest, inputs_of(config)), ""
        if model.repo is not None:
            return fetch_repository(model.repo, f"models.{name}.repo"), ""
    except (PolarisError, ImportError) as error:
        return None, str(error)
    return (source.folder, "") if source is not None else (None, f"models.{name} is not on this machine")


def _unfit(folder: Path, dtype: str, train: TrainConfig) -> str:
    """Return why the model cannot be loaded here, '' if nothing is known against it."""
    missing = [name for name in NEEDS if find_spec(name) is None]
    if missing:
        return f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed"
    weights = weights_of(folder)
    if weights is None:
        return f"there are no *.safetensors files in {folder}"
    here = gpus.visible()
    held = Hardware(bool(here), dtype).load_dtype(train.zero_stage, frozen=train.lora is not None)
    need = weights.total * (2 if held == "bfloat16" else 4) * ROOM + EXTRA
    room = float(min(here)) if here else free_memory()
    if need <= room:
        return ""
    where = "this GPU has" if here else "no GPU here, and in memory there are"
    return f"the model takes {need / GB:.1f} GB, and {where} {room / GB:.1f}" + (" free" if not here else "")


def free_memory() -> float:
    """Return the bytes of memory that a new process may take; infinite where the system does not say."""
    found = math.inf
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found = next(float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
        # A container's limit.
        limit, used = (
            Path(f"/sys/fs/cgroup/memory.{name}").read_text(encoding="ascii") for name in ("max", "current")
        )
        return found if limit.strip() == "max" else min(found, float(limit) - float(used))
    except (OSError, StopIteration, ValueError):
        return found


def _question(config: RunConfig, base: Compared, folder: Path, output: Path) -> Question:
    return Question(
        model=str(folder.resolve()),
        output=str(output),
        dtype=config.dtype(base.name),
        zero_stage=base.train.zero_stage,
        frozen=base.train.lora is not None,
        engine=base.engine,
        engine_memory=base.train.engine_memory,
    )


def _ask(question: Question) -> Answer | Finding:
    """Run the program; where it gives no answer return what is to be said of that."""
    command = [sys.executable, "-m", MODULE, *question.arguments()]
    try:
        done = subprocess.run(
            command,
            env=worker_environment(1, {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=LONGEST_S,
            preexec_fn=die_with_parent,
        )
    except subprocess.TimeoutExpired:
        return unchecked(PADDING, f"the comparison took more than {LONGEST_S / 60:.0f} minutes")
    if done.returncode == 0:
        return Answer(**json.loads(Path(question.output).read_text(encoding="utf-8")))
    if done.returncode < 0:
        return unchecked(PADDING, f"signal {-done.returncode} ended the comparison, perhaps for its memory")
    said = [line for line in done.stdout.splitlines() if line.strip()] or ["nothing was said"]
    fix = "see whether `versions` finds a fault; a training loads it in the same way"
    return failed(PADDING, f"{question.model} cannot be loaded: {said[-1].strip()}", fix)


def of_engine(base: Compared, answer: Answer) -> Finding:
    """Return what a difference between trainer and engine means."""
    if answer.engine is None:
        told = f"models.{base.name} in a vLLM engine: it does not start here: {answer.engine_error}"
        if answer.device == "cpu":
            return unchecked(ENGINE, told)
        fix = f"give it memory (train.engine_memory {base.train.engine_memory:g}), or see `versions`"
        return failed(ENGINE, told.partition(": ")[2], fix)
    fix = (
        "training would learn from stories that the policy does not write: install the vllm and transformers"
        " that this release was made for, or set train.rollout_engine: transformers; raise"
        " train.engine_max_difference only where bfloat16 explains it"
    )
    told = _told(base, answer, answer.engine, "between trainer and engine")
    return _judged(ENGINE, told, answer.engine, base.limit, "train.engine_max_difference", fix)


def of_padding(base: Compared, answer: Answer) -> Finding:
    """Return what a difference between padded and unpadded rows means."""
    fix = (
        "padding reaches the text, and training would learn from wrong log-probabilities: install the"
        " transformers (and flash-linear-attention) that this release was made for"
    )
    told = _told(base, answer, answer.padding, "between padded and unpadded rows")
    rounding = EXACT if answer.dtype == "float32" else ROUNDED
    limit, of = base.limit, "train.engine_max_difference"
    if limit > rounding:
        limit, of = rounding, f"{answer.dtype}'s rounding"
    return _judged(PADDING, told, answer.padding, limit, of, fix)


def _told(base: Compared, answer: Answer, found: float, between: str) -> str:
    return (
        f"models.{base.name}: log-probabilities of {answer.tokens} tokens differ by {found:.2g} {between},"
        f" {answer.dtype} on {answer.device}"
    )


def _judged(what: str, told: str, found: float, limit: float, of: str, fix: str) -> Finding:
    if found <= limit:
        return Finding("ok", what, f"{told}; {of} allows {limit:g}")
    return failed(what, f"{told}, more than {of} allows: {limit:g}", fix)
