"""The file of writing prompts in, its rows, checked, out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from polaris.artifact import to_rows
from polaris.data.pairs import PromptRow, parse_prompt
from polaris.errors import InputError


def read_prompts(path: Path) -> Sequence[PromptRow]:
    """Read the JSONL file of prompts; raise InputError naming file, line and field of a bad row."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"data.prompts: {path} cannot be read: {error.strerror}") from None
    numbers = [number for number, line in enumerate(data.split(b"\n"), start=1) if line.strip()]
    rows = to_rows(data, str(path))
    return [parse_prompt(row, f"{path}:{number}") for number, row in zip(numbers, rows, strict=True)]
