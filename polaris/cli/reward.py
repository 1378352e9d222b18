"""`polaris reward` and `polaris metric`: JSONL rows in, one line of figures a row out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

Rows = Annotated[Path, typer.Argument(metavar="ROWS", help="A file of JSON lines; `-` reads standard input.")]


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command(
        "reward",
        epilog="Examples: `polaris reward rows.jsonl`, `polaris reward --validation - < rows.jsonl`,"
        " `polaris reward rows.jsonl --config examples/demo/demo.yaml`",
    )(reward)
    app.command(
        "metric",
        epilog="Examples: `polaris metric story_quality rows.jsonl`,"
        " `polaris metric longform rows.jsonl --variant uniform`",
    )(metric)


def reward(
    rows: Rows,
    validation: Annotated[
        bool, typer.Option("--validation", help="Weigh as validation does, not as training.")
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="CONFIG",
            help="Take weights, clip, word limits and gate from this run's YAML.",
        ),
    ] = None,
) -> None:
    """Print the reward's terms of each row `{id, story, target_word_count?, prompt?, judgement?}`.

    One JSON line a row, in order: id, words, blank_penalty, length_penalty, length_reward, self_repetition,
    and with a judgement story_quality and reward. Without target_word_count the prompt's last "N words long"
    is the target. A bad row has no line; its number and field are on stderr, and the exit code is 3.
    """
    from polaris.reward.composite import VALIDATION
    from polaris.reward.line import reward_line
    from polaris.reward.settings import Settings

    if config is not None:
        settings = _configured(config, validation)
    else:
        settings = Settings(weights=VALIDATION) if validation else Settings()
    _answer(rows, lambda row: reward_line(row, settings))


def metric(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="story_quality, longform, creative, longbench_write or writingbench."
        ),
    ],
    rows: Rows,
    variant: Annotated[
        str | None,
        typer.Option("--variant", metavar="VARIANT", help="longform has `uniform`: no weights, no power."),
    ] = None,
) -> None:
    """Print a benchmark's value of each row `{id, scores, words?, target?}`, and the parts it is made of.

    One JSON line a row, in order: id, value, parts. story_quality reads `{id, judgement}`, longbench_write
    needs words and target too. A bad row has no line; its number and field are on stderr, and the exit code
    is 3.
    """
    from polaris.evaluate.metric import find_scorer, metric_line

    score = find_scorer(name, variant)
    _answer(rows, lambda row: metric_line(row, score))


def _configured(path: Path, validation: bool) -> Any:
    import sys

    from polaris.load import load
    from polaris.reward.settings import Settings

    config = load(path).reward
    for term in ("thinking", "overlong"):
        if getattr(config, term) is not None:
            print(f"note: reward.{term} counts tokens, which rows do not have: left out", file=sys.stderr)
    return Settings.of(config, validation=validation)


def _answer(path: Path, answer: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Print the answer to each row as it comes; raise typer.Exit(3) at the end if a row was bad."""
    import json
    import sys

    from polaris.errors import BAD_INPUT
    from polaris.reward.rows import RowError, parse_row
    from polaris.runtime import redact

    bad = False
    for number, line in _lines(path):
        try:
            answered = answer(parse_row(line))
        except RowError as fault:
            bad = True
            print(f"{path}:{number}: {redact(str(fault))}", file=sys.stderr, flush=True)
        else:
            print(json.dumps(answered, allow_nan=False), flush=True)
    if bad:
        raise typer.Exit(BAD_INPUT)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield each line that is not empty, with its number, one at a time: files may be of any size."""
    from polaris.errors import InputError

    try:
        with _opened(path) as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield number, line
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; give a file of JSON lines") from None


def _opened(path: Path) -> contextlib.AbstractContextManager[BinaryIO]:
    import sys

    return contextlib.nullcontext(sys.stdin.buffer) if str(path) == "-" else path.open("rb")
