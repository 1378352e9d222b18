"""A YAML file and the environment in, a checked `RunConfig` or one clear error line a fault out."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from polaris.config import RunConfig
from polaris.errors import ConfigError

ENV_PREFIX = "POLARIS__"
"""`POLARIS__TRAIN__SAVE_STEPS=1` overrides `train.save_steps`; a dash in a key is an underscore there."""

Key = tuple[str | int, ...]

_WORDING = {
    "Input should be": "expected",
    "String should": "expected text that should",
    "Tuple should": "expected a list that should",
}


class _Source:
    """Where each key's value came from: a line of the file, or a variable."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[Key, int] = {}
        self.variables: dict[Key, str] = {}

    def of(self, key: Key) -> str:
        """Name the place of a key, or of the nearest key above it."""
        for end in range(len(key), -1, -1):
            if key[:end] in self.variables:
                return f"environment: {self.variables[key[:end]]}"
            if key[:end] in self.lines:
                return f"{self.path}:{self.lines[key[:end]]}"
        return str(self.path)


def load(path: Path, environment: Mapping[str, str] | None = None) -> RunConfig:
    """Read, override, check and freeze a run's configuration; paths become absolute.

    Raises ConfigError with one line a fault: place, key, value, what was expected, nearest valid key.
    """
    source = _Source(path)
    raw = _read(path, source)
    for section in ("store", "execute"):
        # Their default paths are relative to this file too, which only a validated section knows.
        raw.setdefault(section, {})
    _override(raw, os.environ if environment is None else environment, source)
    try:
        return RunConfig.model_validate(raw, context={"base": path.absolute().parent})
    except ValidationError as error:
        faults = [_fault(dict(found), raw, source) for found in error.errors(include_url=False)]
        raise ConfigError("\n".join(dict.fromkeys(faults))) from None


def schema() -> dict[str, Any]:
    """Return the configuration's JSON schema."""
    return RunConfig.model_json_schema()


def _read(path: Path, source: _Source) -> dict[str, Any]:
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; give the path of a run's YAML file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    value = _plain(node, (), source) if node is not None else {}
    if not isinstance(value, dict):
        raise ConfigError(f"{path}:1: expected a mapping of settings, found {type(value).__name__}")
    return value


def _plain(node: yaml.Node, key: Key, source: _Source) -> Any:
    """Turn a YAML node into plain values, remembering lines and refusing a key given twice."""
    source.lines.setdefault(key, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for name_node, value_node in node.value:
            name = str(name_node.value)
            line = name_node.start_mark.line + 1
            if name in found:
                first = source.lines[*key, name]
                where = ".".join(map(str, (*key, name)))
                raise ConfigError(f"{source.path}:{line}: {where}: given twice, first in line {first}")
            source.lines[*key, name] = line
            found[name] = _plain(value_node, (*key, name), source)
        return found
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*key, index), source) for index, item in enumerate(node.value)]
    return yaml.SafeLoader("").construct_object(node)


def _override(raw: dict[str, Any], environment: Mapping[str, str], source: _Source) -> None:
    for variable in sorted(environment):
        if not variable.startswith(ENV_PREFIX):
            continue
        place: Any = raw
        key: Key = ()
        names = variable.removeprefix(ENV_PREFIX).split("__")
        for position, name in enumerate(names):
            known = {str(found).replace("-", "_").lower(): found for found in place}
            actual = known.get(name.lower(), name.lower())
            key = (*key, actual)
            if position == len(names) - 1:
                place[actual] = yaml.safe_load(environment[variable])
            else:
                if not isinstance(place.get(actual), dict):
                    place[actual] = {}
                place = place[actual]
        source.variables[key] = variable


def _fault(error: dict[str, Any], raw: dict[str, Any], source: _Source) -> str:
    key, value = _locate(error["loc"], raw)
    kind, message = error["type"], str(error["msg"])
    context = error.get("ctx", {})
    dotted = ".".join(map(str, key))
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(key[-1]), _siblings(error["loc"][:-1]), n=1, cutoff=0.5)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        return f"{source.of(key)}: {dotted}: unknown key (value {_short(value)}){hint}"
    if kind == "missing":
        missing = ".".join(map(str, (*key, error["loc"][-1])))
        return f"{source.of(key)}: {missing}: required key is missing"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        place = (*key, "kind")
        found = f"value {context['tag']!r}" if "tag" in context else "required key is missing"
        expected = context.get("expected_tags", "'checkpoint', 'trained', 'endpoint'")
        return f"{source.of(place)}: {'.'.join(map(str, place))}: {found}; expected one of {expected}"
    if kind == "value_error":
        text = message.removeprefix("Value error, ")
        if not key:
            named = tuple(text.split(" ", 1)[0].split("."))
            return f"{source.of(named)}: {text}"
        shown = "" if isinstance(value, (dict, list)) else f" value {_short(value)};"
        return f"{source.of(key)}: {dotted}:{shown} {text}"
    expected = message
    for theirs, ours in _WORDING.items():
        expected = expected.replace(theirs, ours)
    near = difflib.get_close_matches(str(value), _choices(context), n=1, cutoff=0.5)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return f"{source.of(key)}: {dotted}: value {_short(value)}; {expected}{hint}"


def _locate(location: Key, raw: Any) -> tuple[Key, Any]:
    """Follow pydantic's location through the raw values; it also names union tags, which no key is."""
    key: Key = ()
    for step in location:
        table: dict[Any, Any] = dict(enumerate(raw)) if isinstance(raw, list) else raw
        if isinstance(table, dict) and step in table:
            raw = table[step]
            key = (*key, step)
    return key, raw


def _siblings(location: Key) -> list[str]:
    """List the keys that the section at a location knows."""
    model: Any = RunConfig
    for step in location:
        if isinstance(model, type) and issubclass(model, BaseModel):
            model = model.model_fields[str(step)].annotation
        else:
            model = next((m for m in _models(model) if _tag(m) == step), model)
    found = _models(model)
    return [name for section in found for name in section.model_fields]


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def _tag(model: type[BaseModel]) -> str | None:
    kind = model.model_fields.get("kind")
    return str(get_args(kind.annotation)[0]) if kind else None


def _choices(context: dict[str, Any]) -> list[str]:
    return [part.strip("' ") for part in str(context.get("expected", "")).replace(" or ", ",").split(",")]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
