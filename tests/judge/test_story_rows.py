from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hostile_stories import hostile_stories

from polaris.artifact import from_rows
from polaris.errors import InputError
from polaris.judge.stories import NO_PROMPT, read_row, read_stories, without_thinking
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
        ({"story": "x"}, "id: missing; expected text or a whole number"),
        ({"id": "", "story": "x"}, "id: empty text; expected text or a whole number"),
        ({"id": ["Once."], "story": "x"}, "id: a list; expected text or a whole number"),
        ({"id": True, "story": "x"}, "id: true; expected text or a whole number"),
        ({"id": "a"}, "story: missing; expected text"),
        ({"id": "a", "story": None}, "story: null; expected text"),
        ({"id": "a", "story": ["Once."]}, "story: a list; expected text"),
        ({"id": "a", "story": "x", "prompt": 3}, "prompt: 3; expected text"),
        (
            {"id": "a", "story": "x", "target_word_count": 0},
            "target_word_count: 0; expected a whole number of words, 1 to 1,000,000,000",
        ),
        (
            {"id": "a", "story": "x", "target_word_count": "A fox."},
            "target_word_count: text; expected a whole number of words, 1 to 1,000,000,000",
        ),
        ({"id": "a", "story": "x", "sample": -1}, "sample: -1; expected a whole number of 0 or more"),
        (
            {"id": "a", "story": "x", "sample": "Fox"},
            "sample: no number; expected a whole number of 0 or more",
        ),
        ({"id": "a", "story": "x", "sample": ""}, "sample: no number; expected a whole number of 0 or more"),
        ([1], "row: a list; expected a JSON object"),
        (
            b"{",
            "row: no JSON at character 2: Expecting property name enclosed in double quotes;"
            " expected a JSON object on one line",
        ),
        (b'{"id": "\xff"}', "row: no UTF-8 at byte 8; expected a JSON object"),
        (b"[" * 100_000, "row: nested too deeply; expected a JSON object"),
        (b'{"id": "a", "story": "x", "story": "y"}', "story: given twice; expected each key once"),
        (b'{"id": %b}' % (b"7" * 5000), "row: a number has too many digits to read; expected a JSON object"),
    ],
)
def test_a_bad_row_is_named_by_line_and_field(tmp_path: Path, line: Any, said: str) -> None:
    path = written(tmp_path, {"id": "good", "story": "x"}, line)
    with pytest.raises(InputError) as caught:
        read_stories(path)
    assert str(caught.value) == f"{path}:2: {said}"


def test_every_fault_is_told_and_no_row_is_taken_twice(tmp_path: Path) -> None:
    path = written(tmp_path, {"id": "a", "story": "x"}, {"story": 2}, {"id": "a", "story": "y"})
    with pytest.raises(InputError) as caught:
        read_stories(path)
    assert str(caught.value).splitlines() == [
        f"{path}:2: id: missing; expected text or a whole number",
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
        assert told == [encodable(without_thinking(row["story"])) for row in rows]


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


def test_a_number_for_an_id_is_taken_as_text(tmp_path: Path) -> None:
    path = written(
        tmp_path, {"id": 4, "story": "four"}, {"id": 5, "story": "five"}, {"id": True, "story": "x"}
    )
    assert read_row(path, line=None, key="5")["story"] == "five"
    with pytest.raises(InputError, match="holds no id 'True'"):
        read_row(path, line=None, key="True")
    path = written(tmp_path, {"id": 5, "story": "five"}, {"id": "5", "story": "also"})
    with pytest.raises(InputError, match=":2: id: given before, in line 1"):
        read_stories(path)
    assert read_stories(written(tmp_path, {"id": 5, "story": "five"}))[0]["id"] == "5"


def test_other_rows_faults_do_not_hide_the_one_that_is_asked_for(tmp_path: Path) -> None:
    path = written(tmp_path, b"nonsense", {"id": [1]}, {"id": "b", "story": "two"})
    assert read_row(path, line=None, key="b")["story"] == "two"
    with pytest.raises(InputError, match=r":1: row: no JSON"):
        read_row(path, line=None, key=None)


@pytest.mark.parametrize(
    ("story", "kept", "words"),
    [
        ("<think>A fox, then.</think>\n\nIt slept.", "It slept.", 2),
        ("<think>A</think>One </think> two.", "One </think> two.", 3),
        ("<think>It never ends.", "", 0),
        ("It slept. <think>Or so.</think> It did.", "It slept. <think>Or so.</think> It did.", 8),
        ("No tag </think> here.", "No tag </think> here.", 4),
    ],
)
def test_a_story_is_judged_without_its_thinking(tmp_path: Path, story: str, kept: str, words: int) -> None:
    path = written(tmp_path, {"id": "a", "story": story})
    [row] = read_stories(path)
    assert (row["story"], row["words"]) == (kept, words)
    assert row.get("thinking_cut", False) is (kept != story)
    assert read_row(path, line=None, key=None)["story"] == kept


def test_at_most_twenty_faults_are_listed(tmp_path: Path) -> None:
    path = written(tmp_path, *[{"id": "a"}] * 50)
    with pytest.raises(InputError) as caught:
        read_stories(path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 21 and lines[-1] == f"{path}: … 30 more"


def test_no_text_of_a_row_is_told(tmp_path: Path) -> None:
    secret = "The fox sold the lamp"
    path = written(
        tmp_path,
        {"id": {"x": secret}, "story": [secret], "prompt": [secret], "sample": secret},
        {"id": "a", "story": {secret: secret}, "target_word_count": secret},
        f'{{"id": "b", "story": "{secret}'.encode(),
    )
    with pytest.raises(InputError) as caught:
        read_stories(path)
    assert "fox" not in str(caught.value) and len(str(caught.value).splitlines()) == 7


def test_a_prompt_with_a_number_of_thousands_of_digits_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, {"id": "a", "story": "x", "prompt": f"It is {'9' * 5000} words long."})
    assert read_stories(path)[0]["id"] == "a"
