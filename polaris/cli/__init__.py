"""Command lines in, exit codes out. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import sys

import typer

from polaris.cli import check, config, imports, inspect, judge, model, reward, run

app = typer.Typer(
    name="polaris",
    help="Train a small open model to write long stories, have them judged, and see the figures.",
    epilog="Start with `polaris run examples/demo/demo.yaml`. Exit codes: 0 done, 1 a bug,"
    " 2 bad configuration, 3 missing or corrupt input, 4 budget spent, 5 stopped by a guard,"
    " 75 try again, 130/143 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (run, inspect, model, check, reward):
    module.register(app)
for name, group in (
    ("config", config.app),
    ("model", imports.models),
    ("data", imports.data),
    ("judge", judge.app),
):
    app.add_typer(group, name=name)


def main() -> None:
    """Run the command line; a user error is one line on stderr and its documented exit code."""
    from polaris.errors import PolarisError

    try:
        app(prog_name="polaris")
    except PolarisError as error:
        from polaris.runtime import redact

        for line in redact(str(error)).splitlines():
            print(f"error: {line}", file=sys.stderr)
        sys.exit(error.code)
    except KeyboardInterrupt:
        sys.exit(130)
