"""Options that `polaris judge`'s commands share, as Typer reads them; what they gave, as settings, out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

Out = Annotated[
    Path, typer.Option("--out", metavar="DIR", help="Folder for what comes out; it is made if need be.")
]
Config = Annotated[
    Path | None, typer.Option("--config", "-c", metavar="YAML", help="A run's YAML file, with --judge.")
]
JudgeName = Annotated[
    str | None, typer.Option("--judge", metavar="NAME", help="A name under `judges` (default: the only one).")
]
Url = Annotated[str | None, typer.Option(metavar="URL", help="Base URL of an endpoint, up to and with /v1.")]
Model = Annotated[str | None, typer.Option(metavar="NAME", help="The endpoint's name of the model.")]
Identity = Annotated[
    str | None, typer.Option(metavar="NAME", help="What the model is, for the results (default: --model).")
]
Provider = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="openai, gemini, vllm or other (default: openai; vllm or other for your own server).",
    ),
]
KeyVariable = Annotated[
    str | None,
    typer.Option(
        metavar="VAR",
        help="Variable with the key (default: OPENAI_API_KEY); set it to none if the endpoint wants no key.",
    ),
]
Form = Annotated[
    str | None,
    typer.Option(
        metavar="FORM", help="The rubric's form: full (notes and quotes; default) or compact (scores only)."
    ),
]
Repeats = Annotated[int | None, typer.Option(metavar="N", help="Judgements a story (default: 1).")]
Concurrency = Annotated[
    int | None, typer.Option(metavar="N", help="Most calls in flight at once (default: 16).")
]
Effort = Annotated[
    str | None, typer.Option(metavar="WORD", help="How long a reasoning judge thinks: low, high …")
]
Temperature = Annotated[
    float | None,
    typer.Option(
        metavar="X", help="Softmax temperature, 0 to 2 (default: 0.2; reasoning models take only 1)."
    ),
]
TopP = Annotated[
    float | None,
    typer.Option(metavar="X", help="Nucleus share, up to 1 (default: 0.9; reasoning models take only 1)."),
]
Batch = Annotated[bool, typer.Option("--batch", help="By batch files: half the price, within a day.")]
Outage = Annotated[
    float | None,
    typer.Option(
        metavar="S", help="How long the endpoint may answer nothing at all, seconds (default: 300)."
    ),
]
Budget = Annotated[
    float | None, typer.Option(metavar="US$", help="Most to spend in DIR, earlier calls included.")
]
PromptPrice = Annotated[
    float | None, typer.Option(metavar="US$", help="Price of a million tokens that the model reads.")
]
CompletionPrice = Annotated[
    float | None,
    typer.Option(metavar="US$", help="Price of a million tokens that it writes, reasoning included."),
]

_ENDPOINT = {
    "url": "url",
    "model": "model",
    "identity": "identity",
    "provider": "provider",
    "api_key_env": "api_key_env",
    "usd_per_million_prompt": "usd_per_million_prompt_tokens",
    "usd_per_million_completion": "usd_per_million_completion_tokens",
}
_SETTINGS = {
    "form": "form",
    "repeats": "repeats",
    "concurrency": "concurrency",
    "effort": "reasoning_effort",
    "temperature": "temperature",
    "top_p": "top_p",
    "batch": "batch",
    "outage_s": "outage_s",
}


def settings_of(parameters: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a command's parameters give of the endpoint and of the judge, by the settings' names.

    What was not given is None.
    """
    endpoint = {setting: parameters[name] for name, setting in _ENDPOINT.items()}
    judge = {setting: parameters[name] for name, setting in _SETTINGS.items()}
    return endpoint, judge | {"batch": judge["batch"] or None}
