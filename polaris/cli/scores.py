"""The judgements of a file of stories in; a summary of them, as JSON data and as a short table, out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

import polaris
from polaris.judge.judgements import Outcome
from polaris.judge.readings import kinds
from polaris.judge.rows import Row
from polaris.judge.rubric import load_rubric
from polaris.judge.score import Judge
from polaris.judge.stories import NO_PROMPT, THINK
from polaris.reward.quality import label
from polaris.text import WORD_COUNTER, encodable

SEED = 3479
RESAMPLES = 10_000
SHOWN = 20
"""Most stories in the table: of more, the best and the worst."""
REASONS = 5
"""Most kinds of failure that are told."""


def by_story(stories: Sequence[Row], outcome: Outcome) -> list[dict[str, Any]]:
    """Return each story's words, overall (mean over its judged repeats, or None), label and reasons.

    `strongest` is the P with the highest share of its maximum, `weakest` the N with the most points, None
    where there is none; both are of the mean over repeats.
    """
    scores, failures = _grouped(outcome.scores), _grouped(outcome.failures)
    found = []
    for story in stories:
        key = story["id"], story["sample"]
        rows = scores.get(key, [])
        overall = sum(row["overall"] for row in rows) / len(rows) if rows else None
        strongest, weakest = _extremes(dimension_means(rows))
        found.append(
            {
                "id": story["id"],
                "sample": story["sample"],
                "words": story["words"],
                "overall": overall,
                "label": None if overall is None else label(overall),
                "strongest": strongest,
                "weakest": weakest,
                "without_prompt": story["prompt"] == NO_PROMPT,
                "thinking_cut": story.get("thinking_cut", False),
                "reasons": [row["reason"] for row in failures.get(key, [])],
            }
        )
    return found


def summary(
    told: Sequence[Mapping[str, Any]],
    outcome: Outcome,
    judge: Judge,
    caveat: str | None,
    notes: Sequence[str],
) -> dict[str, Any]:
    """Return what summary.json holds; `told` are the rows of `by_story`, `notes` the judge's.

    A story without a judgement is counted in `n_failed` and in no figure. The interval draws whole ids,
    since samples of one prompt are not independent. `failures` counts judgements by `kinds`. `cost` and
    `events` are this command's, `usd_of_answers` is what the scores cost, whenever they were bought.
    """
    overalls = [story["overall"] for story in told]
    validities = [row["quote_validity"] for row in outcome.scores if row["quote_validity"] is not None]
    return {
        "judge": judge.identity,
        "rubric": judge.rubric,
        "structured": sorted({row["structured"] for row in outcome.scores}),
        "caveat": caveat,
        "notes": list(notes),
        "n": sum(value is not None for value in overalls),
        "n_failed": sum(value is None for value in overalls),
        "overall": _interval(overalls, [story["id"] for story in told]),
        "labels": dict(Counter(story["label"] for story in told if story["label"])),
        "dimensions": dimension_means(outcome.scores),
        "quote_validity": sum(validities) / len(validities) if validities else None,
        "repeats": judge.config.repeats,
        "judgements": len(outcome.scores),
        "judgements_failed": len(outcome.failures),
        "failures": kinds(row["reason"] for row in outcome.failures),
        "without_prompt": sum(story["without_prompt"] for story in told),
        "thinking_cut": sum(story["thinking_cut"] for story in told),
        "cost": outcome.usage.cost(),
        "events": outcome.usage.events(),
        "usd_of_answers": round(sum(row["usd"] for row in outcome.scores), 9),
        "word_counter": WORD_COUNTER,
        "bootstrap": {"resamples": RESAMPLES, "seed": SEED},
        "polaris": polaris.__version__,
    }


def dimension_means(rows: Sequence[Row]) -> dict[str, float]:
    """Return each dimension's mean score over judgements, empty where there are none."""
    given = [{**row["judgement"]["positive"], **row["judgement"]["negative"]} for row in rows]
    keys = [dimension.key for dimension in load_rubric().dimensions]
    return {key: sum(scores[key] for scores in given) / len(given) for key in keys} if given else {}


def _extremes(means: Mapping[str, float]) -> tuple[str | None, str | None]:
    if not means:
        return None, None
    rubric = load_rubric()
    strongest = max(rubric.positive, key=lambda dimension: means[dimension.key] / dimension.max)
    weakest = max(rubric.negative, key=lambda dimension: means[dimension.key])
    return strongest.key, weakest.key if means[weakest.key] > 0 else None


def _grouped(rows: Sequence[Row]) -> dict[tuple[str, int], list[Row]]:
    found: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        found.setdefault((row["id"], row["sample"]), []).append(row)
    return found


