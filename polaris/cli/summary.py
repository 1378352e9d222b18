"""A run's store in, the table of its instances and where its report lies out."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from polaris.artifact import Artifact
from polaris.cli.live import brief_counts
from polaris.cli.pages import save_report
from polaris.config import section_of
from polaris.errors import MEANING
from polaris.execute.lease import is_held
from polaris.models import TrainedModel
from polaris.plan import train_instance
from polaris.run import Run
from polaris.stage import newest_status

_STYLES = {"complete": "green", "running": "cyan", "failed": "red", "interrupted": "yellow"}


@dataclass(frozen=True)
class Row:
    """One instance as `polaris status` shows it."""

    instance: str
    state: str
    digest: str
    seconds: float | None
    counts: dict[str, float]
    usd: float | None
    reason: str


def rows(run: Run, selected: set[str], reasons: dict[str, str]) -> list[Row]:
    """Return a row an instance; `reasons` are failures that this process knows of."""
    held = is_held(run.store, run.config.run)
    found = []
    for name in run.plan.instances:
        if name not in selected:
            continue
        digest = run.plan.instances[name].digest
        manifest = run.manifest(name)
        if manifest:
            usd = manifest.cost.get("usd")
            found.append(Row(name, "complete", digest, manifest.seconds, manifest.counts, usd, ""))
            continue
        status = newest_status(run.store, run.prefix(name))
        state = str(status.get("state") or ("on demand" if run.plan.instances[name].on_demand else "pending"))
        if state == "running" and not held:
            state = "interrupted"
        reason = reasons.get(name) or str(status.get("reason") or "")
        if name in reasons:
            state = "failed"
        if status.get("code") in MEANING and state == "failed":
            reason = f"{reason} (exit code {status['code']}: {MEANING[status['code']]})"
        found.append(Row(name, state, digest, None, {}, None, reason))
    return found


def print_status(run: Run, *, as_json: bool) -> None:
    """Print the run's instances as a table or as JSON."""
    found = rows(run, set(run.plan.instances), {})
    if as_json:
        print(json.dumps([asdict(row) for row in found], indent=1))
        return
    _print(run, found)


def print_summary(run: Run, selected: set[str], reasons: dict[str, str]) -> None:
    """Print the table, the artifacts' notes, a run's arms side by side, and the paths of report copies."""
    found = rows(run, selected, reasons)
    console = _print(run, found)
    done = sum(row.state == "complete" for row in found)
    usd = sum(row.usd or 0 for row in found)
    seconds = sum(row.seconds or 0 for row in found)
    total = f"{done} of {len(found)} complete · {seconds / 60:.1f} min of work · {usd:.2f} USD"
    console.print(total, soft_wrap=True)
    if run.config.arms and (table := _arms(run)).row_count:
        console.print(table)
    for name, instance in run.plan.instances.items():
        manifest = run.manifest(name) if name in selected and instance.kind == "report" else None
        if manifest:
            console.print(f"Report: {save_report(run, manifest)}", soft_wrap=True)


def _arms(run: Run) -> Table:
    """Return a table of the models that trainings make and that are evaluated: one row a model."""
    from polaris.report.records import of_artifact
    from polaris.report.training import training_facts

    evaluations = [name for name, found in run.config.evaluations.items() if not found.on_demand]
    table = Table(title="trainings side by side", title_justify="left")
    for name in ("model", "training"):
        table.add_column(name, no_wrap=True)
    for name in ("steps", "reward", "USD", *(f"Story Quality, {name}" for name in evaluations)):
        table.add_column(name, justify="right")
    for name, model in run.config.models.items():
        scores = [_quality(run, f"evaluate.{name}.{evaluation}") for evaluation in evaluations]
        cells = ["", "", "", ""]
        if isinstance(model, TrainedModel):
            manifest = run.manifest(train_instance(model.arm))
            cells[0] = section_of(model.arm)
            if manifest is not None:
                records = of_artifact(Artifact(run.store, manifest))
                facts = training_facts(model.arm, records, run.config, {}, None)
                first, last = facts["summary"]["reward_first"], facts["summary"]["reward_last"]
                reward = "" if first is None or last is None else f"{first:.3f} → {last:.3f}"
                cells[1:] = [f"{facts['summary']['steps']}", reward, f"{manifest.cost.get('usd', 0):.2f}"]
        if any(scores) or any(cells[1:]):
            table.add_row(name, *cells, *scores)
    return table


def _quality(run: Run, name: str) -> str:
    """Return an evaluation's mean score with its interval, empty where there is none."""
    manifest = run.manifest(name) if name in run.plan.instances else None
    if manifest is None:
        return ""
    found = json.loads(Artifact(run.store, manifest).read("result.json"))["figures"]["story_quality"]
    if found["value"] is None:
        return "none scored"
    between = "" if found["low"] is None else f" ({found['low']:.1f} to {found['high']:.1f})"
    return f"{found['value']:.1f}{between}"


def _table(run: Run, found: list[Row]) -> Table:
    table = Table(title=f"run {run.config.run} in {run.store.url}", title_justify="left")
    for name in ("instance", "state", "digest"):
        table.add_column(name, no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("USD", justify="right", no_wrap=True)
    table.add_column("counts", overflow="fold")
    for row in found:
        table.add_row(
            row.instance,
            f"[{_STYLES.get(row.state, 'dim')}]{row.state}[/]",
            row.digest[:8],
            "" if row.seconds is None else _clock(row.seconds),
            "" if row.usd is None else f"{row.usd:.2f}",
            brief_counts(row.counts),
        )
    return table


def _print(run: Run, found: list[Row]) -> Console:
    """Print the table, then what is too long for it: reasons and notes, a line each."""
    manifests = [run.manifest(row.instance) for row in found if row.state == "complete"]
    notes = dict.fromkeys(note for manifest in manifests if manifest for note in manifest.notes)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 120)
    console.print(_table(run, found))
    for row in found:
        if row.reason:
            text = f"[red]{row.instance}:[/] {_escaped(row.reason)}"
            console.print(text, soft_wrap=True)
    for note in notes:
        console.print(f"[yellow]Note:[/] {_escaped(note)}", soft_wrap=True)
    return console


def _clock(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
