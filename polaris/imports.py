"""Model folders and data files in, imports in the store out; an import in, its hash and a local copy out.

An import lies at `imports/models/<name>/` or `imports/data/<file name>/`: its objects, and, put last, its
manifest. A configuration names it `store:models/<name>` or `store:data/<file name>`, and its content hash
is that of the same local folder or file.
"""

from __future__ import annotations

import contextlib
import fcntl
import fnmatch
import json
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import polaris
from polaris.artifact import MANIFEST, Artifact, Entry, Manifest, Output, find_manifest
from polaris.config import RunConfig
from polaris.errors import ConfigError, TransientError
from polaris.fields import IMPORT_NAME, STORED, stored_as
from polaris.hashes import hash_of
from polaris.identity import contents_of, files_below, hash_of_folder
from polaris.models import CheckpointModel
from polaris.runtime import get_logger
from polaris.storage import Store, arriving, checked

SERVED = ("*.safetensors", "*.json", "*.txt", "*.jinja", "*.model", "*.tiktoken")
"""What is read of a hub's repository, by the names of files in its top folder: weights, configuration,
tokenizer, chat template. Weights in other formats stay there, and so does code, which is never run."""

log = get_logger("imports")


def model_name(text: str) -> str:
    """Return what a model's import is called below `imports/`; a repository's slash becomes two dashes.

    Raises ConfigError if the text cannot be part of an object's key.
    """
    name = text.replace("/", "--") if "@" in text else text
    return f"models/{_checked(name, 'give another with --name')}"


def data_name(file: Path) -> str:
    """Return what a file's import is called below `imports/`; raise ConfigError if its name cannot be."""
    return f"data/{_checked(file.name, 'rename the file')}"


def model_files(folder: Path) -> dict[str, Path]:
    """Return a model folder's files by their names; raise ConfigError if it is none."""
    files = files_below(folder)
    for what, found in (
        ("config.json", "config.json" in files),
        ("*.safetensors", any(map(is_weights, files))),
    ):
        if not found:
            raise ConfigError(f"'{folder}' has no {what}; give a model's folder, with its tokenizer")
    return files


def is_served(name: str) -> bool:
    """Tell whether a file of a hub's repository is read in serving or training."""
    return "/" not in name and any(fnmatch.fnmatchcase(name, pattern) for pattern in SERVED)


def is_weights(name: str) -> bool:
    """Tell whether a model's file holds its weights: `*.safetensors`, beside its config.json."""
    return name.endswith(".safetensors") and "/" not in name


def is_imported(store: Store, name: str, source: str) -> bool:
    """Tell whether the import `name` came from `source`; raise InputError if objects of it are missing."""
    manifest = find_import(store, name)
    if manifest is None or manifest.notes != (_note(source),):
        return False
    Artifact(store, manifest, _prefix(name)).verify()
    return True


def put_import(
    store: Store, name: str, files: Mapping[str, Path], source: str, *, replace: bool = False
) -> bool:
    """Store files as the import `name`; return whether there was anything to do.

    What an interrupted import of the same content has left is used. Raises ConfigError if the name is
    taken by other content and `replace` is not set, or if a file's name cannot be an object's.
    """
    started, begun, prefix = datetime.now(UTC), time.monotonic(), _prefix(name)
    for file in files:
        _check_key(f"{prefix}{file}", file)
    before = find_manifest(store, prefix)
    try:
        hashes = {file: hash_of(path) for file, path in files.items()}
    except OSError as error:
        raise ConfigError(f"'{error.filename}' cannot be read: {error.strerror}") from None
    content = hash_of_folder(hashes) if _is_model(name) else next(iter(hashes.values()))
    same = before is not None and content_hash(before) == content
    if before is not None and not same and not replace:
        raise _taken(store, name, before)
    # Named by their content, the objects of an interrupted import are found by the next one.
    output = Output(store, prefix, content[:16])
    sent = [output.keep_file(file, path, hashes[file]) for file, path in files.items()]
    if same:
        return any(sent)
    manifest = Manifest(
        run="",
        instance=name,
        kind="import",
        digest=content[:16],
        attempt=output.attempt,
        objects=tuple(output.entries[file] for file in files),
        identity={"content": content},
        config={},
        upstream={},
        versions={"polaris": polaris.__version__},
        started=started.isoformat(timespec="seconds"),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - begun, 3),
        notes=(_note(source),),
    )
    if before is not None:
        store.put(prefix + MANIFEST, manifest.to_json())
        store.delete([prefix + entry.key for entry in before.objects])
    elif content_hash(winner := output.commit(manifest)) != content:
        raise _taken(store, name, winner)
    return True


def content_hash(manifest: Manifest) -> str:
    """Return an import's content hash: what `hash_contents` says of the same local folder or file."""
    hashes = {entry.name: entry.sha256 for entry in manifest.objects}
    return hash_of_folder(hashes) if _is_model(manifest.instance) else next(iter(hashes.values()))


def find_import(store: Store, name: str) -> Manifest | None:
    """Return the manifest of the import `name`, None if there is none."""
    return find_manifest(store, _prefix(name))


def find_repository(store: Store, repo: str) -> Manifest | None:
    """Return the manifest of the import of `owner/name@revision`, None if there is none."""
    name = repo.replace("/", "--")
    return find_import(store, f"models/{name}") if IMPORT_NAME.fullmatch(name) else None


