from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hostile_stories import hostile_stories
from hypothesis import given
from hypothesis import strategies as st

from polaris.judge.parse import (
    InvalidJudgement,
    Judgement,
    _normalised,
    judgement_from_answer,
    parse_judgement,
    quote_validity,
)
from polaris.judge.prompt import as_seen
from polaris.judge.rubric import FORMS, Form, load_rubric
from polaris.text import encodable

STORY = "The lamp went out at four.\n\n\u201cNinety-one,\u201d said Mara, and didn\u2019t look  up."
RUBRIC = load_rubric()
HOSTILE = hostile_stories()


def compact(**changed: Any) -> dict[str, Any]:
    scores: dict[str, Any] = {d.key: d.max // 2 for d in RUBRIC.dimensions}
    return scores | {"bonus": None, "penalty": None} | changed


def full(**changed: Any) -> dict[str, Any]:
    answer: dict[str, Any] = {
        d.key: {"quotes": ["The lamp went out"], "note": "A note.", "score": d.max // 2}
        for d in RUBRIC.dimensions
    }
    return answer | {"bonus": None, "penalty": None} | changed


def dimension(score: Any, note: Any = "A note.", quotes: Any = ()) -> dict[str, Any]:
    return {"quotes": list(quotes) if isinstance(quotes, tuple) else quotes, "note": note, "score": score}


def catch_all(score: Any, **changed: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "moment": "the count", "quotes": ["Ninety-one"], "nearest": "P4", "why": "no voice", "score": score,
    }  # fmt: skip
    return found | changed


def parse(answer: Any, form: Form = "compact") -> Judgement:
    return parse_judgement(json.dumps(answer), form, STORY)


def test_compact_answer_is_read() -> None:
    judgement = parse(compact(P1=15, N10=0, bonus=3))
    assert judgement.positive == {"P1": 15, "P2": 10, "P3": 7, "P4": 7, "P5": 10, "P6": 7}
    assert list(judgement.negative) == [d.key for d in RUBRIC.negative]
    assert judgement.negative["N10"] == 0 and judgement.negative["N8"] == 4
    assert (judgement.bonus, judgement.penalty) == (3, None)
    assert (judgement.notes, judgement.quotes, judgement.quote_validity) == ({}, {}, None)


def test_full_answer_is_read() -> None:
    answer = full(N1=dimension(3, "Breaks it.", ("said Mara", "not there")), penalty=catch_all(4))
    judgement = parse(answer, "full")
    assert judgement.negative["N1"] == 3
    assert judgement.notes["N1"] == "Breaks it."
    assert judgement.quotes["N1"] == ("said Mara", "not there")
    assert judgement.penalty == 4 and judgement.unsupported == ()
    assert judgement.notes["penalty"] == "the count (nearest P4: no voice)"
    assert "bonus" not in judgement.notes
    assert judgement.quote_validity == pytest.approx(17 / 18)  # 15 + 2 + 1 quotes, one of them made up


@pytest.mark.parametrize("form", FORMS)
def test_key_order_space_and_a_markdown_fence_do_not_matter(form: Form) -> None:
    answer = compact() if form == "compact" else full()
    plain = parse(answer, form)
    backwards = json.dumps(dict(reversed(answer.items())), indent=2)
    assert parse_judgement(f"\n {backwards}\n", form, STORY) == plain
    assert parse_judgement(f"```json\n{backwards}\n```\n", form, STORY) == plain


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"P1": 16}, "P1: score 16 is outside 0 to 15"),
        ({"N8": 9}, "N8: score 9 is outside 0 to 8"),
        ({"N1": -1}, "N1: score -1 is outside 0 to 15"),
        ({"P1": True}, "P1: a boolean in place of an integer score"),
        ({"P1": 7.5}, "P1: a decimal number in place of an integer score"),
        ({"P1": "7"}, "P1: a string in place of an integer score"),
        ({"P1": None}, "P1: null in place of an integer score"),
        ({"P1": [7]}, "P1: a list in place of an integer score"),
        ({"P1": {"score": 7}}, "P1: an object in place of an integer score"),
        ({"P1": 10**400}, "P1: score of many digits is outside 0 to 15"),
        ({"bonus": 9}, "bonus: score 9 is outside 0 to 8"),
        ({"penalty": False}, "penalty: a boolean in place of an integer score"),
        ({"total": 60}, "answer: unknown key 'total'"),
        ({"p1": 7}, "answer: unknown key 'p1'"),
    ],
)
def test_invalid_compact_answers_name_field_and_reason(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidJudgement) as caught:
        parse(compact(**changed))
    assert str(caught.value) == said


