"""Files of `scores.jsonl` in, each judge's readings story by story out; a bad row names its line and field.

A story is an `id` with a `sample`, a judge a model's identity with a rubric: the scores of two forms of a
rubric do not compare, so they are two judges.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polaris.errors import InputError
from polaris.judge.rubric import load_rubric
from polaris.reward import quality
from polaris.reward.rows import RowError, judgement_of, parse_row

Row = Mapping[str, Any]
Story = tuple[str, int]
SCORES, FAILURES = "scores.jsonl", "failures.jsonl"
_NEEDED = ("id", "sample", "repeat", "judge", "rubric", "overall", "label", "judgement")


@dataclass(frozen=True)
class Reading:
    """One judgement of a story: its overall, its label, and the score of each dimension that it has."""

    overall: float
    label: str
    dimensions: Mapping[str, int]


@dataclass(frozen=True)
class Source:
    """One file's rows, under the name that errors call it by, and its failed judgements."""

    name: str
    scores: Sequence[Row]
    failures: Sequence[Row] = ()


@dataclass
class Rater:
    """What one judge said: its readings by story, in the order of sources and repeats."""

    judge: str
    rubric: str
    name: str = ""
    """The judge's identity, with the rubric where two judges share it."""
    readings: dict[Story, list[Reading]] = field(default_factory=dict)
    caveats: set[str] = field(default_factory=set)
    failed: int = 0
    copies: int = 0
    """Rows that another source has too, word for word: one judgement, not two that agree."""


@dataclass(frozen=True)
class Lengths:
    """A story's words and the words asked for, None where the rows do not tell."""

    words: int | None
    target: int | None


@dataclass(frozen=True)
class Panel:
    """All judges, the stories' lengths, and failed judgements that no judge can be named for."""

    raters: list[Rater]
    lengths: dict[Story, Lengths]
    failed: int = 0