def find_imports(config: RunConfig, store: Store, path: Path) -> dict[Path, Manifest]:
    """Return the manifests of the imports that a configuration, read from `path`, names as content.

    The store is asked only if there are any. Raises ConfigError with a line for each that is missing.
    """
    found: dict[Path, Manifest] = {}
    missing = []
    for setting, named in contents_of(config):
        name = stored_as(named)
        if name is None or named in found:
            continue
        manifest = find_import(store, name)
        if manifest is not None:
            found[named] = manifest
            continue
        file = name.partition("/")[2]
        fix = f"model import FOLDER {path} --name {file}" if _is_model(name) else f"data import {file} {path}"
        missing.append(f"{setting}: '{named}' is not in {store.url}; run `polaris {fix}`")
    if missing:
        raise ConfigError("\n".join(dict.fromkeys(missing)))
    return found


def local_copy(manifest: Manifest, folder: Path) -> Path:
    """Return where `fetch` puts an import below `folder`: the model's folder, or the file."""
    below = folder / content_hash(manifest)[:16]
    return below if _is_model(manifest.instance) else below / manifest.objects[0].name


def fetch(store: Store, manifest: Manifest, folder: Path) -> Path:
    """Return an import's local copy below `folder`, fetched and verified unless it is there.

    Processes that ask for the same one at once wait for the first; one that was killed is gone on from.
    Raises InputError if an object is missing or corrupt, ConfigError if the folder cannot hold it.
    """
    copy = local_copy(manifest, folder)
    below = copy if _is_model(manifest.instance) else copy.parent
    stamp = folder / f"{below.name}.json"
    try:
        with _locked(folder / f"{below.name}.lock"):
            if not _is_as_stamped(stamp, below, manifest.objects):
                for left in below.rglob(".*.part"):
                    left.unlink()
                log.info("fetch_import", name=manifest.instance, to=str(below))
                Artifact(store, manifest, _prefix(manifest.instance)).download(below)
                states = {entry.name: _state(below / entry.name) for entry in manifest.objects}
                with arriving(stamp) as part:
                    part.write_text(json.dumps(states), encoding="utf-8")
    except OSError as error:
        size = sum(entry.size for entry in manifest.objects) / 2**20
        what = f"'{below}' cannot take {manifest.instance} ({size:,.0f} MiB): {error}"
        raise ConfigError(f"execute.work_dir: {what}; name a folder with room that can be written") from None
    return copy


def is_placeholder(repo: str) -> bool:
    """Tell whether a repository is given as documents and examples give it: `owner/name@REVISION`."""
    return repo.endswith("@REVISION")


def placeholders(config: RunConfig) -> Iterator[str]:
    """Yield an error line for each model whose revision has yet to be given."""
    for name, model in config.models.items():
        if isinstance(model, CheckpointModel) and model.repo and is_placeholder(model.repo):
            yield _unsaid(model.repo, f"models.{name}.repo")


def _unsaid(repo: str, setting: str) -> str:
    return f"{setting}: value '{repo}'; put the commit of the repository in the place of REVISION"


def fetch_repository(repo: str, setting: str, *, weights: bool = True) -> Path:
    """Return the local folder of `owner/name@revision`, from the hub or its local cache.

    Only what `is_served` is fetched, and no weights if they are not wanted; a cache may hold more of the
    repository.
    Raises ConfigError naming the setting if the hub has no such revision, TransientError if it is away.
    """
    if is_placeholder(repo):
        raise ConfigError(_unsaid(repo, setting))
    from httpx import HTTPError
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    name, _, revision = repo.partition("@")
    wanted = [pattern for pattern in SERVED if weights or not is_weights(pattern)]
    try:
        # Their * also matches a slash.
        below = ["*/*"]
        found = snapshot_download(name, revision=revision, allow_patterns=wanted, ignore_patterns=below)
        return Path(found)
    except (HFValidationError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        what = " ".join(str(error).split())
        raise ConfigError(f"{setting}: '{repo}' cannot be fetched: {what}") from error
    except (OSError, HTTPError) as error:
        what = " ".join(str(error).split())
        raise TransientError(f"{setting}: '{repo}' cannot be fetched: {what}") from error


def _prefix(name: str) -> str:
    return f"imports/{name}/"


def _note(source: str) -> str:
    return f"imported from {source}"


def _is_model(name: str) -> bool:
    return name.startswith("models/")


def _checked(name: str, fix: str) -> str:
    if not IMPORT_NAME.fullmatch(name):
        what = "expected letters, digits and ._=+@,-, 200 at most, the first a letter, digit or _"
        raise ConfigError(f"'{name}' cannot be an import's name: {what}; {fix}")
    return name


def _check_key(key: str, file: str) -> None:
    try:
        checked(key)
    except ValueError:
        raise ConfigError(
            f"'{file}' cannot be an object's name: expected letters, digits and ._=+@,-; rename the file"
        ) from None


def _taken(store: Store, name: str, there: Manifest) -> ConfigError:
    kind = "another name by --name" if _is_model(name) else "the file another name"
    said = "; ".join(there.notes)
    return ConfigError(
        f"'{STORED}{name}' is in {store.url} with other content ({said}, {there.finished}); give {kind},"
        " or --replace it"
    )


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    # The kernel frees the lock of a process that dies.
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _state(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _is_as_stamped(stamp: Path, folder: Path, entries: tuple[Entry, ...]) -> bool:
    """Tell whether all files are as they were when they had been verified."""
    try:
        states = json.loads(stamp.read_bytes())
        return all(states[entry.name] == _state(folder / entry.name) for entry in entries)
    except (OSError, ValueError, TypeError, KeyError):
        return False
