"""A run's events and its stages' logs in, a live view on a terminal or plain lines elsewhere out."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from rich.console import Console
from rich.text import Text

from polaris.execute.loop import Executor
from polaris.run import Run
from polaris.runtime import get_logger, logs_json

log = get_logger("run")

_DONE = {"start-stage": "started", "start-service": "starting its server", "stop-service": "server stopped"}


class Live:
    """Shows what runs. A stage's progress is read from its log, where it writes JSON lines."""

    LINE_EVERY_S = 10.0

    def __init__(self, run: Run, executor: Executor) -> None:
        self.run = run
        self.executor = executor
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._begun: dict[str, float] = {}
        self._files: dict[str, IO[str]] = {}
        self._ready: set[str] = set()
        self._shown: dict[str, float] = {}
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Live:
        if sys.stderr.isatty() and not logs_json():
            from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

            self._bars = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[done]}"),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()
        for file in self._files.values():
            file.close()

    def change(self, what: str, name: str, detail: str) -> None:
        """Tell of a start, an end or a failure."""
        subject = f"model {name}" if "service" in what else name
        if what == "start-stage":
            self._begun[name] = time.monotonic()
        elif what in ("start-service", "stop-service"):
            self._ready.discard(name)
        if what in ("complete", "failed"):
            self._drop(name)
        # One that an earlier process started has an unknown beginning.
        took = f" in {_clock(time.monotonic() - self._begun[name])}" if name in self._begun else ""
        if what == "complete":
            self._say("green", "✓", name, f"complete{took}{self._counts(name)}")
        elif what == "failed":
            self._say("red", "✗", name, detail)
        else:
            self._say("cyan", "·", subject, _DONE[what])

    def poll(self) -> None:
        """Read the stages' progress and show it."""
        for name, ready in self.executor.services().items():
            if ready and name not in self._ready:
                self._ready.add(name)
                self._say("cyan", "·", f"model {name}", "answers")
        for name, path in self.executor.running().items():
            for event in self._events(name, path) if path else ():
                if event.get("event") == "progress":
                    self._progress(name, event)
                elif event.get("level") in ("warning", "error") and event.get("event") != "failed":
                    self._say("yellow", "!", name, _line(event))

    def _progress(self, name: str, event: dict[str, Any]) -> None:
        what, done, total = str(event.get("what")), float(event["done"]), float(event["total"])
        figures = f"{event['done']}/{event['total']}"
        if self._bars is not None:
            description = f"{name}: {what}"
            if name not in self._tasks:
                self._tasks[name] = self._bars.add_task(description, total=total, done=figures)
            self._bars.update(
                self._tasks[name], description=description, total=total, completed=done, done=figures
            )
            return
        now = time.monotonic()
        if done >= total or now - self._shown.get(name, -self.LINE_EVERY_S) >= self.LINE_EVERY_S:
            self._shown[name] = now
            left = f", about {_clock(float(event.get('seconds_left', 0)))} left" if 0 < done < total else ""
            self._say("cyan", "…", name, f"{what} {figures}{left}")

    def _events(self, name: str, path: Path) -> list[dict[str, Any]]:
        file = self._files.get(name)
        if file is None or file.name != str(path):
            file = self._files[name] = path.open(encoding="utf-8", errors="replace")
        found: list[dict[str, Any]] = []
        while True:
            at = file.tell()
            line = file.readline()
            if not line.endswith("\n"):
                file.seek(at)
                return found
            if line.startswith("{"):
                try:
                    found.append(json.loads(line))
                except ValueError:
                    continue

    def _drop(self, name: str) -> None:
        self._shown.pop(name, None)
        if name in self._tasks:
            self._bars.remove_task(self._tasks.pop(name))

    def _counts(self, name: str) -> str:
        manifest = self.run.manifest(name)
        shown = brief_counts(manifest.counts) if manifest else ""
        return f" ({shown})" if shown else ""

    def _say(self, style: str, sign: str, subject: str, text: str) -> None:
        if logs_json():
            log.info("run", subject=subject, text=text)
            return
        clock = time.strftime("%H:%M:%S")
        # One print a line: a live bar takes away a line that is still open.
        self.console.print(
            Text.assemble((clock, "dim"), " ", (sign, style), " ", (subject, "bold"), " ", text)
        )


def brief_counts(counts: dict[str, float], most: int = 4) -> str:
    """Return the first counts of a manifest as words."""
    # How long it took stands beside them already.
    counted = [(name, value) for name, value in counts.items() if value and name != "hours"]
    told = sorted(counted, key=lambda count: count[0].startswith("left_out"))
    shown = [f"{_figure(value)} {name.replace('_', ' ')}" for name, value in told]
    return ", ".join(shown[:most])


def _figure(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.2f}"


def _clock(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def _line(event: dict[str, Any]) -> str:
    known = ("event", "level", "timestamp", "source", "traceback")
    return " ".join(
        [str(event.get("event")), *(f"{key}={value}" for key, value in event.items() if key not in known)]
    )
