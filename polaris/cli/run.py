"""`polaris run`, `orchestrate`, `stage` and `probe`: a configuration in, finished artifacts out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polaris.cli.options import ConfigFile, InstanceName, Verbose

if TYPE_CHECKING:
    from polaris.execute.lease import Lease
    from polaris.execute.loop import Executor, Outcome
    from polaris.run import Run
    from polaris.runtime import StopFlag

Only = Annotated[
    list[str],
    typer.Option(
        "--only",
        metavar="PATTERN",
        help="Only the instances of this name or pattern, as `'judge.*.length'`, and what they need;"
        " may be repeated.",
    ),
]

NoNeeds = Annotated[
    bool,
    typer.Option(
        "--no-needs", help="Make what `--only` names and nothing before it, which must be complete."
    ),
]
CheckNeeds = Annotated[
    bool,
    typer.Option(
        "--check-needs",
        help="Start nothing; say what is to do, and fail if a need is missing. Waits while another process"
        " carries the run out.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command("run", epilog="Example: `polaris run examples/demo/demo.yaml`")(run)
    app.command("stage", epilog="Example: `polaris stage data examples/demo/demo.yaml`")(stage)
    app.command(
        "orchestrate",
        epilog="Example: `polaris orchestrate /etc/polaris/run.yaml --manifests /etc/polaris`",
    )(orchestrate)
    app.command("probe", epilog="Example: `polaris probe http://127.0.0.1:8000/v1 trained`")(probe)


def run(
    config: ConfigFile,
    only: Only = [],  # noqa: B006
    no_needs: NoNeeds = False,
    check_needs: CheckNeeds = False,
    verbose: Verbose = False,
) -> None:
    """Carry a run out: start what is missing, skip what is complete, go on where it stopped.

    May be killed at any moment and called again. A second call at the same time waits for the first.
    Models that POLARIS_ENDPOINTS names are served already and get no server.
    """
    from polaris.cli.summary import print_summary
    from polaris.errors import Stopped
    from polaris.execute.lease import Lease, wait_until_free
    from polaris.execute.local import LocalExecutor
    from polaris.idle import mark_idle
    from polaris.run import open_run
    from polaris.runtime import StopFlag, configure_logging

    configure_logging(verbose=verbose)
    stop = StopFlag()
    stop.install()
    opened = open_run(config)
    _require_revisions(opened)
    selected = opened.plan.selected(only, needs=not (no_needs or check_needs))
    if check_needs:
        wait_until_free(opened.store, opened.config.run, stop)
    missing = [name for name in opened.plan.instances if name in selected and not opened.manifest(name)]
    if no_needs or check_needs:
        _require_needs(opened, selected, missing)
    if check_needs:
        if not missing:
            mark_idle()
        print(f"to do: {', '.join(missing)}" if missing else _nothing_to_do(selected))
        return
    if not missing:
        print_summary(opened, selected, {})
        print(_nothing_to_do(selected))
        return
    try:
        with Lease(opened.store, opened.config.run, stop) as lease:
            executor = LocalExecutor(opened)
            try:
                outcome = _carried_out(opened, executor, selected, stop, lease)
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


def orchestrate(
    config: ConfigFile,
    manifests: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Folder of the rendered `stage-KIND.yaml` and `serve-MODEL.yaml`."),
    ],
    keep: Annotated[
        list[str], typer.Option(metavar="MODEL", help="Leave this model's server up; may be repeated.")
    ] = [],  # noqa: B006
    namespace: Annotated[
        str, typer.Option(envvar="POLARIS_NAMESPACE", help="Default: this pod's, or the kubeconfig's.")
    ] = "",
    release: Annotated[
        str, typer.Option(envvar="POLARIS_RELEASE", help="The Helm release whose manifests these are.")
    ] = "polaris",
    orchestrator: Annotated[
        str,
        typer.Option(
            envvar="POLARIS_ORCHESTRATOR", help="Only failures of Jobs with this mark use attempts up."
        ),
    ] = "",
    verbose: Verbose = False,
) -> None:
    """Carry a run out on Kubernetes, with a Job a stage and a Deployment a model server.

    Killed at any moment and called again, it adopts what it started. Codes 2 to 5 call for a person.
    """
    from polaris.cli.summary import print_summary
    from polaris.execute.cluster import ClusterExecutor
    from polaris.execute.deployments import no_servers_left
    from polaris.execute.kube import Kube, own_namespace
    from polaris.execute.lease import Lease
    from polaris.execute.loop import through_outages
    from polaris.run import open_run
    from polaris.runtime import StopFlag, configure_logging

    configure_logging(verbose=verbose)
    stop = StopFlag()
    stop.install()

    def connect() -> Kube:
        return Kube(namespace or own_namespace(), stop)

    def attempt(going_well: Callable[[], None]) -> Outcome:
        with Lease(opened.store, opened.config.run, stop) as lease:
            executor = ClusterExecutor(
                opened, kube, manifests, release=release, orchestrator=orchestrator, keep=frozenset(keep)
            )
            return _carried_out(opened, executor, selected, stop, lease, going_well)

    # By hand, a mistyped path must not end the servers of the orchestrator that is at work.
    with no_servers_left(connect, release, frozenset(keep)) if orchestrator else nullcontext():
        opened = open_run(config)
        _require_models(opened, keep)
        selected = opened.plan.selected([])
        kube = connect()
        outcome = through_outages(attempt, stop)
    _tell_lost(outcome)
    print_summary(opened, selected, outcome.reasons)
    raise typer.Exit(outcome.final_code)


def probe(
    url: Annotated[str, typer.Argument(metavar="URL", help="The endpoint's base URL, with /v1.")],
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The name that the endpoint knows it by.")],
) -> None:
    """Tell by the exit code whether a model's endpoint generates a token.

    Where the file that POLARIS_IDLE_FILE names is there, no token is needed, and none is asked for.
    """
    from polaris.errors import TransientError
    from polaris.idle import is_idle
    from polaris.probe import probe

    if is_idle():
        return
    if answer := probe(url, model):
        raise TransientError(f"{url} gives no token of '{model}': {answer}")


def _require_revisions(run: Run) -> None:
    """Raise ConfigError where a model's revision is the word REVISION: no stage could fetch that."""
    from polaris.errors import ConfigError
    from polaris.imports import placeholders

    if found := list(placeholders(run.config)):
        raise ConfigError("\n".join(found))


