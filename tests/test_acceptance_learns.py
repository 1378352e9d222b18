"""The benchmarks of training at full count; figures go to docs/measured.md, the curve to docs/learns.svg.

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
PLOT = ROOT / "docs" / "learns.svg"


def measured(script: str, out: Path, *options: str) -> list[dict[str, Any]]:
    """Run a benchmark to its end; every target must be met. Return its lines."""
    command = [sys.executable, ROOT / "benchmarks" / script, *options, "--json", out]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    found: list[dict[str, Any]] = json.loads(out.read_text(encoding="utf-8"))["checks"]
    return found


def table(checks: list[dict[str, Any]]) -> list[Figure]:
    rows = []
    for check in checks:
        between = "[{:.4g}, {:.4g}]".format(*check["interval"]) if check["interval"] else ""
        rows.append((check["name"], f"{check['measured']:.4g} {between}".strip(), check["target"]))
    return rows


def test_a_step_costs_no_more_than_trls_and_uploads_do_not_block_it(tmp_path: Path) -> None:
    checks = measured("train.py", tmp_path / "found.json")
    bounded = [check for check in checks if check["target"]]
    assert bounded and all(check["ok"] for check in bounded)
    write("train", "python benchmarks/train.py", table(checks))


def test_it_learns(tmp_path: Path) -> None:
    """Three seeds of a small model with references and without, and SmolLM2 once."""
    checks = measured("train_learns.py", tmp_path / "found.json", "--plot", str(PLOT))
    bounded = [check for check in checks if check["target"]]
    assert len(bounded) == 4 and all(check["ok"] for check in bounded)
    assert any(check["name"].startswith("SmolLM2") for check in checks)
    write("learns", "python benchmarks/train_learns.py", table(checks))
