"""A rendered text in; a comparison with its golden file out, or the file rewritten where asked."""

from __future__ import annotations

import os
from pathlib import Path

GOLDEN = Path(__file__).parent / "golden"


def check_golden(name: str, rendered: str) -> None:
    """Compare with `golden/name`; with POLARIS_UPDATE_GOLDEN=1 write it first."""
    path = GOLDEN / name
    if os.environ.get("POLARIS_UPDATE_GOLDEN") == "1":
        path.write_text(rendered, encoding="utf-8")
    hint = f"{name} differs: if that is meant, bump the rubric's version and set POLARIS_UPDATE_GOLDEN=1"
    assert path.read_text(encoding="utf-8") == rendered, hint
