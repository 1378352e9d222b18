"""One story's twelve scores in; its EQ-Bench LongForm value and their inverted parts out.

Source: the longform rubric of EQ-Bench (eqbench.com), on a story written in one go.
"""

from __future__ import annotations

from collections.abc import Mapping

POSITIVE = (
    "Nuanced Characters",
    "Emotionally Engaging",
    "Compelling Plot",
    "Coherent",
    "Well-earned Lightness or Darkness",
    "Faithful to Writing Prompt",
)
"""More is better."""

FORCED = "Forced Poetry or Metaphor"

NEGATIVE = (
    "Weak Dialogue",
    "Tell-Don't-Show",
    "Unsurprising or Uncreative",
    "Amateurish",
    "Purple Prose",
    FORCED,
)
"""Less is better: they are turned round, 20 − x."""

DIMENSIONS = POSITIVE + NEGATIVE
LOWEST, HIGHEST = 0, 20
FORCED_WEIGHT = 5.0
FORCED_POWER = 1.7


def score(scores: Mapping[str, float], *, uniform: bool = False) -> tuple[float, dict[str, float]]:
    """Return the value, 0 to 100, and each dimension's part, 0 to 20, more being better.

    The part of `FORCED`, once turned round, is (v/20)^1.7·20, and it weighs 5; the value is
    Σ weight·part / Σ weight / 20 · 100. `uniform` leaves the power out and weighs all alike. `scores` has all
    of `DIMENSIONS`, each within 0 and 20.
    """
    parts = {name: scores[name] for name in POSITIVE} | {name: HIGHEST - scores[name] for name in NEGATIVE}
    weights = dict.fromkeys(DIMENSIONS, 1.0)
    if not uniform:
        parts[FORCED] = (parts[FORCED] / HIGHEST) ** FORCED_POWER * HIGHEST
        weights[FORCED] = FORCED_WEIGHT
    weighed = sum(weights[name] * parts[name] for name in DIMENSIONS)
    return weighed / sum(weights.values()) / HIGHEST * 100, parts