def _interval(overalls: Sequence[float | None], ids: Sequence[str]) -> dict[str, Any]:
    """Return the mean with its 95 % bootstrap interval; without numpy the mean alone."""
    scored = [value for value in overalls if value is not None]
    try:
        from polaris.evaluate.statistics import bootstrap_mean
    except ModuleNotFoundError:
        mean = sum(scored) / len(scored) if scored else None
        missing = len(overalls) - len(scored)
        return {"value": mean, "low": None, "high": None, "n": len(scored), "n_failed": missing}
    return bootstrap_mean(overalls, SEED, RESAMPLES, groups=ids).row()


def print_scores(told: Sequence[Mapping[str, Any]], found: Mapping[str, Any], out: Path) -> None:
    """Print the table of stories, best first, and the figures of a summary."""
    console = Console(highlight=False, markup=False)
    console.print(_table(told))
    overall = found["overall"]
    if overall["value"] is not None:
        between = (
            f"  (95 % interval {overall['low']:.1f} to {overall['high']:.1f})"
            if overall["low"] is not None
            else ""
        )
        console.print(f"mean overall {overall['value']:.1f}{between}", style="bold")
    for line in _lines(found):
        console.print(line, soft_wrap=True)
    if found["caveat"]:
        console.print(found["caveat"], style="yellow", soft_wrap=True)
    console.print(f"written to {out}: scores.jsonl, failures.jsonl, summary.json", soft_wrap=True)
    if not found["n"]:
        console.print("No story was judged.", style="bold red")


def _lines(found: Mapping[str, Any]) -> list[str]:
    labels = ", ".join(f"{name} {count:,}" for name, count in found["labels"].items())
    cost, unanswered = found["cost"], found["events"]["unanswered"]
    lines = [
        f"stories      {found['n']:,} judged, {found['n_failed']:,} without a judgement",
        f"labels       {labels or 'none'}",
        f"judgements   {found['judgements']:,}, {found['judgements_failed']:,} failed",
        *(f"  {line}" for line in failure_lines(found["failures"])),
        f"judge        {found['judge']}, {found['rubric']}",
        f"cost         {_usd(cost['usd'])} paid by this command ({counted(cost['calls'], 'call')},"
        f" {counted(cost['cached_calls'], 'answer')} kept from before); the scores' own answers cost"
        f" {_usd(found['usd_of_answers'])}",
    ]
    if unanswered:
        are = "is" if unanswered == 1 else "are"
        lines.append(
            f"             {counted(unanswered, 'attempt')} got no answer and {are} booked at an estimate"
        )
    if found["without_prompt"]:
        stories = counted(found["without_prompt"], "story", "stories")
        lines.append(f"{stories} came without a prompt: P1 and N1 mean little there")
    if found["thinking_cut"]:
        stories = counted(found["thinking_cut"], "story", "stories")
        lines.append(f"{stories} began with {THINK}: judged without the thinking")
    return [*lines, *found["notes"]]


def failure_lines(failures: Mapping[str, int]) -> list[str]:
    """Return a line for each of the commonest kinds of failure, and how many judgements are of other kinds.

    `failures` are judgements by kind, the commonest first.
    """
    lines = [f"{count:,} × {encodable(reason)}" for reason, count in list(failures.items())[:REASONS]]
    rest = sum(list(failures.values())[REASONS:])
    return [*lines, f"… {rest:,} more in failures.jsonl"] if rest else lines


def counted(number: int, one: str, several: str | None = None) -> str:
    """Return a number with its noun, singular where it is one."""
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"


def _usd(value: float) -> str:
    return f"{value:,.{2 if value >= 1 or not value else 4}f} US$"


def _table(told: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("story", "words", "overall", "label", "strongest", "weakest"):
        table.add_column(name, justify="right" if name in ("words", "overall") else "left")
    ordered = sorted(told, key=lambda row: -999.0 if row["overall"] is None else row["overall"], reverse=True)
    half = SHOWN // 2
    kept = ordered if len(ordered) <= SHOWN else [*ordered[:half], *ordered[-half:]]
    for number, row in enumerate(kept):
        if len(ordered) > SHOWN and number == half:
            table.add_row(Text(f"… {len(ordered) - SHOWN} more in scores.jsonl", style="dim"))
        sample = f" #{row['sample']}" if row["sample"] else ""
        name = "".join(char if char.isprintable() else "?" for char in encodable(row["id"])[:40])
        overall = "failed" if row["overall"] is None else f"{row['overall']:.1f}"
        table.add_row(
            Text(f"{name}{sample}"),
            f"{row['words']:,}",
            overall,
            row["label"] or "",
            row["strongest"] or "",
            row["weakest"] or "",
        )
    return table
