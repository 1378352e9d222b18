"""Pairs of scores, and scores with lengths, in; inline SVG drawings of how far a judge can be trusted out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from polaris.report.plots import GRID, INK, MUTED, SERIES, WIDTH, legend, style, svg


@dataclass(frozen=True)
class Cloud:
    """Points (x, y) of one model or judge."""

    label: str
    points: Sequence[tuple[float, float]]
    colour: int = 0


def against(
    name: str, alt: str, clouds: Sequence[Cloud], axes_names: tuple[str, str], half: float | None = None
) -> str | None:
    """Return one score against the other, with the line of equal scores and a band of ± `half` around it."""
    shown = [cloud for cloud in clouds if cloud.points]
    if not shown:
        return None
    every = [value for cloud in shown for point in cloud.points for value in point]
    margin = max(2.0, 0.06 * (max(every) - min(every)))
    low, high = min(every) - margin, max(every) + margin
    with matplotlib.rc_context(style(name)):
        figure = Figure(figsize=(WIDTH, 4.3), layout="constrained")
        axes = figure.subplots()
        if half:
            edges = [low, high]
            below, above = [edge - half for edge in edges], [edge + half for edge in edges]
            axes.fill_between(edges, below, above, color=MUTED, alpha=0.14, linewidth=0)
        same = "the same" + (f", ±{half:.1f}" if half else "")
        axes.plot([low, high], [low, high], color=MUTED, linewidth=1.2, dashes=(4, 3), label=same)
        _scatter(axes, shown)
        axes.set_xlim(low, high)
        axes.set_ylim(low, high)
        axes.set_aspect("equal")
        axes.set_xlabel(axes_names[0])
        axes.set_ylabel(axes_names[1])
        legend(axes)
        return svg(figure, name, alt)


def differences(
    name: str,
    alt: str,
    clouds: Sequence[Cloud],
    limits: tuple[float, float] | None,
    unit: str,
    mean: float | None = None,
) -> str | None:
    """Return a Bland–Altman plot: the difference of two scores over their mean.

    `clouds` hold both scores; `limits` hold 95 % of the differences, whose mean is drawn if it is given.
    """
    shown = [
        Cloud(cloud.label, [((x + y) / 2, x - y) for x, y in cloud.points], cloud.colour)
        for cloud in clouds
        if cloud.points
    ]
    if not shown:
        return None
    with matplotlib.rc_context(style(name)):
        figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
        axes = figure.subplots()
        axes.axhline(0, color=GRID, linewidth=1.2)
        if limits is not None:
            label = "95\N{NO-BREAK SPACE}% of differences"
            axes.axhspan(*limits, color=MUTED, alpha=0.14, linewidth=0, label=label)
        if mean is not None:
            label = f"mean {mean:.1f}".replace("-", "−")
            axes.axhline(mean, color=MUTED, linewidth=1.2, dashes=(4, 3), label=label)
        _scatter(axes, shown)
        axes.set_xlabel("mean of the two scores")
        axes.set_ylabel(unit)
        legend(axes)
        return svg(figure, name, alt)


def over_words(name: str, alt: str, clouds: Sequence[Cloud]) -> str | None:
    """Return scores over words on a log scale, with each cloud's least-squares line in log words."""
    shown = [Cloud(cloud.label, [(x, y) for x, y in cloud.points if x > 0], cloud.colour) for cloud in clouds]
    shown = [cloud for cloud in shown if cloud.points]
    if not shown:
        return None
    with matplotlib.rc_context(style(name)):
        figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
        axes = figure.subplots()
        axes.set_xscale("log")
        _scatter(axes, shown)
        for cloud in shown:
            _line(axes, cloud)
        _word_ticks(axes, [x for cloud in shown for x, _ in cloud.points])
        axes.set_xlabel("words, log scale")
        axes.set_ylabel("Story Quality")
        legend(axes)
        return svg(figure, name, alt)


def _scatter(axes: Any, clouds: Sequence[Cloud]) -> None:
    many = sum(len(cloud.points) for cloud in clouds) > 300
    for cloud in clouds:
        axes.scatter(
            [x for x, _ in cloud.points],
            [y for _, y in cloud.points],
            s=12 if many else 26,
            color=SERIES[cloud.colour % len(SERIES)],
            alpha=0.35 if many else 0.6,
            linewidth=0,
            label=cloud.label,
        )


def _line(axes: Any, cloud: Cloud) -> None:
    logs = np.log([x for x, _ in cloud.points])
    if len(logs) < 3 or np.ptp(logs) < 1e-9:
        return
    slope, start = np.polyfit(logs - logs.mean(), [y for _, y in cloud.points], 1)
    ends = np.array([logs.min(), logs.max()])
    axes.plot(
        np.exp(ends),
        start + slope * (ends - logs.mean()),
        color=SERIES[cloud.colour % len(SERIES)],
        linewidth=1.6,
    )


def _word_ticks(axes: Any, words: Sequence[float]) -> None:
    low, high = min(words), max(words)
    axes.set_xlim(low / 1.12, high * 1.12)
    steps = [factor * 10**power for power in range(0, 7) for factor in (1, 2, 5)]
    ticks = [step for step in steps if low / 1.12 <= step <= high * 1.12]
    if len(ticks) < 2:
        ticks = sorted({float(_rounded(low)), float(_rounded(high))})
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _rounded(value: float) -> float:
    digits = max(0, math.floor(math.log10(value)) - 1)
    return round(value, -digits)


def shares(name: str, alt: str, rows: Sequence[tuple[str, float, float | None, float | None]]) -> str | None:
    """Return shares from 0 to 1 with their intervals, one a row, beside the line of mere chance."""
    if not rows:
        return None
    with matplotlib.rc_context(style(name)):
        figure = Figure(figsize=(WIDTH, 0.9 + 0.5 * len(rows)), layout="constrained")
        axes = figure.subplots()
        axes.axvline(50, color=MUTED, linewidth=1.2, dashes=(4, 3))
        for height, (_, value, low, high) in enumerate(reversed(rows)):
            if low is not None and high is not None:
                axes.plot([100 * low, 100 * high], [height, height], color=SERIES[0], linewidth=5, alpha=0.4)
            axes.scatter([100 * value], [height], s=50, color=SERIES[0], zorder=3)
        axes.set_yticks(range(len(rows)), [label for label, *_ in reversed(rows)], color=INK)
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlim(-2, 102)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("per cent; the dashed line is chance")
        return svg(figure, name, alt)