@pytest.mark.parametrize("key", list(compact()))
@pytest.mark.parametrize("form", FORMS)
def test_every_missing_key_is_named(form: Form, key: str) -> None:
    answer = compact() if form == "compact" else full()
    del answer[key]
    with pytest.raises(InvalidJudgement, match=f"^answer: missing {key}$"):
        parse(answer, form)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"P1": 7}, "P1: an integer in place of an object"),
        ({"P1": dimension(16)}, "P1: score 16 is outside 0 to 15"),
        ({"P1": dimension(None)}, "P1: null in place of an integer score"),
        ({"P1": dimension(7, note=None)}, "P1.note: null in place of a string"),
        ({"P1": dimension(7, quotes="a quote")}, "P1.quotes: a string in place of a list of strings"),
        ({"P1": dimension(7, quotes=(3,))}, "P1.quotes: an integer in place of a string"),
        ({"P1": {"score": 7, "note": ""}}, "P1: missing quotes"),
        ({"P1": dimension(7) | {"max": 15}}, "P1: unknown key 'max'"),
        ({"bonus": 3}, "bonus: an integer in place of an object"),
        ({"bonus": catch_all(9)}, "bonus.score: score 9 is outside 0 to 8"),
        ({"bonus": catch_all(True)}, "bonus.score: a boolean in place of an integer score"),
        ({"bonus": catch_all(9, quotes=[])}, "bonus.score: score 9 is outside 0 to 8"),
        ({"penalty": catch_all(3, nearest="P9")}, "penalty.nearest: 'P9' is no dimension's key"),
        ({"penalty": catch_all(3, nearest=["P4"])}, "penalty.nearest: ['P4'] is no dimension's key"),
        ({"penalty": {"score": 1}}, "penalty: missing moment, quotes, nearest, why"),
    ],
)
def test_invalid_full_answers_name_field_and_reason(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidJudgement) as caught:
        parse(full(**changed), "full")
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "answer: not JSON at character 0 of 0: Expecting value"),
        ("I would give it full marks.", "not JSON"),
        ("null", "answer: null in place of an object"),
        ("[1, 2]", "answer: a list in place of an object"),
        (json.dumps(compact())[:-9], "not JSON"),
        (json.dumps(compact()) * 2, "not JSON"),
        ("Here it is: " + json.dumps(compact()), "not JSON"),
        (json.dumps(compact()).replace('"P1": 7', '"P1": NaN'), "answer: NaN is no JSON number"),
        (json.dumps(compact()).replace('"P1": 7', '"P1": -Infinity'), "answer: -Infinity is no JSON number"),
        (json.dumps(compact()).replace('"P1": 7', '"P1": 7, "P1": 15'), "answer: key 'P1' is given twice"),
        (
            json.dumps(compact()).replace('"P1": 7', '"P1": ' + "7" * 5000),
            "answer: a number is too long to read",
        ),
        ("[" * 200_000, "answer: nested too deeply"),
    ],
)
def test_what_is_not_one_json_object_is_invalid(text: str, said: str) -> None:
    with pytest.raises(InvalidJudgement, match=said):
        parse_judgement(text, "compact", STORY)


def test_duplicate_key_inside_a_dimension_is_invalid() -> None:
    text = json.dumps(full()).replace('"score": 7', '"score": 7, "score": 15', 1)
    with pytest.raises(InvalidJudgement, match="'score' is given twice"):
        parse_judgement(text, "full", STORY)


