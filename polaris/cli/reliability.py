"""`polaris judge reliability` and `polaris judge validate`: scores in, how far to trust the judge out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
    Outage,
    PromptPrice,
    Provider,
    Repeats,
    Temperature,
    TopP,
    Url,
    settings_of,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print the figures as JSON, nothing else, on stdout.")]
Resamples = Annotated[
    int, typer.Option(min=100, metavar="N", help="Bootstrap resamples behind the intervals.")
]
Seed = Annotated[int, typer.Option(metavar="N", help="Seed of the resampling.")]
PairsFile = Annotated[
    Path,
    typer.Argument(
        metavar="PAIRS.jsonl",
        help="Rows {prompt, chosen_story, rejected_story, chosen_upvotes?, rejected_upvotes?, id?}.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands to `polaris judge`."""
    app.command(
        "reliability",
        epilog="Examples:\n\n"
        "`polaris judge reliability scores`\n\n"
        "`polaris judge reliability by-judge-a by-judge-b --out agreement`\n\n"
        "`polaris judge reliability a/scores.jsonl b/scores.jsonl --json`",
    )(reliability)
    app.command(
        "validate",
        epilog="Examples:\n\n"
        "`polaris judge validate pairs.jsonl --out people --config run.yaml --judge judge`\n\n"
        "`polaris judge validate pairs.jsonl --scores people --json`",
    )(validate)


def reliability(
    results: Annotated[
        list[Path],
        typer.Argument(
            metavar="RESULTS...", help="Files scores.jsonl, or folders that `judge score --out` made."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write reliability.json and .html here.")
    ] = None,
    as_json: AsJson = False,
    resamples: Resamples = 2000,
    seed: Seed = 3479,
) -> None:
    """Tell how far a judge's scores repeat, and how far several judges agree, on the same stories.

    Test–retest (ICC, mean difference), spread within a story by dimension, length bias, and label flips, for
    any two or more repeats or judges. Overall and label are computed again from each row's judgement.
    Judgements that failed are counted and are no score. Needs the extra `report` (numpy, matplotlib).

    Exit code 3: too few repeats or stories, or a faulty row.
    """
    from polaris.cli.trust import show_reliability

    show_reliability(results, out, as_json=as_json, resamples=resamples, seed=seed)


def validate(
    context: typer.Context,
    pairs: PairsFile,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder for scores, validation.json and validation.html."),
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option("--scores", metavar="DIR", help="Scores of these pairs, in place of asking a judge."),
    ] = None,
    as_json: AsJson = False,
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
    resamples: Resamples = 2000,
    seed: Seed = 3479,
) -> None:
    """Tell how often a judge prefers the story that people chose, from pairs in LitBench's form.

    Each story is judged alone by the Story Quality rubric, so there is no position bias to measure. Try ten
    pairs first. Every answer is kept in DIR/.store: the same command made again asks only for what is missing
    or failed. A pair whose story has no judgement is counted and is in no figure.

    Exit codes: 2 a bad setting, key or folder; 3 a faulty row (nothing is asked); 4 the budget is spent; 5 no
    story was judged; 75 the endpoint is down; 130 or 143 interrupted.
    """
    from polaris.cli.trust import judge_pairs, show_validation
    from polaris.errors import ConfigError
    from polaris.runtime import configure_logging

    endpoint, settings = settings_of(context.params)
    if scores is None:
        if out is None:
            raise ConfigError("--out: missing; name a folder for the scores, or --scores DIR that has them")
        configure_logging()
        judge_pairs(pairs, out, config, judge, endpoint, settings, budget_usd)
    else:
        options = (config, judge, budget_usd, *endpoint.values(), *settings.values())
        if any(option is not None for option in options):
            raise ConfigError("--scores: asks no judge; leave the options that name or set one out")
    show_validation(pairs, scores or out, out, as_json=as_json, resamples=resamples, seed=seed)
