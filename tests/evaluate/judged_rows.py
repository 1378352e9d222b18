"""Rows of stories.jsonl, scores.jsonl and failures.jsonl, as the benchmarks read them."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]


def story(key: str, words: int = 900, *, target: int = 1000, sample: int = 0, truncated: bool = False) -> Row:
    return {
        "id": key,
        "sample": sample,
        "prompt": "Write.",
        "target_word_count": target,
        "story": "A lamp was lit upon the quay before anybody spoke.",
        "words": words,
        "finish_reason": "length" if truncated else "stop",
        "truncated": truncated,
        "completion_tokens": 1200,
        "model": "m@1",
    }


def score(key: str, overall: int, *, repeat: int = 0, sample: int = 0, validity: float | None = None) -> Row:
    return {"id": key, "sample": sample, "repeat": repeat, "overall": overall, "quote_validity": validity}


def failure(key: str, reason: str = "cut", *, repeat: int = 0, sample: int = 0) -> Row:
    return {"id": key, "sample": sample, "repeat": repeat, "reason": reason}
