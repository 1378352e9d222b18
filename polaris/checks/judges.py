"""Judges that others serve in, one judgement of a short story each, with what it cost, out."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

from polaris.checks.finding import Finding, Subject, failed, lines, unchecked
from polaris.config import RunConfig
from polaris.errors import ConfigError
from polaris.judge.score import Judge, JudgeFailed, Scored, open_judge
from polaris.models import EndpointModel
from polaris.run import outside_endpoint
from polaris.storage import FileStore

PROMPT = "Write a very short story about a lighthouse keeper who misses a visitor."
STORY = """The lamp had burned for nine hours when Orla heard the knock. Nobody knocked here: the path was
under water until noon. She set down the oil can and listened. Wind, the slow cough of the clockwork, nothing.

When she opened the door there was only the step, dark with spray, and on it a jar of plum jam with her
mother's hand on the label. The tide was already over the stones. She called once, and the gulls answered.

All morning she kept the jar on the sill, where the light came through it red, and did not open it. Whoever
had walked out would have to walk back for the jar, she told herself; her mother never gave one away for
good."""
"""A story of our own, shorter than any that is trained on, so that the call is cheap."""
ATTEMPTS = 2
DEADLINE_S = 300.0
"""A judge that does not answer within this is not waited for."""


def check_judges(subject: Subject) -> Iterator[Finding]:
    """Ask each judge about one story, if that is wanted: it is paid for, by nobody's budget."""
    config = subject.config
    outside = [name for name, judge in config.judges.items() if config.models[judge.model].kind == "endpoint"]
    if outside and not subject.ask:
        yield unchecked("judges", "no judge was asked to judge", "`--ask` makes one paid call to each")
        return
    for name in outside if subject.ask else ():
        yield from _asked(config, name)


def _asked(config: RunConfig, name: str) -> Iterator[Finding]:
    what, model = f"judges.{name}", config.judges[name].model
    found = config.models[model]
    assert isinstance(found, EndpointModel)
    try:
        endpoint = outside_endpoint(model, found)
    except ConfigError as error:
        yield from lines(what, error)
        return
    own = config.judges[name].model_copy(
        update={"attempts": ATTEMPTS, "deadline_s": DEADLINE_S, "outage_s": 0.0}
    )
    shared = config.model_copy(update={"judges": {**config.judges, name: own}})
    with tempfile.TemporaryDirectory() as folder:
        # A cache of its own: an answer from the run's would prove nothing.
        judge = open_judge(shared, name, endpoint, FileStore(Path(folder)))
        try:
            scored = asyncio.run(_score(judge))
        except JudgeFailed as error:
            fix = f"check models.{model} and judges.{name}; training stops where too many calls fail"
            yield failed(what, f"gives no valid judgement: {error.reason}", fix)
            return
    yield Finding("ok", what, _told(config, name, scored))
    yield from (Finding("warning", what, note) for note in judge.notes)


async def _score(judge: Judge) -> Scored:
    async with judge.client:
        return await judge.score(PROMPT, STORY)


def _told(config: RunConfig, name: str, scored: Scored) -> str:
    repaired = " after a repair" if scored.repaired else ""
    told = (
        f"judges a short story{repaired} in {scored.latency_s:.1f} s: {scored.prompt_tokens:,} tokens read,"
        f" {scored.completion_tokens:,} written, "
    )
    if not any(config.prices(config.judges[name].model)[:2]):
        return told + "at a price that is not configured"
    told += f"{scored.usd:.4f} USD"
    trainings = [train for train in config.trainings().values() if train.judge == name]
    for rows in sorted({train.rows_per_step for train in trainings}):
        told += f"; so {rows} calls a step cost {rows * scored.usd:.2f} USD, and more for longer stories"
    return told