def read_sources(paths: Sequence[Path]) -> list[Source]:
    """Return the rows of each path, a `scores.jsonl` or a folder with one, and of `failures.jsonl` beside it.

    Each row's overall and label are computed again from its judgement: a file may have been edited.

    Raises:
        InputError: a path is not there, holds no scores, or has a row that is none, or whose judgement is
            not whole or says another overall or label; `file:line: field` is named.

    """
    found = []
    given: set[Path] = set()
    for path in paths:
        scores = path / SCORES if path.is_dir() else path
        if scores.resolve() in given:
            raise InputError(f"{path}: given twice: a judgement always agrees with itself")
        given.add(scores.resolve())
        if not scores.is_file():
            raise InputError(
                f"{path}: no {SCORES} is there; give a file of scores, or a folder that"
                " `polaris judge score --out` made"
            )
        rows = read_rows(scores)
        for row in rows:
            _check(row)
        failures = scores.with_name(FAILURES)
        beside = scores.name == SCORES and failures.is_file()
        found.append(Source(str(scores), rows, read_rows(failures) if beside and failures else ()))
    return found


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return a JSONL file's objects, each with its place as `file:line` under the key `""`.

    Raises:
        InputError: the file cannot be read, or a line is no JSON object in UTF-8 with each key once;
            `file:line` is named.

    """
    rows = []
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    for number, line in enumerate(lines, start=1):
        if line.strip():
            place = f"{path}:{number}"
            try:
                rows.append({**parse_row(line), "": place})
            except RowError as fault:
                raise InputError(f"{place}: {fault}") from None
    return rows


def kinds(reasons: Iterable[str]) -> dict[str, int]:
    """Return how many reasons there are of each kind, most common first; their numbers make no kind.

    A kind is called by its reason, with … for its numbers where they differ.
    """
    found: dict[str, Counter[str]] = {}
    for reason in reasons:
        found.setdefault(re.sub(r"\d+(?:[.,]\d+)*", "…", reason), Counter())[reason] += 1
    named = {next(iter(each)) if len(each) == 1 else kind: each.total() for kind, each in found.items()}
    return dict(sorted(named.items(), key=lambda item: (-item[1], item[0])))


def _check(row: Row) -> None:
    place = row[""]
    for name in _NEEDED:
        if name not in row:
            raise InputError(
                f"{place}: no row of {SCORES} ({name} is missing); judge it first with `polaris judge score`"
            )
    try:
        judgement = judgement_of(dict(row))
    except RowError as fault:
        raise InputError(f"{place}: {fault}") from None
    total = quality.overall(judgement)
    for name, said in (("overall", total), ("label", quality.label(total))):
        if row[name] != said or isinstance(row[name], bool):
            raise InputError(
                f"{place}: {name}: not {said}, which the row's judgement adds up to; give {SCORES} as it"
                " was written"
            )


def panel(sources: Sequence[Source], lengths: Mapping[Story, Lengths] | None = None) -> Panel:
    """Return the judges of all sources, in order of their names.

    The same repeat of a judge in two sources is two readings unless the rows are equal: then it is one
    judgement, kept once and counted in `copies`. `lengths` are used where the rows have none.

    Raises:
        InputError: a row lacks a field, a source has a repeat twice, or two rows of one story tell
            different words or targets, so that they cannot be of one text.

    """
    raters: dict[tuple[str, str], Rater] = {}
    first: dict[tuple[str, str, Story, int], Row] = {}
    found: dict[Story, Lengths] = {}
    unnamed = 0
    for source in sources:
        here: set[tuple[str, str, Story, int]] = set()
        new = False
        for row in sorted(source.scores, key=lambda row: _order(row, source.name)):
            judge, rubric = _text(row, "judge", source.name), _text(row, "rubric", source.name)
            story, repeat = (_text(row, "id", source.name), _whole(row, "sample")), _whole(row, "repeat")
            key = (judge, rubric, story, repeat)
            if key in here:
                raise InputError(f"{_place(row, source.name)}: repeat: {repeat} is there twice for {story}")
            here.add(key)
            rater = raters.setdefault((judge, rubric), Rater(judge, rubric))
            if key in first and _same(row, first[key]):
                rater.copies += 1
                continue
            first.setdefault(key, row)
            new = True
            rater.readings.setdefault(story, []).append(_reading(row, source.name))
            if row.get("caveat"):
                rater.caveats.add(str(row["caveat"]))
            found[story] = _lengths(row, source.name, story, found.get(story), (lengths or {}).get(story))
        asked = {key[:2] for key in here}
        if len(asked) != 1:
            unnamed += len(source.failures)
        elif new:
            raters[asked.pop()].failed += len(source.failures)
    ordered = [raters[key] for key in sorted(raters)]
    for rater in ordered:
        shared = sum(other.judge == rater.judge for other in ordered) > 1
        rater.name = f"{rater.judge} ({rater.rubric})" if shared else rater.judge
    return Panel(ordered, found, unnamed)


def _order(row: Row, where: str) -> tuple[str, int, int]:
    return _text(row, "id", where), _whole(row, "sample"), _whole(row, "repeat")


def _same(row: Row, other: Row) -> bool:
    return {**row, "": None} == {**other, "": None}


def _reading(row: Row, where: str) -> Reading:
    overall = row.get("overall")
    if isinstance(overall, bool) or not isinstance(overall, int | float) or not math.isfinite(overall):
        raise InputError(f"{_place(row, where)}: overall: a finite number is needed")
    label = _text(row, "label", where)
    if label not in labels():
        raise InputError(f"{_place(row, where)}: label: one of {', '.join(labels())} is needed")
    judgement = row.get("judgement")
    if not isinstance(judgement, Mapping):
        raise InputError(f"{_place(row, where)}: judgement: an object is needed")
    given = {**_part(judgement, "positive"), **_part(judgement, "negative")}
    scores: dict[str, int] = {}
    for dimension in load_rubric().dimensions:
        if dimension.key in given:
            score = given[dimension.key]
            if isinstance(score, float) and score.is_integer():
                score = int(score)
            if isinstance(score, bool) or not isinstance(score, int) or not 0 <= score <= dimension.max:
                raise InputError(
                    f"{_place(row, where)}: judgement.{dimension.key}: a whole number from 0 to"
                    f" {dimension.max} is needed"
                )
            scores[dimension.key] = score
    return Reading(float(overall), label, scores)


def labels() -> tuple[str, ...]:
    """Return the labels of an overall, the lowest first."""
    return tuple(name for name, _ in load_rubric().labels)


def _part(judgement: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = judgement.get(key)
    return found if isinstance(found, Mapping) else {}


def _lengths(row: Row, where: str, story: Story, known: Lengths | None, given: Lengths | None) -> Lengths:
    words = _count(row, "words", where) if given is None else given.words
    target = _count(row, "target_word_count", where) if given is None else given.target
    if known is None:
        return Lengths(words, target)
    for name, one, other in (("words", words, known.words), ("target_word_count", target, known.target)):
        if one is not None and other is not None and one != other:
            raise InputError(
                f"{_place(row, where)}: {name}: {one} for {story}, {other} in another row: these are not"
                " judgements of the same story"
            )
    return Lengths(known.words if words is None else words, known.target if target is None else target)


def _count(row: Row, key: str, where: str) -> int | None:
    value = row.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InputError(f"{_place(row, where)}: {key}: a number of words is needed")
    return value


def _text(row: Row, key: str, where: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value:
        raise InputError(f"{_place(row, where)}: {key}: a string is needed")
    return value


def _whole(row: Row, key: str) -> int:
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"{_place(row, SCORES)}: {key}: a whole number is needed")
    return value


def _place(row: Row, where: str) -> str:
    return str(row.get("") or where)


def stories_of(raters: Iterable[Rater]) -> list[Story]:
    """Return every story that a judge has a reading of, in order."""
    return sorted({story for rater in raters for story in rater.readings})
