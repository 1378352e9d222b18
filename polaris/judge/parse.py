"""A judge's answer in; a checked `Judgement` out, or `InvalidJudgement` with the reason.

Nothing is guessed, rounded or filled in: an answer that is not exactly the schema has no score. The
judge's own sums are not part of the schema; `polaris.reward.quality` adds up.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from polaris.judge.rubric import Form, checked_form, load_rubric
from polaris.runtime import redact
from polaris.text import encodable


class InvalidJudgement(ValueError):
    """An answer that is no judgement; the message says where and why, and quotes no story text."""


@dataclass(frozen=True)
class Judgement:
    """One story's scores, each a whole number within its dimension's range.

    Attributes:
        positive: score by key, P1 to P6.
        negative: score by key, N1 to N10.
        bonus: 0 to 8, or None where the judge saw none.
        penalty: 0 to 8, or None where the judge saw none.
        notes: the judge's sentences by key (full form).
        quotes: the judge's quotes by key (full form).
        quote_validity: share of the quotes, given or demanded, that are in the story; None without any.
        unsupported: catch-alls scored without the evidence they need, and therefore counted as 0.

    Raises:
        InvalidJudgement: a score is missing, unknown, no integer or out of range.

    """

    positive: dict[str, int]
    negative: dict[str, int]
    bonus: int | None
    penalty: int | None
    notes: dict[str, str] = field(default_factory=dict)
    quotes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    quote_validity: float | None = None
    unsupported: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        rubric = load_rubric()
        for where, scores, dimensions in (
            ("positive", self.positive, rubric.positive),
            ("negative", self.negative, rubric.negative),
        ):
            _keys(scores, [dimension.key for dimension in dimensions], where)
            for dimension in dimensions:
                _score(scores[dimension.key], dimension.max, dimension.key)
        for catch_all in rubric.catch_alls:
            value = getattr(self, catch_all.key)
            if value is not None:
                _score(value, catch_all.max, catch_all.key)

    @classmethod
    def of_nothing(cls) -> Judgement:
        """Return the judgement of a story that does not exist: no achievement, no fault.

        For a blank completion, which no judge need be asked about: absent elements are neither rewarded
        nor penalised. It is not for calls that failed; those have no judgement at all.
        """
        rubric = load_rubric()
        return cls(
            positive={dimension.key: 0 for dimension in rubric.positive},
            negative={dimension.key: 0 for dimension in rubric.negative},
            bonus=None,
            penalty=None,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the judgement as plain JSON data; `from_json` reads it back."""
        return {
            "positive": dict(self.positive),
            "negative": dict(self.negative),
            "bonus": self.bonus,
            "penalty": self.penalty,
            "notes": dict(self.notes),
            "quotes": {key: list(quotes) for key, quotes in self.quotes.items()},
            "quote_validity": self.quote_validity,
            "unsupported": list(self.unsupported),
        }

    @classmethod
    def from_json(cls, data: object) -> Judgement:
        """Return the judgement in `to_json`'s data; all but the scores may be left out.

        Raises:
            InvalidJudgement: the data is no such object, or a score is invalid.

        """
        found = _mapping(data, "judgement")
        needed = ["positive", "negative", *(catch_all.key for catch_all in load_rubric().catch_alls)]
        _keys(found, needed, "judgement", optional=["notes", "quotes", "quote_validity", "unsupported"])
        quotes = _mapping(found.get("quotes", {}), "quotes")
        notes = _mapping(found.get("notes", {}), "notes")
        return cls(
            positive=_wholes(_mapping(found["positive"], "positive")),
            negative=_wholes(_mapping(found["negative"], "negative")),
            bonus=_whole(found["bonus"]),
            penalty=_whole(found["penalty"]),
            notes={key: _text(note, f"notes.{key}") for key, note in notes.items()},
            quotes={key: _texts(values, f"quotes.{key}") for key, values in quotes.items()},
            quote_validity=_share(found.get("quote_validity")),
            unsupported=_texts(found.get("unsupported", []), "unsupported"),
        )


def parse_judgement(text: str, form: Form, story: str) -> Judgement:
    """Return the judgement in a judge's answer about `story`.

    The answer is one JSON object, exactly `json_schema(form)`; white space around it and one Markdown code
    fence are allowed, since models without structured output add them. A key given twice is invalid.

    Raises:
        InvalidJudgement: anything else.
        ValueError: `form` is neither `full` nor `compact`.

    """
    return judgement_from_answer(_loads(text), form, story)


