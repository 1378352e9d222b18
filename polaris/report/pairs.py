"""Judged stories of one evaluation in, the two that the page shows side by side out, by a stated rule.

Nobody picks the stories: the rule is fixed before any score is known, and it aims at the middle, neither
at the best nor at the worst.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polaris.errors import InputError
from polaris.evaluate.statistics import paired
from polaris.evaluate.stories import by_prompt
from polaris.judge.parse import InvalidJudgement, Judgement
from polaris.judge.rubric import load_rubric
from polaris.reward.quality import quality_parts

Row = Mapping[str, Any]

PAIR_RULE = (
    "Of the prompts scored for both models, the one whose difference is the median"
    " (the lower one of two; ties by id)."
)
SINGLE_RULE = "Of the scored prompts, the one whose score is the median (the lower one of two; ties by id)."


@dataclass(frozen=True)
class Written:
    """One model's part in an evaluation: its stories, its scores and its per-story rows."""

    model: str
    stories: Sequence[Row]
    scores: Sequence[Row]
    per_story: Sequence[Row]


def choose(left: Written | None, right: Written) -> dict[str, Any] | None:
    """Return the prompt to show and each model's story and judgement, None when no prompt qualifies.

    Keys: rule, id, prompt, target, difference (None for one model), shown (one entry a model).
    """
    scores = by_prompt(right.per_story)
    if left is None:
        values = {key: value for key, value in scores.items() if value is not None}
    else:
        values = paired(scores, by_prompt(left.per_story))
    if not values:
        return None
    ranked = sorted(values, key=lambda key: (values[key], key))
    key = ranked[(len(ranked) - 1) // 2]
    shown = [_shown(writer, key) for writer in (left, right) if writer is not None]
    story = next(row for row in right.stories if str(row["id"]) == key)
    return {
        "rule": PAIR_RULE if left is not None else SINGLE_RULE,
        "id": key,
        "prompt": story["prompt"],
        "target": story["target_word_count"],
        "difference": values[key] if left is not None else None,
        "shown": shown,
    }


def dimensions() -> list[dict[str, Any]]:
    """Return the rubric's dimensions, positive ones first: key, name, max, positive."""
    found = [
        {"key": dimension.key, "name": dimension.name, "max": dimension.max, "positive": dimension.positive}
        for dimension in load_rubric().dimensions
    ]
    return sorted(found, key=lambda dimension: not dimension["positive"])


def _shown(writer: Written, key: str) -> dict[str, Any]:
    row = next(row for row in writer.per_story if row["id"] == key and row["overall"] is not None)
    story = next(
        found for found in writer.stories if str(found["id"]) == key and found["sample"] == row["sample"]
    )
    score = min(
        (found for found in writer.scores if str(found["id"]) == key and found["sample"] == row["sample"]),
        key=lambda found: int(found["repeat"]),
    )
    try:
        judgement = Judgement.from_json(score["judgement"])
    except InvalidJudgement as error:
        raise InputError(
            f"scores.jsonl: the judgement of story '{key}' by model '{writer.model}' is invalid"
            f" ({error}): judge again"
        ) from None
    parts = quality_parts(judgement)
    return {
        "model": writer.model,
        "sample": row["sample"],
        "repeat": score["repeat"],
        "story": story["story"],
        "words": row["words"],
        "truncated": row["truncated"],
        "overall": score["overall"],
        "label": score["label"],
        "judged": row["judged"],
        "scores": {**judgement.positive, **judgement.negative},
        "positive": parts.positive,
        "negative": parts.negative,
        "bonus": parts.bonus,
        "penalty": parts.penalty,
        "notes": dict(judgement.notes),
        "quote_validity": row["quote_validity"],
    }
