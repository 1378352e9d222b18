"""One story's scores on its own checklist in; its WritingBench value out.

Source: WritingBench (arXiv 2503.05244): five criteria a query, written for that query, each scored 1 to 10.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

LOWEST, HIGHEST = 1, 10


def score(scores: Mapping[str, float]) -> tuple[float, dict[str, float]]:
    """Return the mean of the scores, 1 to 10, and the scores by criterion; there is one at least.

    The sum is exact, so that the criteria's order, which is the file's, does not matter.
    """
    return math.fsum(scores.values()) / len(scores), dict(scores)
