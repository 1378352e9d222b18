"""Figures in, the table of a section of docs/measured.md out, with the command, the date and the machine."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "measured.md"

Figure = tuple[str, str, str]
"""What was measured, the figure, its bound."""


def write(section: str, command: str, figures: Sequence[Figure], *, checkout: Path = ROOT) -> None:
    """Put the figures in the place of the section's last ones; `checkout` is what was measured."""
    begin, end = f"<!-- {section}: begin -->", f"<!-- {section}: end -->"
    rows = "".join(f"| {what} | {figure} | {bound} |\n" for what, figure, bound in figures)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=checkout, capture_output=True, text=True
    )
    table = (
        f"{begin}\n\n`{command}`, {datetime.now(UTC):%Y-%m-%d}, at commit {commit.stdout.strip()}, on"
        f" {os.cpu_count()} cores ({_processor()}), Python {platform.python_version()}.\n\n"
        f"| what | measured | bound |\n|---|---|---|\n{rows}\n{end}"
    )
    before = PAGE.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(begin)}.*{re.escape(end)}", re.DOTALL)
    assert pattern.search(before), f"{PAGE} has no section '{section}'"
    PAGE.write_text(pattern.sub(lambda _: table, before), encoding="utf-8")


def _processor() -> str:
    if sys.platform == "linux":
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
        return found.group(1) if found else platform.machine()
    return platform.processor()
