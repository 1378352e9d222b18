"""A row's line of reward terms, by hand and by property."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polaris.judge.rubric import load_rubric
from polaris.recipe import DisqualificationGate, RewardConfig, RewardWeights
from polaris.reward.composite import VALIDATION
from polaris.reward.line import reward_line, target_of
from polaris.reward.quality import Disqualification
from polaris.reward.rows import RowError
from polaris.reward.settings import Settings
from polaris.reward.shape import LengthFloors

TRAINING = Settings()
RUBRIC = load_rubric()
TERMS = ["id", "words", "blank_penalty", "length_penalty", "length_reward", "self_repetition"]


def judgement(
    positive: list[int], negative: list[int], bonus: Any = None, penalty: Any = None
) -> dict[str, Any]:
    return {
        "positive": {f"P{number}": score for number, score in enumerate(positive, start=1)},
        "negative": {f"N{number}": score for number, score in enumerate(negative, start=1)},
        "bonus": bonus,
        "penalty": penalty,
    }


def unlike(words: int) -> str:
    return " ".join(f"w{number}" for number in range(words))


# 62 points, 15 faults: the bonus counts (15 <= 31), the penalty of 5 counts as 3 (62 > 22.5). Overall 48.
FAIR = judgement([10, 12, 9, 9, 12, 10], [1, 2, 3, 0, 4, 0, 2, 1, 1, 1], bonus=4, penalty=5)


@pytest.mark.parametrize(
    ("row", "settings", "line"),
    [
        # 1,000 words, 1,000 wanted
        (
            {"story": unlike(1000), "target_word_count": 1000},
            TRAINING,
            [1000, 0.0, 0.0, 1.0, 0.0],
        ),
        # 500 words, 1,500 wanted by the prompt: lower edge 1,500 - 350 = 1,150
        (
            {"story": unlike(500), "prompt": "Write. It should be 1,500 words long.", "judgement": FAIR},
            TRAINING,
            [500, 0.0, 1 - 500 / 1150, 0.0, 0.0, 0.48, 0.48 - 0.8 * (1 - 500 / 1150)],
        ),
        (
            {"story": unlike(500), "prompt": "Write. It should be 1,500 words long.", "judgement": FAIR},
            Settings(weights=VALIDATION),
            [500, 0.0, 1 - 500 / 1150, 0.0, 0.0, 0.48, 0.48 - 0.2 * (1 - 500 / 1150)],
        ),
        # the row's target goes before the prompt's; the upper edge is 1,000 + 600
        (
            {"story": unlike(1875), "target_word_count": 1000, "prompt": "5 words long", "judgement": FAIR},
            TRAINING,
            [1875, 0.0, 1875 / 1600 - 1, 0.0, 0.0, 0.48, 0.48 - 0.8 * (1875 / 1600 - 1)],
        ),
        # two equal lines of 100 words: 197 grams, 97 of them again and none near; blank is at 150
        (
            {"story": f"{unlike(100)}\n{unlike(100)}", "target_word_count": 300, "judgement": FAIR},
            TRAINING,
            [
                200,
                0.0,
                0.0,
                (200 - -50) / 350,
                0.56 * (97 / 197 - 0.08) + 0.4 * 0.5,
                0.48,
                0.48 - 1.5 * (0.56 * (97 / 197 - 0.08) + 0.2),
            ],
        ),
        # empty, with a judgement of a story that is not there
        (
            {"story": "", "target_word_count": 2000, "judgement": judgement([0] * 6, [0] * 10)},
            TRAINING,
            [0, 1.0, 1.0, 0.0, 0.0, 0.0, -1.8],
        ),
        # as bad as can be: clipped from -1.59 - 0.8 - 1.0
        (
            {
                "story": "",
                "target_word_count": 2000,
                "judgement": judgement([0] * 6, [d.max for d in RUBRIC.negative], 8, 8),
            },
            TRAINING,
            [0, 1.0, 1.0, 0.0, 0.0, -1.59, -2.0],
        ),
    ],
)
def test_lines_by_hand(row: dict[str, Any], settings: Settings, line: list[float]) -> None:
    found = reward_line({"id": "a", **row}, settings)
    names = TERMS + ["story_quality", "reward"] * ("judgement" in row)
    assert list(found) == names
    assert list(found.values())[1:] == pytest.approx(line, abs=1e-12)


def test_null_is_as_good_as_absent() -> None:
    row = {"id": 7, "story": "so", "target_word_count": 500}
    nulls = {"prompt": None, "judgement": None}
    assert reward_line(row | nulls, TRAINING) == reward_line(row, TRAINING)
    assert target_of({"prompt": "30 words long", "target_word_count": None}) == 30


def test_what_nobody_asks_for_is_not_looked_at() -> None:
    row = {"id": 7, "story": "so", "target_word_count": 500}
    assert reward_line(row | {"sample": float("nan"), "scores": "x"}, TRAINING) == reward_line(row, TRAINING)


@pytest.mark.parametrize(
    ("prompt", "target"),
    [
        ("It should be 1,500 words long.", 1500),
        ("First 300 words long, then 12000  WORDS\nlong", 12000),
        ("1,234,567 words long", 1_234_567),
    ],
)
def test_targets_of_prompts(prompt: str, target: int) -> None:
    assert target_of({"prompt": prompt}) == target


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({}, "target_word_count: missing, and no prompt says 'N words long'; expected one or the other"),
        ({"prompt": "long"}, "target_word_count: missing, and no prompt"),
        ({"prompt": 5}, "prompt: 5; expected text"),
        ({"prompt": ["x"], "target_word_count": 5}, "prompt: a list; expected text"),
        ({"prompt": "0 words long"}, "prompt: asks for no words; expected a length of 1 to"),
        ({"prompt": "1" * 5000 + " words long"}, "prompt: asks for too many words; expected"),
        ({"prompt": "9999999999 words long"}, "prompt: asks for too many words; expected"),
        ({"prompt": "5 words long", "target_word_count": 0}, "target_word_count: 0; expected"),
        ({"prompt": "5 words long", "target_word_count": "5"}, "target_word_count: text; expected"),
        ({"target_word_count": 1500.5}, "target_word_count: 1500.5; expected a whole number"),
    ],
)
def test_rows_without_a_target(row: dict[str, Any], said: str) -> None:
    with pytest.raises(RowError) as told:
        target_of(row)
    assert str(told.value).startswith(said)


@pytest.mark.parametrize("story", [None, 5, ["once"]])
def test_a_story_is_text(story: Any) -> None:
    with pytest.raises(RowError, match="^story: "):
        reward_line({"id": "a", "story": story, "target_word_count": 5}, TRAINING)


def test_a_configuration_sets_weights_clip_floors_and_gate() -> None:
    config = RewardConfig(
        weights=RewardWeights(quality=0.5, repetition=0.0, length=0.0, blank=0.25, length_reward=2.0),
        clip=1.5,
        min_words=10,
        lower_floor=5,
        lower_cap=6,
        upper_floor=7,
        upper_cap=8,
        disqualify=DisqualificationGate(incoherence=3),
    )
    settings = Settings.of(config)
    assert settings.floors == LengthFloors(10, 150, 5, 6, 7, 8)
    assert (settings.clip, settings.gate) == ((-1.5, 1.5), Disqualification(3, 8, 0.4))
    row = {"id": "a", "story": unlike(200), "target_word_count": 200, "judgement": FAIR}
    assert reward_line(row, settings)["reward"] == 1.5
    worse = row | {"judgement": FAIR | {"negative": FAIR["negative"] | {"N2": 3}}}
    assert reward_line(worse, settings)["story_quality"] == -1.59
    assert reward_line(worse, settings)["reward"] == pytest.approx(2.0 - 0.795)


def test_the_defaults_are_the_configurations() -> None:
    assert Settings.of(RewardConfig()) == Settings()
    assert Settings.of(RewardConfig(), validation=True) == Settings(weights=VALIDATION)


@st.composite
def rows(draw: st.DrawFn) -> dict[str, Any]:
    catch_all = st.none() | st.integers(0, 8)
    return {
        "id": draw(st.text(min_size=1)),
        "story": draw(st.text() | st.lists(st.sampled_from(["so", "it", "is.", "\n"])).map(" ".join)),
        "target_word_count": draw(st.integers(1, 20_000)),
        "judgement": judgement(
            [draw(st.integers(0, d.max)) for d in RUBRIC.positive],
            [draw(st.integers(0, d.max)) for d in RUBRIC.negative],
            draw(catch_all),
            draw(catch_all),
        ),
    }


@given(rows(), st.sampled_from([TRAINING, Settings(weights=VALIDATION)]))
def test_every_figure_is_bounded(row: dict[str, Any], settings: Settings) -> None:
    line = reward_line(row, settings)
    assert line["words"] >= 0 and line["blank_penalty"] in (0.0, 1.0)
    assert 0.0 <= line["length_penalty"] <= 1.0 and 0.0 <= line["length_reward"] <= 1.0
    assert 0.0 <= line["self_repetition"] <= 1.5
    assert -1.59 <= line["story_quality"] <= 1.08 and -2.0 <= line["reward"] <= 2.0
    assert json.loads(json.dumps(line, allow_nan=False)) == line


@given(rows(), st.sampled_from(RUBRIC.dimensions), st.data())
def test_the_reward_never_falls_with_an_achievement_nor_rises_with_a_fault(
    row: dict[str, Any], dimension: Any, data: st.DataObject
) -> None:
    side = "positive" if dimension.positive else "negative"
    low, high = sorted(data.draw(st.tuples(*[st.integers(0, dimension.max)] * 2)))
    scored = [
        reward_line(
            row | {"judgement": row["judgement"] | {side: row["judgement"][side] | {dimension.key: score}}},
            TRAINING,
        )["reward"]
        for score in (low, high)
    ]
    assert scored == sorted(scored, reverse=not dimension.positive)


@given(rows(), st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_matter(row: dict[str, Any], random: Any) -> None:
    def shuffled(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        items = [(key, shuffled(inner)) for key, inner in value.items()]
        random.shuffle(items)
        return dict(items)

    assert json.dumps(reward_line(shuffled(row), TRAINING)) == json.dumps(reward_line(row, TRAINING))
