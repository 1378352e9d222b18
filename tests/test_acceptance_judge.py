"""The judge's and the reward's benchmarks at their full count; figures go to docs/measured.md.

Their targets are the issue's; a machine that does other work meanwhile misses those of time.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from measured import ROOT, Figure, write

pytestmark = pytest.mark.acceptance


def measured(script: str, out: Path, *options: str) -> dict[str, Any]:
    """Run a benchmark to its end; every target must be met."""
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / script, *options, "--json", out],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return found


def test_judge_and_reward_benchmarks(tmp_path: Path) -> None:
    """3,000 calls with faults, killed and resumed; a rate limit that nobody tells; the reward's terms."""
    figures: list[Figure] = []
    for script, options in (
        ("judge.py", ()),
        ("judge.py", ("--limit-rate", "2400", "--calls", "1200")),
        ("reward.py", ()),
    ):
        found = measured(script, tmp_path / "figures.json", *options)
        named = " ".join(["`benchmarks/" + script + "`", *options])
        figures += [
            (f"{named}: {check['name']}", _shown(check["measured"]), str(check["target"]).replace("|", "/"))
            for check in found["checks"]
        ]
    write("judge", "make acceptance", figures)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
