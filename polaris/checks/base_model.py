"""A run's base model in, its sizes, parameters and tokenizer files out, without torch and without weights."""

from __future__ import annotations

import functools
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polaris.artifact import Artifact, Manifest
from polaris.checks.finding import Subject
from polaris.config import RunConfig
from polaris.errors import ConfigError, InputError, TransientError
from polaris.fields import stored_as
from polaris.imports import fetch_repository, find_import, find_repository, is_placeholder, is_weights
from polaris.models import CheckpointModel
from polaris.recipe import TrainConfig
from polaris.storage import open_store
from polaris.train.shape import Parameters, Shape, computed, counted, read_shape

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Base:
    """What is known of the model that a training starts from."""

    name: str
    shape: Shape
    parameters: Parameters


@dataclass(frozen=True)
class Source:
    """Where a model's files can be read: a local folder, or an import's artifact."""

    folder: Path | None = None
    artifact: Artifact | None = None

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes, None if there is none of that name."""
        if self.artifact is not None:
            return self.artifact.read(name) if name in self.artifact.names() else None
        path = (self.folder or Path()) / name
        return path.read_bytes() if path.is_file() else None

    def small_files(self, folder: Path) -> Path:
        """Return a folder with all files but the weights; an import's are written to `folder`."""
        if self.artifact is None:
            return self.folder or Path()
        for name in self.artifact.names():
            if not is_weights(name) and "/" not in name:
                (folder / name).write_bytes(self.artifact.read(name))
        return folder


def source_of(config: RunConfig, name: str) -> Source | None:
    """Return where a checkpoint model's files lie; those of the hub are fetched, but for the weights.

    None where they are missing, or the hub does not answer.
    """
    model = config.models[name]
    assert isinstance(model, CheckpointModel)
    imported: Manifest | None = None
    if model.repo is not None:
        imported = find_repository(open_store(config.store), model.repo)
    elif model.path is not None and (stored := stored_as(model.path)) is not None:
        imported = find_import(open_store(config.store), stored)
    if imported is not None:
        store = open_store(config.store)
        return Source(artifact=Artifact(store, imported, f"imports/{imported.instance}/"))
    folder = model.path
    if model.repo is not None:
        folder = None if is_placeholder(model.repo) else hub_files(model.repo)
    return Source(folder=folder) if folder is not None and folder.is_dir() else None


def config_json(config: RunConfig, name: str) -> dict[str, Any] | None:
    """Return a checkpoint model's config.json, None where it is not at hand.

    Raises:
        InputError: it is no JSON object.

    """
    source = source_of(config, name)
    data = None if source is None else source.read(CONFIG)
    return None if data is None else _json(data, f"models.{name}: {CONFIG}")


def find_base(subject: Subject, train: TrainConfig | None = None) -> Base | None:
    """Return a training's base model, by default `train`'s; None where its config.json is not at hand.

    Raises:
        InputError: the config.json is none, or of a kind that is not planned.

    """
    train = train or subject.config.training()
    found = config_json(subject.config, train.base)
    if found is None:
        return None
    shape = read_shape(found)
    source = source_of(subject.config, train.base)
    parameters = weights_of(source.folder) if source is not None and source.folder is not None else None
    return Base(train.base, shape, parameters or computed(shape))


def weights_of(folder: Path) -> Parameters | None:
    """Return the parameters that a folder's safetensors headers list; None if it holds none or not all.

    Raises:
        InputError: a file is no safetensors.

    """
    tensors: dict[str, Any] = {}
    index = folder / INDEX
    if index.is_file():
        listed = set(_json(index.read_bytes(), str(index)).get("weight_map", {}).values())
        if not all((folder / name).is_file() for name in listed):
            return None
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            start = file.read(8)
            size = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= size <= path.stat().st_size - 8:
                raise InputError(f"'{path}' is no safetensors file; fetch the model again")
            tensors |= _json(file.read(size), str(path))
    return counted(tensors) if tensors else None


@functools.cache
def hub_files(repo: str) -> Path | None:
    """Return a folder with the small files of `owner/name@revision`, from the hub or its cache.

    None if neither has its config.json. Weights are not fetched; a cache may hold them.
    """
    try:
        from huggingface_hub.utils import logging as hub_logging

        # Its five retries would each be told between the findings.
        hub_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        found = fetch_repository(repo, "repo", weights=False)
    except (ImportError, ConfigError, TransientError):
        return None
    return found if (found / CONFIG).is_file() else None


def _json(data: bytes, where: str) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{where} is no JSON object; fetch the model again")
    return found
