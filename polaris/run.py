"""A configuration's path in; the run as one process sees it out: settings, plan, store, models, endpoints."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from polaris.artifact import Manifest, artifact_prefix, find_manifest
from polaris.chat import Endpoint
from polaris.config import RunConfig
from polaris.errors import ConfigError
from polaris.identity import hash_contents
from polaris.imports import (
    content_hash,
    fetch,
    fetch_repository,
    find_imports,
    find_repository,
    is_weights,
    local_copy,
)
from polaris.load import load
from polaris.models import CheckpointModel, EndpointModel, TrainedModel
from polaris.plan import Instance, Plan, plan, train_instance
from polaris.runtime import keep_secret
from polaris.storage import Store, open_store

ENDPOINTS_ENV = "POLARIS_ENDPOINTS"
"""JSON object: model name → base URL of its endpoint, set by whoever started the services."""
SMALL_JUDGE_BYTES = 4 << 30
"""A local judge with fewer bytes of weights is too small for its scores to mean anything."""
SMALL_JUDGE_BILLIONS = 2.0
"""The same in parameters, for a judge that is known by name only."""


def inputs_of(config: RunConfig) -> Path:
    """Return where a run's imports are fetched to on this machine."""
    return config.execute.work_dir / config.run / "inputs"


@dataclass(frozen=True)
class Run:
    """A run as one process sees it: its configuration, its plan and its store.

    `contents` are the hashes of all that the configuration names as content, `imports` the manifests of
    those that lie in the store.
    """

    path: Path
    config: RunConfig
    contents: dict[Path, str]
    plan: Plan
    store: Store
    imports: Mapping[Path, Manifest] = field(default_factory=dict)

    @property
    def work_folder(self) -> Path:
        """Scratch space on this machine: stages' folders, fetched models, logs."""
        return self.config.execute.work_dir / self.config.run

    def local(self, path: Path) -> Path:
        """Return the local path of a configured content path; an import is fetched, verified, once.

        Raises InputError if an import is corrupt, ConfigError if the work folder cannot hold it.
        """
        manifest = self.imports.get(path)
        return path if manifest is None else fetch(self.store, manifest, self._inputs)

    @property
    def _inputs(self) -> Path:
        return inputs_of(self.config)

    def prefix(self, name: str) -> str:
        """Return the key prefix of an instance's artifact."""
        return artifact_prefix(self.config.run, name, self.plan.instances[name].digest)

    def manifest(self, name: str) -> Manifest | None:
        """Return an instance's manifest, None while it is incomplete."""
        return find_manifest(self.store, self.prefix(name))

    def instance(self, name: str) -> Instance:
        """Return an instance; raise ConfigError if the plan has none of that name."""
        return self.plan.find(name)

    def identity_of_model(self, name: str) -> str:
        """Return the identity of a model that results carry."""
        model = self.config.models[name]
        if isinstance(model, EndpointModel):
            return model.identity
        if isinstance(model, CheckpointModel):
            return model.repo or f"sha256:{self.contents[_path(model)][:16]}"
        return f"trained:{self.plan.instances[train_instance(model.arm)].digest}"

    def model_folder(self, name: str) -> Path:
        """Return the local folder of a checkpoint model, fetched if it is an import or a repository.

        A repository comes from the store if it was imported there, else from the hub. Raises ConfigError
        if it is no checkpoint or the hub has no such revision, InputError if an import is corrupt,
        TransientError if the hub does not answer.
        """
        model = self._checkpoint(name)
        if manifest := self._import_of(model):
            return fetch(self.store, manifest, self._inputs)
        return model.path or fetch_repository(str(model.repo), f"models.{name}.repo")

    def _checkpoint(self, name: str) -> CheckpointModel:
        model = self.config.models[name]
        if not isinstance(model, CheckpointModel):
            raise ConfigError(f"models.{name}: '{model.kind}' is no checkpoint with a folder")
        return model

    def _import_of(self, model: CheckpointModel) -> Manifest | None:
        return find_repository(self.store, model.repo) if model.repo else self.imports.get(_path(model))

    def checkpoint_folder(self, name: str) -> Path:
        """Return the local folder of a model that this run serves; it may still have to be fetched."""
        model = self.config.models[name]
        if isinstance(model, TrainedModel):
            return self.work_folder / "models" / self.plan.instances[train_instance(model.arm)].digest
        manifest = self._import_of(self._checkpoint(name))
        return local_copy(manifest, self._inputs) if manifest else self.model_folder(name)

    def served_name(self, name: str) -> str:
        """Return the name by which a model's server of this run knows it; transformers knows only paths."""
        model = self.config.models[name]
        if not isinstance(model, EndpointModel) and model.serve.engine == "transformers":
            return str(self.checkpoint_folder(name))
        return name

    def endpoint(self, name: str, urls: Mapping[str, str] | None = None) -> Endpoint:
        """Return a model's endpoint: configured, or one that the executor started, by `urls` or environment.

        Raises ConfigError if a service is not up or a configured endpoint's key is not set.
        """
        model = self.config.models[name]
        if isinstance(model, EndpointModel):
            return outside_endpoint(name, model)
        if urls is None:
            urls = started_endpoints()
        if name not in urls:
            raise ConfigError(
                f"models.{name}: no endpoint of this model is up; use `polaris run`, which starts it, or set"
                f' {ENDPOINTS_ENV}=\'{{"{name}": "http://HOST:PORT/v1"}}\''
            )
        return Endpoint(
            urls[name],
            self.served_name(name),
            self.identity_of_model(name),
            "none",
            ours=True,
            engine=model.serve.engine,
            provider="vllm",
            thinking=self.config.thinking(name),
            setting=f"models.{name}",
        )

    def caveat(self, judge: str) -> str | None:
        """Return the warning that goes wherever a judge's scores go, None for a judge to be trusted."""
        name = self.config.judges[judge].model
        model = self.config.models[name]
        if isinstance(model, TrainedModel):
            model = self.config.models[self.config.training(model.arm).base]
        small = None
        if isinstance(model, CheckpointModel) and model.path is not None:
            size = self._weight_bytes(model.path)
            if size < SMALL_JUDGE_BYTES:
                small = f"a small local model ({size / 2**20:,.0f} MiB of weights)"
        elif isinstance(model, CheckpointModel | EndpointModel):
            declared = model.identity if isinstance(model, EndpointModel) else str(model.repo)
            if found := _declared_billions(declared):
                small = f"a small model ({declared})" if found < SMALL_JUDGE_BILLIONS else None
        return (
            f"Judge '{judge}' asks '{name}', {small}: its scores prove the plumbing and mean nothing."
            if small
            else None
        )

    def _weight_bytes(self, path: Path) -> int:
        if manifest := self.imports.get(path):
            return sum(entry.size for entry in manifest.objects if is_weights(entry.name))
        return sum(file.stat().st_size for file in path.glob("*.safetensors"))


