"""A judgement in; the overall Story Quality, its parts, its label and the reward's quality term out.

Everything is recomputed from the dimension scores. Source: the Story Quality rubric of arXiv 2606.04095.
"""

from __future__ import annotations

from dataclasses import dataclass

from polaris.judge.parse import Judgement
from polaris.judge.rubric import load_rubric

LOWEST, HIGHEST = -159, 108
"""Bounds of the overall: all negatives and a full penalty; all positives and a full bonus."""


@dataclass(frozen=True)
class QualityParts:
    """What the overall is made of.

    Attributes:
        positive: sum of P1 to P6, 0 to 100.
        negative: sum of N1 to N10, 0 to 151.
        bonus: the bonus as applied, 0 to 8.
        penalty: the penalty as applied, 0 to 8.
        overall: positive - negative + bonus - penalty, within `LOWEST` and `HIGHEST`.

    """

    positive: int
    negative: int
    bonus: int
    penalty: int
    overall: int


@dataclass(frozen=True)
class Disqualification:
    """Limits of the optional gate that gives a story the lowest overall, whatever else it does.

    Attributes:
        incoherence: N2 from which a story is disqualified.
        nonsense: N10 from which a story is disqualified.
        share_of_target: share of the target words below which a story is disqualified.

    """

    incoherence: int = 7
    nonsense: int = 8
    share_of_target: float = 0.4

    def applies(self, judgement: Judgement, *, words: int, target: int, is_reference: bool) -> bool:
        """Return whether the story of `words` words is disqualified; a human reference never is."""
        if is_reference:
            return False
        broken = judgement.negative["N2"] >= self.incoherence or judgement.negative["N10"] >= self.nonsense
        return broken or words < self.share_of_target * target


def quality_parts(judgement: Judgement) -> QualityParts:
    """Return the overall and its parts, by the composite rules.

    A bonus counts only while the negatives are at most half of the positives; a penalty is at most 3 where
    the positives exceed 1.5 times the negatives. None counts as 0. Compared in whole numbers, so that the
    rules hold exactly at their edges.
    """
    positive = sum(judgement.positive.values())
    negative = sum(judgement.negative.values())
    bonus = 0 if 2 * negative > positive else judgement.bonus or 0
    penalty = judgement.penalty or 0
    if 2 * positive > 3 * negative:
        penalty = min(penalty, 3)
    total = positive - negative + bonus - penalty
    return QualityParts(positive, negative, bonus, penalty, min(HIGHEST, max(LOWEST, total)))


def overall(judgement: Judgement) -> int:
    """Return the overall Story Quality, `LOWEST` to `HIGHEST`."""
    return quality_parts(judgement).overall


def label(overall: float) -> str:
    """Return the rubric's word for an overall score, `very_poor` to `excellent`.

    A label begins at its lower bound, so a mean of 14.5 is still `very_poor`.
    """
    name = load_rubric().labels[0][0]
    for later, bound in load_rubric().labels[1:]:
        if overall >= bound:
            name = later
    return name


def story_quality(
    judgement: Judgement,
    *,
    gate: Disqualification | None = None,
    words: int | None = None,
    target: int | None = None,
    is_reference: bool = False,
) -> float:
    """Return the quality term of the reward: the overall / 100, -1.59 to 1.08.

    With a `gate`, a disqualified story gets `LOWEST` / 100.

    Raises:
        ValueError: there is a gate, but not the `words` and the `target` it looks at.

    """
    if gate is not None:
        if words is None or target is None:
            raise ValueError("the disqualification gate is on: give the story's words and its target words")
        if gate.applies(judgement, words=words, target=target, is_reference=is_reference):
            return LOWEST / 100
    return overall(judgement) / 100
