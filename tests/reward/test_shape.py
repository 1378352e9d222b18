from __future__ import annotations

import random
import re
import sys
from collections import Counter
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polaris.reward.shape import (
    LengthBounds,
    LengthFloors,
    blank_penalty,
    length_bounds,
    length_penalty,
    length_reward,
    self_repetition,
    tokens_and_words,
)
from polaris.text import count_words

DEMO = LengthFloors(min_words=40, min_target=60, lower_floor=30, lower_cap=100, upper_floor=50, upper_cap=150)
targets = st.integers(0, 20_000)
counts = st.integers(0, 60_000)


@pytest.mark.parametrize(
    ("target", "bounds"),
    [
        (0, (150, -200, 750)),
        (100, (150, -200, 750)),
        (150, (150, -200, 750)),
        (350, (350, 0, 950)),
        (1000, (1000, 650, 1600)),
        (2399, (2399, 2040, 2999)),  # 359.85 and 599.75, truncated; the floor 600 holds above
        (2400, (2400, 2040, 3000)),
        (2500, (2500, 2125, 3125)),
        (3333, (3333, 2834, 4166)),  # 499.95 and 833.25
        (4000, (4000, 3400, 5000)),
        (6000, (6000, 5100, 7500)),
        (6667, (6667, 5667, 8167)),  # 1000.05 and 1666.75, both at their caps
        (12000, (12000, 11000, 13500)),
    ],
)
def test_length_bounds(target: int, bounds: tuple[int, int, int]) -> None:
    assert length_bounds(target) == LengthBounds(*bounds)


def test_length_bounds_with_other_floors() -> None:
    assert length_bounds(10, DEMO) == LengthBounds(60, 30, 110)
    assert length_bounds(2000, DEMO) == LengthBounds(2000, 1900, 2150)


@pytest.mark.parametrize(
    ("words", "target", "penalty"),
    [
        (1000, 1000, 0.0),
        (650, 1000, 0.0),
        (649, 1000, 1 - 649 / 650),
        (325, 1000, 0.5),
        (0, 1000, 1.0),
        (1600, 1000, 0.0),
        (1601, 1000, 1601 / 1600 - 1),
        (2400, 1000, 0.5),
        (3200, 1000, 1.0),
        (50_000, 1000, 1.0),
        (0, 150, 0.0),
        (0, 350, 0.0),
        (0, 351, 1.0),
        (1125, 50, 0.5),
        (5500, 12_000, 0.5),
    ],
)
def test_length_penalty(words: int, target: int, penalty: float) -> None:
    assert length_penalty(words, target) == pytest.approx(penalty, abs=1e-12)


@pytest.mark.parametrize(
    ("words", "target", "earned"),
    [
        (1000, 1000, 1.0), (650, 1000, 0.0), (825, 1000, 0.5), (1600, 1000, 0.0), (1300, 1000, 0.5),
        (600, 1000, 0.0), (1700, 1000, 0.0), (150, 150, 1.0),
    ],
)  # fmt: skip
def test_length_reward(words: int, target: int, earned: float) -> None:
    assert length_reward(words, target) == pytest.approx(earned)
    assert length_reward(words, target, blank=True) == 0.0


def test_length_reward_without_room() -> None:
    tight = LengthFloors(lower_floor=0, lower_cap=0, upper_floor=0, upper_cap=0)
    assert [length_reward(words, 500, tight) for words in (499, 500, 501)] == [0.0, 1.0, 0.0]


@given(counts, targets)
def test_length_terms_are_bounded_and_exclusive(words: int, target: int) -> None:
    penalty, earned = length_penalty(words, target), length_reward(words, target)
    assert 0.0 <= penalty <= 1.0 and 0.0 <= earned <= 1.0
    assert penalty == 0.0 or earned == 0.0


@given(counts, targets)
def test_length_penalty_is_continuous_in_words(words: int, target: int) -> None:
    bounds = length_bounds(target)
    step = abs(length_penalty(words + 1, target) - length_penalty(words, target))
    slope = 1 / min(max(1, bounds.low), bounds.high)
    assert step <= slope + 1e-12