def open_run(path: Path) -> Run:
    """Load a configuration, hash what it reads and unfold its plan.

    The store is asked only for what the configuration says lies there.
    """
    config = load(path)
    store = open_store(config.store)
    imports = find_imports(config, store, path)
    contents = hash_contents(config, {named: content_hash(imports[named]) for named in imports})
    return Run(path.absolute(), config, contents, plan(config, contents), store, imports)


def outside_endpoint(name: str, model: EndpointModel) -> Endpoint:
    """Return the endpoint of a model that somebody else serves; raise ConfigError if its key is not set."""
    return Endpoint(
        model.url,
        model.model,
        model.identity,
        _api_key(name, model),
        thinking=model.thinking,
        provider=model.provider,
        tier=model.service_tier,
        requests_per_minute=model.requests_per_minute,
        tokens_per_minute=model.tokens_per_minute,
        setting=f"models.{name}",
        api_key_env=model.api_key_env,
    )


def _api_key(name: str, model: EndpointModel) -> str:
    variable = model.api_key_env
    file = os.environ.get(f"{variable}_FILE")
    key = os.environ.get(variable, "").strip()
    if not key and file:
        try:
            key = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            what = getattr(error, "strerror", None) or "no UTF-8 text"
            raise ConfigError(f"models.{name}.api_key_env: {variable}_FILE: '{file}': {what}") from None
    keep_secret(key)
    if not key:
        raise ConfigError(
            f"models.{name}.api_key_env: neither {variable} nor {variable}_FILE is set;"
            f" export the key for {model.url}, or 'none' if it wants no key"
        )
    if not (key.isascii() and key.isprintable()) or " " in key:
        # It goes into a header, and what fails there would be told as a fault of the endpoint.
        raise ConfigError(
            f"models.{name}.api_key_env: the key from {variable} or {variable}_FILE holds white space, a"
            " control character or a letter outside ASCII, which no header carries; set it to one key, as its"
            " provider shows it"
        )
    return key


def started_endpoints() -> dict[str, str]:
    """Return the endpoints that whoever started this process names: model name → base URL."""
    text = os.environ.get(ENDPOINTS_ENV, "{}")
    try:
        return {str(name): str(url) for name, url in json.loads(text).items()}
    except (ValueError, AttributeError):
        raise ConfigError(f"{ENDPOINTS_ENV}: '{text}' is no JSON object of model names and URLs") from None


def _declared_billions(name: str) -> float | None:
    """Return the billions of parameters that a model's name tells of ("SmolLM2-135M": 0.135), else None."""
    found = re.search(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?)([MB])(?![A-Za-z0-9])", name, re.IGNORECASE)
    if found is None:
        return None
    return float(found.group(1)) / (1000 if found.group(2).upper() == "M" else 1)


def _path(model: CheckpointModel) -> Path:
    assert model.path is not None
    return model.path
