"""A file of stories in; rows that can be judged out, or each faulty line with its field and the fix.

Lines are read as `polaris reward` reads them (`polaris.reward.rows`): no key twice, no text in an error.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from polaris.errors import InputError
from polaris.judge.rows import Row
from polaris.reward.rows import RowError, id_of, parse_row, text_of, whole_of
from polaris.text import THINK_END, count_words, target_from_prompt

NO_PROMPT = "(unknown)"
"""What a judge sees of a story that came without its prompt."""
THINK = "<think>"
"""What a story begins with that still has its model's thoughts before it."""
SHOWN = 20
"""Faults that are listed; the rest are counted."""


def read_stories(path: Path) -> list[Row]:
    """Return the rows {id, sample, prompt, story, words, target_word_count} of a JSONL file; `-` is stdin.

    A line holds `id` (text, or a whole number, taken as text) and `story`, and may hold `prompt`,
    `target_word_count` (else the one that the prompt asks for, or None) and `sample` (0); whatever else it
    holds is left alone, so a run's stories.jsonl is such a file. NULs and lone surrogates are fine. A row
    whose story came with its thinking has also `thinking_cut`: True.

    Raises:
        InputError: a line `file:line: field: fault; expected …` for each fault, 20 at most, or the file
            cannot be read.

    """
    rows: list[Row] = []
    faults: list[str] = []
    first: dict[tuple[str, int], int] = {}
    for number, raw in _lines(path):
        row, wrong = _read(raw)
        if not wrong:
            key = row["id"], row["sample"]
            if first.setdefault(key, number) != number:
                wrong = [f"id: given before, in line {first[key]}; expected an id, or a sample, of its own"]
            rows.append(row)
        faults += [f"{path}:{number}: {fault}" for fault in wrong]
    raise_faults(path, faults)
    if not rows:
        raise InputError(f"{path}: holds no row; expected JSON lines with id and story")
    return rows


def read_row(path: Path, *, line: int | None, key: str | None) -> Row:
    """Return the row {prompt, story} in line `line`, counted from 1, or with the id `key`; else the first.

    Raises InputError if there is no such row, or it has no story; without a prompt it is as `read_stories`'.
    """
    for number, raw in _lines(path):
        if line is not None and number != line:
            continue
        try:
            found = parse_row(raw)
        except RowError as fault:
            if key is not None:
                continue
            raise InputError(f"{path}:{number}: {fault}") from None
        if key is not None and not _has_id(found, key):
            continue
        try:
            return {"prompt": _prompt(found), "story": without_thinking(text_of(found, "story"))}
        except RowError as fault:
            raise InputError(f"{path}:{number}: {fault}") from None
    asked = f"line {line}" if line is not None else f"id {key!r}" if key is not None else "row"
    raise InputError(f"{path}: holds no {asked}; expected a line with a story")


def without_thinking(story: str) -> str:
    """Return a story that begins with `<think>` without all up to the first `</think>`; others as they are.

    Thoughts that never end leave no story.
    """
    return story.partition(THINK_END)[2].lstrip() if story.startswith(THINK) else story


def raise_faults(path: Path, faults: Sequence[str]) -> None:
    """Raise InputError with a line a fault, the first 20 and how many more there are; return without any."""
    if faults:
        more = [f"{path}: … {len(faults) - SHOWN:,} more"] if len(faults) > SHOWN else []
        raise InputError("\n".join([*faults[:SHOWN], *more]))


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; give a JSONL file of stories") from None
    for number, line in enumerate(data.split(b"\n"), start=1):
        if line.strip():
            yield number, line


def _read(raw: bytes) -> tuple[Row, list[str]]:
    """Return the row of a line, and what is wrong with it; with any fault the row is of no use."""
    faults: list[str] = []

    def checked(read: Callable[[], Any]) -> Any:
        try:
            return read()
        except RowError as fault:
            faults.append(str(fault))
            return None

    found = checked(lambda: parse_row(raw))
    if found is None:
        return {}, faults
    key = checked(lambda: str(id_of(found)))
    told = checked(lambda: text_of(found, "story"))
    prompt = checked(lambda: _prompt(found))
    target = checked(lambda: _target(found))
    sample = checked(lambda: _sample(found))
    if faults:
        return {}, faults
    story = without_thinking(told)
    row = {
        "id": key,
        "sample": sample,
        "prompt": prompt,
        "story": story,
        "words": count_words(story),
        "target_word_count": target_from_prompt(prompt) if target is None else target,
    }
    return row | ({"thinking_cut": True} if story != told else {}), []


def _target(found: Row) -> int | None:
    name = "target_word_count"
    return None if found.get(name) is None else whole_of(found, name, 1)


def _sample(found: Row) -> int:
    value = found.get("sample")
    if value is None:
        return 0
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < 0:
        raise RowError("sample", str(value)[:24] if whole else "no number", "a whole number of 0 or more")
    return int(value)


def _prompt(found: Row) -> str:
    prompt = "" if found.get("prompt") is None else text_of(found, "prompt")
    return prompt if prompt.strip() else NO_PROMPT


def _has_id(found: Row, key: str) -> bool:
    try:
        return str(id_of(found)) == key
    except RowError:
        return False
