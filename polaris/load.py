"""A YAML file and the environment in, a checked `RunConfig` or one clear error line a fault out."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from polaris.config import RunConfig
from polaris.errors import ConfigError
from polaris.fields import PATTERNS

ENV_PREFIX = "POLARIS__"
"""`POLARIS__TRAIN__SAVE_STEPS=1` overrides `train.save_steps`; a dash in a key is an underscore there."""

Key = tuple[str | int, ...]

_CREDENTIALS = re.compile(r"://[^/\s]*@")

_TABLES = tuple(
    (name,) for name, field in RunConfig.model_fields.items() if get_origin(field.annotation) is dict
)
"""Where keys are names that the user gives: they have dashes, which no variable's name can have."""

_WORDING = {
    "string_type": "expected text; put it into quotes",
    "string_too_short": "expected text of {min_length} or more characters",
    "too_short": "expected a list of {min_length} or more",
    "tuple_type": "expected a list",
    "model_type": "expected a mapping of settings",
    "model_attributes_type": "expected a mapping of settings",
    "dict_type": "expected a mapping of settings",
    "path_type": "expected a path",
    "int_type": "expected a whole number",
    "int_parsing": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "float_parsing": "expected a number",
    "finite_number": "expected a finite number",
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
    "greater_than": "expected a number above {gt}",
    "greater_than_equal": "expected a number of at least {ge}",
    "less_than": "expected a number below {lt}",
    "less_than_equal": "expected a number of at most {le}",
    "literal_error": "expected {expected}",
}
"""pydantic's type of an error, what to tell the user, with its context filled in."""


class _Source:
    """Where each key's value came from: a line of the file, or a variable."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[Key, int] = {(): 1}
        self.variables: dict[Key, str] = {}

    def overridden(self, key: Key, variable: str) -> None:
        """Note that a variable gave this key and all below it."""
        self.variables[key] = variable
        self.lines = {known: line for known, line in self.lines.items() if known[: len(key)] != key}

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
        found = _said_once([dict(one) for one in error.errors(include_url=False)], raw)
        faults = [_fault(one, raw, source) for one in found]
        raise ConfigError("\n".join(dict.fromkeys(faults))) from None


def dump(config: RunConfig) -> str:
    """Return a configuration as YAML with all defaults and overrides; `load(file, {})` reads it back."""
    return str(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def schema() -> dict[str, Any]:
    """Return the configuration's JSON schema as a file's: what an arm leaves out is `train`'s."""
    found = RunConfig.model_json_schema()
    whole = found["$defs"]["TrainConfig"]
    said = "A training under `arms`: what it leaves out is `train`'s, and null is all of it."
    found["$defs"]["ArmConfig"] = {**whole, "title": "ArmConfig", "description": said}
    del found["$defs"]["ArmConfig"]["required"]
    arm = {"anyOf": [{"$ref": "#/$defs/ArmConfig"}, {"type": "null"}]}
    names = found["properties"]["arms"]["patternProperties"]
    names |= dict.fromkeys(names, arm)
    return found


def _read(path: Path, source: _Source) -> dict[str, Any]:
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        value = _plain(node, (), source) if node is not None else {}
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; give the path of a run's YAML file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        what = ", ".join(filter(None, (error.context, error.problem)))
        raise ConfigError(f"{path}{line}: not valid YAML: {what}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ConfigError(f"{path}: an alias contains itself, or the nesting is too deep") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}:1: expected a mapping of settings, found {_short(value)}")
    return value


def _plain(node: yaml.Node, key: Key, source: _Source) -> Any:
    """Turn a YAML node into plain values, remembering lines and refusing a key given twice."""
    source.lines.setdefault(key, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for name_node, value_node in node.value:
            line = name_node.start_mark.line + 1
            if not isinstance(name_node, yaml.ScalarNode):
                raise ConfigError(f"{source.path}:{line}: a key must be plain text, not a list or mapping")
            name = str(name_node.value)
            where = _dotted((*key, name))
            if name_node.tag == "tag:yaml.org,2002:merge":
                raise ConfigError(
                    f"{source.path}:{line}: {where}: YAML's merge key is not read; write the keys"
                )
            if name in found:
                first = source.lines[*key, name]
                raise ConfigError(f"{source.path}:{line}: {where}: given twice, first in line {first}")
            source.lines[*key, name] = line
            found[name] = _plain(value_node, (*key, name), source)
        return found
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*key, index), source) for index, item in enumerate(node.value)]
    try:
        return yaml.SafeLoader("").construct_object(node)
    except ValueError as error:
        # A date that no calendar has, for one.
        line = node.start_mark.line + 1
        raise ConfigError(f"{source.path}:{line}: {_dotted(key)}: {error}; put text into quotes") from None


