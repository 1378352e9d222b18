"""What a check is given and what it gives: a subject in, findings out; nothing of one check is another's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from polaris.config import RunConfig
from polaris.errors import PolarisError
from polaris.runtime import redact

CanI = Callable[[str, str, str, str], bool]
"""Verb, API group, resource (`pods/log` with its subresource) and object name ('' is any) → may I?"""

INDENT = 34
"""Where a finding's detail begins in its line."""


@dataclass(frozen=True)
class Finding:
    """One checked thing: its state, what it is, what was seen, and what to do where it is not well.

    `table` is what was seen in figures: rows of cells, the titles first.
    """

    state: Literal["ok", "warning", "failed"]
    what: str
    detail: str
    fix: str = ""
    table: tuple[tuple[str, ...], ...] = ()

    def __str__(self) -> str:
        """Return the finding as one line, without any key and without its table."""
        fix = f"; {self.fix}" if self.fix else ""
        return redact(f"{self.state:<8} {self.what:<24} {self.detail}{fix}".replace("\n", " "))


@dataclass(frozen=True)
class Subject:
    """What is checked: a file, the configuration in it, and how.

    Attributes:
        can_i: on a cluster, the way to ask what a pod may do.
        ask: make one paid call to each judge.
        parity: load the base models and compare their log-probabilities.
        gpu_bytes: memory of the GPU that the training is meant for; None: as the GPUs here, else 80 GB.
        seen: what a check has read and another can use: it saves time, and no check relies on it.

    """

    path: Path
    config: RunConfig
    can_i: CanI | None = None
    ask: bool = False
    gpu_bytes: float | None = None
    parity: bool = False
    seen: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)


Check = Callable[[Subject], Iterator[Finding]]


def failed(what: str, detail: str, fix: str = "") -> Finding:
    """Return the finding of something that keeps the run from working."""
    return Finding("failed", what, detail, fix)


def unchecked(what: str, why: str, fix: str = "") -> Finding:
    """Return the finding of something that cannot be known here."""
    return Finding("warning", what, f"not checked here: {why}", fix)


def lines(what: str, error: PolarisError) -> Iterator[Finding]:
    """Yield a finding for each line of an error, the fix behind its first semicolon."""
    for line in str(error).splitlines():
        detail, _, fix = line.partition("; ")
        yield failed(what, detail, fix)
