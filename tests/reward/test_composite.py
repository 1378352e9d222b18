from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polaris.judge.parse import Judgement
from polaris.judge.rubric import load_rubric
from polaris.reward.composite import (
    TRAINING,
    VALIDATION,
    Components,
    TokenTerms,
    Weights,
    reward,
    score_story,
    split_thinking,
)
from polaris.reward.quality import Disqualification
from polaris.reward.shape import LengthFloors, self_repetition

NOTHING = Judgement.of_nothing()
BEST = replace(NOTHING, positive={d.key: d.max for d in load_rubric().positive}, bonus=8)
WORST = replace(NOTHING, negative={d.key: d.max for d in load_rubric().negative}, penalty=8)
STORY = " ".join(f"w{number}" for number in range(1000))


def components(**changed: Any) -> Components:
    plain: dict[str, Any] = {"quality": 0.5, "repetition": 0.1, "length": 0.25, "blank": 0.0}
    return Components(**(plain | changed))


def test_weights_are_the_published_ones() -> None:
    assert Weights() == TRAINING == Weights(1.0, 1.5, 0.8, 1.0, 0.0)
    assert Weights(1.0, 0.8, 0.2, 1.0, 0.0) == VALIDATION


@pytest.mark.parametrize(
    ("changed", "weights", "value"),
    [
        ({}, TRAINING, 0.5 - 0.15 - 0.2),
        ({}, VALIDATION, 0.5 - 0.08 - 0.05),
        ({"blank": 1.0}, TRAINING, 0.5 - 0.15 - 0.2 - 1.0),
        ({"length_reward": 0.5}, TRAINING, 0.15),
        ({"length_reward": 0.5}, Weights(length_reward=0.2), 0.25),
        ({"thinking": 0.05}, TRAINING, 0.1),
        ({"overlong": 1.0}, TRAINING, -0.85),
        ({"quality": -1.59, "length": 1.0, "blank": 1.0}, TRAINING, -2.0),
        ({"quality": 1.08, "repetition": 0.0, "length": 0.0}, TRAINING, 1.08),
        ({"quality": 1.08}, Weights(quality=5.0), 2.0),
        # As a whole: no part is cut before the others are taken off.
        ({"quality": 1.08, "repetition": 1.0, "length": 0.0}, Weights(quality=3.0), 1.74),
        ({"quality": -1.59, "length": 1.0, "length_reward": 1.0}, Weights(length_reward=1.0), -1.54),
    ],
)
def test_reward_by_hand(changed: dict[str, float], weights: Weights, value: float) -> None:
    assert reward(components(**changed), weights) == pytest.approx(value)


def test_clip_is_a_setting() -> None:
    assert reward(components(quality=1.0), TRAINING, clip=(-0.5, 0.5)) == 0.5
    assert reward(components(quality=-1.0), TRAINING, clip=(-0.5, 0.5)) == -0.5


@pytest.mark.parametrize("name", ["quality", "repetition", "length", "blank"])
def test_a_missing_component_is_no_reward(name: str) -> None:
    assert reward(components(**{name: None})) is None
    assert reward(components(**{name: None}), replace(TRAINING, **{name: 0.0})) is not None


def test_a_missing_component_without_weight_does_not_matter() -> None:
    assert reward(components(length_reward=None)) == pytest.approx(0.15)
    assert reward(components(length_reward=None), Weights(length_reward=0.1)) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_component_that_is_no_number_is_an_error(value: float) -> None:
    with pytest.raises(ValueError, match="must be a finite number or None"):
        reward(components(quality=value))


@pytest.mark.parametrize(
    ("completion", "thinking", "story"),
    [
        ("plan\n</think>\n\nOnce.", True, "Once."),
        ("</think>Once.\n", True, "Once.\n"),
        ("plan</think>\n\nHe said </think> and left.", True, "He said </think> and left."),
        ("plan</think>", True, ""),
        ("thoughts without an end", True, None),
        ("", True, None),
        ("Once.", False, "Once."),
        ("\n", False, "\n"),
    ],
)
def test_split_thinking(completion: str, thinking: bool, story: str | None) -> None:
    assert split_thinking(completion, thinking) == story


def test_good_story_of_the_right_length() -> None:
    found = score_story(STORY, 1000, BEST)
    assert found == Components(
        quality=1.08, repetition=0.0, length=0.0, blank=0.0, length_reward=1.0, words=1000
    )
    assert found.word_counter == "unescaped-w+"
    assert reward(found) == pytest.approx(1.08)


