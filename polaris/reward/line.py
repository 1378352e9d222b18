"""A row with a story, and perhaps its judgement, in; its line of reward terms out."""

from __future__ import annotations

from typing import Any

from polaris.reward.composite import reward, score_story
from polaris.reward.rows import MOST_WORDS, Row, RowError, id_of, judgement_of, text_of, whole_of
from polaris.reward.settings import Settings
from polaris.text import target_from_prompt


def reward_line(row: Row, settings: Settings) -> dict[str, Any]:
    """Return `id, words, blank_penalty, length_penalty, length_reward, self_repetition` of a row's story.

    The row is `{id, story, target_word_count?, prompt?, judgement?}`; null is as good as absent. With a
    judgement the line has `story_quality` (overall / 100) and `reward` (the clipped composite) too: without
    one there is no reward, which is not a reward of 0.

    Raises:
        RowError: a field is missing or wrong, or nothing names a target.

    """
    key, story, target = id_of(row), text_of(row, "story"), target_of(row)
    judgement = None if row.get("judgement") is None else judgement_of(row)
    parts = score_story(story, target, judgement, floors=settings.floors, gate=settings.gate)
    line: dict[str, Any] = {
        "id": key,
        "words": parts.words,
        "blank_penalty": parts.blank,
        "length_penalty": parts.length,
        "length_reward": parts.length_reward,
        "self_repetition": parts.repetition,
    }
    if judgement is not None:
        line["story_quality"] = parts.quality
        line["reward"] = reward(parts, settings.weights, settings.clip)
    return line


def target_of(row: Row) -> int:
    """Return the row's target in words: `target_word_count`, else the last "N words long" of its `prompt`.

    Raises:
        RowError: there is neither, or it is no number of words.

    """
    prompt = "" if row.get("prompt") is None else text_of(row, "prompt")
    if row.get("target_word_count") is not None:
        return whole_of(row, "target_word_count", 1)
    asked = target_from_prompt(prompt)
    if asked is None:
        what = "missing, and no prompt says 'N words long'"
        raise RowError("target_word_count", what, "one or the other")
    if not 1 <= asked <= MOST_WORDS:
        what = "asks for no words" if asked < 1 else "asks for too many words"
        raise RowError("prompt", what, f"a length of 1 to {MOST_WORDS:,} words")
    return asked
