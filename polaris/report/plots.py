"""Series of numbers in, inline SVG that takes the page's colours and font out.

Figures are drawn in stand-in colours that are then replaced by the page's CSS variables, so that one
drawing serves light and dark. No pyplot, no state between figures, no date, no random ids: the same
numbers give the same text.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

INK, MUTED, GRID = "#010101", "#020202", "#030303"
SERIES = ("#0a0101", "#0a0202", "#0a0303", "#0a0404", "#0a0505", "#0a0606")
_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--rule)",
    **{colour: f"var(--s{index + 1})" for index, colour in enumerate(SERIES)},
}
_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "legend.handlelength": 2.0,
    "legend.borderaxespad": 0.2,
    "axes.unicode_minus": True,
}
WIDTH = 5.0
"""Inches; at 72 units an inch, 10-point text stays legible when a phone shows the figure 330 px wide."""

DASHES: tuple[tuple[float, ...], ...] = (
    (),
    (5, 2.5),
    (2, 1.1),
    (8, 2, 1.6, 2),
    (5, 1.6, 1.6, 1.6, 1.6, 1.6),
    (2.8, 1.2),
)
"""How lines are dashed, so that none is told from another by its colour alone; the first is solid."""

MARKERS = ("o", "s", "^", "D", "v", "P")
"""Shapes of marked points, by the line's dash."""

FEW = 40
"""Up to so many steps each is marked, and lines are drawn thicker."""

Values = Sequence[float | None]


@dataclass(frozen=True)
class Line:
    """One series: a value a step (None where there is none), and the half-width of its band.

    `steps` are its own where they are not the figure's; `marked` draws its values as points that a thin
    line joins.
    """

    label: str
    values: Values
    colour: int = 0
    band: Values | None = None
    dash: int = 0
    steps: Sequence[float] | None = None
    marked: bool = False


@dataclass(frozen=True)
class Panel:
    """Lines that share one pair of axes; `limit` is a labelled threshold."""

    title: str
    lines: tuple[Line, ...]
    log: bool = False
    limit: tuple[str, float] | None = None
    zero: bool = False

    def drawable(self) -> tuple[Line, ...]:
        """Return the lines with at least one number that these axes can show."""
        return tuple(line for line in self.lines if any(_shown(value, self.log) for value in line.values))


@dataclass(frozen=True)
class Points:
    """One model's stories as (target, words, truncated)."""

    label: str
    stories: Sequence[tuple[int, int, bool]]
    colour: int = 0


@dataclass(frozen=True)
class Interval:
    """One row of an interval plot."""

    label: str
    value: float
    low: float | None
    high: float | None
    colour: int = 0
    marks: Sequence[float] = field(default=())
    """The single scores behind the value, drawn faintly."""


@dataclass(frozen=True)
class Course:
    """One model's figure at each target, as (target, value, low, high)."""

    label: str
    points: Sequence[tuple[int, float, float | None, float | None]]
    colour: int = 0


def curves(
    name: str,
    alt: str,
    steps: Sequence[float],
    panels: Sequence[Panel],
    *,
    span: tuple[float, float] | None = None,
) -> str | None:
    """Return panels over the optimiser step, one above the other; None when none has a number to show.

    `span` is the range of steps of figures that are to be read side by side.
    """
    shown = [panel for panel in panels if panel.drawable()]
    drawn = [line for panel in shown for line in panel.drawable()]
    places = [step for line in drawn for step in (steps if line.steps is None else line.steps)]
    if not places:
        return None
    fullest = max(shown, key=lambda panel: len(_keys(panel)))
    shared = len(shown) > 1 and all(set(_keys(panel)) <= set(_keys(fullest)) for panel in shown)
    few = max(len(steps if line.steps is None else line.steps) for line in drawn) <= FEW
    with matplotlib.rc_context(style(name)):
        figure = Figure(
            figsize=(WIDTH, 2.9 if len(shown) == 1 else 1.75 * len(shown) + (0.5 if shared else 0.2)),
            layout="constrained",
        )
        rows: Any = figure.subplots(len(shown), 1, sharex=True, squeeze=False)
        for axes, panel in zip(rows[:, 0], shown, strict=True):
            _panel(axes, steps, panel, few)
            if shared and panel is fullest and len(_keys(panel)) > 1:
                _legend_below(axes)
            elif not shared and len(_keys(panel)) > 1:
                legend(axes)
        last = rows[-1, 0]
        last.set_xlabel("optimiser step")
        last.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        low, high = span or (min(places), max(places))
        margin = max(0.4, 0.02 * (high - low))
        last.set_xlim(low - margin, high + margin)
        return svg(figure, name, alt)


