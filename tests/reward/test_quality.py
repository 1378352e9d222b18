from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polaris.judge.parse import Judgement
from polaris.judge.rubric import load_rubric
from polaris.reward.quality import (
    HIGHEST,
    LOWEST,
    Disqualification,
    label,
    overall,
    quality_parts,
    story_quality,
)

RUBRIC = load_rubric()
ZERO = Judgement.of_nothing()
GATE = Disqualification()


def judged(positive: int, negative: int, bonus: int | None = None, penalty: int | None = None) -> Judgement:
    """Return a judgement with these sums, filled up in the rubric's order."""
    scores: dict[str, int] = {}
    for dimensions, left in ((RUBRIC.positive, positive), (RUBRIC.negative, negative)):
        for dimension in dimensions:
            scores[dimension.key] = min(dimension.max, left)
            left -= scores[dimension.key]
        assert left == 0
    return Judgement(
        positive={d.key: scores[d.key] for d in RUBRIC.positive},
        negative={d.key: scores[d.key] for d in RUBRIC.negative},
        bonus=bonus,
        penalty=penalty,
    )


@pytest.mark.parametrize(
    ("positive", "negative", "bonus", "penalty", "applied", "total"),
    [
        (0, 0, None, None, (0, 0), 0),
        (100, 0, 8, None, (8, 0), 108),
        (0, 151, None, 8, (0, 8), -159),
        (100, 151, 8, 8, (0, 8), -59),
        (70, 20, 4, 2, (4, 2), 52),
        # bonus: gone once the negatives exceed half of the positives
        (60, 30, 5, None, (5, 0), 35),
        (60, 31, 5, None, (0, 0), 29),
        (61, 30, 5, None, (5, 0), 36),
        (61, 31, 5, None, (0, 0), 30),
        (0, 0, 5, None, (5, 0), 5),
        (0, 1, 5, None, (0, 0), -1),
        # penalty: at most 3 once the positives exceed 1.5 times the negatives
        (60, 40, None, 8, (0, 8), 12),
        (61, 40, None, 8, (0, 3), 18),
        (60, 39, None, 8, (0, 3), 18),
        (62, 41, None, 8, (0, 3), 18),
        (61, 41, None, 8, (0, 8), 12),
        (61, 40, None, 2, (0, 2), 19),
        (61, 40, None, 3, (0, 3), 18),
        (0, 0, None, 8, (0, 8), -8),
        (1, 0, None, 8, (0, 3), -2),
        # both
        (90, 45, 8, 8, (8, 3), 50),
        (90, 46, 8, 8, (0, 3), 41),
        (90, 60, 8, 8, (0, 8), 22),
        (80, 0, 0, 0, (0, 0), 80),
    ],
)
def test_composite_rules(
    positive: int, negative: int, bonus: int | None, penalty: int | None, applied: tuple[int, int], total: int
) -> None:
    judgement = judged(positive, negative, bonus, penalty)
    parts = quality_parts(judgement)
    assert (parts.positive, parts.negative) == (positive, negative)
    assert (parts.bonus, parts.penalty) == applied
    assert parts.overall == overall(judgement) == total
    assert story_quality(judgement) == total / 100


@pytest.mark.parametrize(
    ("score", "name"),
    [
        (-159, "very_poor"), (0, "very_poor"), (14, "very_poor"), (14.5, "very_poor"), (15, "poor"),
        (34, "poor"), (35, "fair"), (54, "fair"), (54.9, "fair"), (55, "good"), (74, "good"),
        (75, "excellent"), (108, "excellent"),
    ],
)  # fmt: skip
def test_labels(score: float, name: str) -> None:
    assert label(score) == name


@pytest.mark.parametrize(
    ("changed", "words", "is_reference", "out"),
    [
        ({}, 1000, False, False),
        ({"N2": 6, "N10": 7}, 400, False, False),
        ({"N2": 7}, 1000, False, True),
        ({"N10": 8}, 1000, False, True),
        ({}, 399, False, True),
        ({"N2": 20, "N10": 20}, 0, True, False),
    ],
)
def test_disqualification(changed: dict[str, int], words: int, is_reference: bool, out: bool) -> None:
    judgement = Judgement(
        positive={d.key: d.max for d in RUBRIC.positive},
        negative=ZERO.negative | changed,
        bonus=None,
        penalty=None,
    )
    gated = story_quality(judgement, gate=GATE, words=words, target=1000, is_reference=is_reference)
    free = story_quality(judgement, words=words, target=1000, is_reference=is_reference)
    assert free == overall(judgement) / 100
    assert gated == (-1.59 if out else free)


