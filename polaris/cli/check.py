"""`polaris check`: a configuration in, a line for each thing that works or does not out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from polaris.cli.options import ConfigFile

if TYPE_CHECKING:
    from polaris.checks.finding import Finding

NARROWEST = 60
"""Columns below which a terminal's lines are left to it."""


def register(app: typer.Typer) -> None:
    """Add this file's command."""
    app.command("check", epilog="Example: `polaris check examples/demo/demo.yaml`")(check)


def check(
    config: ConfigFile,
    cluster: Annotated[
        bool,
        typer.Option("--cluster", help="In a pod: also what its service account may and may not do."),
    ] = False,
    ask: Annotated[
        bool, typer.Option("--ask", help="Have each judge of others judge one short story: paid calls.")
    ] = False,
    parity: Annotated[
        bool,
        typer.Option(
            "--parity",
            help="Load the models to train and compare the log-probabilities that trainer and engine give one"
            " text, padded too: minutes for a large model.",
        ),
    ] = False,
    gpu_gb: Annotated[
        float | None,
        typer.Option("--gpu-gb", min=1, help="Memory of the GPUs to train on, if they are not these, GB."),
    ] = None,
) -> None:
    """Check what a run needs before it starts, and list all that is wrong; exit 2 if something is.

    That is its configuration, packages, store, endpoints, GPUs and their memory, disk, data, files and
    imports. A warning says what may go wrong, or what cannot be known on this machine. The store is written
    to, below `checks/`, and cleaned again. No key is ever printed.
    """
    from polaris.check import check as check_all
    from polaris.check import pod_namespace
    from polaris.errors import BAD_CONFIG, ConfigError
    from polaris.release.connect import in_cluster_can_i
    from polaris.runtime import configure_logging

    configure_logging()
    can_i = None
    if cluster:
        namespace = pod_namespace()
        if namespace is None:
            raise ConfigError("--cluster: this is no pod; leave it out here, `helm test` runs it in one")
        can_i = in_cluster_can_i(namespace)
    failed = False
    for finding in check_all(config, can_i, ask=ask, gpu_bytes=gpu_gb and gpu_gb * 1e9, parity=parity):
        failed |= finding.state == "failed"
        _show(finding)
    if failed:
        raise typer.Exit(BAD_CONFIG)


def _show(finding: Finding) -> None:
    """Print a finding, in a terminal folded below its detail, and its table."""
    import textwrap

    from rich.console import Console
    from rich.table import Table

    from polaris.checks.finding import INDENT

    console = Console(highlight=False, markup=False)
    line = str(finding)
    if console.is_terminal and console.width >= NARROWEST:
        below = " " * INDENT
        # A path, a URL or an option is copied from here: it stays whole.
        fold = textwrap.TextWrapper(console.width - 1, subsequent_indent=below, break_long_words=False)
        fold.break_on_hyphens = False
        line = fold.fill(line)
    print(line, flush=True)
    if not finding.table:
        return
    if not console.is_terminal:
        console.width = max(console.width, 120)
    title, *numbers, last = finding.table[0]
    table = Table(box=None, pad_edge=False, show_footer=False)
    table.add_column(title, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column(last, overflow="fold")
    for row in finding.table[1:]:
        table.add_row(*row)
    with console.capture() as drawn:
        console.print(table)
    print("\n".join(row.rstrip() for row in drawn.get().splitlines()), flush=True)
