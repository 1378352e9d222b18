from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hostile_stories import hostile_stories

from polaris.artifact import from_rows
from polaris.errors import InputError
from polaris.judge.stories import NO_PROMPT, read_row, read_stories
from polaris.text import encodable


def written(folder: Path, *lines: Any) -> Path:
    path = folder / "stories.jsonl"
    path.write_bytes(
        b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
    )
    return path


def test_rows_are_completed(tmp_path: Path) -> None:
    asked = {"id": "b", "story": "It's here.", "prompt": "Of a fox. The story should be 1,500 words long."}
    path = written(
        tmp_path,
        {"id": "a", "story": "One two."},
        b"",
        asked,
        asked | {"sample": 1, "target_word_count": 7, "prompt": None, "finish_reason": "stop"},
    )
    assert read_stories(path) == [
        {
            "id": "a",
            "sample": 0,
            "prompt": NO_PROMPT,
            "story": "One two.",
            "words": 2,
            "target_word_count": None,
        },
        {"id": "b", "sample": 0, "prompt": asked["prompt"], "story": "It's here.", "words": 3,
         "target_word_count": 1500},
        {"id": "b", "sample": 1, "prompt": NO_PROMPT, "story": "It's here.", "words": 3,
         "target_word_count": 7},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"story": "x"}, "id: missing; expected text of one or more characters"),
        ({"id": "", "story": "x"}, "id: ''; expected text of one or more characters"),
        ({"id": 7, "story": "x"}, "id: 7; expected text of one or more characters"),
        ({"id": "a"}, "story: missing; expected text"),
        ({"id": "a", "story": None}, "story: null; expected text"),
        ({"id": "a", "story": "x", "prompt": 3}, "prompt: 3; expected text, or leave it out"),
        (
            {"id": "a", "story": "x", "target_word_count": 0},
            "target_word_count: 0; expected a whole number of 1 or more",
        ),
        (
            {"id": "a", "story": "x", "target_word_count": True},
            "target_word_count: true; expected a whole number of 1 or more",
        ),
        ({"id": "a", "story": "x", "sample": -1}, "sample: -1; expected a whole number of 0 or more"),
        ([1], "row: list; expected a JSON object"),
        (b"{", "row: no JSON; expected a JSON object on one line"),
        (b'{"id": "\xff"}', "row: no UTF-8; expected a JSON object on one line"),
        (b"[" * 100_000, "row: no JSON; expected a JSON object on one line"),
    ],
)
def test_a_bad_row_is_named_by_line_and_field(tmp_path: Path, line: Any, said: str) -> None:
    path = written(tmp_path, {"id": "good", "story": "x"}, line)
    with pytest.raises(InputError) as caught:
        read_stories(path)
    assert str(caught.value) == f"{path}:2: {said}"


def test_every_fault_is_told_and_no_row_is_taken_twice(tmp_path: Path) -> None:
    path = written(tmp_path, {"id": "a", "story": "x"}, {"id": 1, "story": 2}, {"id": "a", "story": "y"})
    with pytest.raises(InputError) as caught:
        read_stories(path)
    assert str(caught.value).splitlines() == [
        f"{path}:2: id: 1; expected text of one or more characters",
        f"{path}:2: story: 2; expected text",
        f"{path}:3: id: given before, in line 1; expected an id, or a sample, of its own",
    ]


def test_a_file_without_rows_and_no_file_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no row"):
        read_stories(written(tmp_path))
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_stories(tmp_path / "none.jsonl")


def test_hostile_stories_are_read_as_they_are(tmp_path: Path) -> None:
    rows = [{"id": name, "story": text} for name, text in hostile_stories().items()]
    for data in (from_rows(rows), "".join(json.dumps(row) + "\n" for row in rows).encode()):
        path = tmp_path / "stories.jsonl"
        path.write_bytes(data)
        # Two halves of a pair side by side are one character in JSON.
        told = [encodable(row["story"]) for row in read_stories(path)]
        assert told == [encodable(row["story"]) for row in rows]


def test_raw_nuls_and_surrogates_are_fine(tmp_path: Path) -> None:
    path = written(tmp_path, b'\xef\xbb\xbf{"id": "a", "story": "x\0\xed\xa0\x80y"}')
    assert read_stories(path)[0]["story"] == "x\0\ud800y"


def test_a_row_is_found_by_line_or_id(tmp_path: Path) -> None:
    path = written(
        tmp_path, {"prompt": "P", "story": "one"}, b"", {"id": "b", "story": "two"}, {"id": "c", "story": 3}
    )
    assert read_row(path, line=None, key=None) == {"prompt": "P", "story": "one"}
    assert read_row(path, line=3, key=None) == {"prompt": NO_PROMPT, "story": "two"}
    assert read_row(path, line=None, key="b")["story"] == "two"
    with pytest.raises(InputError, match=":4: story: 3; expected text"):
        read_row(path, line=None, key="c")
    with pytest.raises(InputError, match="holds no line 2"):
        read_row(path, line=2, key=None)
    with pytest.raises(InputError, match="holds no id 'd'"):
        read_row(path, line=None, key="d")
