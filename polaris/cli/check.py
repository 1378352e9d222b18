"""`polaris check`: a configuration in, a line for each thing that works or does not out."""

from __future__ import annotations

from typing import Annotated

import typer

from polaris.cli.options import ConfigFile


def register(app: typer.Typer) -> None:
    """Add this file's command."""
    app.command("check", epilog="Example: `polaris check examples/demo/demo.yaml`")(check)


def check(
    config: ConfigFile,
    cluster: Annotated[
        bool,
        typer.Option("--cluster", help="In a pod: also what its service account may and may not do."),
    ] = False,
) -> None:
    """Check what a run needs before it starts, and list all that is wrong; exit 2 if something is.

    That is its configuration, its store, the endpoints that others serve, its files and imports. The store
    is written to, below `checks/`, and cleaned again. No key is ever printed.
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
    for finding in check_all(config, can_i):
        failed |= finding.state == "failed"
        print(finding, flush=True)
    if failed:
        raise typer.Exit(BAD_CONFIG)
