"""Scores, or pairs that people chose from, in; tables, JSON and pages of how far to trust a judge out."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from polaris.artifact import from_rows
from polaris.cli.scores import counted, failure_lines
from polaris.errors import ConfigError, InputError

Facts = Mapping[str, Any]
ABSENT = "–"


def show_reliability(
    results: Sequence[Path], out: Path | None, *, as_json: bool, resamples: int, seed: int
) -> None:
    """Print the reliability of the judges in `results`; write reliability.json and .html to `out`.

    Raises InputError for faulty rows, or too few repeats or stories.
    """
    with _extra():
        from polaris.judge.readings import panel, read_sources
        from polaris.judge.reliability import reliability, shortage

        found = panel(read_sources(results))
        lacking = shortage(found)
        if lacking is not None:
            raise InputError(f"{', '.join(map(str, results))}: {lacking}")
        facts = reliability(found, seed=seed, resamples=resamples)
        if out is not None:
            from polaris.report.judge_page import reliability_page

            _write(out, "reliability", facts, reliability_page(facts))
    if as_json:
        _print_json(facts)
        return
    console = _console()
    for judge in facts["judges"]:
        _print_judge(console, judge)
    if facts["between"]:
        _print_between(console, facts["between"])
    _print_written(console, out, "reliability")


def judge_pairs(
    path: Path,
    out: Path,
    config: Path | None,
    judge: str | None,
    endpoint: Facts,
    settings: Facts,
    budget_usd: float | None,
) -> None:
    """Have both stories of every pair judged; `out` gets stories.jsonl and what `judge score` leaves.

    Raises InputError for faulty rows, before anything is asked; then what `score_stories` does.
    """
    from polaris.cli.judging import require_writable, score_stories

    with _extra():
        from polaris.judge.validate import read_pairs, story_rows

        rows = story_rows(read_pairs(path))
    require_writable(out)
    (out / "stories.jsonl").write_bytes(from_rows(rows))
    # Its table is by story; what stdout is for here is the figure over pairs.
    with redirect_stdout(sys.stderr):
        score_stories(out / "stories.jsonl", out, config, judge, endpoint, settings, budget_usd)


def show_validation(
    path: Path, scores: Path | None, out: Path | None, *, as_json: bool, resamples: int, seed: int
) -> None:
    """Print how often the judge of `scores` agrees with the pairs; write validation.json and .html.

    Raises InputError for faulty rows, or scores that are not of these pairs.
    """
    assert scores is not None
    with _extra():
        from polaris.judge.readings import read_sources
        from polaris.judge.validate import agreement, read_pairs

        source = read_sources([scores])[0]
        facts = agreement(read_pairs(path), source, seed=seed, resamples=resamples)
        if out is not None:
            from polaris.report.judge_page import validation_page

            _write(out, "validation", facts, validation_page(facts))
    if as_json:
        _print_json(facts)
        return
    _print_validation(facts)
    _print_written(_console(), out, "validation")


@contextmanager
def _extra() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in ("numpy", "matplotlib"):
            raise
        raise ConfigError(
            f"{error.name} is not installed: it comes with `pip install 'polaris[report]'`"
        ) from None


def _write(out: Path, name: str, facts: Facts, page: str) -> None:
    data = json.dumps(facts, sort_keys=True, indent=1, allow_nan=False) + "\n"
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{name}.json").write_text(data, encoding="utf-8")
        (out / f"{name}.html").write_bytes(page.encode("utf-8", "replace"))
    except OSError as error:
        raise ConfigError(
            f"--out: '{out}' cannot be written ({error.strerror}); name a folder that can be"
        ) from None


def _print_json(facts: Facts) -> None:
    print(json.dumps(facts, sort_keys=True, indent=1, allow_nan=False))


def _console() -> Console:
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = max(console.width, 110)
    return console


def _print_judge(console: Console, judge: Facts) -> None:
    test, flips = judge["test_retest"], judge["labels"]
    console.print(Text(judge["name"], style="bold"), soft_wrap=True)
    rows = [
        ("rubric", judge["rubric"]),
        (
            "judgements",
            f"{judge['judgements']:,} of {counted(judge['stories'], 'story', 'stories')},"
            f" {judge['repeated']:,} of them at least twice; {judge['failed']:,} failed,"
            f" {counted(judge['copies'], 'copy', 'copies')} left out",
        ),
        ("test–retest", f"{_icc(test['icc'])}   n {test['icc']['n']:,}, k {test['icc']['k']:.3g}"),
    ]
    if judge["repeated"]:
        mean = test["icc_of_mean"]
        rows += [
            (
                "",
                f"{mean['name']} {_number(mean['value'], 3)} for the mean of"
                f" a story's {_repeats(judge)} scores",
            ),
            (
                "two scores",
                f"{_number(test['mean_absolute_difference'])} apart on average, at most"
                f" {_number(test['largest_difference'])}; below {_number(test['repeatability'])} may be"
                " chance",
            ),
            (
                "labels",
                f"differ in {_percent(flips['share'])} of {counted(flips['pairs'], 'pair')},"
                f" {flips['far']:,} by more than one",
            ),
        ]
    rows.append(("length bias", _partial(judge["length_bias"])))
    if judge["length_bias_beyond_others"]:
        rows.append(("", _partial(judge["length_bias_beyond_others"])))
    for caveat in judge["caveats"]:
        rows.append(("caveat", caveat))
    _print_rows(console, rows)
    if flips["pairs"]:
        console.print(_flips(flips))
    if judge["dimensions"]:
        console.print(_dimensions(judge["dimensions"], "ICC(1,1)"))


def _print_between(console: Console, between: Facts) -> None:
    console.print(Text("between the judges", style="bold"))
    rows = [
        ("agreement", f"{_icc(between['icc'])}   n {between['icc']['n']:,}, k {between['icc']['k']}"),
        ("stories", f"{between['stories']:,} scored by all, {between['incomplete']:,} left out"),
        (
            "labels",
            f"differ in {_percent(between['labels']['share'])} of"
            f" {counted(between['labels']['pairs'], 'pair')}",
        ),
    ]
    for pair in between["pairs"]:
        rows.append(
            (
                "pair",
                f"{pair['a']} − {pair['b']}: {_number(pair['mean_difference'])} on average, correlation"
                f" {_number(pair['correlation'], 2)}, mean absolute difference"
                f" {_number(pair['mean_absolute_difference'])}",
            )
        )
    if between["rubrics_differ"]:
        rows.append(("note", "the rubrics differ: scores are not on one scale, read the correlation"))
    _print_rows(console, rows)
    if between["dimensions"]:
        console.print(_dimensions(between["dimensions"], "ICC(2,1)"))


def _print_rows(console: Console, rows: Sequence[tuple[str, str]]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for name, said in rows:
        table.add_row(name, Text(said))
    console.print(table)
    console.print()


def _flips(flips: Facts) -> Table:
    names = [name.replace("_", " ") for name in flips["names"]]
    table = Table(box=None, pad_edge=False, title="lower label × higher label", title_justify="left")
    table.add_column("", style="dim")
    for name in names:
        table.add_column(name, justify="right")
    for place, (name, row) in enumerate(zip(names, flips["table"], strict=True)):
        table.add_row(name, *("" if at < place else f"{count:,}" for at, count in enumerate(row)))
    return table


def _dimensions(dimensions: Sequence[Facts], icc: str) -> Table:
    table = Table(box=None, pad_edge=False, title="spread within a story, by dimension", title_justify="left")
    table.add_column("", style="dim")
    table.add_column("dimension")
    for name in ("mean SD", "of its range", icc, "95 % interval"):
        table.add_column(name, justify="right")
    for row in dimensions:
        interval = ABSENT if row["low"] is None else f"{row['low']:.2f} to {row['high']:.2f}"
        table.add_row(
            row["key"],
            row["name"],
            f"{row['sd']:.2f}",
            _percent(row["share"]),
            _number(row["icc"], 2),
            interval,
        )
    return table


def _print_validation(facts: Facts) -> None:
    console = _console()
    length = facts["length"]
    console.print(Text(f"{facts['judge']} against people", style="bold"), soft_wrap=True)
    rows = [
        ("rubric", facts["rubric"]),
        ("agreement", _share(facts["agreement"])),
        (
            "pairs",
            f"{facts['n']:,} of {facts['pairs']:,}, {facts['n_failed']:,} without both scores",
        ),
        *(("" if number else "failed", line) for number, line in enumerate(failure_lines(facts["failures"]))),
        ("ties", f"{facts['ties']:,}, each counted half"),
        ("the longer alone", _share(length["longer_is_chosen"])),
        ("shorter chosen", _share(length["shorter_chosen"])),
        ("longer chosen", _share(length["longer_chosen"])),
        ("both alike", f"{_percent(length['balanced'])}, with the two kinds of pair given equal weight"),
        ("position bias", facts["position_bias"]),
        *(("caveat", caveat) for caveat in facts["caveats"]),
    ]
    _print_rows(console, rows)
    for key, title in (("by_gap", "points apart"), ("by_upvotes", "times the upvotes")):
        if facts[key]:
            table = Table(box=None, pad_edge=False)
            for name in (title, "agreement", "95 % interval", "pairs"):
                table.add_column(name, justify="left" if name == title else "right")
            for part in facts[key]:
                between = f"{_percent(part['low'])} to {_percent(part['high'])}"
                table.add_row(part["name"], _percent(part["value"]), between, f"{part['n']:,}")
            console.print(table)


def _print_written(console: Console, out: Path | None, name: str) -> None:
    if out is not None:
        console.print(f"written to {out}: {name}.json, {name}.html", soft_wrap=True)


def _icc(icc: Facts) -> str:
    if icc["value"] is None:
        return f"{icc['name']} undefined: {icc['reason']}"
    between = f" [{icc['low']:.3f}, {icc['high']:.3f}]" if icc["low"] is not None else ""
    return f"{icc['name']} {icc['value']:.3f}{between}"


def _partial(bias: Facts) -> str:
    held = f", {' and '.join(bias['controls'])} held fixed" if bias["controls"] else ""
    if bias["value"] is None:
        return f"unknown: {bias['reason']}"
    between = f"[{bias['low']:+.2f}, {bias['high']:+.2f}]" if bias["low"] is not None else bias["reason"]
    return f"{bias['value']:+.2f} {between}: partial correlation with log words{held}, n {bias['n']:,}"


def _share(part: Facts) -> str:
    if part["value"] is None:
        return "no pair"
    between = f"[{_percent(part['low'])}, {_percent(part['high'])}]"
    return f"{_percent(part['value'])} {between} of {counted(part['n'], 'pair')} ({part['method']})"


def _repeats(judge: Facts) -> str:
    counts = [len(row["overalls"]) for row in judge["per_story"] if len(row["overalls"]) > 1]
    return f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def _number(value: float | None, digits: int = 1) -> str:
    return ABSENT if value is None else f"{value:.{digits}f}"


def _percent(share: float | None) -> str:
    return ABSENT if share is None else f"{100 * share:.1f} %"
