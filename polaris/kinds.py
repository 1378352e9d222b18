"""A stage kind's name in, its program and the version of what it writes out."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from polaris.stage import StageContext


@dataclass(frozen=True)
class Kind:
    """One stage kind: `module:function` of its program, and its artifacts' format version."""

    program: str
    version: int

    def load(self) -> Callable[[StageContext], None]:
        """Import the program; heavy packages come with it."""
        module, _, function = self.program.partition(":")
        program: Callable[[StageContext], None] = getattr(importlib.import_module(module), function)
        return program


KINDS = {
    "data": Kind("polaris.data.stage:run", 1),
    "train": Kind("polaris.train.stage:run", 3),
    "generate": Kind("polaris.generate:run", 1),
    "judge": Kind("polaris.judge.stage:run", 2),
    "evaluate": Kind("polaris.evaluate.stage:run", 2),
    "report": Kind("polaris.report.stage:run", 2),
}
