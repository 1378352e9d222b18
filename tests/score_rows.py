"""Rows of scores.jsonl as the judge stage and `polaris judge score` write them, made up."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from polaris.judge.rubric import load_rubric

Row = dict[str, Any]
RUBRIC = "story-quality/1/full/00000000"


def label(overall: float) -> str:
    """Return the label by the rubric's own thresholds."""
    return [name for name, least in load_rubric().labels if overall >= least][-1]


def judgement(overall: int, first: int = 0) -> Row:
    """Return a judgement that adds up to `overall`, its points one to each dimension in turn from `first`."""
    rubric = load_rubric()
    sides: dict[bool, dict[str, int]] = {side: {} for side in (True, False)}
    for dimension in rubric.dimensions:
        sides[dimension.positive][dimension.key] = 0
    catch_all = "bonus" if overall >= 0 else "penalty"
    at = rubric.positive if overall >= 0 else rubric.negative
    scores, left = sides[overall >= 0], abs(overall)
    most = sum(dimension.max for dimension in at)
    place = first
    while sum(scores.values()) < min(left, most):
        dimension = at[place % len(at)]
        scores[dimension.key] = min(dimension.max, scores[dimension.key] + 1)
        place += 1
    rest = left - sum(scores.values())
    found: Row = {"positive": sides[True], "negative": sides[False], "bonus": None, "penalty": None}
    return found | ({catch_all: rest} if rest else {})


def row(
    key: str,
    overall: int,
    repeat: int = 0,
    *,
    judge: str = "fake/reader",
    rubric: str = RUBRIC,
    sample: int = 0,
    words: int | None = 900,
    target: int | None = 1000,
    level: int = 3,
    **changed: Any,
) -> Row:
    return {
        "id": key,
        "sample": sample,
        "repeat": repeat,
        "words": words,
        "target_word_count": target,
        "overall": overall,
        "label": label(overall),
        "judgement": judgement(overall, level),
        "rubric": rubric,
        "judge": judge,
        "caveat": None,
        **changed,
    }


def table(scores: dict[str, list[int]], **changed: Any) -> list[Row]:
    """Return the rows of stories with their overalls, in order of repeats."""
    return [
        row(key, overall, repeat, **changed)
        for key, overalls in scores.items()
        for repeat, overall in enumerate(overalls)
    ]


def write(path: Path, rows: Iterable[Row]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(found) + "\n" for found in rows), encoding="utf-8")
    return path