def test_one_form_is_invalid_as_the_other() -> None:
    with pytest.raises(InvalidJudgement, match="P1: an object in place"):
        parse(full(), "compact")
    with pytest.raises(InvalidJudgement, match="P1: an integer in place"):
        parse(compact(), "full")
    with pytest.raises(ValueError, match="judge form 'long' is unknown"):
        parse(compact(), "long")  # type: ignore[arg-type]


def test_long_invented_key_is_cut_short() -> None:
    with pytest.raises(InvalidJudgement) as caught:
        parse(compact(**{"secret " * 30: 1}))
    assert len(str(caught.value)) < 60


def test_a_whole_number_may_be_written_as_a_decimal() -> None:
    judgement = parse(compact(P1=7.0, bonus=2.0))
    assert (judgement.positive["P1"], judgement.bonus) == (7, 2)
    assert isinstance(judgement.positive["P1"], int)
    read = Judgement.from_json(judgement.to_json() | {"penalty": 3.0})
    assert read.penalty == 3


def test_a_quote_that_is_demanded_and_missing_is_one_that_is_not_there() -> None:
    silent = {d.key: dimension(0) for d in RUBRIC.dimensions}
    assert parse(full(**silent), "full").quote_validity is None
    assert parse(full(**silent | {"P1": dimension(9)}), "full").quote_validity is None
    assert parse(full(**silent | {"N1": dimension(5)}), "full").quote_validity == 0
    quoted = silent | {"N1": dimension(5), "N2": dimension(3, quotes=("The lamp went out",))}
    assert parse(full(**quoted), "full").quote_validity == 0.5


@pytest.mark.parametrize(
    ("found", "counted"),
    [
        (catch_all(8), 8),
        (catch_all(1, quotes=[]), 1),
        (catch_all(0, moment="", why="", quotes=[]), 0),
        (catch_all(2, quotes=[]), None),
        (catch_all(2, quotes=["  "]), None),
        (catch_all(8, quotes=["a line that is nowhere"]), None),
        (catch_all(8, quotes=["a line that is nowhere", "Ninety-one"]), 8),
        (catch_all(1, quotes=["a line that is nowhere"]), 1),
        (catch_all(1, moment=" "), None),
        (catch_all(5, why=""), None),
    ],
)
def test_catch_all_without_its_evidence_counts_nothing_and_says_so(
    found: dict[str, Any], counted: int | None
) -> None:
    judgement = parse(full(bonus=found), "full")
    assert judgement.bonus == (counted or 0)
    assert judgement.unsupported == (() if counted is not None else ("bonus",))


@pytest.mark.parametrize(
    ("quote", "there"),
    [
        ("The lamp went out", True),
        ('out at four. "Ninety-one," said', True),
        ("'Ninety-one,' said Mara", True),
        ("\u00abNinety-one,\u00bb said Mara", True),
        ('"didn\'t look up"', True),
        ("the lamp went out", False),
        ("The lamp went off", False),
        ("", False),
        ("''", False),
        ("didnt look up", False),
    ],
)
def test_quotes_are_looked_up_with_space_and_marks_made_alike(quote: str, there: bool) -> None:
    assert quote_validity([quote], STORY) == float(there)


def test_quotes_of_what_the_judge_saw_are_found() -> None:
    story = "He wrote <|im_end|> and\0 \ud800 stopped."
    assert quote_validity([as_seen(story)], story) == 1.0
    assert quote_validity([], story) is None


def test_notes_and_quotes_are_always_encodable() -> None:
    answer = json.dumps(full(P1=dimension(3, "a\ud800", ("b\udfff\0",))))
    judgement = parse_judgement(answer, "full", STORY)
    json.dumps(judgement.to_json(), ensure_ascii=False).encode("utf-8")
    assert judgement.notes["P1"] == "a\ufffd"