def lengths(name: str, alt: str, models: Sequence[Points]) -> str | None:
    """Return words against target with the ideal line and its ±20 %; hollow points are cut stories."""
    shown = [model for model in models if model.stories]
    if not shown:
        return None
    with matplotlib.rc_context(style(name)):
        figure = Figure(figsize=(WIDTH, 3.7), layout="constrained")
        axes = figure.subplots()
        far = 1.06 * max(target for model in shown for target, _, _ in model.stories)
        axes.fill_between([0, far], [0, 0.8 * far], [0, 1.2 * far], color=MUTED, alpha=0.14, linewidth=0)
        axes.plot([0, far], [0, far], color=MUTED, linewidth=1.2, dashes=(4, 3), label="as asked, ±20 %")
        for model in shown:
            colour = SERIES[model.colour % len(SERIES)]
            whole = [(target, words) for target, words, cut in model.stories if not cut]
            cut = [(target, words) for target, words, cut in model.stories if cut]
            axes.scatter(
                [x for x, _ in whole],
                [y for _, y in whole],
                s=26,
                color=colour,
                alpha=0.75,
                linewidth=0,
                label=model.label,
            )
            if cut:
                axes.scatter(
                    [x for x, _ in cut],
                    [y for _, y in cut],
                    s=26,
                    facecolor="none",
                    edgecolor=colour,
                    linewidth=1.3,
                    label=f"{model.label}, cut off",
                )
        axes.set_xlim(0, far)
        top = max(max(words for model in shown for _, words, _ in model.stories), far)
        axes.set_ylim(-0.02 * top, 1.04 * top)
        axes.set_xlabel("target, words")
        axes.set_ylabel("written, words")
        legend(axes)
        return svg(figure, name, alt)


def courses(
    name: str, alt: str, models: Sequence[Course], unit: str, *, ideal: float | None = None
) -> str | None:
    """Return each model's figure over the target with its 95 % intervals; `ideal` is drawn with its ±20 %."""
    shown = [model for model in models if model.points]
    if not shown:
        return None
    targets = [target for model in shown for target, *_ in model.points]
    step = 0.012 * max(targets)
    with matplotlib.rc_context(style(name)):
        figure = Figure(figsize=(WIDTH, 3.1), layout="constrained")
        axes = figure.subplots()
        if ideal is not None:
            axes.axhspan(0.8 * ideal, 1.2 * ideal, color=MUTED, alpha=0.14, linewidth=0)
            axes.axhline(ideal, color=MUTED, linewidth=1.2, dashes=(4, 3), label="as asked, ±20 %")
        for place, model in enumerate(shown):
            colour = SERIES[model.colour % len(SERIES)]
            aside = step * (place - (len(shown) - 1) / 2)
            at = [target + aside for target, *_ in model.points]
            for x, (_, _, low, high) in zip(at, model.points, strict=True):
                if low is not None and high is not None:
                    axes.plot([x, x], [low, high], color=colour, linewidth=4, alpha=0.4)
            values = [value for _, value, *_ in model.points]
            axes.plot(at, values, color=colour, marker="o", markersize=5, linewidth=1.2, label=model.label)
        axes.set_xlim(0, 1.06 * max(targets))
        axes.set_xlabel("target, words")
        axes.set_ylabel(unit)
        legend(axes)
        return svg(figure, name, alt)