def test_gate_needs_what_it_looks_at() -> None:
    with pytest.raises(ValueError, match="words and its target"):
        story_quality(ZERO, gate=GATE, words=100)


@st.composite
def judgements(draw: st.DrawFn) -> Judgement:
    catch_all = st.none() | st.integers(0, 8)
    scores: dict[str, Any] = {d.key: draw(st.integers(0, d.max)) for d in RUBRIC.dimensions}
    return Judgement(
        positive={d.key: scores[d.key] for d in RUBRIC.positive},
        negative={d.key: scores[d.key] for d in RUBRIC.negative},
        bonus=draw(catch_all),
        penalty=draw(catch_all),
    )


@given(judgements())
def test_overall_is_bounded_and_labelled(judgement: Judgement) -> None:
    assert LOWEST <= overall(judgement) <= HIGHEST
    assert label(overall(judgement)) in dict(RUBRIC.labels)


@given(judgements(), st.sampled_from(RUBRIC.dimensions))
def test_one_point_moves_the_overall_its_own_way(judgement: Judgement, dimension: Any) -> None:
    """The composite rules switch the same way, so a point never counts less than 1.

    A better positive or a lesser negative can switch the bonus on (8 at most) and the penalty's bound on
    (5 at most, from 8 to 3), never off.
    """
    side = "positive" if dimension.positive else "negative"
    scores = getattr(judgement, side)
    low = min(scores[dimension.key], dimension.max - 1)
    less, more = (
        overall(_with(judgement, **{side: scores | {dimension.key: score}})) for score in (low, low + 1)
    )
    moved = more - less if dimension.positive else less - more
    assert 1 <= moved <= 1 + 8 + 5


@pytest.mark.parametrize(
    ("positive", "negative", "catch_alls", "totals"),
    [
        # one point more of P, one point less of N: the bonus comes, the bound comes, both come
        ((59, 60), (30, 30), (8, None), (29, 38)),
        ((60, 60), (31, 30), (8, None), (29, 38)),
        ((60, 61), (40, 40), (None, 8), (12, 18)),
        ((60, 60), (40, 39), (None, 8), (12, 18)),
        ((1, 2), (1, 1), (8, 8), (-8, 6)),
    ],
)
def test_where_the_composite_rules_switch(
    positive: tuple[int, int], negative: tuple[int, int], catch_alls: Any, totals: tuple[int, int]
) -> None:
    found = [overall(judged(*sums, *catch_alls)) for sums in zip(positive, negative, strict=True)]
    assert tuple(found) == totals


@given(judgements(), st.randoms(use_true_random=False))
def test_the_order_of_dimensions_does_not_matter(judgement: Judgement, random: Any) -> None:
    def shuffled(scores: dict[str, int]) -> dict[str, int]:
        return dict(random.sample(list(scores.items()), len(scores)))

    other = _with(judgement, positive=shuffled(judgement.positive), negative=shuffled(judgement.negative))
    assert quality_parts(other) == quality_parts(judgement)


@given(judgements())
def test_the_clamp_never_bites(judgement: Judgement) -> None:
    parts = quality_parts(judgement)
    assert parts.overall == parts.positive - parts.negative + parts.bonus - parts.penalty


@given(judgements())
def test_catch_alls_push_their_own_way_only(judgement: Judgement) -> None:
    plain = overall(_with(judgement, bonus=None, penalty=None))
    assert plain <= overall(_with(judgement, penalty=None)) <= plain + 8
    assert plain - 8 <= overall(_with(judgement, bonus=None)) <= plain
    assert overall(_with(judgement, bonus=None)) == overall(_with(judgement, bonus=0))


def _with(judgement: Judgement, **changed: Any) -> Judgement:
    data = judgement.to_json() | changed
    return Judgement.from_json(data)
