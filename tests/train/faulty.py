"""A worker whose INVENTED judge raises on one rank, by a FAKE fault, from a call on that is told."""

from __future__ import annotations

import functools
import os
import sys

from fakes import invented_judge

from polaris.errors import BudgetError
from polaris.judge.parse import Judgement
from polaris.train import worker

RANK, CALL = int(os.environ["FAKE_FAULT_RANK"]), int(os.environ["FAKE_FAULT_CALL"])
calls = 0


async def judge(prompt: str, story: str) -> Judgement:
    global calls
    calls += 1
    if int(os.environ["RANK"]) == RANK and calls >= CALL:
        raise BudgetError("execute.budget_usd: value 1; spent")
    return await invented_judge(prompt, story)


if __name__ == "__main__":
    worker.train = functools.partial(worker.train, judge=judge)
    sys.exit(worker.main())
