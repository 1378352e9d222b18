"""A run and its works in, a table of what they cost and will cost, and what that rests on, out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from polaris.budget import Books, prefix_of, spent_in
from polaris.release.cost import COMPLETION_TOKENS, PROMPT_TOKENS, Costs, Forecast, Spent, Work, forecast
from polaris.release.spending import prices_of
from polaris.run import Run

WIDE = 105
"""Columns from which the table shows all that it has."""


def print_costs(
    run: Run,
    works: list[Work],
    said: list[str],
    tokens: tuple[int | None, int | None],
    gpu_hour_usd: float | None,
    *,
    as_json: bool,
) -> None:
    """Forecast and print; `tokens` are those of a judge call (read, written), None the defaults."""
    reads = PROMPT_TOKENS if tokens[0] is None else tokens[0]
    writes = COMPLETION_TOKENS if tokens[1] is None else tokens[1]
    costs = forecast(works, prices_of(run), prompt_tokens=reads, completion_tokens=writes)
    said = [*said, *costs.assumptions]
    if costs.gpu_hours is not None and gpu_hour_usd is not None:
        said.append(f"a GPU costs {gpu_hour_usd:g} USD an hour (--gpu-hour-usd)")
    budget = run.config.execute.budget_usd
    books = spent_in(run.store, prefix_of(run.config)) if budget is not None else None
    if as_json:
        found = asdict(costs) | {"assumptions": said, "gpu_hour_usd": gpu_hour_usd}
        found["budget"] = {"usd": budget, **asdict(books)} if books else None
        print(json.dumps(found, indent=1))
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 120)
    console.print(_table(run, costs, gpu_hour_usd, wide=console.width >= WIDE))
    for line in _sums(costs, gpu_hour_usd):
        console.print(line, soft_wrap=True)
    if budget is not None and books is not None:
        console.print(_budget(budget, books, costs), soft_wrap=True)
    for line in said:
        console.print(Text.assemble(("· ", "dim"), line), soft_wrap=True)


def _table(run: Run, costs: Costs, gpu_hour_usd: float | None, *, wide: bool) -> Table:
    """Return the table; a narrow one leaves out the tokens and hours, whose sums are below it."""
    gpus = costs.gpu_hours is not None
    columns: dict[str, Callable[[Forecast], str]] = {"calls": lambda row: _count(row.work.spent.calls)}
    if wide:
        columns["tokens"] = lambda row: _tokens(row.work.spent)
    columns["USD"] = lambda row: _usd(row.work.spent.usd)
    columns["calls\nto come"] = lambda row: "?" if row.to_come is None else _count(row.to_come.calls)
    columns["USD\nto come"] = lambda row: "?" if row.to_come is None else _usd(row.to_come.usd)
    if wide:
        columns["hours"] = lambda row: _hours(row.work.wall_s, 1.0)
    if gpus and (wide or gpu_hour_usd is None):
        columns["GPU\nhours"] = lambda row: _hours(row.work.gpu_s, 1.0)
    if gpus and gpu_hour_usd is not None:
        columns["GPU\nUSD"] = lambda row: _hours(row.work.gpu_s, gpu_hour_usd)
    table = Table(title=f"cost of run {run.config.run}", title_justify="left")
    table.add_column("instance", overflow="fold")
    for title in columns:
        table.add_column(title, justify="right", no_wrap=True)
    for row in costs.rows:
        table.add_row(row.work.name, *(cell(row) for cell in columns.values()))
    return table


def _hours(seconds: float | None, factor: float) -> str:
    return "" if seconds is None else f"{seconds / 3600 * factor:.2f}"


def _sums(costs: Costs, gpu_hour_usd: float | None) -> list[str]:
    unknown = [row.work.name for row in costs.rows if row.to_come is None]
    more = f", and those of {', '.join(unknown)}, which nobody can tell yet" if unknown else ""
    saved = f" (about {costs.saved:,.2f} more without batch and flex)" if costs.saved >= 0.005 else ""
    found = [
        f"So far: {_called(costs.spent)}{saved}",
        f"To come: {_called(costs.to_come)}{more}",
        f"In all: {_called(costs.spent + costs.to_come)}",
    ]
    for at, hours in enumerate((costs.gpu_hours, costs.gpu_hours_left)):
        if hours is not None:
            usd = "" if gpu_hour_usd is None else f", {hours * gpu_hour_usd:,.2f} USD"
            found[at] += f" · {hours:,.2f} GPU-hours{usd}"
    return found


def _budget(usd: float, books: Books, costs: Costs) -> str:
    """Return what is spent of the budget, and on a second line that the judges' calls to come do not fit."""
    held = f", {books.held:,.2f} held by processes that run or were killed" if books.held >= 0.005 else ""
    found = f"Budget: {usd:,.2f} USD, {books.spent:,.2f} spent{held}"
    judged = sum(row.to_come.usd for row in costs.rows if row.to_come and row.work.tokens_left is None)
    if judged <= usd - books.spent:
        return found
    return f"{found}\nThe judges' calls to come need {judged:,.2f} USD: raise execute.budget_usd"


def _called(spent: Spent) -> str:
    tokens = _tokens(spent)
    return f"{spent.calls:,.0f} calls, {tokens or 'no'} tokens, {spent.usd:,.2f} USD"


def _count(value: float) -> str:
    return f"{value:,.0f}" if value else ""


def _usd(value: float) -> str:
    return f"{value:,.2f}" if value else ""


def _tokens(spent: Spent) -> str:
    """Return the tokens read and written, in thousands or millions."""
    if not spent.prompt_tokens and not spent.completion_tokens:
        return ""
    return f"{_short(spent.prompt_tokens)} + {_short(spent.completion_tokens)}"


def _short(value: float) -> str:
    if value >= 1e6:
        return f"{value / 1e6:.1f} M"
    return f"{value / 1e3:.1f} k" if value >= 1e3 else f"{value:.0f}"
