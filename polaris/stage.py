"""An instance's name and a configuration in, its finished artifact and an exit code out.

The same program runs as a process on a laptop, as a Job on a cluster and by hand.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import time
import traceback
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polaris
from polaris.artifact import (
    Artifact,
    Manifest,
    Output,
    Progress,
    from_rows,
    new_attempt,
)
from polaris.chat import Endpoint
from polaris.config import RunConfig
from polaris.errors import (
    BAD_CONFIG,
    BUG,
    DONE,
    INTERRUPTED,
    ConfigError,
    InputError,
    PolarisError,
)
from polaris.kinds import KINDS
from polaris.plan import Instance, as_of
from polaris.run import Run, open_run
from polaris.runtime import StopFlag, get_logger, redact
from polaris.storage import NotFound, Store

ATTEMPT_ENV = "POLARIS_ATTEMPT"
"""The attempt's id, where an executor chose it."""
EXPECTED_ENV = "POLARIS_EXPECTED_DIGEST"
"""The digest that the stage was started for, where it reads a configuration that may change under it."""
NODE_ENV = "POLARIS_NODE"
"""Which of the nodes that work on one instance together this is; all but 0 help: no manifest, no status."""
log = get_logger("stage")


@dataclass
class StageContext:
    """What a stage's program gets, and where it leaves what the manifest shall say."""

    run: Run
    instance: Instance
    inputs: dict[str, Artifact]
    progress: Progress
    output: Output
    work: Path
    stop: StopFlag
    counts: dict[str, float] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def config(self) -> RunConfig:
        """The run's configuration."""
        return self.run.config

    @property
    def config_path(self) -> Path:
        """The configuration's file."""
        return self.run.path

    @property
    def store(self) -> Store:
        """The object store."""
        return self.run.store

    def endpoint(self, model: str) -> Endpoint:
        """Return a model's endpoint."""
        return self.run.endpoint(model)

    def model_folder(self, model: str) -> Path:
        """Return a checkpoint model's folder."""
        return self.run.model_folder(model)

    def caveat(self, judge: str) -> str | None:
        """Return the warning that goes with a judge's scores."""
        return self.run.caveat(judge)


def run_stage(path: Path, name: str) -> int:
    """Make an instance's artifact unless it is complete; return the documented exit code.

    Whatever goes wrong is one line in the log and the attempt's status; only a bug shows a traceback.
    """
    stop = StopFlag()
    stop.install()
    attempt = os.environ.get(ATTEMPT_ENV) or new_attempt()
    run: Run | None = None
    status: Status | None = None
    try:
        run = open_run(path)
        instance = run.instance(name)
        _require_expected(instance)
        if run.manifest(name):
            log.info("complete", instance=name, digest=instance.digest, nothing_to_do=True)
            return DONE
        if (os.environ.get(NODE_ENV) or "0") != "0":
            _program(run, instance, attempt, stop)
            log.info("helped", instance=name, digest=instance.digest)
            return DONE
        status = Status(run.store, run.prefix(name), attempt)
        status.write("running")
        manifest = _make(run, instance, attempt, stop)
        status.write("complete")
        log.info(
            "complete",
            instance=name,
            digest=instance.digest,
            seconds=round(manifest.seconds, 1),
            objects=len(manifest.objects),
            **manifest.counts,
            **{f"cost_{key}": round(value, 6) for key, value in manifest.cost.items()},
        )
        return DONE
    except PolarisError as error:
        known = run.plan.instances.get(name) if run else None
        reason = as_of(run.config, known, str(error)) if run and known else str(error)
        return _failed(name, error.code, reason, status)
    except KeyboardInterrupt:
        return _failed(name, INTERRUPTED, "interrupted", status)
    except ModuleNotFoundError as error:
        if (error.name or "polaris").partition(".")[0] == "polaris":
            return _bug(name, error, status)
        reason = (
            f"{name} needs the package '{error.name}', which is not installed here; install polaris[EXTRA]"
        )
        return _failed(
            name, BAD_CONFIG, f"{reason} with the extra of this stage: train, serve or report", status
        )
    except Exception as error:
        return _bug(name, error, status)


def _require_expected(instance: Instance) -> None:
    expected = os.environ.get(EXPECTED_ENV)
    if expected and expected != instance.digest:
        raise ConfigError(
            f"{EXPECTED_ENV}: this was started to make {instance.name} {expected}, and the configuration now"
            f" gives {instance.digest}; it was changed meanwhile, start the stage again"
        )


