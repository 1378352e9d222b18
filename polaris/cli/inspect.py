"""`polaris status`, `logs`, `report` and `gc`: a run's store in, what is there out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from polaris.cli.options import ConfigFile, InstanceName


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command("status", epilog="Example: `polaris status examples/demo/demo.yaml`")(status)
    app.command("logs", epilog="Example: `polaris logs train examples/demo/demo.yaml --follow`")(logs)
    app.command("report", epilog="Example: `polaris report examples/demo/demo.yaml --out r.html`")(report)
    app.command("gc", epilog="Example: `polaris gc examples/demo/demo.yaml --dry-run`")(gc)


def status(
    config: ConfigFile, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """Show every instance: state, digest, time, counts, cost, and why it failed."""
    from polaris.cli.summary import print_status
    from polaris.run import open_run

    print_status(open_run(config), as_json=as_json)


def logs(
    instance: InstanceName,
    config: ConfigFile,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing while it runs.")] = False,
) -> None:
    """Print the log of an instance's newest attempt; `service-MODEL` is a model server's."""
    from polaris.cli.logs import print_logs
    from polaris.run import open_run

    print_logs(open_run(config), instance, follow=follow)


def report(
    config: ConfigFile, out: Annotated[Path | None, typer.Option(help="Write the page here.")] = None
) -> None:
    """Fetch the report page of a finished run and print its path."""
    from polaris.artifact import Artifact
    from polaris.cli.summary import save_report
    from polaris.errors import InputError
    from polaris.run import open_run

    run = open_run(config)
    manifest = run.manifest("report")
    if manifest is None:
        raise InputError(f"report is not complete in {run.store.url}; `polaris run {config}` makes it")
    if out is None:
        print(save_report(run, manifest))
        return
    out.write_bytes(Artifact(run.store, manifest).read("report.html"))
    print(out)


def gc(
    config: ConfigFile,
    abandon: Annotated[
        bool, typer.Option("--abandon", help="Also drop what unfinished stages could go on from.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Remove attempts that no manifest names and the progress of finished stages."""
    from polaris.execute.garbage import clear_scratch, collect
    from polaris.execute.lease import Lease
    from polaris.run import open_run
    from polaris.runtime import StopFlag, configure_logging

    configure_logging()
    run = open_run(config)
    stop = StopFlag()
    stop.install()
    with Lease(run.store, run.config.run, stop):
        found = collect(run.store, run.config.run, abandon=abandon)
        if not dry_run:
            run.store.delete([info.key for info in found])
            clear_scratch(run, abandon=abandon)
    size = sum(info.size for info in found)
    print(f"{'would remove' if dry_run else 'removed'} {len(found)} objects, {size / 2**20:,.1f} MiB")
