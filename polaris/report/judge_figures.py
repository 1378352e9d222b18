"""A judge's reliability or validation as facts in, its drawings out; one without numbers is None."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from polaris.report.judge_plots import Cloud, against, differences, over_words, shares
from polaris.text import encodable

Facts = Mapping[str, Any]
Drawings = dict[str, str | None]

LONGEST = 30
"""Characters of a name in a drawing."""
MANY = 3000
"""Points beyond which a drawing shows each story's first two scores only."""


def run_figures(evaluation: Facts, colours: Mapping[str, int]) -> Drawings:
    """Return the run report's drawing of an evaluation: `repeats`, every model's stories in one."""
    parts = [
        (result["model"], colours[result["model"]], result["reliability"])
        for result in evaluation["models"]
        if result["reliability"]
    ]
    halves = [part["test_retest"]["repeatability"] for _, _, part in parts]
    half = max((half for half in halves if half), default=None)
    name = evaluation["name"]
    return {"repeats": _repeats(f"repeats-{name}", parts, half)}


def reliability_figures(facts: Facts) -> dict[str, Any]:
    """Return the page's drawings: `judges`, one set a judge, `words` for all, `pairs` of judges."""
    judges = facts["judges"]
    drawn = []
    for number, judge in enumerate(judges):
        half = judge["test_retest"]["repeatability"]
        part = [(_short(judge["name"]), number, judge)]
        drawn.append(
            {
                "repeats": _repeats(f"repeats-{number}", part, half),
                "differences": differences(
                    f"differences-{number}",
                    f"Difference of two repeats over their mean, {judge['name']}",
                    [Cloud(_short(judge["name"]), _points(judge), number)],
                    None if half is None else (-half, half),
                    "earlier − later repeat",
                ),
            }
        )
    pairs = (facts["between"] or {}).get("pairs", [])
    return {
        "judges": drawn,
        "words": over_words(
            "words",
            "Overall score over words, by judge",
            [Cloud(_short(judge["name"]), _lengths(judge), number) for number, judge in enumerate(judges)],
        ),
        "pairs": [_pair(number, pair) for number, pair in enumerate(pairs)],
    }


def validation_figures(facts: Facts) -> Drawings:
    """Return `agreement` and `by_gap` (shares with intervals) and `scores` (chosen against rejected)."""
    length = facts["length"]
    rows = [
        ("the judge", facts["agreement"]),
        ("the longer story", length["longer_is_chosen"]),
        ("the judge, shorter chosen", length["shorter_chosen"]),
        ("the judge, longer chosen", length["longer_chosen"]),
    ]
    drawn = [(label, part["value"], part["low"], part["high"]) for label, part in rows if part["n"]]
    by_gap = [(part["name"], part["value"], part["low"], part["high"]) for part in facts["by_gap"]]
    pairs = [row for row in facts["per_pair"] if row["gap"] is not None]
    return {
        "agreement": shares("agreement", "How often each agrees with people", drawn),
        "by_gap": shares("by-gap", "Agreement by how far the two scores lie apart", by_gap),
        "scores": against(
            "scores",
            "Score of the chosen story against the rejected one",
            [Cloud("a pair", [(row["rejected"], row["chosen"]) for row in pairs])],
            ("score of the rejected story", "score of the chosen story"),
        ),
    }


def _repeats(name: str, parts: Sequence[tuple[str, int, Facts]], half: float | None) -> str | None:
    return against(
        name,
        "One repeat's score against the next one's, story by story",
        [Cloud(label, _points(part), colour) for label, colour, part in parts],
        ("score at one repeat", "score at the next"),
        half,
    )


def _short(name: str) -> str:
    """Return a judge's name as a drawing's legend has room for it; a hash at its end tells nobody much."""
    shown = encodable(name)
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 1]}…"


def _points(judge: Facts) -> list[tuple[float, float]]:
    """Return each story's scores at successive repeats; at the first two where they would be too many."""
    stories = [row["overalls"] for row in judge["per_story"] if len(row["overalls"]) > 1]
    if sum(map(len, stories)) - len(stories) > MANY:
        stories = [scores[:2] for scores in stories]
    return [(a, b) for scores in stories for a, b in zip(scores, scores[1:], strict=False)]


def _lengths(judge: Facts) -> list[tuple[float, float]]:
    return [
        (row["words"], sum(row["overalls"]) / len(row["overalls"]))
        for row in judge["per_story"]
        if row["words"]
    ]


def _pair(number: int, pair: Facts) -> Drawings:
    cloud = [Cloud("a story", [(x, y) for x, y in pair["points"]], number)]
    limits = None if pair["limits"] is None else (pair["limits"][0], pair["limits"][1])
    names = f"{pair['a']} and {pair['b']}"
    return {
        "scores": against(
            f"judges-{number}",
            f"Scores by {names}",
            cloud,
            (f"by {_short(pair['a'])}", f"by {_short(pair['b'])}"),
        ),
        "differences": differences(
            f"apart-{number}",
            f"Difference of the scores by {names}",
            cloud,
            limits,
            "first − second judge",
            pair["mean_difference"],
        ),
    }
