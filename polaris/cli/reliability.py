"""`polaris judge reliability` and `polaris judge validate`: scores in, how far to trust the judge out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print the figures as JSON, nothing else, on stdout.")]
Resamples = Annotated[int, typer.Option(min=100, help="Bootstrap resamples behind the intervals.")]
Seed = Annotated[int, typer.Option(help="Seed of the resampling.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `polaris judge`."""
    app.command(
        "reliability",
        epilog="Examples: `polaris judge reliability scores`,"
        " `polaris judge reliability by-judge-a by-judge-b --out agreement`,"
        " `polaris judge reliability a/scores.jsonl b/scores.jsonl --json`",
    )(reliability)
    app.command(
        "validate",
        epilog="Examples: `polaris judge validate pairs.jsonl --out people --config run.yaml --judge judge`,"
        " `polaris judge validate pairs.jsonl --scores people --json`",
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
    any two or more repeats or judges. Judgements that failed are counted and are no score. Needs the extra
    `report` (numpy, matplotlib). Exit code 3: too few repeats or stories, or a faulty row.
    """
    from polaris.cli.trust import show_reliability

    show_reliability(results, out, as_json=as_json, resamples=resamples, seed=seed)


def validate(
    pairs: Annotated[
        Path,
        typer.Argument(
            metavar="PAIRS.jsonl",
            help="Rows {prompt, chosen_story, rejected_story, chosen_upvotes?, rejected_upvotes?, id?}.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder for scores, validation.json and validation.html."),
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option("--scores", metavar="DIR", help="Scores of these pairs, in place of asking a judge."),
    ] = None,
    as_json: AsJson = False,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="CONFIG", help="A run's YAML file, with --judge."),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option("--judge", metavar="NAME", help="A name under `judges` (default: the only one)."),
    ] = None,
    url: Annotated[str | None, typer.Option(help="Base URL of an endpoint, up to and with /v1.")] = None,
    model: Annotated[str | None, typer.Option(help="The endpoint's name of the model.")] = None,
    identity: Annotated[
        str | None, typer.Option(help="What the model is, for the results (default: --model).")
    ] = None,
    provider: Annotated[str | None, typer.Option(help="openai, gemini, vllm or other.")] = None,
    api_key_env: Annotated[
        str | None, typer.Option(help="Variable with the key (default: OPENAI_API_KEY).")
    ] = None,
    form: Annotated[str | None, typer.Option(help="The rubric's form: full or compact.")] = None,
    repeats: Annotated[int | None, typer.Option(help="Judgements a story.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Most calls in flight at once.")] = None,
    effort: Annotated[str | None, typer.Option(help="How long a reasoning judge thinks: low, high …")] = None,
    batch: Annotated[
        bool, typer.Option("--batch", help="By batch files: half the price, within a day.")
    ] = False,
    outage_s: Annotated[
        float | None, typer.Option(help="How long the endpoint may answer nothing at all, seconds.")
    ] = None,
    budget_usd: Annotated[
        float | None, typer.Option(help="Most to spend in DIR, earlier calls included, US$.")
    ] = None,
    usd_per_million_prompt: Annotated[
        float | None, typer.Option(help="Price of what the model reads, US$.")
    ] = None,
    usd_per_million_completion: Annotated[
        float | None, typer.Option(help="Price of what the model writes, reasoning included, US$.")
    ] = None,
    resamples: Resamples = 2000,
    seed: Seed = 3479,
) -> None:
    """Tell how often a judge prefers the story that people chose, from pairs in LitBench's form.

    Each story is judged alone by the Story Quality rubric, so there is no position bias to measure. Every
    answer is kept in DIR/.store: the same command made again asks only for what is missing. A pair whose
    story has no judgement is counted and is in no figure. Exit codes: 3 a faulty row (nothing is asked), 4
    the budget is spent, 75 the endpoint is down, 130/143 interrupted.
    """
    from polaris.cli.trust import judge_pairs, show_validation
    from polaris.errors import ConfigError
    from polaris.runtime import configure_logging

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
