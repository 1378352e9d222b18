"""A line of JSONL in; its row and checked fields out, or a `RowError` that names the field.

Fields that nobody asks for are allowed and not looked at: rows come from runs and from other people's files,
which carry more. What is asked for is never guessed or rounded; a key given twice anywhere is a fault.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from polaris.judge.parse import InvalidJudgement, Judgement
from polaris.judge.rubric import load_rubric

Row = dict[str, Any]

MOST_WORDS = 10**9
"""A longer story or target is a slip, and would not fit a float."""


class RowError(ValueError):
    """A row that cannot be answered: `field: what; expected what`."""

    def __init__(self, field: str, what: str, expected: str) -> None:
        super().__init__(f"{field}: {what}; expected {expected}")


def parse_row(line: bytes) -> Row:
    """Return the JSON object of one line of UTF-8; lone surrogates and NULs in texts are fine.

    Raises:
        RowError: it is no JSON object, or one of its objects has a key twice.

    """
    try:
        found = _DECODER.decode(line.decode("utf-8-sig", "surrogatepass").strip())
    except RowError:
        raise
    except UnicodeDecodeError as error:
        raise RowError("row", f"no UTF-8 at byte {error.start}", "a JSON object") from None
    except json.JSONDecodeError as error:
        what = f"no JSON at character {error.pos + 1}: {error.msg}"
        raise RowError("row", what, "a JSON object on one line") from None
    except RecursionError:
        raise RowError("row", "nested too deeply", "a JSON object") from None
    except ValueError:  # an integer of thousands of digits
        raise RowError("row", "a number has too many digits to read", "a JSON object") from None
    if not isinstance(found, dict):
        raise RowError("row", _kind(found), "a JSON object")
    return found


def id_of(row: Row) -> str | int:
    """Return the row's `id`, which its answer repeats: text, or a whole number."""
    value = row.get("id")
    if value == "" or isinstance(value, bool) or not isinstance(value, str | int):
        raise RowError("id", _shown(row, "id"), "text or a whole number")
    return value


def text_of(row: Row, name: str) -> str:
    """Return a field that must be text; it may be empty."""
    value = row.get(name)
    if not isinstance(value, str):
        raise RowError(name, _shown(row, name), "text")
    return value


def whole_of(row: Row, name: str, least: int) -> int:
    """Return a field that must be a whole number of words, `least` to `MOST_WORDS`; 1500.0 is one."""
    value = row.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MOST_WORDS:
        raise RowError(name, _shown(row, name), f"a whole number of words, {least} to {MOST_WORDS:,}")
    return value


def scores_of(
    row: Row, names: Sequence[str] | None, low: int, high: int, *, whole: bool = False
) -> dict[str, float]:
    """Return the row's `scores`, each `low` to `high`, in the order of `names`.

    `names` None takes the row's own names, one at least; `whole` refuses 7.5.
    """
    scores = _object(row, "scores")
    for name in names or ():
        if name not in scores:
            raise RowError(f"scores.{name}", "missing", f"a number, {low} to {high}")
    if names is not None and (unknown := [name for name in scores if name not in names]):
        raise RowError(f"scores.{named(unknown[0])}", "unknown", f"one of {', '.join(names)}")
    if not scores:
        raise RowError("scores", "empty", "one score or more")
    numbers = f"a {'whole ' if whole else ''}number, {low} to {high}"
    for name, value in scores.items():
        fits = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
        if not fits or (whole and value != int(value)):
            field = f"scores.{name if names is not None else named(name)}"
            raise RowError(field, _shown(scores, name), numbers)
    return {name: float(scores[name]) for name in names or scores}


def judgement_of(row: Row) -> Judgement:
    """Return the row's `judgement`, as `Judgement.from_json` reads it."""
    try:
        return Judgement.from_json(_object(row, "judgement"))
    except InvalidJudgement as error:
        where, _, what = str(error).partition(": ")
        rubric = load_rubric()
        group = {d.key: "positive" if d.positive else "negative" for d in rubric.dimensions}.get(where)
        field = ".".join(part for part in (group, where) if part and part != "judgement")
        raise RowError(f"judgement.{field}".rstrip("."), what, _RANGES) from None


def named(key: str) -> str:
    """Name a key that the row made up, on one line and cut short: it could be a piece of a story."""
    name = key if key and key.isascii() and key.isprintable() else ascii(key)
    return name if len(name) <= 40 else f"{name[:37]}..."


_RANGES = "a whole number in range for each dimension, and for bonus and penalty or null"


def _object(row: Row, name: str) -> Row:
    value = row.get(name)
    if not isinstance(value, dict):
        raise RowError(name, _shown(row, name), "an object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> Row:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise RowError(named(twice), "given twice", "each key once")
    return found


_DECODER = json.JSONDecoder(strict=False, object_pairs_hook=_unique)


def _shown(row: Mapping[str, Any], name: str) -> str:
    """Show a faulty value if it is a number, else only its kind: texts may be stories."""
    if name not in row:
        return "missing"
    value = row[name]
    if isinstance(value, int | float) and not isinstance(value, bool):
        shown = str(value)
        return shown if len(shown) <= 24 else f"{shown[:21]}..."
    return _kind(value)


def _kind(value: object) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        return "text" if value else "empty text"
    return "a list" if isinstance(value, list) else "an object" if isinstance(value, dict) else "a number"
