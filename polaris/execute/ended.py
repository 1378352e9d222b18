"""How a stage or service ended in words: its exit code, its reason, the lines of its log that tell why."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

TAIL_LINES = 3
LINE_LENGTH = 300
_ERROR = re.compile(r"\b[A-Za-z]*(Error|Exception|Killed)\b: |\berror: ")


@dataclass(frozen=True)
class Ended:
    """How a stage ended: exit code (128 + N for signal N), one-line reason, and its log's last lines."""

    name: str
    code: int
    reason: str


def telling_lines(log: Iterable[str]) -> str:
    """Return a log's last lines that name an error, or else its very last lines, on one line.

    A server's farewell is long and says nothing; what killed it stands above.
    """
    lines = [_plain(line.strip()) for line in log if line.strip()]
    errors = [line for line in lines if _ERROR.search(line)]
    return " | ".join((errors or lines)[-TAIL_LINES:])


def _plain(line: str) -> str:
    """Return what a log line of ours says, without its JSON; any other line as it is."""
    try:
        event = json.loads(line) if line.startswith("{") else {}
    except ValueError:
        event = {}
    if not event.get("event"):
        return line[:LINE_LENGTH]
    told = event.get("traceback") or event.get("reason") or ""
    return (
        f"{event['event']}: {str(told).strip().splitlines()[-1]}"[:LINE_LENGTH]
        if told
        else str(event["event"])
    )
