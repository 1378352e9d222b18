"""A configuration and a check of one training in, the findings about all of its trainings out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from polaris.checks.finding import Finding
from polaris.config import RunConfig, section_of
from polaris.recipe import TrainConfig

Look = Callable[[TrainConfig], Iterator[Finding]]

_SECTION = re.compile(r"(?<![\w./-])train(?=\.[a-z_]| needs)")
"""Where a text names the section of the settings, as in `train.micro_batch`."""


def of_each(config: RunConfig, look: Look) -> Iterator[Finding]:
    """Yield what a check finds about each training, and once what it finds about several.

    Beside arms a finding names the trainings that it is about; where it tells of settings, they are those of
    `train` if it is about that one too, for an arm that says nothing of them has them from there.
    """
    trainings = config.trainings()
    found: dict[Finding, list[str]] = {}
    for arm, train in trainings.items():
        for finding in look(train):
            found.setdefault(finding, []).append(section_of(arm))
    for finding, sections in found.items():
        yield finding if len(trainings) == 1 else _of(finding, sections, all_=len(sections) == len(trainings))


def _of(finding: Finding, sections: list[str], *, all_: bool) -> Finding:
    detail, fix = (_SECTION.sub(sections[0], text) for text in (finding.detail, finding.fix))
    whose = "every training" if all_ else ", ".join(sections)
    return replace(finding, detail=f"{whose}: {detail}", fix=fix)


def at_once(config: RunConfig) -> int:
    """Return how many trainings may run at the same time: no training needs another one."""
    return min(config.execute.parallel, len(config.trainings()))
