"""Stories, their scores and the failed judgements in, the Story Quality result's figures and rows out.

A story's score is the mean of `overall` over its judged repeats; a story none of whose repeats was judged
has no score: it is counted as failed and never stands for 0. Overalls lie in [−159, 108].
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from polaris.errors import InputError
from polaris.evaluate.length import length_figures, ratio
from polaris.evaluate.statistics import bootstrap_mean, bootstrap_median, paired_difference
from polaris.reward.quality import label
from polaris.reward.shape import self_repetition

METRIC_VERSION = "story-quality-1"
"""Changes when the same stories and scores would give other figures."""

Row = Mapping[str, Any]
Key = tuple[str, int]


def per_story(stories: Sequence[Row], scores: Iterable[Row], failures: Iterable[Row]) -> list[dict[str, Any]]:
    """Return one row a story, sorted by id and sample, without its text.

    Keys: id, sample, overall (mean over judged repeats, or None), label, judged, failed (counts of
    repeats), reasons (why repeats failed), quote_validity (mean, or None), words, target, ratio,
    truncated, self_repetition.

    Raises:
        InputError: a judgement of a story that is not there, or two of the same repeat.

    """
    judged = _by_story(scores, "scores.jsonl")
    failed = _by_story(failures, "failures.jsonl")
    rows = []
    for story in sorted(stories, key=_key):
        key = _key(story)
        rows.append(_story_row(story, judged.pop(key, []), failed.pop(key, [])))
    strays = sorted({*judged, *failed})
    if strays:
        raise InputError(
            f"{len(strays)} judged stories, first {strays[0]}, are not in stories.jsonl: judge again"
        )
    if len({(row["id"], row["sample"]) for row in rows}) != len(rows):
        raise InputError("stories.jsonl holds the same id and sample twice: generate again")
    return rows


def figures(rows: Sequence[Row], seed: int, resamples: int) -> dict[str, Any]:
    """Return the figures of `per_story` rows: `{name: {value, low, high, n, n_failed}}`.

    Names: story_quality (mean), story_quality_median, self_repetition (mean penalty, 0–1.5), quote_validity
    (mean share of the judge's quotes that are in the story; left out when no judgement carries quotes)
    and those of `length_figures`. Stories of one prompt are drawn together.
    """
    groups = [row["id"] for row in rows]
    overall = [row["overall"] for row in rows]
    repetition = [row["self_repetition"] for row in rows]
    found = {
        "story_quality": bootstrap_mean(overall, seed, resamples, groups=groups),
        "story_quality_median": bootstrap_median(overall, seed, resamples, groups=groups),
        "self_repetition": bootstrap_mean(repetition, seed, resamples, groups=groups),
        **length_figures([(row["words"], row["target"]) for row in rows], seed, resamples, groups=groups),
    }
    quotes = [row["quote_validity"] for row in rows]
    if any(quote is not None for quote in quotes):
        found["quote_validity"] = bootstrap_mean(quotes, seed, resamples, groups=groups)
    return {name: estimate.row() for name, estimate in found.items()}


def counts(rows: Sequence[Row]) -> dict[str, Any]:
    """Return what stands beside the figures: stories, judgements, failures by reason, labels, cut stories."""
    reasons = Counter(reason for row in rows for reason in row["reasons"])
    return {
        "prompts": len({row["id"] for row in rows}),
        "stories": len(rows),
        "judgements": sum(row["judged"] for row in rows),
        "judgements_failed": sum(row["failed"] for row in rows),
        "failures": dict(sorted(reasons.items())),
        "labels": dict(sorted(Counter(row["label"] for row in rows if row["label"]).items())),
        "truncated": sum(row["truncated"] for row in rows),
        "empty": sum(row["words"] == 0 for row in rows),
    }


def by_prompt(rows: Sequence[Row]) -> dict[str, float | None]:
    """Return each prompt's score: the mean over its scored stories, None when it has none."""
    found: dict[str, list[float]] = {}
    for row in rows:
        scores = found.setdefault(row["id"], [])
        if row["overall"] is not None:
            scores.append(row["overall"])
    return {key: sum(scores) / len(scores) if scores else None for key, scores in found.items()}


def compare(rows: Sequence[Row], baseline: Sequence[Row], seed: int, resamples: int) -> dict[str, Any]:
    """Return the paired difference to a baseline's rows, prompt by prompt: `{story_quality: {...}}`."""
    difference = paired_difference(by_prompt(rows), by_prompt(baseline), seed, resamples)
    return {"story_quality": difference.row()}


def _key(row: Row) -> Key:
    return str(row["id"]), int(row["sample"])


def _by_story(rows: Iterable[Row], where: str) -> dict[Key, list[Row]]:
    found: dict[Key, list[Row]] = {}
    for row in sorted(rows, key=lambda row: (_key(row), row["repeat"])):
        same = found.setdefault(_key(row), [])
        if same and same[-1]["repeat"] == row["repeat"]:
            raise InputError(f"{where} holds repeat {row['repeat']} of story {_key(row)} twice: judge again")
        same.append(row)
    return found


def _story_row(story: Row, judged: Sequence[Row], failed: Sequence[Row]) -> dict[str, Any]:
    overalls = [row["overall"] for row in judged]
    overall = sum(overalls) / len(overalls) if overalls else None
    quotes = [row["quote_validity"] for row in judged if row.get("quote_validity") is not None]
    reasons = [str(row["reason"]) for row in failed]
    if not judged and not failed:
        reasons = ["never judged"]
    return {
        "id": str(story["id"]),
        "sample": int(story["sample"]),
        "overall": overall,
        "label": None if overall is None else label(overall),
        "judged": len(judged),
        "failed": len(reasons),
        "reasons": reasons,
        "quote_validity": sum(quotes) / len(quotes) if quotes else None,
        "words": int(story["words"]),
        "target": int(story["target_word_count"]),
        "ratio": ratio(int(story["words"]), int(story["target_word_count"])),
        "truncated": bool(story["truncated"]),
        "self_repetition": self_repetition(story["story"]),
    }
