"""What a row may be, and how a fault in it is told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polaris.judge.parse import Judgement
from polaris.judge.rubric import load_rubric
from polaris.reward.rows import (
    RowError,
    id_of,
    judgement_of,
    parse_row,
    scores_of,
    text_of,
    whole_of,
)

PLAIN = Judgement.of_nothing()
DATA = {key: PLAIN.to_json()[key] for key in ("positive", "negative", "bonus", "penalty")}
AB = ("A", "B")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"nope", "row: no JSON at character 1: Expecting value; expected a JSON object on one line"),
        (b'{"id": "a",}', "row: no JSON at character 12: "),
        (b'{"id": "a"} x', "row: no JSON at character 13: Extra data; "),
        (b'{"id": "a', "row: no JSON at character 8: Unterminated string"),
        (b"[1]", "row: a list; expected a JSON object"),
        (b"null", "row: null; expected a JSON object"),
        (b'"text"', "row: text; expected a JSON object"),
        (b"3", "row: a number; expected a JSON object"),
        (b'{"id": "\xff"}', "row: no UTF-8 at byte 8; expected a JSON object"),
        (b'{"n": ' + b"1" * 5000 + b"}", "row: a number has too many digits to read; expected"),
        (b"[" * 100_000, "row: nested too deeply; expected"),
        (b'{"id": 1, "id": 2}', "id: given twice; expected each key once"),
        (b'{"scores": {"A": 1, "A": 2}}', "A: given twice; expected each key once"),
        (b'{"a\\nb": 1, "a\\nb": 2}', "'a\\nb': given twice"),
    ],
)
def test_lines_that_are_no_row(line: bytes, said: str) -> None:
    with pytest.raises(RowError) as told:
        parse_row(line)
    assert str(told.value).startswith(said)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("line", "row"),
    [
        (b'{"id": "a"}\r\n', {"id": "a"}),
        (b'\xef\xbb\xbf {"id": "a"}', {"id": "a"}),
        (b'{"story": "\\ud800"}', {"story": "\ud800"}),
        (b'{"story": "\xed\xa0\x80"}', {"story": "\ud800"}),
        (b'{"story": "\0\\u0000"}', {"story": "\0\0"}),
        ('{"story": "\u2028\u0085"}'.encode(), {"story": "\u2028\u0085"}),
    ],
)
def test_lines_that_are_rows(line: bytes, row: dict[str, Any]) -> None:
    assert parse_row(line) == row


@given(st.text())
def test_any_story_comes_through(story: str) -> None:
    for escaped in (True, False):
        line = json.dumps({"story": story}, ensure_ascii=escaped).encode("utf-8", "surrogatepass")
        # Two halves of a pair, each escaped, are one character to JSON.
        whole = story.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
        assert text_of(parse_row(line), "story") == (whole if escaped else story)


@pytest.mark.parametrize("value", ["a", 0, 17, "\ud800"])
def test_ids(value: Any) -> None:
    assert id_of({"id": value}) == value


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({}, "missing"),
        ({"id": None}, "null"),
        ({"id": ""}, "empty text"),
        ({"id": True}, "true"),
        ({"id": 1.5}, "1.5"),
        ({"id": ["a"]}, "a list"),
    ],
)
def test_what_is_no_id(row: dict[str, Any], what: str) -> None:
    with pytest.raises(RowError, match=f"^id: {what}; expected text or a whole number$"):
        id_of(row)


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (None, "null"),
        (False, "false"),
        (1.5, "1.5"),
        (0, "0"),
        (-5, "-5"),
        ("1500", "text"),
        ({}, "an object"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (10**9 + 1, "1000000001"),
        (10**40, "1" + "0" * 20 + "..."),
    ],
)
def test_what_is_no_number_of_words(value: Any, what: str) -> None:
    with pytest.raises(RowError) as told:
        whole_of({"words": value}, "words", 1)
    assert str(told.value) == f"words: {what}; expected a whole number of words, 1 to 1,000,000,000"


def test_numbers_of_words() -> None:
    assert whole_of({"words": 0}, "words", 0) == 0
    assert whole_of({"words": 10**9}, "words", 1) == 10**9


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        (None, "scores: null; expected an object"),
        ([1, 2], "scores: a list; expected an object"),
        ({}, "scores.A: missing; expected a number, 0 to 20"),
        ({"A": 1}, "scores.B: missing; expected a number, 0 to 20"),
        ({"A": 1, "B": 2, "C": 3}, "scores.C: unknown; expected one of A, B"),
        ({"A": 1, "B": 2, "x" * 99: 3}, "scores." + "x" * 37 + "...: unknown; "),
        ({"A": 1, "B": 20.5}, "scores.B: 20.5; expected a number, 0 to 20"),
        ({"A": 1, "B": -0.1}, "scores.B: -0.1; "),
        ({"A": 1, "B": 10**30}, "scores.B: 100000000000000000000...; "),
        ({"A": 1, "B": float("nan")}, "scores.B: nan; "),
        ({"A": 1, "B": float("inf")}, "scores.B: inf; "),
        ({"A": True, "B": 1}, "scores.A: true; "),
        ({"A": "7", "B": 1}, "scores.A: text; "),
        ({"A": None, "B": 1}, "scores.A: null; "),
        ({"A": [3], "B": 1}, "scores.A: a list; "),
    ],
)
def test_faulty_scores(scores: Any, said: str) -> None:
    with pytest.raises(RowError) as told:
        scores_of({"scores": scores}, AB, 0, 20)
    assert str(told.value).startswith(said)


def test_scores() -> None:
    assert list(scores_of({"scores": {"B": 20, "A": 0.5}}, AB, 0, 20).items()) == [("A", 0.5), ("B", 20.0)]
    own = {"second\ncriterion": 10, "first": 1.0}
    assert scores_of({"scores": own}, None, 1, 10, whole=True) == own


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ({}, "scores: empty; expected one score or more"),
        ({"it is": 7.5}, "scores.it is: 7.5; expected a whole number, 1 to 10"),
        ({"it\nis": 0}, "scores.'it\\nis': 0; expected a whole number, 1 to 10"),
        ({"": 11}, "scores.'': 11; "),
    ],
)
def test_faulty_scores_by_the_rows_own_criteria(scores: Any, said: str) -> None:
    with pytest.raises(RowError) as told:
        scores_of({"scores": scores}, None, 1, 10, whole=True)
    assert str(told.value).startswith(said)


def changed(**changes: Any) -> dict[str, Any]:
    return {"judgement": DATA | changes}


RANGES = "expected a whole number in range for each dimension, and for bonus and penalty or null"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({}, "judgement: missing; expected an object"),
        ({"judgement": "good"}, "judgement: text; expected an object"),
        ({"judgement": {"positive": {}, "negative": {}}}, f"judgement: missing bonus, penalty; {RANGES}"),
        (changed(total=90), "judgement: unknown key 'total'; "),
        (changed(positive=3), "judgement.positive: an integer in place of an object; "),
        (changed(positive=DATA["positive"] | {"P7": 1}), "judgement.positive: unknown key 'P7'; "),
        (changed(negative={}), "judgement.negative: missing N1, N2, N3"),
        (
            changed(positive=DATA["positive"] | {"P1": 16}),
            "judgement.positive.P1: score 16 is outside 0 to 15; ",
        ),
        (
            changed(negative=DATA["negative"] | {"N8": -1}),
            "judgement.negative.N8: score -1 is outside 0 to 8; ",
        ),
        (
            changed(positive=DATA["positive"] | {"P2": 7.5}),
            "judgement.positive.P2: a decimal number in place of",
        ),
        (changed(positive=DATA["positive"] | {"P2": None}), "judgement.positive.P2: null in place of"),
        (changed(positive=DATA["positive"] | {"P2": True}), "judgement.positive.P2: a boolean in place of"),
        (changed(bonus=9), "judgement.bonus: score 9 is outside 0 to 8; "),
        (changed(penalty="2"), "judgement.penalty: a string in place of"),
        (changed(penalty=float("nan")), "judgement.penalty: a decimal number in place of"),
    ],
)
def test_faulty_judgements(row: dict[str, Any], said: str) -> None:
    with pytest.raises(RowError) as told:
        judgement_of(row)
    assert str(told.value).startswith(said)
    assert str(told.value).endswith(("an object", RANGES))


def test_judgements() -> None:
    assert judgement_of({"judgement": DATA}) == PLAIN
    full = {
        "notes": {"P1": "good"},
        "quotes": {"P1": ["so"]},
        "quote_validity": 1.0,
        "unsupported": ["bonus"],
    }
    assert judgement_of(changed(**full)).notes == {"P1": "good"}
    most = {dimension.key: dimension.max for dimension in load_rubric().positive}
    assert judgement_of(changed(positive=dict(reversed(most.items())), bonus=8)).positive == most
