"""`polaris judge prompt` and `polaris judge score`: stories in, what a judge sees, or its scores, out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from polaris.cli import reliability

app = typer.Typer(
    help="See what a judge sees, judge stories without a run, and find out how far to trust a judge.",
    no_args_is_help=True,
)
reliability.register(app)

Config = Annotated[
    Path | None, typer.Option("--config", "-c", metavar="CONFIG", help="A run's YAML file, with --judge.")
]
JudgeName = Annotated[
    str | None, typer.Option("--judge", metavar="NAME", help="A name under `judges` (default: the only one).")
]
Form = Annotated[
    str | None, typer.Option(help="The rubric's form: full (notes and quotes) or compact (scores only).")
]

KeyVariable = Annotated[
    str | None,
    typer.Option(
        help="Variable with the key (default: OPENAI_API_KEY); set it to anything where none is wanted."
    ),
]
Outage = Annotated[
    float | None, typer.Option(help="How long the endpoint may answer nothing at all, seconds.")
]
Budget = Annotated[float | None, typer.Option(help="Most to spend in DIR, earlier calls included, US$.")]
PromptPrice = Annotated[float | None, typer.Option(help="Price of what the model reads, US$.")]
CompletionPrice = Annotated[
    float | None, typer.Option(help="Price of what the model writes, reasoning included, US$.")
]


@app.command(
    "prompt",
    epilog="Examples: `polaris judge prompt rows.jsonl --line 3`,"
    " `polaris judge prompt rows.jsonl --id a --form compact --json`",
)
def prompt(
    rows: Annotated[Path, typer.Argument(metavar="ROWS.jsonl", help="Rows with prompt and story.")],
    line: Annotated[
        int | None, typer.Option(min=1, help="The row in this line (default: the first).")
    ] = None,
    key: Annotated[str | None, typer.Option("--id", help="The row with this id.")] = None,
    form: Form = None,
    structured: Annotated[
        str | None,
        typer.Option(help="json_schema (the endpoint enforces it) or prompt (it is part of the prompt)."),
    ] = None,
    config: Config = None,
    judge: JudgeName = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="The messages and the schema as they are sent, one JSON object.")
    ] = False,
) -> None:
    """Print exactly what a judge sees of a row {prompt, story}, a run's stories.jsonl included.

    Form and structured output come from --config with --judge, or are `full` and `json_schema`.
    """
    from polaris.cli.judging import print_prompt
    from polaris.errors import ConfigError

    if line is not None and key is not None:
        raise ConfigError("--line: given with --id; give one of them")
    print_prompt(rows, line, key, config, judge, form=form, structured=structured, as_json=as_json)


@app.command(
    "score",
    epilog="Examples: `polaris judge score stories.jsonl --out scores --config run.yaml --judge judge`,"
    " `polaris judge score stories.jsonl --out scores --url https://api.openai.com/v1 --model MODEL"
    " --usd-per-million-prompt 1.25 --usd-per-million-completion 10 --budget-usd 5`,"
    " `polaris judge score stories.jsonl --out scores --url http://localhost:8000/v1 --model MODEL"
    " --provider vllm --form compact --repeats 3`",
)
def score(
    stories: Annotated[
        Path,
        typer.Argument(metavar="STORIES.jsonl", help="Rows {id, story, prompt?, target_word_count?}."),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for what comes out.")],
    config: Config = None,
    judge: JudgeName = None,
    url: Annotated[str | None, typer.Option(help="Base URL of an endpoint, up to and with /v1.")] = None,
    model: Annotated[str | None, typer.Option(help="The endpoint's name of the model.")] = None,
    identity: Annotated[
        str | None, typer.Option(help="What the model is, for the results (default: --model).")
    ] = None,
    provider: Annotated[str | None, typer.Option(help="openai, gemini, vllm or other.")] = None,
    api_key_env: KeyVariable = None,
    form: Form = None,
    repeats: Annotated[int | None, typer.Option(help="Judgements a story.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Most calls in flight at once.")] = None,
    effort: Annotated[str | None, typer.Option(help="How long a reasoning judge thinks: low, high …")] = None,
    batch: Annotated[
        bool, typer.Option("--batch", help="By batch files: half the price, within a day.")
    ] = False,
    outage_s: Outage = None,
    budget_usd: Budget = None,
    usd_per_million_prompt: PromptPrice = None,
    usd_per_million_completion: CompletionPrice = None,
) -> None:
    """Judge a file of stories: DIR gets scores.jsonl, failures.jsonl and summary.json.

    The judge comes from --config and --judge, or from --url and --model. Every answer is kept in DIR/.store,
    so the same command made again asks only for what is missing; the three files appear when all is judged.
    A judgement that failed is listed with its reason and is no score. Exit codes: 3 a faulty row (nothing is
    asked), 4 the budget is spent, 75 the endpoint is down, 130/143 interrupted.
    """
    from polaris.cli.judging import score_stories
    from polaris.runtime import configure_logging

    configure_logging()
    endpoint = {
        "url": url,
        "model": model,
        "identity": identity,
        "provider": provider,
        "api_key_env": api_key_env,
        "usd_per_million_prompt_tokens": usd_per_million_prompt,
        "usd_per_million_completion_tokens": usd_per_million_completion,
    }
    settings = {
        "form": form,
        "repeats": repeats,
        "concurrency": concurrency,
        "reasoning_effort": effort,
        "batch": batch or None,
        "outage_s": outage_s,
    }
    score_stories(stories, out, config, judge, endpoint, settings, budget_usd)
