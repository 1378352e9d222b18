"""`polaris write` and `polaris serve`: a model of a run, or an endpoint, in; a story or a server out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from polaris.cli.options import ConfigFile

_DEFAULTS = (Path("polaris.yaml"), Path("examples/demo/demo.yaml"))


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command("write", epilog='Example: `polaris write "A ferry that runs once a year" --words 800`')(write)
    app.command("serve", epilog="Example: `polaris serve trained examples/demo/demo.yaml --port 8000`")(serve)


def write(
    prompt: Annotated[str, typer.Argument(help="What the story is about.")],
    words: Annotated[int, typer.Option(min=1, help="The story's length in words.")] = 800,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|URL[#MODEL]",
            help="A model of the run (default: the trained one), or an endpoint's base URL, up to and with"
            " /v1 and with its name of the model behind a # (default: the first model that it lists).",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            envvar="POLARIS_CONFIG",
            help="The run's YAML file (default: polaris.yaml here, else the demo's).",
        ),
    ] = None,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="Softmax temperature.")] = 0.8,
) -> None:
    """Stream one story to the terminal; a run's own model is served for as long as it takes.

    The story goes to stdout; everything else, a reasoning model's thoughts included, goes to stderr.
    """
    from polaris.cli.writing import write_story
    from polaris.runtime import configure_logging

    configure_logging()
    chosen = config or next((path for path in _DEFAULTS if path.is_file()), _DEFAULTS[0])
    write_story(prompt, words=words, model=model, config=chosen, temperature=temperature)


def serve(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A name under `models`.")],
    config: ConfigFile,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
) -> None:
    """Serve a checkpoint or trained model of the run, OpenAI-compatible, until stopped.

    Where the file that POLARIS_IDLE_FILE names is there, nothing is to do, and it only waits to be stopped.
    """
    from polaris.idle import is_idle, stay_idle
    from polaris.run import open_run
    from polaris.runtime import configure_logging
    from polaris.serve import serve as become_server

    configure_logging()
    if is_idle():
        stay_idle(model)
        return
    become_server(open_run(config), model, host, port)