def _require_needs(run: Run, selected: set[str], missing: list[str]) -> None:
    """Raise InputError naming what is not complete that the incomplete instances need from outside."""
    from polaris.errors import InputError

    for name in missing:
        for need in run.plan.instances[name].needs:
            if need not in selected and not run.manifest(need):
                digest = run.plan.instances[need].digest
                raise InputError(f"{name} needs {need} ({digest}), which is not complete in {run.store.url}")


def _require_models(run: Run, keep: list[str]) -> None:
    from polaris.errors import ConfigError

    for model in keep:
        if model not in run.config.models:
            models = ", ".join(run.config.models)
            raise ConfigError(f"--keep: '{model}' is no model of this run; it has {models}")


def _tell_lost(outcome: Outcome) -> None:
    """Log what an orchestrator gave up, why, and how a person goes on."""
    from polaris.runtime import get_logger

    if outcome.lost:
        get_logger("run").error(
            "lost",
            instances={name: outcome.reasons[name] for name in outcome.lost},
            code=outcome.final_code,
            go_on="mend it, delete the failed Jobs and this one, and run `helm upgrade`; or change the"
            " configuration and run `helm upgrade`",
        )


def _nothing_to_do(selected: set[str]) -> str:
    return f"nothing to do: {', '.join(sorted(selected))} complete"


def _carried_out(
    run: Run,
    executor: Executor,
    selected: set[str],
    stop: StopFlag,
    lease: Lease,
    going_well: Callable[[], None] = lambda: None,
) -> Outcome:
    """Carry a run out and show it."""
    from polaris.cli.live import Live
    from polaris.execute.loop import carry_out

    with Live(run, executor) as live:

        def poll() -> None:
            going_well()
            live.poll()

        return carry_out(
            run,
            executor,
            selected,
            stop,
            on_change=live.change,
            on_poll=poll,
            is_ours=lambda: not lease.lost,
        )