@given(counts, counts, targets)
def test_length_penalty_grows_away_from_the_target(one: int, other: int, target: int) -> None:
    centre = length_bounds(target).target
    near, far = sorted((one, other), key=lambda words: abs(words - centre))
    if (near - centre) * (far - centre) >= 0:
        assert length_penalty(near, target) <= length_penalty(far, target)
        assert length_reward(near, target) >= length_reward(far, target)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"min_words": -1}, "min_words is -1: give 0 or more words"),
        ({"lower_floor": 2000}, "lower_floor is 2000, above lower_cap 1000"),
        ({"upper_cap": 10}, "upper_floor is 600, above upper_cap 10"),
    ],
)
def test_impossible_floors_are_refused(settings: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        LengthFloors(**settings)


@pytest.mark.parametrize(
    ("text", "penalty"),
    [
        ("", 1.0),
        (" \n" * 500, 1.0),
        ("word " * 149, 1.0),
        ("word " * 150, 0.0),
        ("it's " * 75, 0.0),  # an apostrophe splits: 150 words
        ("&amp; " * 200, 1.0),  # an entity is no word once undone
        ("\u00e9t\u00e9 " * 150, 0.0),
        ("w " * 150 + " " * 1200, 0.0),  # 150 of 1,500 characters are just enough
        ("w " * 150 + " " * 1201, 1.0),
        ("w " * 150 + "\u00a0\u2003\t" * 401, 1.0),
    ],
)
def test_blank_penalty(text: str, penalty: float) -> None:
    assert blank_penalty(text) == penalty


def test_blank_penalty_takes_its_floor_from_the_settings() -> None:
    assert blank_penalty("word " * 40, min_words=DEMO.min_words) == 0.0
    assert blank_penalty("word " * 39, min_words=DEMO.min_words) == 1.0


def naive_tokens(text: str) -> list[str]:
    return [token.lower() for token in re.findall(r"\w+|[^\s]", text)]


def test_tokens_of_every_character() -> None:
    every = "a".join(map(chr, range(sys.maxunicode + 1)))
    assert tokens_and_words(every)[0] == naive_tokens(every)


def test_tokens_and_words_of_capitals() -> None:
    """A capital sigma's small form depends on what is around it, and U+0130 becomes two characters."""
    capitals = [char for char in map(chr, range(sys.maxunicode + 1)) if char != char.lower()]
    text = "".join(f"A{char}B c{char} {char} \u03a3{char}\u03a3 '{char}\u03a3'" for char in capitals)
    assert tokens_and_words(text) == (naive_tokens(text), count_words(text))


@given(
    st.text() | st.lists(st.sampled_from(["&", "amp;", "&#32;", "a", "-", " ", "_", "\u0130"])).map("".join)
)
def test_tokens_and_words(text: str) -> None:
    assert tokens_and_words(text) == (naive_tokens(text), count_words(text))


@given(st.lists(st.sampled_from(["&nbsp;", "&NotEqualTilde;", "&#97;", "a", "-", " " * 9])).map("".join))
def test_blank_penalty_is_its_definition(text: str) -> None:
    solid = len(re.findall(r"\S", text)) / max(1, len(text))
    assert blank_penalty(text, min_words=1) == float(solid < 0.10 or count_words(text) < 1)
    assert blank_penalty(text, min_words=0) == float(solid < 0.10)


def naive_self_repetition(text: str) -> float:
    """Return the formula as it is written, scanning the window of every gram."""
    tokens = naive_tokens(text)
    grams = [tuple(tokens[start : start + 4]) for start in range(len(tokens) - 3)]
    ngram = local = lines_share = 0.0
    if grams:
        ngram = sum(count - 1 for count in Counter(grams).values() if count > 1) / len(grams)
        local = sum(gram in grams[max(0, at - 63) : at] for at, gram in enumerate(grams)) / len(grams)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if lines:
        lines_share = sum(count - 1 for count in Counter(lines).values() if count > 1) / len(lines)
    return min(1.5, 0.8 * (0.7 * max(0.0, ngram - 0.08) + 0.3 * local) + 0.4 * lines_share)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", 0.0),
        ("one two three", 0.0),
        ("a b c d e f g h", 0.0),
        # 8 tokens, 5 grams, one of them twice and near: ngram 0.2, local 0.2
        ("a b c d a b c d", 0.8 * (0.7 * 0.12 + 0.3 * 0.2)),
        # the same on two lines: half of the lines repeat
        ("a b c d\na b c d", 0.8 * (0.7 * 0.12 + 0.3 * 0.2) + 0.4 * 0.5),
        # 10 equal tokens: 7 grams, 6 repeats
        ("x " * 10, 0.8 * (0.7 * (6 / 7 - 0.08) + 0.3 * 6 / 7)),
        # punctuation is a token, case is not
        ("Go! Go, go! GO, go! Go.", 0.8 * (0.7 * (4 / 9 - 0.08) + 0.3 * 4 / 9)),
        # lines alone: three short lines, all equal, no gram at all
        ("no\n no \n\nno", 0.4 * 2 / 3),
        # a token is found first and lower-cased then: that of U+0130 is i and a mark, and still one token
        ("a \u0130b a \u0130b", 0.0),
        ("a \u0130b " * 3, 0.8 * (0.7 * (1 / 3 - 0.08) + 0.3 / 3)),
        # entities are not undone here: & lt ; are three tokens, so 6 grams, 3 of them again
        ("&lt;&lt;&lt;", 0.8 * (0.7 * (0.5 - 0.08) + 0.3 * 0.5)),
    ],
)
def test_self_repetition_by_hand(text: str, value: float) -> None:
    assert self_repetition(text) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("gap", [58, 59, 60, 61, 62])