def judgement_from_answer(answer: object, form: Form, story: str) -> Judgement:
    """Return the judgement in an answer that is JSON data already; as `parse_judgement`.

    Raises:
        InvalidJudgement: the data is not exactly the schema.
        ValueError: `form` is neither `full` nor `compact`.

    """
    rubric = load_rubric()
    full = checked_form(form) == "full"
    data = _mapping(answer, "answer")
    catch_alls = [catch_all.key for catch_all in rubric.catch_alls]
    _keys(data, [dimension.key for dimension in rubric.dimensions] + catch_alls, "answer")
    scores: dict[str, Any] = _wholes(data)
    notes: dict[str, str] = {}
    quotes: dict[str, tuple[str, ...]] = {}
    unsupported: list[str] = []
    there = _Quotes(story)
    if full:
        for dimension in rubric.dimensions:
            key = dimension.key
            scores[key], notes[key], quotes[key] = _full_dimension(data[key], key)
            there.count(quotes[key], needed=not dimension.positive and scores[key] != 0)
        for catch_all in rubric.catch_alls:
            key = catch_all.key
            if data[key] is None:
                continue
            scores[key], notes[key], quotes[key], named = _full_catch_all(data[key], key, catch_all.max)
            quoted = there.count(quotes[key], needed=scores[key] >= 2)
            if scores[key] and not (named and (scores[key] < 2 or quoted)):
                scores[key] = 0
                unsupported.append(key)
    return Judgement(
        positive={dimension.key: scores[dimension.key] for dimension in rubric.positive},
        negative={dimension.key: scores[dimension.key] for dimension in rubric.negative},
        bonus=scores["bonus"],
        penalty=scores["penalty"],
        notes=notes,
        quotes=quotes,
        quote_validity=there.share,
        unsupported=tuple(unsupported),
    )


def quote_validity(quotes: Sequence[str], story: str) -> float | None:
    """Return the share of `quotes` that are in `story`, 0 to 1; None where there are no quotes.

    Runs of white space, kinds of quotation mark and invisible characters do not count, nor do quotation
    marks around a quote; letters, their case and other punctuation do. An empty quote is in no story.
    """
    there = _Quotes(story)
    there.count(quotes)
    return there.share


class _Quotes:
    """Counts the quotes of one judgement that are in its story; one that is demanded and missing is not."""

    def __init__(self, story: str) -> None:
        self._story = story
        self._told: str | None = None
        self._asked = self._found = 0

    @property
    def share(self) -> float | None:
        return self._found / self._asked if self._asked else None

    def count(self, quotes: Sequence[str], *, needed: bool = False) -> bool:
        """Count them; return whether one is in the story. `needed` says that there must be one."""
        if self._told is None and quotes:
            self._told = _normalised(self._story)
        found = 0
        for quote in quotes:
            wanted = _normalised(quote).strip("' ")
            found += bool(wanted) and wanted in (self._told or "")
        self._found += found
        self._asked += len(quotes) or needed
        return found > 0


_MARKS = frozenset(
    "\"'`\u00b4\u00ab\u00bb\u2039\u203a\uff02\uff07"
    + "".join(map(chr, (*range(0x2018, 0x2020), *range(0x2032, 0x2038), *range(0x300C, 0x3010))))
)


def _normalised(text: str) -> str:
    """Return the text without invisible characters (Cf), every quotation mark as ', each white space as one.

    It runs for every judgement of a whole story, so characters are looked at once each, not wherever they
    stand; ASCII has no invisible ones.
    """
    if not text.isascii() or "\0" in text:
        text = encodable(text)
    found = set(text)
    for char in found:
        if not char.isascii() and unicodedata.category(char) == "Cf":
            text = text.replace(char, "")
    for mark in found & _MARKS:
        text = text.replace(mark, "'")
    if not text:
        return text
    # As re.sub(r"\s+", " ", text), only faster.
    before, after = (" " if edge.isspace() else "" for edge in (text[0], text[-1]))
    words = text.split()
    return f"{before}{' '.join(words)}{after}" if words else " "


