"""An evaluation's facts in, its drawings out; one whose numbers are missing is None, never an empty frame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polaris.report.plots import (
    Course,
    Interval,
    Points,
    courses,
    intervals,
    lengths,
)

Facts = Mapping[str, Any]


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
