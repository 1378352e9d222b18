"""A file of stories in; rows that can be judged out, or each faulty line with its field and the fix."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from polaris.errors import InputError
from polaris.judge.rows import Row
from polaris.text import count_words, target_from_prompt

NO_PROMPT = "(unknown)"
"""What a judge sees of a story that came without its prompt."""


def read_stories(path: Path) -> list[Row]:
    """Return the rows {id, sample, prompt, story, words, target_word_count} of a JSONL file.

    A line holds `id` and `story`, and may hold `prompt`, `target_word_count` (else the one that the prompt
    asks for, or None) and `sample` (0); whatever else it holds is left alone, so a run's stories.jsonl is
    such a file. NULs and lone surrogates are fine.

    Raises:
        InputError: a line `file:line: field: fault; expected …` for each fault, or the file cannot be read.

    """
    lines = _lines(path)
    rows: list[Row] = []
    faults: list[str] = []
    first: dict[tuple[str, int], int] = {}
    for number, raw in lines:
        found, wrong = _parsed(raw)
        wrong = wrong or _faults(found)
        if not wrong:
            row = _row(found)
            key = row["id"], row["sample"]
            if first.setdefault(key, number) != number:
                wrong = [f"id: given before, in line {first[key]}; expected an id, or a sample, of its own"]
            rows.append(row)
        faults += [f"{path}:{number}: {fault}" for fault in wrong]
    if faults:
        raise InputError("\n".join(faults))
    if not rows:
        raise InputError(f"{path}: holds no row; expected JSON lines with id and story")
    return rows


def read_row(path: Path, *, line: int | None, key: str | None) -> Row:
    """Return the row {prompt, story} in line `line`, counted from 1, or with the id `key`; else the first.

    Raises InputError if there is no such row, or it has no story; without a prompt it is as `read_stories`'.
    """
    lines = dict(_lines(path))
    if line is not None:
        lines = {number: raw for number, raw in lines.items() if number == line}
    for number, raw in lines.items():
        found, wrong = _parsed(raw)
        if key is not None and found.get("id") != key:
            continue
        wrong = wrong or [fault for fault in _faults(found) if fault.startswith(("prompt:", "story:"))]
        if wrong:
            raise InputError(f"{path}:{number}: {wrong[0]}")
        return {"prompt": _prompt(found), "story": found["story"]}
    asked = f"line {line}" if line is not None else f"id {key!r}" if key is not None else "row"
    raise InputError(f"{path}: holds no {asked}; expected a line with a story")


def _lines(path: Path) -> Iterable[tuple[int, bytes]]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; give a JSONL file of stories") from None
    lines = enumerate(data.split(b"\n"), start=1)
    return [(number, line) for number, line in lines if line.strip()]


def _parsed(raw: bytes) -> tuple[dict[str, Any], list[str]]:
    try:
        # Not json.loads(bytes): it takes a text that begins with NULs for UTF-16.
        found = json.loads(raw.decode("utf-8-sig", "surrogatepass"), strict=False)
    except (ValueError, RecursionError) as error:
        why = "no UTF-8" if isinstance(error, UnicodeDecodeError) else "no JSON"
        return {}, [f"row: {why}; expected a JSON object on one line"]
    if not isinstance(found, dict):
        return {}, [f"row: {type(found).__name__}; expected a JSON object"]
    return found, []


def _faults(found: Mapping[str, Any]) -> list[str]:
    faults = []
    if not isinstance(found.get("id"), str) or not found["id"]:
        faults.append(f"id: {_shown(found, 'id')}; expected text of one or more characters")
    if not isinstance(found.get("story"), str):
        faults.append(f"story: {_shown(found, 'story')}; expected text")
    if not isinstance(found.get("prompt"), str | None):
        faults.append(f"prompt: {_shown(found, 'prompt')}; expected text, or leave it out")
    for name, least in (("target_word_count", 1), ("sample", 0)):
        value = found.get(name)
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not (whole and value >= least):
            faults.append(f"{name}: {_shown(found, name)}; expected a whole number of {least} or more")
    return faults


def _shown(found: Mapping[str, Any], name: str) -> str:
    if name not in found:
        return "missing"
    value = found[name]
    shown = repr(value) if isinstance(value, str) else json.dumps(value)
    return shown if len(shown) <= 40 else f"{shown[:37]}..."


def _row(found: Mapping[str, Any]) -> Row:
    prompt, target = _prompt(found), found.get("target_word_count")
    return {
        "id": found["id"],
        "sample": found.get("sample") or 0,
        "prompt": prompt,
        "story": found["story"],
        "words": count_words(found["story"]),
        "target_word_count": target_from_prompt(prompt) if target is None else target,
    }


def _prompt(found: Mapping[str, Any]) -> str:
    prompt: str = found.get("prompt") or ""
    return prompt if prompt.strip() else NO_PROMPT
