"""`polaris run` and `polaris stage`: a configuration in, finished artifacts out."""

from __future__ import annotations

from typing import Annotated

import typer

from polaris.cli.options import ConfigFile, InstanceName, Verbose

Only = Annotated[
    list[str],
    typer.Option("--only", metavar="INSTANCE", help="Only this instance and what it needs; may be repeated."),
]


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command("run", epilog="Example: `polaris run examples/demo/demo.yaml`")(run)
    app.command("stage", epilog="Example: `polaris stage data examples/demo/demo.yaml`")(stage)


def run(config: ConfigFile, only: Only = [], verbose: Verbose = False) -> None:  # noqa: B006
    """Carry a run out: start what is missing, skip what is complete, go on where it stopped.

    May be killed at any moment and called again. A second call at the same time waits for the first.
    """
    from polaris.cli.live import Live
    from polaris.cli.summary import print_summary
    from polaris.errors import Stopped
    from polaris.execute.lease import Lease
    from polaris.execute.local import LocalExecutor
    from polaris.execute.loop import carry_out
    from polaris.run import open_run
    from polaris.runtime import StopFlag, configure_logging

    configure_logging(verbose=verbose)
    stop = StopFlag()
    stop.install()
    opened = open_run(config)
    selected = opened.plan.selected(only)
    if all(opened.manifest(name) for name in opened.plan.instances if name in selected):
        print_summary(opened, selected, {})
        return
    try:
        with Lease(opened.store, opened.config.run, stop) as lease:
            executor = LocalExecutor(opened)
            try:
                with Live(opened, executor) as live:
                    outcome = carry_out(
                        opened,
                        executor,
                        selected,
                        stop,
                        on_change=live.change,
                        on_poll=live.poll,
                        is_ours=lambda: not lease.lost,
                    )
            finally:
                executor.close()
    except Stopped:
        print_summary(opened, selected, {})
        raise
    print_summary(opened, selected, outcome.reasons)
    raise typer.Exit(outcome.code)


def stage(instance: InstanceName, config: ConfigFile, verbose: Verbose = False) -> None:
    """Make one instance's artifact here; what it needs must be complete.

    This is what `polaris run` starts as a process and a cluster as a Job.
    """
    from polaris.runtime import configure_logging
    from polaris.stage import run_stage

    configure_logging(verbose=verbose)
    raise typer.Exit(run_stage(config, instance))
