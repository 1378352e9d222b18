"""A job's pairs in, the same with some held back for validation out."""

from __future__ import annotations

import json
from pathlib import Path

HELD_BACK = [
    ("held-0", "Write of a well. The story should be 90 words long.", "The well was dry.", 90),
    ("held-1", "Write of a dog. The story should be 20 words long.", "The dog knew.", 20),
    ("held-2", "Write of a bus. The story should be 120 words long.", "The bus never came.", 120),
]


def hold_back(pairs: Path, *, more: list[dict[str, object]] | None = None) -> None:
    """Add the held back pairs to a file of pairs; `more` is added as it is."""
    rows = [
        {
            "uid": uid,
            "prompt": prompt,
            "story": story,
            "reasoning": "I begin with what is missing.",
            "target_word_count": target,
            "split": "validation",
        }
        for uid, prompt, story, target in HELD_BACK
    ] + (more or [])
    with pairs.open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
