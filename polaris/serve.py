"""A model's name in, an OpenAI-compatible endpoint on its checkpoint out.

The process prepares the checkpoint (from the store, verified, if this run trained it) and then
becomes the server, so that signals and exit codes are the server's own.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path

from polaris import cpu_engine
from polaris.artifact import Artifact
from polaris.errors import ConfigError, InputError
from polaris.models import CheckpointModel, ServeConfig, TrainedModel
from polaris.plan import train_instance
from polaris.run import Run
from polaris.runtime import get_logger

log = get_logger("serve")

STRUCTURED = '{"backend": "xgrammar", "disable_any_whitespace": true}'
EXPECTED_ENV = "POLARIS_EXPECTED_IDENTITY"
"""The identity that the server was started for, where its configuration may change under it."""
DRAIN_S = 15
"""What requests in flight get to end when the server is told to stop, seconds."""
DRAIN_ENV = "POLARIS_DRAIN_S"
"""The same where whoever started the server gives it another time to end."""
OFFLINE = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


def serve(run: Run, name: str, host: str, port: int) -> None:
    """Become the server of a model; returns only by an exception.

    Raises ConfigError for a model that is not ours or a server that is not installed, InputError for a
    checkpoint that is missing or corrupt.
    """
    model = run.config.models.get(name)
    if not isinstance(model, CheckpointModel | TrainedModel):
        served = [key for key, found in run.config.models.items() if found.kind != "endpoint"]
        raise ConfigError(f"models: '{name}' is no model that this run serves; it has {', '.join(served)}")
    expected, identity = os.environ.get(EXPECTED_ENV), run.identity_of_model(name)
    if expected and expected != identity:
        raise ConfigError(
            f"{EXPECTED_ENV}: this server was started for '{expected}', models.{name} is now '{identity}';"
            " the configuration was changed meanwhile, start the server again"
        )
    drain = drain_s()
    folder = checkpoint(run, name)
    command = server_command(model.serve, folder, name, run.config.dtype(name), host, port, drain)
    environment = {**os.environ, **OFFLINE}
    if model.serve.engine == "transformers":
        # Its list of models is that of the hub's cache, and without such a folder an error.
        hub = run.work_folder / "hub"
        hub.mkdir(parents=True, exist_ok=True)
        environment["HF_HUB_CACHE"] = str(hub)
    elif cpu_engine.vllm_is_cpu():
        environment |= cpu_engine.server_environment(model.serve)
    log.info("serve", model=name, identity=identity, engine=model.serve.engine, port=port)
    os.execve(sys.executable, command, environment)


def checkpoint(run: Run, name: str) -> Path:
    """Return a model's folder, fetched from the store and verified if trained by this run or imported."""
    model = run.config.models[name]
    if not isinstance(model, TrainedModel):
        return run.model_folder(name)
    folder, training = run.checkpoint_folder(name), train_instance(model.arm)
    manifest = run.manifest(training)
    if manifest is None:
        raise InputError(f"models.{name}: {training} is not complete in {run.store.url}; run it first")
    Artifact(run.store, manifest).download(folder, "model/")
    return folder


def drain_s() -> int:
    """Return what requests in flight get to end, seconds; raise ConfigError for what is no whole number."""
    text = os.environ.get(DRAIN_ENV) or str(DRAIN_S)
    if not (text.isascii() and text.isdecimal()):
        raise ConfigError(f"{DRAIN_ENV}: '{text}' is no whole number of seconds; set it to {DRAIN_S}, say")
    return int(text)


def server_command(
    settings: ServeConfig, folder: Path, name: str, dtype: str, host: str, port: int, drain: int = DRAIN_S
) -> list[str]:
    """Return the server's command line."""
    address = ["--host", host, "--port", str(port)]
    if settings.engine == "transformers":
        command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(folder), *address]
        return [*command, "--dtype", dtype, *settings.extra_args]
    _require("vllm", f"models.{name}.serve.engine")
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(folder), *address]
    command += ["--served-model-name", name, "--dtype", dtype]
    command += ["--tensor-parallel-size", str(settings.tensor_parallel)]
    command += ["--shutdown-timeout", str(drain)]
    # Between JSON tokens a small model can lose itself in blanks until its tokens are spent.
    command += ["--structured-outputs-config", STRUCTURED]
    if settings.max_model_len:
        command += ["--max-model-len", str(settings.max_model_len)]
    if settings.enforce_eager:
        command += ["--enforce-eager"]
    if cpu_engine.vllm_is_cpu():
        command += cpu_engine.SERVER_FLAGS
    else:
        command += ["--gpu-memory-utilization", str(settings.gpu_memory_utilization)]
    return [*command, *settings.extra_args]


def _require(package: str, setting: str) -> None:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise ConfigError(
            f"{setting}: {package} is not installed here; install the extra polaris[serve], use the Linux"
            " container, or set it to 'transformers' and name an external judge"
        ) from None
