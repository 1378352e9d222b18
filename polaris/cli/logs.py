"""A run and an instance's name in, its newest attempt's log as readable lines out."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import structlog

from polaris.errors import InputError
from polaris.execute.lease import is_held
from polaris.execute.local import log_folder
from polaris.run import Run


def print_logs(run: Run, name: str, *, follow: bool) -> None:
    """Print a log that lies on this machine, else the one in the store.

    Raises InputError if there is none, ConfigError for an unknown instance.
    """
    if not name.startswith("service-"):
        run.instance(name)
    files = sorted(log_folder(run, name).glob("*.log"))
    lines = _followed(run, files[-1]) if files and follow else _stored(run, name, files)
    for line in readable(lines):
        print(line, flush=follow)


def _stored(run: Run, name: str, files: list[Path]) -> list[str]:
    if files:
        return files[-1].read_text(encoding="utf-8", errors="replace").splitlines()
    keys = []
    if not name.startswith("service-"):
        prefix = f"{run.prefix(name)}attempts/"
        keys = [info.key for info in run.store.list(prefix) if info.key.endswith("/log.txt")]
    if not keys:
        raise InputError(f"{name} has no log on this machine or in {run.store.url}; has it run?")
    return run.store.get(max(keys)).decode("utf-8", "replace").splitlines()


def _followed(run: Run, path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8", errors="replace") as file:
        while True:
            line = file.readline()
            if line:
                yield line.rstrip("\n")
            elif is_held(run.store, run.config.run):
                time.sleep(0.5)
            else:
                return


def readable(lines: Iterable[str]) -> Iterator[str]:
    """Yield JSON log lines as a person reads them, other lines as they are."""
    render = structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty(), pad_event_to=0, sort_keys=True)
    for line in lines:
        try:
            event = json.loads(line) if line.startswith("{") else None
        except ValueError:
            event = None
        if isinstance(event, dict) and "event" in event:
            trace = event.pop("traceback", None)
            yield str(render(None, "", event)) + (f"\n{trace}" if trace else "")
        else:
            yield line