@pytest.mark.parametrize("form", FORMS)
def test_json_round_trip(form: Form) -> None:
    judgement = parse(compact(bonus=2) if form == "compact" else full(bonus=catch_all(4, quotes=[])), form)
    assert Judgement.from_json(json.loads(json.dumps(judgement.to_json()))) == judgement


def test_from_json_needs_the_scores_alone() -> None:
    plain = parse(compact())
    data = {key: plain.to_json()[key] for key in ("positive", "negative", "bonus", "penalty")}
    assert Judgement.from_json(data) == plain


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"positive": {"P1": 3}}, "positive: missing P2, P3, P4, P5, P6"),
        ({"positive": None}, "positive: null in place of an object"),
        ({"quote_validity": 1.5}, "quote_validity: a decimal number in place of a share from 0 to 1"),
        ({"overall": 50}, "judgement: unknown key 'overall'"),
        ({"bonus": 11}, "bonus: score 11 is outside 0 to 8"),
        ({"quotes": {"P1": "text"}}, "quotes.P1: a string in place of a list of strings"),
    ],
)
def test_from_json_checks_what_it_reads(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidJudgement) as caught:
        Judgement.from_json(parse(compact()).to_json() | changed)
    assert str(caught.value) == said


def test_from_json_names_a_missing_bonus() -> None:
    data = parse(compact()).to_json()
    del data["bonus"]
    with pytest.raises(InvalidJudgement, match="judgement: missing bonus"):
        Judgement.from_json(data)


def test_judgement_is_frozen_and_checks_itself() -> None:
    judgement = Judgement.of_nothing()
    assert sum(judgement.positive.values()) == sum(judgement.negative.values()) == 0
    with pytest.raises(FrozenInstanceError):
        judgement.bonus = 3  # type: ignore[misc]
    with pytest.raises(InvalidJudgement, match="negative: missing N1"):
        Judgement(positive=judgement.positive, negative={}, bonus=None, penalty=None)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*compact(), "extra"]), json_values), st.sampled_from(FORMS))
def test_any_data_is_a_valid_judgement_or_invalid(changes: dict[str, Any], form: Form) -> None:
    base = compact() if form == "compact" else full()
    try:
        judgement = judgement_from_answer(base | changes, form, STORY)
    except InvalidJudgement:
        return
    for found in RUBRIC.dimensions:
        score = {**judgement.positive, **judgement.negative}[found.key]
        assert type(score) is int and 0 <= score <= found.max


@given(st.text())
def test_any_text_is_invalid_or_a_judgement(text: str) -> None:
    with pytest.raises(InvalidJudgement):
        parse_judgement(text, "compact", STORY)


_MARKS = re.compile("[\"'`\u00b4\u00ab\u00bb\u2018-\u201f\u2032-\u2037\u2039\u203a\u300c-\u300f\uff02\uff07]")


def normalised_slowly(text: str) -> str:
    """The definition, character by character."""
    visible = "".join(char for char in encodable(text) if unicodedata.category(char) != "Cf")
    return re.sub(r"\s+", " ", _MARKS.sub("'", visible))


@given(
    st.text(st.characters(exclude_categories=[]))
    | st.text(" \n\t\x0b\x1c\x85\xa0\u2028\u3000\0\ud800\xad\u200b\u2060\ufeff\U000e0041'\"`\u201c\u300cab")
    | st.text(st.characters(categories=["Cf", "Zs", "Pi", "Pf", "Cc"]))
)
def test_a_text_is_normalised_by_its_definition(text: str) -> None:
    assert _normalised(text) == normalised_slowly(text)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_story_is_normalised_by_its_definition(name: str) -> None:
    assert _normalised(HOSTILE[name]) == normalised_slowly(HOSTILE[name])


def test_an_unknown_key_that_is_the_api_key_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_API_KEY", "sk-canary-0123456789abcdef0123456789")
    with pytest.raises(InvalidJudgement) as caught:
        parse(compact(**{"sk-canary-0123456789abcdef0123456789": 1}))
    assert "sk-canary" not in str(caught.value)
