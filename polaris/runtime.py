"""Events, progress and signals in; log lines, bars on a terminal and a stop flag out.

A line of the log is JSON in a pod and under an executor, readable text elsewhere. Story text
and keys never appear above debug level: what a log call is given is redacted of known secrets.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Mapping, MutableMapping
from types import FrameType, TracebackType
from typing import Any

import structlog

from polaris.errors import Stopped

LOG_ENV = "POLARIS_LOG"
"""`json` or `text`; unset: JSON in a pod, text elsewhere."""

_SECRET_NAMES = ("KEY", "SECRET", "TOKEN", "PASSWORD")
_REDACTED = "[redacted]"
SHORTEST_SECRET = 8
"""Characters; what is shorter is no key, and would take words out of texts."""
_told: set[str] = set()


def get_logger(name: str) -> Any:
    """Return a structlog logger bound to a module's name."""
    return structlog.get_logger(source=name)


def logs_json() -> bool:
    """Tell whether log lines are JSON here."""
    asked = os.environ.get(LOG_ENV)
    return asked == "json" if asked else "KUBERNETES_SERVICE_HOST" in os.environ


def configure_logging(*, verbose: bool = False) -> None:
    """Set structlog up on stderr for this process."""
    renderer: Any = (
        structlog.processors.JSONRenderer(sort_keys=True)
        if logs_json()
        else _text_renderer(sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _redact,
            renderer,
            # Again: a value may have held a secret inside, as lists and exceptions do.
            _redact_line,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if verbose else logging.INFO),
        # Looked up for each line: a live bar puts itself in stderr's place while it is shown.
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )
    # The clients log every request at info, and a request at debug carries story text.
    for noisy in ("httpx", "httpcore", "openai", "botocore", "boto3", "urllib3", "s3transfer"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _text_renderer(colors: bool) -> Any:
    """Return a renderer of readable lines, a traceback after its line."""
    render = structlog.dev.ConsoleRenderer(
        colors=colors, pad_event_to=0, exception_formatter=structlog.dev.plain_traceback
    )

    def rendered(logger: Any, name: str, event: MutableMapping[str, Any]) -> str:
        trace = event.pop("traceback", None)
        return f"{render(logger, name, event)}" + (f"\n{trace}" if trace else "")

    return rendered


def tolerate_any_encoding() -> None:
    """Let stdout and stderr show what their encoding has not as an escape, in place of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def keep_secret(value: str) -> None:
    """Remember a key that no variable's name gives away, so that no log line shows it."""
    # "none", for a server that wants no key, is a word like any other.
    if len(value) >= SHORTEST_SECRET:
        _told.add(value)


def secrets() -> list[str]:
    """Return what looks like a key in this process's environment, and what was told, longest first."""
    found = {
        value
        for name, value in os.environ.items()
        if len(value) >= SHORTEST_SECRET and name.upper().split("_")[-1] in _SECRET_NAMES
    }
    return sorted(found | _told, key=len, reverse=True)


def redact(text: str) -> str:
    """Return the text without any secret that this process knows of."""
    for secret in secrets():
        text = text.replace(secret, _REDACTED)
    return text


def _redact(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {key: redact(value) if isinstance(value, str) else value for key, value in event.items()}


def _redact_line(_: Any, __: str, line: Any) -> str:
    return redact(str(line))


class StopFlag:
    """Set by SIGTERM and SIGINT; work looks at it between pieces, saves and stops.

    A second SIGINT ends the process at once, as an impatient person expects. `said` is a line that the first
    one writes to stderr, for work that may take a while to stop.
    """

    def __init__(self, said: str | None = None) -> None:
        self.signal: int | None = None
        self._said = said

    @property
    def requested(self) -> bool:
        """Whether a signal asked to stop."""
        return self.signal is not None

    def check(self) -> None:
        """Raise Stopped if a signal asked to stop."""
        if self.signal is not None:
            raise Stopped(self.signal)

    def install(self) -> None:
        """Catch SIGTERM and SIGINT in this process, whose main thread must call this."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._caught)

    def _caught(self, number: int, _: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            if os.isatty(2):
                # A bar hides the cursor, and nothing of Python runs any more to show it.
                os.write(2, b"\n\x1b[?25h")
            os._exit(128 + number)
        first, self.signal = self.signal is None, number
        if self._said and first and number == signal.SIGINT:
            # Not by sys.stderr: a handler may interrupt a write to it.
            with contextlib.suppress(OSError):
                os.write(2, f"\n{self._said}\n".encode())


class ProgressBar:
    """Progress of `total` units: a bar with time left on a terminal, spaced log lines elsewhere.

    The bar has a line of its own, since figures beside it would push out count and time left at 80 columns.
    """

    LINE_EVERY_S = 5.0

    def __init__(self, total: float, what: str, *, logger: Any = None) -> None:
        self.total = total
        self.what = what
        self.done = 0.0
        self._resumed = 0.0
        self._log = logger or get_logger("progress")
        self._begun = time.monotonic()
        self._logged_at: float | None = None
        # A store's transfer counts from several threads.
        self._lock = threading.Lock()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> ProgressBar:
        if sys.stderr.isatty() and not logs_json():
            self._bar, what = _two_lines(self.what, self.total)
            self._task = self._bar.add_task(what, total=self.total, figures="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, n: float = 1, **figures: Any) -> None:
        """Count `n` more units done; `figures` are shown beside the bar.

        Units that an earlier attempt did are told by a figure `resumed`.
        """
        with self._lock:
            self._advance(n, figures)

    def _advance(self, n: float, figures: dict[str, Any]) -> None:
        before, self.done = self.done, self.done + n
        if "resumed" in figures:
            # What an earlier attempt did tells nothing of this one's speed.
            self._resumed += n
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, figures=_beside(figures))
            return
        now = time.monotonic()
        last = before < self.total <= self.done
        if self._logged_at is None or now - self._logged_at >= self.LINE_EVERY_S or last:
            self._logged_at = now
            rate = (self.done - self._resumed) / max(now - self._begun, 1e-9)
            left = max(self.total - self.done, 0) / rate if rate else 0.0
            self._log.info(
                "progress",
                what=self.what,
                done=_number(self.done),
                total=_number(self.total),
                seconds_left=round(left),
                **figures,
            )


def progress(total: float, what: str) -> ProgressBar:
    """Return a progress bar to be used in a `with` block."""
    return ProgressBar(total, what)


def _number(value: float) -> float | int:
    return int(value) if float(value).is_integer() else round(value, 2)


def _two_lines(what: str, total: float) -> tuple[Any, str]:
    """Return rich's progress with count, bar and time left in one line, figures below, and its short name."""
    from rich.console import Console, RenderableType
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class TwoLines(Progress):
        def get_renderables(self) -> Iterable[RenderableType]:
            yield self.make_tasks_table(self.tasks)
            for task in self.tasks:
                if task.fields["figures"]:
                    yield Text(task.fields["figures"], style="dim")

    console = Console(stderr=True)
    # What the count, the time left and the spaces between them leave to the name and the bar.
    room = console.width - 2 * len(f"{total:,.0f}") - len("/") - len("00:00:00") - 3
    longest = max(room - _SHORT, _SHORT)
    name = what if len(what) <= longest else f"{what[: longest - _SHORT]}…{what[1 - _SHORT :]}"
    bar = TwoLines(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=max(4, min(40, room - len(name)))),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    return bar, name


def _beside(figures: Mapping[str, Any]) -> str:
    """Return figures in few characters: a rate and what is spent first, then each under its name."""
    shown = []
    if "per_minute" in figures:
        shown.append(f"{figures['per_minute']:,.0f}/min")
    if figures.get("usd") or figures.get("usd_forecast"):
        forecast = f" of ~${figures['usd_forecast']:,.2f}" if "usd_forecast" in figures else ""
        shown.append(f"${figures.get('usd', 0.0):,.2f}{forecast}")
    rest = {name: value for name, value in figures.items() if name not in _TOLD}
    return "  ".join([*shown, *(f"{name} {_brief(value)}" for name, value in rest.items())])


_SHORT = 10
"""Columns that a bar needs at least, and characters of a long name's end that are kept."""
_TOLD = ("per_minute", "usd", "usd_forecast", "resumed")


def _brief(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def die_with_parent() -> None:
    """Ask Linux to send this process SIGTERM when its parent dies; elsewhere do nothing.

    For `preexec_fn`: a `kill -9` of the runner must leave no stage or model server behind.
    """
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        with contextlib.suppress(OSError):
            ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
