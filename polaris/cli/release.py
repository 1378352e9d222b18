"""An open release in, its state as tables and lines on a terminal, as changed lines or as JSON out."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import typer
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from polaris.cli.live import brief_counts
from polaris.cli.logs import readable
from polaris.errors import ConfigError, TransientError
from polaris.release.connect import KubeCluster
from polaris.release.follow import Follower
from polaris.release.logs import Source, lines
from polaris.release.objects import clock
from polaris.release.open import Release, open_release
from polaris.release.view import Row, View
from polaris.runtime import configure_logging

WATCH_S = 2.0
LINE_EVERY_S = 10.0
"""Progress alone prints a line no more often than this."""
AT_REST = ("complete", "pending", "on demand", "unknown")
"""States of which a low terminal shows only how many instances are in them."""
WIDE = 100
"""Columns from which a table shows all that it has."""
_STYLES = {
    "complete": "green",
    "completed": "green",
    "ready": "green",
    "running": "cyan",
    "starting": "cyan",
    "waiting": "yellow",
    "interrupted": "yellow",
    "failed": "red",
}


def chosen(context: typer.Context, config: Path | None, release: str | None) -> Path | None:
    """Return the configuration, None for a release. Raises ConfigError for both or neither."""
    if release is None:
        for option in ("namespace", "kube_context", "watch", "node"):
            if _typed(context, option):
                name = f"--{option.removeprefix('kube_')}"
                raise ConfigError(f"{name}: goes with a release; give --release NAME too")
        if config is None:
            raise ConfigError("neither CONFIG nor --release: give a run's YAML file, or --release NAME")
        return config
    # The shell's POLARIS_CONFIG is a default, no choice.
    if config is not None and _typed(context, "config"):
        raise ConfigError(f"both '{config}' and --release {release}: give one of them")
    return None


def _typed(context: typer.Context, parameter: str) -> bool:
    """Tell whether a parameter was given on the command line, and not by a default or a variable."""
    source = context.get_parameter_source(parameter)
    return source is not None and source.name == "COMMANDLINE"


@contextlib.contextmanager
def opened(release: str | None, namespace: str | None, kube_context: str | None) -> Iterator[Release]:
    """Open a release while the block lasts."""
    import logging

    import structlog

    assert release is not None
    configure_logging()
    # A person looks at a view here, in which what the store's client is at has no place.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with open_release(KubeCluster(namespace, kube_context), release) as found:
        yield found


def print_release(release: Release, *, as_json: bool) -> None:
    """Print a release's state once."""
    follower = Follower(release)
    view = follower.look()
    if as_json:
        print(json.dumps(_as_json(follower, view), indent=1))
        return
    console = _console()
    console.print(rendered(follower, view, console.width))


def watch_release(release: Release) -> int:
    """Show a release's state until its run is over; return the run's exit code."""
    follower = Follower(release)
    if sys.stdout.isatty():
        return _watch_live(follower)
    shown = _Changes()
    while True:
        with contextlib.suppress(TransientError):
            view = follower.look()
            for line in shown.of(follower, view):
                print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)
            if view.over:
                return view.code
        time.sleep(WATCH_S)


def _watch_live(follower: Follower) -> int:
    from rich.live import Live

    console = _console()
    view, trouble = follower.look(), ""
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while not view.over:
            told = Text(trouble, "yellow") if trouble else Text("Ctrl-C leaves it running.", "dim")
            seen = rendered(follower, view, console.width, console.height - 2)
            live.update(Group(seen, told), refresh=True)
            time.sleep(WATCH_S)
            try:
                view, trouble = follower.look(), ""
            except TransientError as error:
                trouble = str(error)
    console.print(rendered(follower, view, console.width))
    return view.code


def print_release_logs(release: Release, name: str, *, node: int, follow: bool) -> None:
    """Print the log of an instance, the orchestrator, a model's server or the store."""
    source = Source.named(release, name, node)
    for line in readable(lines(release, source, follow=follow)):
        print(line, flush=follow)


def _console() -> Console:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 120)
    return console


