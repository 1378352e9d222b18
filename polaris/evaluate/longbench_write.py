"""One text's six scores, its words and its target in; its LongBench-Write value and its parts out.

Source: LongBench-Write of LongWriter (arXiv 2408.07055); S_q is the quality, S_l how well the length is kept.
"""

from __future__ import annotations

from collections.abc import Mapping

DIMENSIONS = ("Relevance", "Accuracy", "Coherence", "Clarity", "Breadth_and_Depth", "Reading_Experience")
LOWEST, HIGHEST = 1, 5


def score(scores: Mapping[str, float], words: int, target: int) -> tuple[float, dict[str, float]]:
    """Return the value S_q·S_l/100, 0 to 100, and the parts s_q, s_l and their mean, LongWriter's headline.

    `scores` has all of `DIMENSIONS`, each within 1 and 5; `target` is above 0.
    """
    quality = sum((scores[name] - LOWEST) * 25 for name in DIMENSIONS) / len(DIMENSIONS)
    length = length_score(words, target)
    return quality * length / 100, {"s_q": quality, "s_l": length, "mean": (quality + length) / 2}


def length_score(words: int, target: int) -> float:
    """Return S_l: 100 at the target, 0 at a third of it or less and at four times it or more.

    The benchmark counts runs of ASCII letters as words.
    """
    if words == 0:
        return 0.0
    if words > target:
        return 100 * max(0.0, 1 - (words / target - 1) / 3)
    return 100 * max(0.0, 1 - (target / words - 1) / 2)
