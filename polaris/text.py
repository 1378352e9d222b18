"""Story text in, figures out: the word counter and the prompt's length sentence.

Data, reward, judge and evaluation all read these, so that a "word" and a "target" are one thing
everywhere. Source: the recipe's *words* and *length_penalty* definitions (arXiv 2606.04095, code).
What every reader of a model's text must agree on is here too: where its thoughts end, and which
characters can be sent and written.
"""

from __future__ import annotations

import html
import re

WORD_COUNTER = "unescaped-w+"
"""The counter's name, recorded beside every figure made with it."""

THINK_END = "</think>"
"""What ends a reasoning model's thoughts; the story follows."""

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
"""What stands for a character that cannot be sent (NUL, half a surrogate pair)."""

_WORD = re.compile(r"\w+")
_LENGTH = re.compile(
    r"(?<!\d)(?<!\d[.,])(\d{1,3}(?:[,.\u00a0\u2009\u202f]\d{3}){1,4}|\d+)\s+words?\s+long", re.IGNORECASE
)
_SENTENCE_END = re.compile(
    r"(?<!\bMr)(?<!\bMs)(?<!\bDr)(?<!\bSt)(?<!\bMrs)(?<!\bProf)(?<![.!?])[.!?]++[\"'”’)\]]*(?=\s|$)|\n"
)
_MOST_DIGITS = 12
"""Of a longer number the first so many are read: Python reads no number of any length."""


def encodable(text: str) -> str:
    """Return the text with NULs and lone surrogates as U+FFFD, and halves of a pair made whole."""
    whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return whole.replace("\0", REPLACEMENT)


def count_words(text: str) -> int:
    """Count runs of word characters after undoing HTML entities ("don't" is 2)."""
    return len(_WORD.findall(html.unescape(text)))


def length_sentence(words: int) -> str:
    """Return the sentence that asks for a story of `words` words."""
    return f"The story should be {words:,} words long."


def target_from_prompt(prompt: str) -> int | None:
    """Return the target in words that the prompt's last "N words long" names, else None.

    Thousands separators count: "1,500 words long" is 1500, and so is "1.500 words long".
    """
    found = ["".join(filter(str.isdecimal, number)) for number in _LENGTH.findall(prompt)]
    return int(found[-1][:_MOST_DIGITS]) if found else None


def story_id(prompt: str, target: int) -> str:
    """Return the id of a story that a prompt asks for at one of several targets: `prompt@target`."""
    return f"{prompt}@{target}"


def prompt_id(story: str) -> str:
    """Return the prompt's id of a story's id; an id without a target is the prompt's own."""
    return story.partition("@")[0]


def without_length_sentence(prompt: str) -> str:
    """Return the prompt with its last length sentence cut out, and that sentence alone.

    A judge sees this: it scores the story, not the arithmetic of its length. A prompt that is
    nothing but that one sentence comes back whole: a judge must know what was asked.
    """
    matches = list(_LENGTH.finditer(prompt))
    if not matches:
        return prompt
    last = matches[-1]
    start = 0
    for end in _SENTENCE_END.finditer(prompt, 0, last.start()):
        start = end.end()
    stop = _SENTENCE_END.search(prompt, last.end())
    # A line break that ends the sentence is part of what follows it.
    rest = prompt[stop.start() if stop.group() == "\n" else stop.end() :] if stop else ""
    before, after = prompt[:start].rstrip(), rest.strip()
    if not before or not after:
        return before or after or prompt
    lines = max(prompt[len(before) : start].count("\n"), rest[: rest.index(after)].count("\n"))
    return f"{before}{chr(10) * min(lines, 2) or ' '}{after}"