def test_window_is_64_grams_wide(gap: int) -> None:
    filler = " ".join(f"w{number}" for number in range(gap))
    text = f"a b c d {filler} a b c d"
    total = gap + 8 - 3
    near = gap + 4 <= 63  # positions between the two occurrences
    local = 1 / total if near else 0.0
    assert self_repetition(text) == pytest.approx(0.8 * 0.3 * local, abs=1e-12)


few_words = st.lists(st.sampled_from(["a", "b", "A", "c.", "d\n", "\n", "\u0130", "x-y"]), max_size=120)


@given(few_words.map(" ".join) | st.text())
def test_self_repetition_is_the_naive_scan(text: str) -> None:
    assert self_repetition(text) == pytest.approx(naive_self_repetition(text), abs=1e-12)
    assert 0.0 <= self_repetition(text) <= 1.5


def test_self_repetition_is_the_naive_scan_on_long_texts() -> None:
    rng = random.Random(3479)
    for vocabulary in (3, 8, 30, 300):
        words = [f"w{rng.randrange(vocabulary)}" for _ in range(3000)]
        text = "".join(word + ("\n" if rng.random() < 0.05 else " ") for word in words)
        assert self_repetition(text) == pytest.approx(naive_self_repetition(text), abs=1e-12)


@given(st.permutations([f"line {number} has its own words {number}" for number in range(6)] + ["again"] * 3))
def test_line_share_does_not_depend_on_order(lines: list[str]) -> None:
    blanks = "\n" * 3
    with_lines, without = self_repetition(blanks.join(lines)), self_repetition(" ".join(lines))
    assert with_lines - without == pytest.approx(0.4 * 2 / 9)


@given(few_words.map(" ".join), st.permutations(["a", "b", "c", "d", "x", "y"]))
def test_renaming_words_changes_nothing(text: str, names: list[str]) -> None:
    renamed = text.lower().translate(str.maketrans("abcdxy", "".join(names)))
    assert self_repetition(renamed) == pytest.approx(self_repetition(text.lower()), abs=1e-12)


@given(st.text(max_size=200))
def test_a_text_twice_repeats_at_least_as_much(text: str) -> None:
    assert self_repetition(f"{text}\n{text}") >= self_repetition(text) - 0.4 - 1e-9


def test_self_repetition_of_a_long_text_is_quick() -> None:
    text = " ".join(f"w{number % 7919}" for number in range(100_000))
    start = perf_counter()
    self_repetition(text)
    assert perf_counter() - start < 3.0