def test_repetitive_and_short_story() -> None:
    text = "the sea " * 100
    found = score_story(text, 1000, NOTHING)
    assert found.words == 200
    assert found.length == pytest.approx(1 - 200 / 650)
    assert found.repetition == self_repetition(text)
    assert reward(found) == pytest.approx(-1.5 * self_repetition(text) - 0.8 * (1 - 200 / 650))


@pytest.mark.parametrize("text", [None, "", "   "])
def test_no_story_is_blank(text: str | None) -> None:
    found = score_story(text, 1000, NOTHING)
    assert (found.quality, found.blank, found.length, found.length_reward, found.words) == (
        0.0,
        1.0,
        1.0,
        0.0,
        0,
    )
    assert reward(found) == pytest.approx(-1.8)


def test_failed_judgement_is_no_reward_whatever_else_is_known() -> None:
    found = score_story(STORY, 1000, None)
    assert found.quality is None and found.length == 0.0
    assert reward(found) is None
    assert reward(score_story(None, 1000, None)) is None


def test_floors_and_gate_reach_their_terms() -> None:
    demo = LengthFloors(min_words=10, min_target=20, lower_floor=5, lower_cap=50, upper_floor=5, upper_cap=50)
    text = " ".join(f"w{number}" for number in range(20))
    assert score_story(text, 20, BEST).blank == 1.0
    assert score_story(text, 20, BEST, floors=demo).blank == 0.0
    broken = replace(BEST, negative=BEST.negative | {"N2": 9})
    assert score_story(STORY, 1000, broken, gate=Disqualification()).quality == -1.59
    assert score_story(STORY, 1000, broken, gate=Disqualification(), is_reference=True).quality == 0.99
    assert score_story(STORY, 1000, broken).quality == 0.99


@pytest.mark.parametrize(("tokens", "cost"), [(0, 0.0), (3072, 0.0), (3073, 0.05), (9999, 0.05)])
def test_thinking_cost(tokens: int, cost: float) -> None:
    assert TokenTerms(thinking=True).thinking_cost(tokens) == cost
    assert TokenTerms().thinking_cost(tokens) == 0.0
    assert (
        score_story(STORY, 1000, BEST, token_terms=TokenTerms(thinking=True), thinking_tokens=tokens).thinking
        == cost
    )


@pytest.mark.parametrize(("tokens", "cost"), [(0, 0.0), (7680, 0.0), (7936, 0.5), (8192, 1.0), (9999, 1.0)])
def test_overlong_cost(tokens: int, cost: float) -> None:
    assert TokenTerms(overlong=True).overlong_cost(tokens) == cost
    assert TokenTerms().overlong_cost(tokens) == 0.0
    assert (
        score_story(STORY, 1000, BEST, token_terms=TokenTerms(overlong=True), response_tokens=tokens).overlong
        == cost
    )


def test_token_terms_that_are_on_need_their_counts() -> None:
    with pytest.raises(ValueError, match="number of thinking tokens"):
        score_story(STORY, 1000, BEST, token_terms=TokenTerms(thinking=True))
    with pytest.raises(ValueError, match="number of response tokens"):
        score_story(STORY, 1000, BEST, token_terms=TokenTerms(overlong=True))


unit = st.floats(0, 1)


@given(st.floats(-1.59, 1.08), st.floats(0, 1.5), unit, unit, unit, st.sampled_from([TRAINING, VALIDATION]))
def test_reward_is_bounded_and_monotone(
    quality: float, repetition: float, length: float, blank: float, better: float, weights: Weights
) -> None:
    plain = Components(quality=quality, repetition=repetition, length=length, blank=blank)
    value = reward(plain, weights)
    assert value is not None and -2.0 <= value <= 2.0
    raised = reward(replace(plain, quality=quality + better), weights)
    assert raised is not None and raised >= value
    for name in ("repetition", "length", "blank"):
        worse = reward(replace(plain, **{name: getattr(plain, name) + better}), weights)
        assert worse is not None and worse <= value


@given(st.text(), st.integers(1, 12_000), st.sampled_from([BEST, WORST, NOTHING]))
def test_any_text_has_a_reward_once_judged(text: str, target: int, judgement: Judgement) -> None:
    value = reward(score_story(text, target, judgement))
    assert value is not None and -2.0 <= value <= 2.0