def _program(run: Run, instance: Instance, attempt: str, stop: StopFlag) -> StageContext:
    prefix = run.prefix(instance.name)
    inputs = {name: _input(run, name) for name in instance.needs}
    work = run.work_folder / instance.name / instance.digest
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"execute.work_dir: '{work}' cannot be made: {error.strerror}") from None
    context = StageContext(
        run=run,
        instance=instance,
        inputs=inputs,
        progress=Progress(run.store, prefix),
        output=Output(run.store, prefix, attempt),
        work=work,
        stop=stop,
    )
    log.info("begin", instance=instance.name, digest=instance.digest, attempt=attempt)
    KINDS[instance.kind].load()(context)
    return context


def _make(run: Run, instance: Instance, attempt: str, stop: StopFlag) -> Manifest:
    started, begun = datetime.now(UTC), time.monotonic()
    context = _program(run, instance, attempt, stop)
    manifest = Manifest(
        run=run.config.run,
        instance=instance.name,
        kind=instance.kind,
        digest=instance.digest,
        attempt=attempt,
        objects=tuple(context.output.entries[name] for name in sorted(context.output.entries)),
        identity=dict(instance.identity),
        config=run.config.model_dump(mode="json"),
        upstream={name: run.plan.instances[name].digest for name in instance.needs},
        versions=versions(),
        started=started.isoformat(timespec="seconds"),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - begun, 3),
        counts=context.counts,
        cost=context.cost,
        notes=tuple(context.notes),
    )
    committed = context.output.commit(manifest)
    _drop_checkpoints(context.progress)
    return committed


def _drop_checkpoints(progress: Progress) -> None:
    """Drop what only an unfinished stage has a use for and is large; `polaris gc` drops what is left."""
    try:
        for name in progress.folders():
            progress.delete(f"{name}/")
    except Exception as error:
        log.warning("checkpoints_not_dropped", reason=f"{error}; `polaris gc` drops them")


def _input(run: Run, name: str) -> Artifact:
    manifest = run.manifest(name)
    if manifest is None:
        raise InputError(
            f"{name} ({run.plan.instances[name].digest}) is not complete in {run.store.url}; run it first"
        )
    return Artifact(run.store, manifest)


class Status:
    """An attempt's state for people: `running`, `complete` or `failed` with code and reason."""

    NAME = "STATUS.json"

    def __init__(self, store: Store, prefix: str, attempt: str) -> None:
        self.store = store
        self.key = f"{prefix}attempts/{attempt}/{self.NAME}"
        self.started = datetime.now(UTC).isoformat(timespec="seconds")

    def write(self, state: str, code: int | None = None, reason: str | None = None, **more: str) -> None:
        """Write the state; a status that cannot be written never hides what it is about."""
        row = {"state": state, "started": self.started, "code": code, "reason": reason, "at": _now(), **more}
        try:
            self.store.put(self.key, from_rows([row]))
        except PolarisError as error:
            log.warning("status_not_written", key=self.key, reason=str(error))


def newest_status(store: Store, prefix: str) -> dict[str, Any]:
    """Return the status of an instance's newest attempt, empty if it never had one."""
    keys = [info.key for info in store.list(f"{prefix}attempts/") if info.key.endswith(f"/{Status.NAME}")]
    try:
        found: dict[str, Any] = json.loads(store.get(max(keys))) if keys else {}
    except (NotFound, ValueError):
        return {}
    return found


def _bug(name: str, error: Exception, status: Status | None) -> int:
    log.error("bug", instance=name, traceback=traceback.format_exc())
    return _failed(name, BUG, f"{type(error).__name__}: {error}", status)


def _failed(name: str, code: int, reason: str, status: Status | None) -> int:
    reason = redact(reason)
    log.error("failed", instance=name, code=code, reason=reason)
    if status is not None:
        status.write("failed", code, reason)
    return code


def versions() -> dict[str, str]:
    """Return the versions that a manifest records."""
    code = hashlib.sha256()
    for path in sorted(Path(polaris.__file__).parent.rglob("*.py")):
        code.update(path.read_bytes())
    found = {
        "polaris": polaris.__version__,
        "polaris_code": f"sha256:{code.hexdigest()[:16]}",
        "python": platform.python_version(),
    }
    for package in (
        "torch",
        "transformers",
        "trl",
        "vllm",
        "deepspeed",
        "peft",
        "openai",
        "boto3",
        "numpy",
        "matplotlib",
    ):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