_MARKDOWN_FENCE = re.compile(r"\s*```(?:json)?[ \t]*\n(.*)\n[ \t]*```\s*", re.DOTALL | re.IGNORECASE)


def _loads(text: str) -> object:
    unwrapped = _MARKDOWN_FENCE.fullmatch(text)
    try:
        return json.loads(
            unwrapped.group(1) if unwrapped else text,
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
        )
    except InvalidJudgement:
        raise
    except RecursionError:
        raise InvalidJudgement("answer: nested too deeply") from None
    except json.JSONDecodeError as error:
        reason = f"answer: not JSON at character {error.pos} of {len(text)}: {error.msg}"
        raise InvalidJudgement(reason) from None
    except ValueError:  # a number of thousands of digits
        raise InvalidJudgement("answer: a number is too long to read") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise InvalidJudgement(f"answer: key {_named(key)} is given twice")
        found[key] = value
    return found


def _no_constant(name: str) -> NoReturn:
    raise InvalidJudgement(f"answer: {name} is no JSON number")


def _full_dimension(value: object, where: str) -> tuple[Any, str, tuple[str, ...]]:
    found = _mapping(value, where)
    _keys(found, ["quotes", "note", "score"], where)
    note, quotes = _text(found["note"], f"{where}.note"), _texts(found["quotes"], f"{where}.quotes")
    return _whole(found["score"]), note, quotes


def _full_catch_all(value: object, where: str, maximum: int) -> tuple[int, str, tuple[str, ...], bool]:
    """Return score, note, quotes, and whether a moment and a reason are named, as the rubric demands."""
    found = _mapping(value, where)
    _keys(found, ["moment", "quotes", "nearest", "why", "score"], where)
    moment, why = _text(found["moment"], f"{where}.moment"), _text(found["why"], f"{where}.why")
    nearest = found["nearest"]
    if nearest not in [dimension.key for dimension in load_rubric().dimensions]:
        raise InvalidJudgement(f"{where}.nearest: {_named(nearest)} is no dimension's key")
    quotes = _texts(found["quotes"], f"{where}.quotes")
    score = _score(_whole(found["score"]), maximum, f"{where}.score")
    return score, f"{moment} (nearest {nearest}: {why})", quotes, bool(moment.strip() and why.strip())


def _mapping(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidJudgement(f"{where}: {_kind(value)} in place of an object")
    return value


def _keys(found: Mapping[str, Any], needed: Sequence[str], where: str, optional: Sequence[str] = ()) -> None:
    missing = [key for key in needed if key not in found]
    if missing:
        raise InvalidJudgement(f"{where}: missing {', '.join(missing)}")
    unknown = [key for key in found if key not in needed and key not in optional]
    if unknown:
        raise InvalidJudgement(f"{where}: unknown key {', '.join(_named(key) for key in unknown[:5])}")


def _whole(value: Any) -> Any:
    """Return 7.0 as 7: JSON knows one kind of number, and to a schema both are integers."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _wholes(scores: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _whole(value) for key, value in scores.items()}


def _score(value: object, maximum: int, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidJudgement(f"{where}: {_kind(value)} in place of an integer score")
    if not 0 <= value <= maximum:
        shown = value if abs(value) < 1_000_000 else "of many digits"
        raise InvalidJudgement(f"{where}: score {shown} is outside 0 to {maximum}")
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise InvalidJudgement(f"{where}: {_kind(value)} in place of a string")
    return encodable(value)


def _texts(value: object, where: str) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InvalidJudgement(f"{where}: {_kind(value)} in place of a list of strings")
    return tuple(_text(entry, where) for entry in value)


def _share(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InvalidJudgement(f"quote_validity: {_kind(value)} in place of a share from 0 to 1")
    return float(value)


_KINDS = {bool: "a boolean", int: "an integer", float: "a decimal number", str: "a string", list: "a list"}


def _kind(value: object) -> str:
    if value is None:
        return "null"
    return "an object" if isinstance(value, Mapping) else _KINDS.get(type(value), type(value).__name__)


def _named(key: object) -> str:
    """Name a key that the judge made up, cut short: it may be a piece of the story, or repeat an API key."""
    name = repr(redact(key) if isinstance(key, str) else key)
    return name if len(name) <= 24 else f"{name[:21]}...'"
