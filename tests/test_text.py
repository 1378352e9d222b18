"""The word counter's neighbours: which length a prompt asks for, and what is left without that sentence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polaris.text import length_sentence, target_from_prompt, without_length_sentence


@pytest.mark.parametrize(
    ("prompt", "target"),
    [
        ("Of a fox.", None),
        ("The story should be 900 words long.", 900),
        ("The story should be 1,500 words long.", 1500),
        ("1.500 words long", 1500),
        ("12\u00a0000 words long", 12000),
        ("300 words long, no: 1,234,567 Words\nlong", 1234567),
        ("one word, 1 word long", 1),
        ("in short,300 words long", 300),
        ("1,50 words long", None),
        ("9" * 5000 + " words long", 999_999_999_999),
    ],
)
def test_the_last_length_that_a_prompt_names_counts(prompt: str, target: int | None) -> None:
    assert target_from_prompt(prompt) == target


@pytest.mark.parametrize(
    ("prompt", "left"),
    [
        ("Of a fox. The story should be 1,500 words long.", "Of a fox."),
        ("Of a fox. It should be 1,500 words long. In winter.", "Of a fox. In winter."),
        ("Para one.\n\nIt should be 900 words long.\n\nPara two.", "Para one.\n\nPara two."),
        ("- a fox\n- 1,500 words long\n- winter", "- a fox\n- winter"),
        ("Of a fox.\nIt should be 900 words long. In winter.", "Of a fox.\nIn winter."),
        ("The tale of Dr. Fox should be 900 words long. End sadly.", "End sadly."),
        ("The story should be 900 words long.", "The story should be 900 words long."),
        ("Of a fox.", "Of a fox."),
    ],
)
def test_that_sentence_alone_is_cut(prompt: str, left: str) -> None:
    assert without_length_sentence(prompt) == left


@given(
    st.text(alphabet="abc .!\n", max_size=40),
    st.text(alphabet="abc .!\n", max_size=40),
    st.integers(1, 10**6),
)
def test_what_is_beside_it_stays(before: str, after: str, words: int) -> None:
    left = without_length_sentence(f"{before}.\n{length_sentence(words)} {after}")
    assert left.replace("\n", " ").split() == f"{before}. {after}".split()


@pytest.mark.parametrize("part", ["111\u00a0", "1,", ".", "1 word", "1 words ", "\n", ".)"])
def test_a_hostile_prompt_is_read_in_passing(part: str) -> None:
    # Quadratic, this would take minutes.
    prompt = part * (600_000 // len(part)) + "x 1,500 words long"
    assert target_from_prompt(prompt) == 1500
    without_length_sentence(prompt)
