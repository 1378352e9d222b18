"""Arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[
    Path, typer.Argument(metavar="CONFIG", envvar="POLARIS_CONFIG", help="The run's YAML file.")
]
InstanceName = Annotated[
    str, typer.Argument(metavar="INSTANCE", help="For instance `train` or `generate.trained.story-quality`.")
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log debug lines too.")]

MaybeConfig = Annotated[
    Path | None,
    typer.Argument(metavar="CONFIG", envvar="POLARIS_CONFIG", help="The run's YAML file, or --release."),
]
ReleaseName = Annotated[
    str | None,
    typer.Option("--release", "-r", metavar="NAME", help="Follow this Helm release, by your kubeconfig."),
]
Namespace = Annotated[
    str | None,
    typer.Option("--namespace", "-n", help="The release's namespace (default: the kubeconfig's)."),
]
Context = Annotated[str | None, typer.Option("--context", help="Context of the kubeconfig.")]
