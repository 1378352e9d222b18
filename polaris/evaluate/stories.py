"""Stories, their scores and the failed judgements in, one row a story out: what every benchmark reads.

A story's score is the mean of `overall` over its judged repeats; a story none of whose repeats was judged
has no score: it is counted as failed and never stands for 0. Overalls lie in [−159, 108].
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from polaris.errors import InputError
from polaris.evaluate.ratio import ratio
from polaris.reward.quality import label
from polaris.reward.shape import self_repetition
from polaris.text import prompt_id

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


def counts(rows: Sequence[Row]) -> dict[str, Any]:
    """Return what stands beside the figures: stories, judgements, failures by reason, labels, cut stories."""
    reasons = Counter(reason for row in rows for reason in row["reasons"])
    return {
        "prompts": len(set(prompts(rows))),
        "stories": len(rows),
        "judgements": sum(row["judged"] for row in rows),
        "judgements_failed": sum(row["failed"] for row in rows),
        "failures": dict(sorted(reasons.items())),
        "labels": dict(sorted(Counter(row["label"] for row in rows if row["label"]).items())),
        "truncated": sum(row["truncated"] for row in rows),
        "empty": sum(row["words"] == 0 for row in rows),
    }


def prompts(rows: Sequence[Row]) -> list[str]:
    """Return each row's prompt; stories of one prompt are not independent, at whatever targets."""
    return [prompt_id(row["id"]) for row in rows]


def by_prompt(
    rows: Sequence[Row], value: Callable[[Row], float | None] = lambda row: row["overall"]
) -> dict[str, float | None]:
    """Return each prompt's mean over its stories that have the value (a score), None when none has."""
    found: dict[str, list[float]] = {}
    for row, prompt in zip(rows, prompts(rows), strict=True):
        values = found.setdefault(prompt, [])
        if (number := value(row)) is not None:
            values.append(number)
    return {key: sum(values) / len(values) if values else None for key, values in found.items()}


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
