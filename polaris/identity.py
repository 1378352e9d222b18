"""A configuration section and its files' hashes in, the part of it that decides content out."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from polaris.errors import ConfigError
from polaris.fields import Mark
from polaris.hashes import hash_of


def mark_of(section: type[BaseModel], field: str) -> str | None:
    """Return a field's mark: identity, content, operational, or None for a section that is walked into."""
    marks = [item.kind for item in section.model_fields[field].metadata if isinstance(item, Mark)]
    return marks[0] if marks else None


def identity_of(section: BaseModel, contents: Mapping[Path, str]) -> dict[str, Any]:
    """Return a section's identity: its identity fields as JSON values, its files as their hashes."""
    found: dict[str, Any] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        mark = mark_of(type(section), name)
        if mark == "identity":
            found[name] = json.loads(json.dumps(value))
        elif mark == "content":
            found[name] = _hashes(value, contents)
        elif mark is None:
            found[name] = _nested(value, contents)
    return found


def digest_of(identity: Mapping[str, Any]) -> str:
    """Return the digest of an identity: 16 hexadecimal digits of its canonical JSON's SHA-256."""
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def hash_contents(config: BaseModel, stored: Mapping[Path, str] | None = None) -> dict[Path, str]:
    """Hash every file and folder that the configuration names as content.

    `stored` are the content hashes of those that are imports in the store. Raises ConfigError naming the
    setting of one that is missing.
    """
    hashes = dict(stored or {})
    for setting, path in contents_of(config):
        if path not in hashes:
            hashes[path] = _hash(setting, path)
    return hashes


def files_below(folder: Path) -> dict[str, Path]:
    """Return the files that a folder's content is made of, by their paths below it, in order."""
    # Hidden files are a download tool's notes or an editor's, never a model's.
    files = sorted(file for file in folder.rglob("*") if file.is_file() and not _hidden(file, folder))
    return {file.relative_to(folder).as_posix(): file for file in files}


def hash_of_folder(hashes: Mapping[str, str]) -> str:
    """Return a folder's content hash, of its files' SHA-256 by their paths below it."""
    names = sorted(hashes, key=lambda name: name.split("/"))
    listing = "".join(f"{hashes[name]}  {name}\n" for name in names)
    return hashlib.sha256(os.fsencode(listing)).hexdigest()


def _hash(setting: str, path: Path) -> str:
    try:
        if path.is_file():
            return hash_of(path)
        if not path.is_dir():
            raise ConfigError(f"{setting}: '{path}' does not exist; give a file or folder that does")
        return hash_of_folder({name: hash_of(file) for name, file in files_below(path).items()})
    except OSError as error:
        raise ConfigError(f"{setting}: '{error.filename}' cannot be read: {error.strerror}") from None


def contents_of(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, Path]]:
    """Yield the setting and the path of everything that a section, and what is below it, names as content."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        setting = f"{prefix}{name}"
        mark = mark_of(type(section), name)
        if mark == "content":
            paths = value if isinstance(value, tuple) else (value,)
            yield from ((setting, path) for path in paths if path is not None)
        elif mark is None:
            children = value.items() if isinstance(value, dict) else [("", value)]
            for key, child in children:
                if isinstance(child, BaseModel):
                    yield from contents_of(child, f"{setting}.{key}." if key else f"{setting}.")


def _hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def _hashes(value: Any, contents: Mapping[Path, str]) -> Any:
    if value is None:
        return None
    if isinstance(value, tuple):
        return [contents[path] for path in value]
    return contents[value]


def _nested(value: Any, contents: Mapping[Path, str]) -> Any:
    if isinstance(value, BaseModel):
        return identity_of(value, contents)
    if isinstance(value, dict):
        return {name: _nested(child, contents) for name, child in sorted(value.items())}
    return value
