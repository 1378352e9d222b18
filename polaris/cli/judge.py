"""`polaris judge prompt` and `polaris judge score`: stories in, what a judge sees, or its scores, out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from polaris.cli import reliability
from polaris.cli.judge_options import (
    Batch,
    Budget,
    CompletionPrice,
    Concurrency,
    Config,
    Effort,
    Form,
    Identity,
    JudgeName,
    KeyVariable,
    Model,
    Out,
    Outage,
    PromptPrice,
    Provider,
    Repeats,
    Temperature,
    TopP,
    Url,
    settings_of,
)

app = typer.Typer(no_args_is_help=True)


@app.callback()
def prepare() -> None:
    """See what a judge sees, judge stories without a run, and find out how far to trust a judge."""
    from polaris.runtime import tolerate_any_encoding

    tolerate_any_encoding()


@app.command(
    "prompt",
    epilog="Examples:\n\n"
    "`polaris judge prompt rows.jsonl --line 3`\n\n"
    "`polaris judge prompt rows.jsonl --id a --form compact --json`",
)
def prompt(
    rows: Annotated[
        Path, typer.Argument(metavar="ROWS.jsonl", help="Rows with prompt and story; - reads standard input.")
    ],
    line: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="The row in this line (default: the first).")
    ] = None,
    key: Annotated[str | None, typer.Option("--id", metavar="ID", help="The row with this id.")] = None,
    form: Form = None,
    structured: Annotated[
        str | None,
        typer.Option(
            metavar="HOW", help="json_schema (the endpoint enforces it) or prompt (it is part of the prompt)."
        ),
    ] = None,
    config: Config = None,
    judge: JudgeName = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="The messages and the schema as they are sent, one JSON object.")
    ] = False,
) -> None:
    """Print exactly what a judge sees of a row {prompt, story}, a run's stories.jsonl included.

    Form and structured output come from --config with --judge, or are `full` and `json_schema`. A story that
    begins with `<think>` is shown without its thinking, as it would be judged.
    """
    from polaris.cli.judging import print_prompt
    from polaris.errors import ConfigError

    if line is not None and key is not None:
        raise ConfigError("--line: given with --id; give one of them")
    print_prompt(rows, line, key, config, judge, form=form, structured=structured, as_json=as_json)


@app.command(
    "score",
    epilog="Examples:\n\n"
    "`polaris judge score stories.jsonl --out scores --config run.yaml --judge judge`\n\n"
    "`polaris judge score stories.jsonl --out scores --url https://api.openai.com/v1 --model MODEL"
    " --usd-per-million-prompt 1.25 --usd-per-million-completion 10 --budget-usd 5`\n\n"
    "`polaris judge score stories.jsonl --out scores --url http://localhost:8000/v1 --model MODEL"
    " --provider vllm --form compact --repeats 3`",
)
def score(
    context: typer.Context,
    stories: Annotated[
        Path,
        typer.Argument(
            metavar="STORIES.jsonl",
            help="Rows {id, story, prompt?, target_word_count?, sample?}; - reads standard input.",
        ),
    ],
    out: Out,
    config: Config = None,
    judge: JudgeName = None,
    url: Url = None,
    model: Model = None,
    identity: Identity = None,
    provider: Provider = None,
    api_key_env: KeyVariable = None,
    form: Form = None,
    repeats: Repeats = None,
    concurrency: Concurrency = None,
    effort: Effort = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    batch: Batch = False,
    outage_s: Outage = None,
    budget_usd: Budget = None,
    usd_per_million_prompt: PromptPrice = None,
    usd_per_million_completion: CompletionPrice = None,
) -> None:
    """Judge a file of stories: DIR gets scores.jsonl, failures.jsonl and summary.json.

    The judge comes from --config and --judge, or from --url and --model. Try ten stories first. Every answer
    is kept in DIR/.store, so the same command made again asks only for what is missing or failed; the three
    files appear when all is judged. A judgement that failed is listed with its reason and is no score. A
    story that begins with `<think>` is judged without its thinking.

    Exit codes: 0 done, though some judgements may have failed; 2 a bad setting, key or folder; 3 a faulty row
    (nothing is asked); 4 the budget is spent; 5 no story was judged; 75 the endpoint is down; 130 or 143
    interrupted.
    """
    from polaris.cli.judging import score_stories
    from polaris.runtime import configure_logging

    configure_logging()
    endpoint, settings = settings_of(context.params)
    score_stories(stories, out, config, judge, endpoint, settings, budget_usd)


reliability.register(app)
