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
    rubric_data = load_rubric()
    return {
        "id": key,
        "sample": sample,
        "repeat": repeat,
        "words": words,
        "target_word_count": target,
        "overall": overall,
        "label": label(overall),
        "judgement": {
            "positive": {dimension.key: level for dimension in rubric_data.positive},
            "negative": {dimension.key: 1 for dimension in rubric_data.negative},
            "bonus": None,
            "penalty": None,
        },
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
