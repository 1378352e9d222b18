"""The figures of `train_learns.py` in, one SVG out: rewards by step, and what the references gained.

    python benchmarks/train_curve.py FIGURES.json FILE.svg

The same figures give the same bytes. 10-point text on 5 inches stays legible on a phone, 390 px wide.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

WITH, WITHOUT, INK, MUTED = "#1f5fa8", "#b8561b", "#222222", "#666666"
_STYLE = {
    "svg.hashsalt": "learns",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#bbbbbb",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "legend.handlelength": 1.4,
}


def draw(told: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draw `with`, `without` and `smollm2`, lists of runs with `rewards`, `before` and `after`."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(5.0, 7.2), layout="constrained", facecolor="white")
        FigureCanvasSVG(figure)
        heights = (1.15, 0.9, 0.75) if told["smollm2"] else (1.15, 0.75)
        panels = list(figure.subplots(len(heights), 1, height_ratios=heights))
        _rewards(panels[0], told)
        panels[0].set_title(f"Small model: mean reward by step, {len(told['with'])} seeds")
        if told["smollm2"]:
            _curve(panels[1], told["smollm2"], WITH, "")
            panels[1].set_title("SmolLM2-135M: the same, one run")
            panels[1].set_xlabel("step")
        _rises(panels[-1], told)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def _rewards(axes: Any, told: dict[str, list[dict[str, Any]]]) -> None:
    _curve(axes, told["without"], WITHOUT, "without references")
    _curve(axes, told["with"], WITH, "with (w up to 0.4)")
    axes.legend(loc="lower right")
    axes.set_xlabel("step")


def _curve(axes: Any, runs: Sequence[dict[str, Any]], colour: str, label: str) -> None:
    """Draw each run thin and, where there are several, their mean; a single one with its trend of five."""
    curves = [run["rewards"] for run in runs]
    steps = range(1, len(curves[0]) + 1)
    for curve in curves:
        axes.plot(steps, curve, color=colour, linewidth=0.8, alpha=0.4)
    middle = [mean(values) for values in zip(*curves, strict=True)]
    if len(curves) == 1:
        middle = [mean(middle[max(0, at - 2) : at + 3]) for at in range(len(middle))]
    axes.plot(steps, middle, color=colour, linewidth=2, label=label or None)


def _rises(axes: Any, told: dict[str, list[dict[str, Any]]]) -> None:
    """Draw what the references' log-probability gained, a dot a seed."""
    for place, (name, colour) in enumerate((("without", WITHOUT), ("with", WITH))):
        rises = [run["after"] - run["before"] for run in told[name]]
        axes.plot(rises, [place] * len(rises), "o", color=colour, markersize=7, alpha=0.8, clip_on=False)
        axes.annotate(
            f"{mean(rises):+.2f}", (mean(rises), place), (0, 9), textcoords="offset points", ha="center"
        )
    axes.set_yticks([0, 1], ["without", "with"])
    axes.set_ylim(-0.5, 1.7)
    axes.axvline(0, color="#999999", linewidth=0.8)
    axes.set_title("Small model: the references' gain, a dot a seed")
    axes.set_xlabel("log-probability a token, after − before (nats)")


if __name__ == "__main__":
    found = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    draw(found.get("figures", found), Path(sys.argv[2]))
