"""A run's store in, its report page as a file out: the finished one, or one of what is there by now."""

from __future__ import annotations

import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from polaris.artifact import Artifact, Manifest
from polaris.errors import ConfigError, InputError, TransientError
from polaris.run import Run

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def report_file(run: Run, name: str) -> Path:
    """Return where the configuration says that a report's page goes; an evaluation's own is beside it."""
    path = run.config.execute.report_file
    _, _, evaluation = name.partition(".")
    return path.with_name(f"{path.stem}-{evaluation}{path.suffix}") if evaluation else path


def save_report(run: Run, manifest: Manifest) -> str:
    """Write a finished report's page to where the configuration says; return the path."""
    path = report_file(run, manifest.instance)
    data = Artifact(run.store, manifest).read("report.html")
    if not path.is_file() or path.read_bytes() != data:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_page(path, data)
    return str(path)


def write_page(path: Path, data: bytes) -> None:
    """Replace a page at once: who opens it meanwhile sees the old one or the new one, whole."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def make_page(run: Run, name: str, out: Path | None, *, fix: str) -> Path:
    """Write a report's page to `out`, or where the configuration says; return the path.

    The page of a report that is not finished shows what is there now, and says so; how far the run is goes
    to stderr.

    Raises:
        ConfigError: there is no such report, the page cannot be written, or drawing it needs a package
            that is not installed.
        InputError: nothing of it has begun; `fix` says what to do.

    """
    instance = run.instance(name)
    manifest = run.manifest(name)
    if manifest is not None:
        return (
            Path(save_report(run, manifest))
            if out is None
            else _written(run, out, name, _page(run, manifest))
        )
    drawn = _drawn(run, name, None)
    if drawn is None:
        if instance.on_demand:
            fix = f"it is made on demand: `polaris run … --only {name}`"
        raise InputError(f"{name} is not complete in {run.store.url}; {fix}")
    page, told = drawn
    print(f"run {run.config.run} {told}", file=sys.stderr)
    return _written(run, out, name, page)


def follow_page(
    opened: Callable[[], Run],
    name: str,
    out: Path | None,
    every: int,
) -> None:
    """Draw a report's page every so many seconds until it is finished, or until Ctrl-C; print its path.

    A page that is followed has a browser show it anew as often; the last one has not. A store that cannot be
    reached is told of and tried again. `opened` returns the run as it is known by then.
    """
    run = opened()
    run.instance(name)
    path, told = None, ""
    try:
        while (manifest := _tried(lambda: opened().manifest(name))) is None:
            drawn = _tried(lambda: _drawn(opened(), name, every))
            if drawn is not None:
                new = _written(run, out, name, drawn[0])
                if path is None:
                    print(f"{new}: open it in a browser; Ctrl-C ends the drawing, not the run", flush=True)
                path = new
            said = drawn[1] if drawn else "has nothing to show yet"
            if said != told:
                told = said
                print(f"{time.strftime('%H:%M:%S')} run {run.config.run} {told}", file=sys.stderr, flush=True)
            _pause(every)
    except KeyboardInterrupt:
        last = _tried(lambda: _drawn(opened(), name, None)) if path else None
        if last is not None:
            _written(run, out, name, last[0])
        print(f"{path}: as of now; the run itself goes on" if path else "no page was drawn")
        return
    path = _written(run, out, name, _page(opened(), manifest))
    print(f"{path}: the report is finished")


def _pause(seconds: float) -> None:
    time.sleep(seconds)


def _page(run: Run, manifest: Manifest) -> bytes:
    return Artifact(run.store, manifest).read("report.html")


def _drawn(run: Run, name: str, refresh: int | None) -> tuple[bytes, str] | None:
    """Return the page as of now and a line about it; None if nothing has begun."""
    from polaris.cli.summary import rows

    try:
        from polaris.report.live import Part, headline, live_facts
        from polaris.report.page import render
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"drawing a page needs the package '{error.name}', which is not installed here;"
            " install polaris[report]"
        ) from None
    needs = set(run.instance(name).needs)
    parts = [Part(row.instance, row.state, row.reason) for row in rows(run, needs, {})]
    facts = live_facts(run, name, parts, datetime.now(UTC))
    if facts is None:
        return None
    return render(facts, refresh).encode("utf-8", "replace"), headline(facts)


def _tried(look: Callable[[], T]) -> T | None:
    """Return what there is, None while the store cannot be reached, which is told."""
    try:
        return look()
    except TransientError as error:
        print(f"{time.strftime('%H:%M:%S')} {error}; tried again later", file=sys.stderr, flush=True)
        return None


def _written(run: Run, out: Path | None, name: str, page: bytes) -> Path:
    path = out or report_file(run, name)
    try:
        if out is None:
            path.parent.mkdir(parents=True, exist_ok=True)
        write_page(path, page)
    except OSError as error:
        setting = "--out" if out else "execute.report_file"
        raise ConfigError(f"{setting}: '{path}' cannot be written: {error.strerror}") from None
    return path
