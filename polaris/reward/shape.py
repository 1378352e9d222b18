"""A story's text or word count in; its length, blank and self-repetition terms out.

Formulas and defaults: the recipe of arXiv 2606.04095. All terms are pure and linear in the text's length.
Words are `polaris.text.count_words`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from polaris.text import count_words

_MARK = re.compile(r"([^\w\s])")
_GRAM = 4
_WINDOW = 64
"""Gram positions in the local window, the gram itself included."""


@dataclass(frozen=True)
class LengthFloors:
    """Limits of the length and blank terms, in words.

    Attributes:
        min_words: a story with fewer words is blank.
        min_target: smallest target that the bounds are computed for.
        lower_floor: smallest distance from the target to the lower edge.
        lower_cap: largest distance from the target to the lower edge.
        upper_floor: smallest distance from the target to the upper edge.
        upper_cap: largest distance from the target to the upper edge.

    Raises:
        ValueError: a limit is negative, or a floor is above its cap.

    """

    min_words: int = 150
    min_target: int = 150
    lower_floor: int = 350
    lower_cap: int = 1000
    upper_floor: int = 600
    upper_cap: int = 1500

    def __post_init__(self) -> None:
        for name in ("min_words", "min_target", "lower_floor", "upper_floor"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}: give 0 or more words")
        for side in ("lower", "upper"):
            floor, cap = getattr(self, f"{side}_floor"), getattr(self, f"{side}_cap")
            if floor > cap:
                raise ValueError(
                    f"{side}_floor is {floor}, above {side}_cap {cap}: lower the floor or raise the cap"
                )


DEFAULT_FLOORS = LengthFloors()


@dataclass(frozen=True)
class LengthBounds:
    """The target, at least `min_target`, and the edges of the free range around it, in words.

    `low` is 0 or less for short targets: then no story is too short.
    """

    target: int
    low: int
    high: int


def length_bounds(target: int, floors: LengthFloors = DEFAULT_FLOORS) -> LengthBounds:
    """Return the range of words that costs nothing: 15 % below and 25 % above, within the floors and caps.

    Both distances are truncated to whole words; computed in integers, so that no rounding enters.
    """
    target = max(floors.min_target, target)
    lower = min(floors.lower_cap, max(floors.lower_floor, target * 15 // 100))
    upper = min(floors.upper_cap, max(floors.upper_floor, target * 25 // 100))
    return LengthBounds(target, target - lower, target + upper)


def length_penalty(words: int, target: int, floors: LengthFloors = DEFAULT_FLOORS) -> float:
    """Return 0 within the bounds, rising to 1 at no words below and at twice the upper edge above."""
    bounds = length_bounds(target, floors)
    if words < bounds.low:
        return min(1.0, 1.0 - words / max(1, bounds.low))
    if words > bounds.high:
        return min(1.0, words / max(1, bounds.high) - 1.0)
    return 0.0


def length_reward(
    words: int, target: int, floors: LengthFloors = DEFAULT_FLOORS, *, blank: bool = False
) -> float:
    """Return 1 at the target, falling linearly to 0 at each edge; 0 beyond and for a blank story."""
    bounds = length_bounds(target, floors)
    if blank or not bounds.low <= words <= bounds.high:
        return 0.0
    if words == bounds.target:
        return 1.0
    if words < bounds.target:
        return (words - bounds.low) / (bounds.target - bounds.low)
    return (bounds.high - words) / (bounds.high - bounds.target)


def tokens_and_words(text: str) -> tuple[list[str], int]:
    r"""Return the tokens of a text, and its words as `count_words` counts them.

    Tokens are the matches of `\w+|[^\s]`, lower-cased: runs of word characters, and single other characters.
    One pass serves all terms: splitting at the single characters gives both in half the time of two matches.
    """
    pieces = _MARK.split(text)
    tokens = " ".join(pieces).lower().split()
    marks = len(pieces) // 2
    # Only an entity (&amp;) makes the words of a text others than its tokens that are no single mark.
    return tokens, count_words(text) if "&" in text else len(tokens) - marks


def blank_penalty(text: str, min_words: int = DEFAULT_FLOORS.min_words, *, words: int | None = None) -> float:
    """Return 1 if fewer than 10 % of the characters are non-space or words are fewer than `min_words`.

    `words` are the text's, if they are counted already.
    """
    if words is None:
        words = count_words(text)
    if not text or words < min_words:
        return 1.0
    # Each word has a character of its own, so only a text with few words needs the exact count.
    return 1.0 if 10 * words < len(text) and 10 * len("".join(text.split())) < len(text) else 0.0


def self_repetition(text: str, tokens: Sequence[str] | None = None) -> float:
    """Return how much a text repeats itself, 0 to 1.5.

    `min(1.5, 0.8·(0.7·max(0, ngram - 0.08) + 0.3·local) + 0.4·lines)`, over the lower-cased tokens of the
    text as it is (entities are not undone) in 4-grams:

    - ngram: share of grams that occurred before anywhere in the text
    - local: share of grams that occurred among the 63 gram positions before
    - lines: share of the non-empty stripped lines that occurred before

    A gram's last position is enough for the local share, which makes it linear. `tokens` are the text's
    `tokens_and_words`, if they are known already.
    """
    if tokens is None:
        tokens = tokens_and_words(text)[0]
    total = max(0, len(tokens) - _GRAM + 1)
    near = 0
    last_seen: dict[tuple[str, ...], int] = {}
    remember = last_seen.setdefault
    shifted = (islice(tokens, offset, None) for offset in range(_GRAM))
    for position, gram in enumerate(zip(*shifted, strict=False)):
        before = remember(gram, position)
        if before != position:
            near += position - before < _WINDOW
            last_seen[gram] = position
    ngram = (total - len(last_seen)) / total if total else 0.0
    local = near / total if total else 0.0
    lines = _repeated_share([line for raw in text.splitlines() if (line := raw.strip())])
    return min(1.5, 0.8 * (0.7 * max(0.0, ngram - 0.08) + 0.3 * local) + 0.4 * lines)


def _repeated_share(items: Sequence[str]) -> float:
    return 1.0 - len(set(items)) / len(items) if items else 0.0