def rendered(follower: Follower, view: View, width: int, height: int | None = None) -> RenderableType:
    """Return all that there is to see of a release, for a terminal of so many columns.

    Where it has fewer than `height` lines, the table leaves out what is complete or has yet to begin.
    """
    lines = _lines(view)
    if follower.trouble:
        lines.append(Text(f"{follower.trouble}; the rest is what Kubernetes knows", "yellow"))
    tall = sum(1 + len(line.plain) // width + line.plain.count("\n") for line in lines) + len(view.rows) + 5
    if height is None or tall <= height:
        return Group(_table(follower, view.rows, width), *lines)
    at_work = [row for row in view.rows if row.state not in AT_REST]
    counts = {state: sum(row.state == state for row in view.rows) for state in AT_REST}
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    return Group(_table(follower, at_work, width), Text(f"and {told}", "dim"), *lines)


def _lines(view: View) -> list[Text]:
    """Return what is too long for a table: what instances, servers and the orchestrator are at."""
    parts = []
    for row in view.rows:
        if row.state != "complete" and (row.detail or row.pod):
            parts.append(_line(row.instance, row.state, row.detail or row.state, row.pod, row.node))
    for service in view.services:
        told = f"{service.state} for {clock(service.seconds)}"
        told += f": {service.detail}" if service.detail else ""
        parts.append(_line(f"model {service.model}", service.state, told, service.pod, service.node))
    parts.append(_line("orchestrator", view.orchestrator.state, _orchestrator(view), "", ""))
    return parts + [Text.assemble(("Note: ", "yellow"), note) for note in view.notes]


def _table(follower: Follower, rows: list[Row], width: int) -> Table:
    release = follower.release
    where = release.config.store.url
    title = f"release {release.name} in {release.cluster.namespace} · run {release.config.run} in {where}"
    table = Table(title=title, title_justify="left")
    wide = width >= WIDE
    for name in ("instance", "state", *(["digest"] if wide else [])):
        table.add_column(name, no_wrap=True)
    for name in ("try", "time", "USD"):
        table.add_column(name, justify="right", no_wrap=True)
    if wide:
        table.add_column("counts", overflow="fold")
    for row in rows:
        table.add_row(
            row.instance,
            f"[{_STYLES.get(row.state, 'dim')}]{row.state}[/]",
            *([row.digest[:8]] if wide else []),
            "" if row.attempt is None else str(row.attempt),
            "" if row.seconds is None else clock(row.seconds),
            "" if row.usd is None else f"{row.usd:.2f}",
            *([brief_counts(dict(row.counts))] if wide else []),
        )
    return table


def _line(subject: str, state: str, told: str, pod: str, node: str) -> Text:
    """Return a line about something, and where it is in a second one."""
    text = Text.assemble((f"{subject}: ", f"bold {_STYLES.get(state, 'default')}"), told)
    if pod:
        text.append(f"\n  pod {pod}{f' on {node}' if node else ''}", "dim")
    return text


def _orchestrator(view: View) -> str:
    found = view.orchestrator
    age = f" for {clock(found.seconds)}" if found.seconds is not None and not view.over else ""
    count = f", {found.restarts} restart{'s' if found.restarts > 1 else ''}" if found.restarts else ""
    return f"{found.state}{age}{count}" + (f": {found.detail}" if found.detail else "")


def _as_json(follower: Follower, view: View) -> dict[str, object]:
    release = follower.release
    found = asdict(view)
    return {
        "release": release.name,
        "namespace": release.cluster.namespace,
        "run": release.config.run,
        "store": release.config.store.url,
        "trouble": follower.trouble,
        "over": view.over,
        "orchestrator": found["orchestrator"],
        "services": found["services"],
        "instances": found["rows"],
        "notes": found["notes"],
    }


class _Changes:
    """What changed since the last look, a line each; progress alone only now and then."""

    def __init__(self) -> None:
        self._states: dict[str, str] = {}
        self._told: dict[str, set[str]] = {}
        self._at: dict[str, float] = {}

    def of(self, follower: Follower, view: View) -> Iterator[str]:
        """Yield the lines of what changed."""
        if follower.trouble:
            yield from self._changed("store", "trouble", follower.trouble)
        for row in view.rows:
            told = f"{row.state}{f' (attempt {row.attempt})' if row.attempt else ''}"
            if row.state == "complete":
                shown = brief_counts(dict(row.counts))
                told += f" in {clock(row.seconds or 0)}{f' ({shown})' if shown else ''}"
            elif row.detail:
                told += f": {row.detail}"
            yield from self._changed(row.instance, row.state, told)
        for service in view.services:
            told = f"{service.state}{f': {service.detail}' if service.detail else ''}"
            yield from self._changed(f"model {service.model}", service.state, told)
        for gone in self._states.keys() - {f"model {one.model}" for one in view.services}:
            if gone.startswith("model ") and self._states[gone] != "stopped":
                yield from self._changed(gone, "stopped", "stopped")
        found = view.orchestrator
        count = f", {found.restarts} restarts" if found.restarts else ""
        told = f"{found.state}{count}{f': {found.detail}' if found.detail else ''}"
        yield from self._changed("orchestrator", found.state, told)

    def _changed(self, subject: str, state: str, told: str) -> Iterator[str]:
        before = self._states.get(subject)
        if before is None and state in ("pending", "unknown"):
            return
        if before != state:
            self._told[subject] = set()
        # What goes back and forth, as pulling an image and waiting to, is told once.
        recent = time.monotonic() - self._at.get(subject, 0.0) < LINE_EVERY_S
        if told in self._told[subject] or (before == state == "running" and recent):
            return
        self._states[subject] = state
        self._told[subject].add(told)
        self._at[subject] = time.monotonic()
        yield f"{subject}: {told}"