def intervals(name: str, alt: str, rows: Sequence[Interval], unit: str) -> str | None:
    """Return one dot with its 95 % interval a row, over the single scores behind it."""
    if not rows:
        return None
    with matplotlib.rc_context(style(name)):
        figure = Figure(figsize=(WIDTH, 0.75 + 0.62 * len(rows)), layout="constrained")
        axes = figure.subplots()
        for height, row in enumerate(reversed(rows)):
            colour = SERIES[row.colour % len(SERIES)]
            if row.marks:
                axes.scatter(
                    row.marks, [height - 0.24] * len(row.marks), s=14, color=colour, alpha=0.35, linewidth=0
                )
            if row.low is not None and row.high is not None:
                axes.plot([row.low, row.high], [height, height], color=colour, linewidth=5, alpha=0.4)
            axes.scatter([row.value], [height], s=56, color=colour, zorder=3)
        axes.set_yticks(range(len(rows)), [row.label for row in reversed(rows)], color=INK)
        axes.set_ylim(-0.6, len(rows) - 0.5)
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(unit)
        return svg(figure, name, alt)


def _keys(panel: Panel) -> list[str]:
    """Return what a panel's legend would name."""
    return [line.label for line in panel.drawable()] + ([panel.limit[0]] if panel.limit else [])


def _panel(axes: Any, steps: Sequence[float], panel: Panel, few: bool) -> None:
    for line in panel.drawable():
        _line(axes, steps if line.steps is None else line.steps, line, panel.log, few)
    if panel.log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    if panel.zero:
        axes.axhline(0, color=MUTED, linewidth=0.9)
    if panel.limit is not None:
        text, value = panel.limit
        axes.axhline(value, color=SERIES[5], linewidth=1.1, dashes=(2, 2), label=text)
    axes.set_title(panel.title, loc="left", fontsize=10, color=INK)


def _line(axes: Any, steps: Sequence[float], line: Line, log: bool, few: bool) -> None:
    colour = SERIES[line.colour % len(SERIES)]
    values = [_number(value, log) for value in line.values]
    if line.band is not None:
        spread = [_number(value, False) for value in line.band]
        low = [value - half for value, half in zip(values, spread, strict=True)]
        high = [value + half for value, half in zip(values, spread, strict=True)]
        axes.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)
    drawn: dict[str, Any] = {
        "linewidth": 1.8 if few else 1.2,
        "marker": "o" if few else "",
        "markersize": 3.2,
    }
    if line.marked:
        # A validation that was not reached, or failed, must not break the line that joins its neighbours.
        known = [number for number, value in enumerate(values) if math.isfinite(value)]
        steps, values = [steps[number] for number in known], [values[number] for number in known]
        marker = MARKERS[line.dash % len(MARKERS)]
        drawn = {"linewidth": 1.1, "marker": marker, "markersize": 6.5, "zorder": 3}
    if dash := DASHES[line.dash % len(DASHES)]:
        drawn["dashes"] = dash if few else [0.75 * length for length in dash]
    axes.plot(steps, values, color=colour, label=line.label, **drawn)


def legend(axes: Any) -> None:
    """Put the legend below a figure's only axes, or into one of several."""
    if len(axes.figure.axes) > 1:
        axes.legend(loc="best")
        return
    _legend_below(axes)


def _legend_below(axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    columns = 4 if sum(len(label) for label in labels[:4]) <= 30 else 2
    if max(map(len, labels)) > 26:
        columns = 1
    axes.figure.legend(handles, labels, loc="outside lower left", ncols=columns, columnspacing=1.2)


def _shown(value: float | None, log: bool) -> bool:
    return value is not None and math.isfinite(value) and (value > 0 or not log)


def _number(value: float | None, log: bool) -> float:
    return float(value) if value is not None and _shown(value, log) else math.nan


def style(name: str) -> dict[Any, Any]:
    """Return the settings that every drawing is made with; `name` makes its ids its own."""
    return {**_STYLE, "svg.hashsalt": name}


def svg(figure: Any, name: str, alt: str) -> str:
    """Return the figure as an `<svg>` element for an HTML page: no prolog, no metadata, ids of its own."""
    buffer = io.StringIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # A style element inside an inline drawing would apply to the whole page.
    text = re.sub(r"<metadata>.*?</metadata>\s*|<style.*?</style>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\b(id=")', rf"\1{name}-", text)
    text = re.sub(r'(href="#|url\(#)', rf"\1{name}-", text)
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--sans)", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None
    opening = f'<svg {box.group()} role="img" aria-label="{escape(alt)}" xmlns:xlink="http://www.w3.org/1999/xlink">'
    return re.sub(r"<svg[^>]*>", lambda _: opening, text, count=1)
