"""The report's facts in, its drawings out; one whose numbers are missing is None, never an empty frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from polaris.report.plots import (
    Course,
    Interval,
    Line,
    Panel,
    Points,
    courses,
    curves,
    intervals,
    lengths,
)

Facts = Mapping[str, Any]

PARTS = (
    ("reward/quality", "quality"),
    ("reward/repetition", "self-repetition"),
    ("reward/length", "length"),
    ("reward/blank", "blank"),
)
JUDGED = ("reward", "parts", "reference", "hri")
"""The training curves that a judge's scores enter."""


def training_figures(training: Facts) -> list[dict[str, Any]]:
    """Return the training curves, each `{title, text, svg, lacks, judged}`.

    `lacks` says what is not drawn and why; `judged` tells whether a judge's scores enter.
    """
    return [
        {
            "title": title,
            "text": text,
            "svg": curves(f"train-{name}", f"{title}: {text}", training["steps"], panels),
            "lacks": _lacks(panels),
            "judged": name in JUDGED,
        }
        for name, title, text, panels in _training_curves(training)
    ]


def _training_curves(training: Facts) -> list[tuple[str, str, str, list[Panel]]]:
    """Return each curve's name, title, explanation and panels, in the page's order."""
    series: Mapping[str, Sequence[float | None]] = training["series"]
    blank: list[float | None] = [None] * len(training["steps"])

    def line(key: str, label: str, colour: int = 0, band: str | None = None, dashed: bool = False) -> Line:
        return Line(label, series.get(key, blank), colour, series.get(band) if band else None, dashed)

    return [
        (
            "reward",
            "Reward",
            "Mean reward of the policy's stories at each step; the band is one standard deviation.",
            [Panel("reward", (line("reward", "mean", 1, "reward_std"),))],
        ),
        (
            "parts",
            "What the reward is made of",
            "Means over the policy's stories. Quality adds; the other three are penalties.",
            [Panel("value", tuple(line(key, label, n) for n, (key, label) in enumerate(PARTS)))],
        ),
        (
            "reference",
            "The human story against the policy",
            "Reward of the human reference beside the policy's mean for the same prompts.",
            [
                Panel(
                    "reward",
                    (line("hri/reference_reward", "human reference", 2), line("reward", "policy mean", 1)),
                )
            ],
        ),
        (
            "hri",
            "Human-reference injection",
            "How much the reference counts, and the advantage that its tokens were trained with.",
            [
                Panel("weight", (line("hri/weight", "weight", 2),)),
                Panel("reference advantage", (line("hri/reference_advantage", "advantage", 2),), zero=True),
            ],
        ),
        (
            "lengths",
            "Length",
            "Mean words of the policy's stories beside the mean target.",
            [
                Panel(
                    "words",
                    (
                        line("lengths/words_mean", "written", 1),
                        line("lengths/target_mean", "target", 0, dashed=True),
                    ),
                )
            ],
        ),
        (
            "engine",
            "Sampler against trainer",
            "Largest difference of one fixed text's log-probabilities; the run stops at the limit.",
            [
                Panel(
                    "difference",
                    (line("engine/logprob_max_difference", "difference", 0),),
                    log=True,
                    limit=("limit", training["engine_limit"]),
                )
            ],
        ),
    ]


def evaluation_figures(evaluation: Facts, colours: Mapping[str, int]) -> dict[str, str | None]:
    """Return an evaluation's drawings by name: those of its kind."""
    return (_length if evaluation["kind"] == "length" else _quality)(evaluation, colours)


def _length(evaluation: Facts, colours: Mapping[str, int]) -> dict[str, str | None]:
    """Return `lengths` (words against target), `ratios` and `quality` (each by target)."""
    name = evaluation["name"]
    return {
        "lengths": _words(evaluation, colours),
        "ratios": courses(
            f"ratios-{name}",
            "Mean of words / target by target, by model",
            _by_target(evaluation, colours, "length_ratio_mean"),
            "words / target",
            ideal=1.0,
        ),
        "quality": courses(
            f"quality-{name}",
            "Mean Story Quality by target, by model",
            _by_target(evaluation, colours, "story_quality"),
            "Story Quality",
        ),
    }


def _by_target(evaluation: Facts, colours: Mapping[str, int], key: str) -> list[Course]:
    found = []
    for result in evaluation["models"]:
        figures = [(row["target"], row["figures"][key]) for row in result["by_target"]]
        points = [
            (target, figure["value"], figure["low"], figure["high"])
            for target, figure in figures
            if figure["value"] is not None
        ]
        found.append(Course(result["model"], points, colours[result["model"]]))
    return found


def _quality(evaluation: Facts, colours: Mapping[str, int]) -> dict[str, str | None]:
    """Return `scores` (dot and interval a model) and `lengths` (words against target)."""
    name = evaluation["name"]
    models = evaluation["models"]
    rows = []
    for result in models:
        figure = result["figures"]["story_quality"]
        if figure["value"] is not None:
            marks = [row["overall"] for row in result["per_story"] if row["overall"] is not None]
            rows.append(
                Interval(
                    result["model"],
                    figure["value"],
                    figure["low"],
                    figure["high"],
                    colours[result["model"]],
                    marks,
                )
            )
    alt = ", ".join(f"{row.label} {row.value:.1f}" for row in rows)
    return {
        "scores": intervals(f"scores-{name}", f"Mean Story Quality: {alt}", rows, "Story Quality"),
        "lengths": _words(evaluation, colours),
    }


def _words(evaluation: Facts, colours: Mapping[str, int]) -> str | None:
    points = [
        Points(
            result["model"],
            [(row["target"], row["words"], row["truncated"]) for row in result["per_story"]],
            colours[result["model"]],
        )
        for result in evaluation["models"]
    ]
    name = evaluation["name"]
    return lengths(f"lengths-{name}", "Words written against words asked for, by model", points)


def _lacks(panels: Sequence[Panel]) -> str | None:
    """Say which panels have nothing to show, and why; None when all have."""
    empty = [panel for panel in panels if not panel.drawable()]
    if not empty:
        return None
    if all(panel.log and any(v == 0 for line in panel.lines for v in line.values) for panel in empty):
        return "It is exactly 0 at every step, which a log scale cannot show."
    return f"The metrics hold no {' and no '.join(panel.title for panel in empty)}."
