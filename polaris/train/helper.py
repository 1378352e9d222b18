"""A training's job on a node without rank 0 in, its part done and node 0's artifact there out.

Such a node must not end well before the artifact is there: an Indexed Job starts no node again that has, and
node 0, started again, would wait for it in vain.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from polaris.artifact import find_manifest
from polaris.errors import TransientError
from polaris.runtime import get_logger
from polaris.train.job import Job
from polaris.train.nodes import MEET_S, Team
from polaris.train.supervise import Trainer
from polaris.train.uploads import Deliveries, read_wanted

if TYPE_CHECKING:
    from polaris.stage import StageContext

LOOK_EVERY_S = 5.0
"""How often the store is asked for the artifact."""

log = get_logger("train")


class _Complete(Exception):
    """Node 0 has made the artifact."""


def help_out(context: StageContext, job: Job, trainer: Trainer, team: Team) -> None:
    """Train as one node of several, upload this node's checkpoint files, return once the artifact is there.

    Raises:
        Stopped, PolarisError: as Trainer.run.
        TransientError: node 0 begins again, or makes no artifact in time.

    """
    deliveries = Deliveries(context, job, team)
    looked = time.monotonic()

    def on_tick() -> None:
        nonlocal looked
        deliveries.poll()
        if time.monotonic() - looked >= LOOK_EVERY_S:
            looked = time.monotonic()
            # It may appear while this node waits for the others: started again when all was done but that.
            if find_manifest(context.store, context.output.prefix):
                raise _Complete

    try:
        trainer.run(context.stop, on_tick)
    except _Complete:
        return
    finally:
        deliveries.finish()
    await_artifact(context)


def await_artifact(context: StageContext) -> None:
    """Wait until node 0 has uploaded model and manifest."""
    start = read_wanted(context.progress).get("start")
    until = time.monotonic() + MEET_S
    log.info("waiting", reason="node 0 uploads the model")
    while not find_manifest(context.store, context.output.prefix):
        context.stop.check()
        if read_wanted(context.progress).get("start") != start:
            raise TransientError("node 0 could not finish and begins again: this node goes along")
        if time.monotonic() > until:
            raise TransientError(
                f"node 0 has made no artifact within {MEET_S} s: its log says why; run again"
            )
        time.sleep(1.0)
