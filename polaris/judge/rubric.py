"""`rubric.yaml` in; the judge's prompt, its JSON schema and the rubric's identity out.

The rubric is one data file, so that what the judge reads, what its answer may contain and what we check
can never disagree. Two forms exist: `full` (anchors, notes and quotes) and `compact` (one line a dimension
and scores only, for small local judges). The form is part of the identity: their scores do not compare.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any, Literal, get_args

import yaml

Form = Literal["full", "compact"]
"""How much the judge is told and asked: `full` or `compact`."""

FORMS: tuple[Form, ...] = get_args(Form)


@dataclass(frozen=True)
class Band:
    """Scores `low` to `high`, both included, and what a story in that band is like."""

    low: int
    high: int
    anchor: str


@dataclass(frozen=True)
class Dimension:
    """One scored dimension, 0 to `max`: positive if its key starts with P, negative with N."""

    key: str
    name: str
    max: int
    short: str
    measures: str
    not_measured: str
    bands: tuple[Band, ...]

    @property
    def positive(self) -> bool:
        """Whether the score adds to the overall."""
        return self.key.startswith("P")


@dataclass(frozen=True)
class CatchAll:
    """The bonus or the penalty, 0 to `max` or null."""

    key: str
    max: int
    short: str
    measures: str


@dataclass(frozen=True)
class Rubric:
    """The whole data file; mappings by form hold the sentences that the form's prompt carries."""

    name: str
    version: int
    dimensions: tuple[Dimension, ...]
    catch_alls: tuple[CatchAll, ...]
    labels: tuple[tuple[str, int], ...]
    roles: Mapping[str, str]
    rules: Mapping[str, tuple[str, ...]]
    fencing: Mapping[str, str]
    request: Mapping[str, str]

    @property
    def positive(self) -> tuple[Dimension, ...]:
        """The dimensions that add, in order."""
        return tuple(dimension for dimension in self.dimensions if dimension.positive)

    @property
    def negative(self) -> tuple[Dimension, ...]:
        """The dimensions that subtract, in order."""
        return tuple(dimension for dimension in self.dimensions if not dimension.positive)


@lru_cache(maxsize=1)
def load_rubric() -> Rubric:
    """Return the rubric that this package ships."""
    return parse_rubric(files("polaris.judge").joinpath("rubric.yaml").read_text(encoding="utf-8"))


def parse_rubric(text: str) -> Rubric:
    """Return the rubric written in the YAML `text`.

    Raises:
        ValueError: a dimension's bands do not cover 0 to its maximum without gap or overlap.

    """
    data = yaml.safe_load(text)
    return Rubric(
        name=data["name"],
        version=data["version"],
        dimensions=tuple(_dimension(entry) for entry in data["dimensions"]),
        catch_alls=tuple(CatchAll(**entry) for entry in data["catch_alls"]),
        labels=tuple(data["labels"].items()),
        roles=data["roles"],
        rules={form: tuple(rules) for form, rules in data["rules"].items()},
        fencing=data["fencing"],
        request=data["request"],
    )


def _dimension(entry: dict[str, Any]) -> Dimension:
    bands = tuple(Band(*band) for band in entry["bands"])
    expected = 0
    for band in bands:
        if band.low != expected or band.high < band.low:
            raise ValueError(
                f"rubric: {entry['key']} has a band {band.low}-{band.high}: start it at {expected}"
            )
        expected = band.high + 1
    if expected != entry["max"] + 1:
        raise ValueError(f"rubric: {entry['key']} has bands up to {expected - 1}: end them at {entry['max']}")
    return Dimension(
        key=entry["key"],
        name=entry["name"],
        max=entry["max"],
        short=entry["short"],
        measures=entry["measures"].strip(),
        not_measured=entry["not"].strip(),
        bands=bands,
    )


def render_prompt(form: Form) -> str:
    """Return the first message's text: role, rubric, rules, fencing and answer format.

    It holds nothing of the story, so every call of a form starts with the same tokens.

    Raises:
        ValueError: `form` is neither `full` nor `compact`.

    """
    rubric = load_rubric()
    return _full_prompt(rubric) if checked_form(form) == "full" else _compact_prompt(rubric)


def checked_form(form: str) -> Form:
    """Return `form` if it is one of `FORMS`, else raise ValueError naming it."""
    for known in FORMS:
        if form == known:
            return known
    raise ValueError(f"judge form {form!r} is unknown: use one of {', '.join(FORMS)}")


