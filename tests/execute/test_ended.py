"""A log's lines in, the ones that tell why out."""

from __future__ import annotations

import json

import pytest

from polaris.execute.ended import telling_lines


@pytest.mark.parametrize(
    ("log", "told"),
    [
        (["one", "", "two", "three", "four"], "two | three | four"),
        (["start", "RuntimeError: no memory", *["goodbye"] * 20], "RuntimeError: no memory"),
        ([json.dumps({"event": "failed", "reason": "the book is torn"})], "failed: the book is torn"),
        (
            [json.dumps({"event": "bug", "traceback": "Traceback\n  line\nKeyError: 'x'"})],
            "bug: KeyError: 'x'",
        ),
        (["{no json"], "{no json"),
        ([], ""),
    ],
)
def test_the_lines_that_tell(log: list[str], told: str) -> None:
    assert telling_lines(log) == told
