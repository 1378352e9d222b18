"""One story's 22 scores in; its EQ-Bench Creative Writing v3 value and their inverted parts out.

Source: the rubric of EQ-Bench Creative Writing v3 (eqbench.com).
"""

from __future__ import annotations

from collections.abc import Mapping

POSITIVE = (
    "Adherence to Instructions",
    "Believable Character Actions",
    "Nuanced Characters",
    "Consistent Voice/Tone of Writing",
    "Imagery and Descriptive Quality",
    "Elegant Prose",
    "Emotionally Engaging",
    "Emotionally Complex",
    "Coherent",
    "Well-earned Lightness or Darkness",
    "Sentences Flow Naturally",
    "Overall Reader Engagement",
    "Overall Impression",
)
"""More is better."""

NEGATIVE = (
    "Meandering",
    "Weak Dialogue",
    "Tell-Don't-Show",
    "Unsurprising or Uncreative",
    "Amateurish",
    "Purple Prose",
    "Overwrought",
    "Incongruent Ending Positivity",
    "Unearned Transformations",
)
"""Less is better: they are turned round, 20 − x."""

DIMENSIONS = POSITIVE + NEGATIVE
LOWEST, HIGHEST = 0, 20


def score(scores: Mapping[str, float]) -> tuple[float, dict[str, float]]:
    """Return the value, the parts' mean · 5, 0 to 100, and each criterion's part, 0 to 20, more being better.

    `scores` has all of `DIMENSIONS`, each within 0 and 20.
    """
    parts = {name: scores[name] for name in POSITIVE} | {name: HIGHEST - scores[name] for name in NEGATIVE}
    return sum(parts.values()) / len(parts) * 5, parts