def _full_prompt(rubric: Rubric) -> str:
    parts = [rubric.roles["full"].strip()]
    parts.append("# Positive dimensions: what the story achieves as a whole")
    parts.extend(_full_dimension(dimension) for dimension in rubric.positive)
    parts.append("# Negative dimensions: where the story fails in places")
    parts.extend(_full_dimension(dimension) for dimension in rubric.negative)
    parts.append("# Catch-alls")
    parts.append("\n".join(f"{c.key} (0-{c.max}, or null): {c.measures}" for c in rubric.catch_alls))
    parts.append("# Rules")
    parts.append("\n".join(f"- {rule}" for rule in rubric.rules["full"]))
    parts.append("# The material")
    parts.append(rubric.fencing["full"].strip())
    parts.append("# The answer")
    parts.append(_full_answer(rubric))
    return "\n\n".join(parts)


def _full_dimension(dimension: Dimension) -> str:
    lines = [
        f"## {dimension.key} {dimension.name} (0-{dimension.max})",
        f"Measures: {dimension.measures}",
        f"Does not measure: {dimension.not_measured}",
    ]
    lines.extend(f"{_range(band)}: {band.anchor}" for band in dimension.bands)
    return "\n".join(lines)


def _range(band: Band) -> str:
    return str(band.low) if band.low == band.high else f"{band.low}-{band.high}"


def _full_answer(rubric: Rubric) -> str:
    keys = ", ".join(dimension.key for dimension in rubric.dimensions)
    catch_alls = " and ".join(catch_all.key for catch_all in rubric.catch_alls)
    return (
        f"One JSON object and nothing else. Its keys are {keys}, {catch_alls}; none may be missing.\n"
        'A dimension is {"quotes": ["..."], "note": "...", "score": 0} with a whole number as the score.\n'
        f"{catch_alls} are each null or "
        '{"moment": "...", "quotes": ["..."], "nearest": "P1", "why": "...", "score": 0}, '
        "where nearest is a dimension's key and why says what that dimension cannot hold."
    )


def _compact_prompt(rubric: Rubric) -> str:
    lines = [rubric.roles["compact"].strip()]
    lines.extend(f"{d.key} 0-{d.max} {d.short}" for d in rubric.dimensions)
    lines.extend(f"{c.key} 0-{c.max} {c.short}" for c in rubric.catch_alls)
    lines.append("Rules:")
    lines.extend(rubric.rules["compact"])
    lines.append(rubric.fencing["compact"].strip())
    first, last = rubric.dimensions[0].key, rubric.dimensions[-1].key
    catch_alls = ", ".join(catch_all.key for catch_all in rubric.catch_alls)
    lines.append(f"Answer: one JSON object with the keys {first} to {last}, {catch_alls}.")
    return "\n".join(lines)


def json_schema(form: Form) -> dict[str, Any]:
    """Return the JSON schema of the judge's answer, acceptable to strict structured output.

    Every key is required and none may be added. Of the optional keywords it uses `minimum`, `maximum`,
    `enum` and `anyOf` alone, which OpenAI's strict mode and vLLM's grammar back ends both enforce; how
    many quotes there are, and how long, is left to the prompt. In the full form the evidence comes
    before the score, so that a judge without thinking looks before it scores.

    Raises:
        ValueError: `form` is neither `full` nor `compact`.

    """
    rubric = load_rubric()
    compact = checked_form(form) == "compact"
    properties: dict[str, Any] = {}
    for dimension in rubric.dimensions:
        score = _integer(dimension.max)
        properties[dimension.key] = (
            score if compact else _object(quotes=_quotes(), note=_string(), score=score)
        )
    keys = [dimension.key for dimension in rubric.dimensions]
    for catch_all in rubric.catch_alls:
        score = _integer(catch_all.max)
        found = (
            score
            if compact
            else _object(
                moment=_string(),
                quotes=_quotes(),
                nearest={"type": "string", "enum": keys},
                why=_string(),
                score=score,
            )
        )
        properties[catch_all.key] = {"anyOf": [found, {"type": "null"}]}
    return _object(**properties)


def _string() -> dict[str, Any]:
    return {"type": "string"}


def _quotes() -> dict[str, Any]:
    return {"type": "array", "items": _string()}


def _integer(maximum: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": 0, "maximum": maximum}


def _object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def rubric_identity(form: Form) -> str:
    """Return `name/version/form/hash`: what a score must share with another to be compared with it.

    The hash is the first eight hex digits of SHA-256 over all that every call of the form shares: the
    rendered prompt, the closing request and the schema.

    Raises:
        ValueError: `form` is neither `full` nor `compact`.

    """
    rubric = load_rubric()
    shared = [render_prompt(form), rubric.request[form].strip(), json_schema(form)]
    digest = hashlib.sha256(json.dumps(shared, ensure_ascii=True).encode("ascii")).hexdigest()
    return f"{rubric.name}/{rubric.version}/{form}/{digest[:8]}"
