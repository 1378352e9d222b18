"""A training's facts in, the card's tables of what it did and of what had been expected out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from polaris.train.forecast import beside

if TYPE_CHECKING:
    from polaris.train.card import Facts

Row = Mapping[str, Any]

EDGE_STEPS = 10
"""Most steps that the first and the last mean reward are taken over."""


def figures(facts: Facts) -> str:
    """Return the section of figures, each with its n."""
    rows = sorted(facts.rows, key=lambda row: row["step"])
    edge = min(EDGE_STEPS, max(1, len(rows) // 2))
    cost, count = facts.cost, facts.count
    references, prompts = f"{count('references')} references", f"{count('prompts')} prompts"
    judged, all_steps = f"{count('rows')} rows", f"{len(rows):,} {plural(len(rows), 'step')}"
    told = [
        _mean("reward, first steps", rows[:edge], "reward", ".3f"),
        _mean("reward, last steps", rows[-edge:], "reward", ".3f"),
        *_validated(facts.validations),
        _mean("reference's reward minus the policy's mean", rows, "hri/reference_minus_policy_mean", "+.3f"),
        _mean("words a story", rows, "lengths/words_mean", ",.0f"),
        _mean("words asked for", rows, "lengths/target_mean", ",.0f"),
        _mean("completion tokens", rows, "lengths/completion_tokens_mean", ",.0f"),
        _mean("share of stories cut at the token limit", rows, "lengths/truncated", ".3f"),
        ("judgements that failed", count("judge_failed"), judged),
        ("references whose judgement failed", count("references_failed"), references),
        ("references whose advantage was clipped", count("references_clipped"), references),
        ("references cut at the token limit", count("references_cut"), prompts),
        ("references left out as too long", count("references_left_out"), prompts),
        ("judge calls paid for", f"{cost['calls']:,.0f}", all_steps),
        ("judge answers from the cache", f"{cost['cached_calls']:,.0f}", all_steps),
        ("judge's cost by the configured prices, US$", f"{cost['usd']:,.2f}", all_steps),
    ]
    text = (
        "Of the training itself, from its `metrics.jsonl`. A mean is over steps, each step's own mean"
        " counting once; n is what has the figure. Rewards, words and lengths are the policy's stories alone,"
        " without the references; a validation's are of held back pairs, drawn and weighed by settings of its"
        " own. Calls and cost hold those of steps that were lost and taken again."
    )
    return f"## Figures\n\n{text}\n\n{table(('figure', 'value', 'n'), told)}"


def _validated(validations: Sequence[Row]) -> list[tuple[str, str, str]]:
    """Return the mean reward of the first and of the last validation."""
    rows = [row for row in validations if _is_finite(row.get("reward"))]
    return [
        (
            f"validation reward after step {row['step']}",
            f"{row['reward']:.3f}",
            f"{row['n'] - row['failed']} stories",
        )
        for row in (rows if len(rows) < 2 else [rows[0], rows[-1]])
    ]


def forecast(facts: Facts) -> str:
    """Return the forecast beside what came of it, '' where none was kept."""
    if facts.forecast is None:
        return ""
    took = (len(facts.rows), facts.cost["calls"], facts.cost["usd"], facts.counts.get("hours"))
    rows = beside(facts.forecast, *took)
    text = (
        "Reckoned before the first step, and what came of it. The hours are those of the steps and"
        " validations that count; calls and cost are also those of steps that were lost and taken again. What"
        " the forecast rests on is in the artifact's `forecast.json`."
    )
    return f"## Forecast and what it took\n\n{text}\n\n{table(('figure', 'forecast', 'took'), rows)}"


def _mean(title: str, rows: Sequence[Row], name: str, form: str) -> tuple[str, str, str]:
    found = [row[name] for row in rows if _is_finite(row.get(name))]
    value = format(sum(found) / len(found), form) if found else "none"
    return f"{title} (`{name}`)", value, f"{len(found):,} {plural(len(found), 'step')}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plural(number: int, word: str) -> str:
    """Return a word as it stands behind a number."""
    return word if number == 1 else f"{word}s"


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
