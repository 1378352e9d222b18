"""`polaris status`, `logs`, `report`, `cost` and `gc`: a run's store, or a release, in; what is there out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from polaris.cli.options import ConfigFile, Context, InstanceName, MaybeConfig, Namespace, ReleaseName

EVERY_S = 30
"""Seconds between two drawings of a page that is followed."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    on = "--release polaris -n NAMESPACE"
    run = "examples/demo/demo.yaml"
    for name, command, examples in (
        ("status", status, (run, f"{on} --watch")),
        ("logs", logs, (f"train {run} --follow", f"orchestrator {on}")),
        ("report", report, (f"{run} --out r.html", f"{on} --follow")),
        ("cost", cost, (run, f"{on} --gpu-hour-usd 2.5")),
    ):
        shown = ", ".join(f"`polaris {name} {example}`" for example in examples)
        app.command(name, epilog=f"Examples: {shown}")(command)
    app.command("gc", epilog="Example: `polaris gc examples/demo/demo.yaml --dry-run`")(gc)


def status(
    context: typer.Context,
    config: MaybeConfig = None,
    as_json: AsJson = False,
    release: ReleaseName = None,
    namespace: Namespace = None,
    kube_context: Context = None,
    watch: Annotated[
        bool,
        typer.Option("--watch", "-w", help="Refresh every 2 s until the release's run is over."),
    ] = False,
) -> None:
    """Show every instance: state, digest, time, counts, cost, and why it failed or waits.

    Of a release also its pods, its models' servers and its orchestrator; `--watch` ends with the run's
    exit code.
    """
    from polaris.cli.release import chosen, opened, print_release, watch_release
    from polaris.cli.summary import print_status
    from polaris.errors import ConfigError
    from polaris.run import open_run

    path = chosen(context, config, release)
    if path is not None:
        if watch:
            raise ConfigError(
                "--watch: follows a release; give --release NAME, or watch `polaris run` itself"
            )
        print_status(open_run(path), as_json=as_json)
        return
    if watch and as_json:
        raise ConfigError("--watch: has no JSON; call with --json as often as you like instead")
    with opened(release, namespace, kube_context) as found:
        if watch:
            raise typer.Exit(watch_release(found))
        print_release(found, as_json=as_json)


def logs(
    context: typer.Context,
    instance: InstanceName,
    config: MaybeConfig = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing while it runs.")] = False,
    release: ReleaseName = None,
    namespace: Namespace = None,
    kube_context: Context = None,
    node: Annotated[int, typer.Option(min=0, help="Machine of a training on several, with --release.")] = 0,
) -> None:
    """Print the log of an instance's newest attempt; `service-MODEL` is a model server's.

    Of a release also `orchestrator` and `store`; an instance's pod that is gone left its log in the store.
    """
    from polaris.cli.logs import print_logs
    from polaris.cli.release import chosen, opened, print_release_logs
    from polaris.run import open_run

    path = chosen(context, config, release)
    if path is not None:
        print_logs(open_run(path), instance, follow=follow)
        return
    with opened(release, namespace, kube_context) as found:
        print_release_logs(found, instance, node=node, follow=follow)


def report(
    context: typer.Context,
    config: MaybeConfig = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write the page here (default: execute.report_file, for a release"
            " ./polaris-report-RUN.html)."
        ),
    ] = None,
    evaluation: Annotated[
        str | None, typer.Option("--evaluation", metavar="NAME", help="The page of an evaluation on demand.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Keep drawing it until the report is finished.")
    ] = False,
    every: Annotated[
        int | None,
        typer.Option(min=1, metavar="SECONDS", help="How often, with `--follow` (default: 30)."),
    ] = None,
    release: ReleaseName = None,
    namespace: Namespace = None,
    kube_context: Context = None,
) -> None:
    """Write a run's report page and print its path.

    While the run goes on, the page shows what is there: what is finished, and how far each training is.
    """
    from polaris.cli.pages import follow_page, make_page
    from polaris.cli.release import chosen, opened
    from polaris.errors import ConfigError
    from polaris.run import open_run

    if every is not None and not follow:
        raise ConfigError("--every: goes with --follow; give it too, or leave both out for one page")
    name = f"report.{evaluation}" if evaluation else "report"
    path = chosen(context, config, release)
    if path is not None:
        run = open_run(path)
        if follow:
            follow_page(lambda: run, name, out, every or EVERY_S)
        else:
            print(make_page(run, name, out, fix=f"`polaris run {path}` makes it"))
        return
    with opened(release, namespace, kube_context) as found:
        out = out or Path(f"polaris-{name.replace('.', '-')}-{found.config.run}.html")
        if follow:
            follow_page(found.opened, name, out, every or EVERY_S)
            return
        fix = f"`polaris status --release {release} -n {found.cluster.namespace}` tells how far it is"
        print(make_page(found.opened(), name, out, fix=fix))


def cost(
    context: typer.Context,
    config: MaybeConfig = None,
    as_json: AsJson = False,
    prompt_tokens: Annotated[
        int | None,
        typer.Option(min=0, help="Tokens that a judge call reads, until this run has measured it [8000]."),
    ] = None,
    completion_tokens: Annotated[
        int | None,
        typer.Option(min=0, help="Tokens that a judge call writes, until this run has measured it [2500]."),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Training steps, as long as neither data nor max_steps tells them."),
    ] = None,
    gpu_hour_usd: Annotated[
        float | None, typer.Option(min=0, help="Price of one GPU for one hour, US$ (default: hours only).")
    ] = None,
    release: ReleaseName = None,
    namespace: Namespace = None,
    kube_context: Context = None,
) -> None:
    """Show what the run has cost, and what is to come, with all that the forecast rests on."""
    from polaris.cli.cost import print_costs
    from polaris.cli.release import chosen, opened
    from polaris.release.spending import of_release, works_of
    from polaris.run import open_run

    tokens = (prompt_tokens, completion_tokens)
    path = chosen(context, config, release)
    if path is not None:
        run = open_run(path)
        print_costs(run, *works_of(run, steps=steps), tokens, gpu_hour_usd, as_json=as_json)
        return
    with opened(release, namespace, kube_context) as found:
        print_costs(*of_release(found, steps), tokens, gpu_hour_usd, as_json=as_json)


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
