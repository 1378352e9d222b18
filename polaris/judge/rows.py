"""A story and what a judge said of it in; its line of `scores.jsonl` or of `failures.jsonl` out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polaris.judge.score import Judge, Scored
from polaris.reward.quality import label, overall
from polaris.runtime import redact

Row = dict[str, Any]


def score_row(story: Mapping[str, Any], repeat: int, judge: Judge, scored: Scored, caveat: str | None) -> Row:
    """Return the line of a judgement: the same bytes whether its answers came from the cache or not.

    `story` holds id, sample, words and target_word_count (None where nobody asked for a length). Tokens,
    usd, attempts and latency_s (seconds) are what the answers took when the endpoint gave them.
    """
    total = overall(scored.judgement)
    return _key(story, repeat) | {
        "words": story["words"],
        "target_word_count": story["target_word_count"],
        "overall": total,
        "label": label(total),
        "judgement": scored.judgement.to_json(),
        "quote_validity": scored.judgement.quote_validity,
        "repaired": scored.repaired,
        "rubric": judge.rubric,
        "structured": scored.structured,
        "judge": judge.identity,
        "caveat": caveat,
        "prompt_tokens": scored.prompt_tokens,
        "completion_tokens": scored.completion_tokens,
        "usd": round(scored.usd, 9),
        "attempts": scored.attempts,
        "latency_s": round(scored.latency_s, 3),
    }


def failure_row(story: Mapping[str, Any], repeat: int, reason: str) -> Row:
    """Return the line of a judgement that could not be had: never a score."""
    return _key(story, repeat) | {"reason": redact(reason)}


def row_order(row: Row) -> tuple[str, int, int]:
    """Return what lines are sorted by: id, sample, repeat."""
    return row["id"], row["sample"], row["repeat"]


def _key(story: Mapping[str, Any], repeat: int) -> Row:
    return {"id": story["id"], "sample": story["sample"], "repeat": repeat}