def _override(raw: dict[str, Any], environment: Mapping[str, str], source: _Source) -> None:
    for variable in sorted(environment):
        if not variable.startswith(ENV_PREFIX):
            continue
        place: Any = raw
        key: Key = ()
        names = variable.removeprefix(ENV_PREFIX).lower().split("__")
        for name in names[:-1]:
            key = (*key, _actual(name, key, place))
            if place.get(key[-1]) is None:
                place[key[-1]] = {}
            place = place[key[-1]]
            if not isinstance(place, dict):
                where = f"environment: {variable}: {_dotted(key)} is {_short(place)}"
                raise ConfigError(f"{where}, which has no settings below it; override it as a whole")
        key = (*key, _actual(names[-1], key, place))
        try:
            place[key[-1]] = yaml.safe_load(environment[variable])
        except (yaml.YAMLError, ValueError) as error:
            problem = getattr(error, "problem", None) or " ".join(str(error).split())
            raise ConfigError(f"environment: {variable}: {_dotted(key)}: not valid YAML: {problem}") from None
        source.overridden(key, variable)


def _actual(name: str, key: Key, place: Mapping[str, Any]) -> str:
    """Return the key that a variable's lower-case name means below `key`."""
    known = {found.replace("-", "_").lower(): found for found in place}
    return known.get(name, name.replace("_", "-") if key in _TABLES else name)


def _said_once(errors: list[dict[str, Any]], raw: dict[str, Any]) -> list[dict[str, Any]]:
    """Leave out the faults that arms only have because `train`, whose variants they are, has them."""
    arms, train = raw.get("arms"), raw.get("train")
    if not isinstance(arms, dict):
        return errors
    if not isinstance(train, dict):
        return [error for error in errors if error["loc"][:1] != ("arms",) or train is None]
    known = {(error["loc"][1:], error["msg"]) for error in errors if error["loc"][:1] == ("train",)}

    def is_trains(loc: Key, message: str) -> bool:
        if len(loc) < 2 or loc[0] != "arms" or (loc[2:], message) not in known:
            return False
        own, _ = _locate(loc[2:], arms.get(loc[1]))
        return own != loc[2:] or not own

    return [error for error in errors if not is_trains(error["loc"], str(error["msg"]))]


def _fault(error: dict[str, Any], raw: dict[str, Any], source: _Source) -> str:
    location: Key = error["loc"]
    key, value = _locate(location, raw)
    kind, message = error["type"], str(error["msg"])
    context = error.get("ctx", {})
    place = f"{source.of(key)}: {_dotted(key)}"
    shown = "hidden" if key and key[-1] == "api_key_env" else _short(value)
    if kind == "extra_forbidden":
        return f"{place}: unknown key (value {shown}){_near(key[-1], _siblings(location[:-1]))}"
    if kind == "missing":
        missing = _dotted((*key, location[-1]))
        return f"{source.of(key)}: {missing}: required key is missing"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        key = (*key, "kind")
        found = f"value {_short(context['tag'])}" if "tag" in context else "required key is missing"
        expected = str(context.get("expected_tags") or _kinds(location))
        hint = _near(context.get("tag"), expected.replace("'", "").split(", "))
        return f"{source.of(key)}: {_dotted(key)}: {found}; expected one of {expected}{hint}"
    if kind == "value_error":
        text = message.removeprefix("Value error, ")
        if not key:
            named = tuple(text.split(":", 1)[0].split("."))
            return f"{source.of(named)}: {text}"
        return f"{place}: {text}" if isinstance(value, dict) else f"{place}: value {shown}; {text}"
    if location[-1] == "[key]":
        shown = _short(key[-1])
    expected = _WORDING[kind].format(**context) if kind in _WORDING else message
    if kind == "string_pattern_mismatch":
        expected = f"expected {PATTERNS.get(context['pattern'], message)}"
    return f"{place}: value {shown}; {expected}{_near(value, _choices(context))}"


def _near(found: Any, choices: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(found), list(choices), n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""


def _dotted(key: Key) -> str:
    return ".".join(map(str, key))


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
    place: Any = RunConfig
    for step in location:
        if get_origin(place) is dict:
            place = get_args(place)[1]
            continue
        models = _models(place)
        if len(models) > 1:
            place = next(model for model in models if _tag(model) == step)
        elif step in models[0].model_fields:
            place = models[0].model_fields[str(step)].annotation
    return [name for model in _models(place) for name in model.model_fields]


def _kinds(location: Key) -> str:
    """List the kinds of the sections of which one stands at a location."""
    models = _models(get_args(RunConfig.model_fields[str(location[0])].annotation)[1])
    return ", ".join(f"'{_tag(model)}'" for model in models)


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
    if isinstance(value, dict):
        return "a mapping"
    plain = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    text = _CREDENTIALS.sub("://...@", plain)
    return text if len(text) <= 60 else f"{text[:57]}..."
