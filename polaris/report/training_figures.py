"""The facts of a run's trainings in, its curves out: one training's own, or several, a line an arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from polaris.report.plots import Line, Panel, curves

Facts = Mapping[str, Any]
Values = Sequence[float | None]
Curve = tuple[str, str, str, list[Panel]]
"""A figure's name, title, explanation and panels."""

PARTS = (
    ("reward/quality", "quality"),
    ("reward/repetition", "self-repetition"),
    ("reward/length", "length"),
    ("reward/blank", "blank"),
)
VALIDATED = (
    "Points are means over stories of pairs that training never sees, lines the training's own. The two"
    " rewards may weigh their parts differently."
)
COMPARED = (
    "Means over stories of pairs that training never sees, at the steps marked. Their reward may weigh its"
    " parts differently from training's."
)
MADE_OF = "Means over the policy's stories. Quality adds; the other three are penalties."
INJECTED = "How much the reference counts, and the advantage that its tokens were trained with."
JUDGED = ("reward", "validation", "parts", "reference", "hri")
"""The curves that a judge's scores enter."""


def training_figures(trainings: Sequence[Facts]) -> list[dict[str, Any]]:
    """Return the curves, each `{title, text, svg, lacks, judges}`; several trainings share each figure.

    `lacks` says what is not drawn and why; `judges` are those whose scores enter.
    """
    if not any(_places(training) for training in trainings):
        return []
    found = _single(trainings[0]) if len(trainings) == 1 else _compared(trainings)
    judges = list(dict.fromkeys(training["judge"] for training in trainings))
    places = [place for training in trainings for place in _places(training)]
    steps = trainings[0]["steps"]
    return [
        {
            "title": title,
            "text": text,
            "svg": curves(
                f"train-{name}", f"{title}: {text}", steps, panels, span=(min(places), max(places))
            ),
            "lacks": _lacks(panels),
            "judges": judges if name in JUDGED else [],
        }
        for name, title, text, panels in found
    ]


def _places(training: Facts) -> list[int]:
    validation = training["validation"]
    return [*training["steps"], *(validation["steps"] if validation else ())]


def _single(training: Facts) -> list[Curve]:
    """Return one training's curves, in the page's order."""
    series: Mapping[str, Values] = training["series"]
    blank: Values = [None] * len(training["steps"])

    def line(key: str, label: str, colour: int = 0, band: str | None = None, dash: int = 0) -> Line:
        return Line(label, series.get(key, blank), colour, series.get(band) if band else None, dash)

    mean = line("reward", "mean", 1, "reward_std")
    validated = [
        Panel(title, (line(key, "training", 1), *_validated([training], key, ["validation"], [0])))
        for title, key in (("reward", "reward"), ("quality", "reward/quality"))
    ]
    parts = tuple(line(key, label, n, dash=n) for n, (key, label) in enumerate(PARTS))
    human = line("hri/reference_reward", "human reference", 2, dash=1)
    weight, advantage = line("hri/weight", "weight", 2), line("hri/reference_advantage", "advantage", 2)
    written = line("lengths/words_mean", "written", 1)
    target = line("lengths/target_mean", "target", 0, dash=1)
    reward = "Mean reward of the policy's stories at each step; the band is one standard deviation."
    return [
        ("reward", "Reward", reward, [Panel("reward", (mean,))]),
        *([("validation", "Validation", VALIDATED, validated)] if training["validation"] else []),
        ("parts", "What the reward is made of", MADE_OF, [Panel("value", parts)]),
        (
            "reference",
            "The human story against the policy",
            "Reward of the human reference beside the policy's mean for the same prompts.",
            [Panel("reward", (human, line("reward", "policy mean", 1)))],
        ),
        (
            "hri",
            "Human-reference injection",
            INJECTED,
            [Panel("weight", (weight,)), Panel("reference advantage", (advantage,), zero=True)],
        ),
        (
            "lengths",
            "Length",
            "Mean words of the policy's stories beside the mean target.",
            [Panel("words", (written, target))],
        ),
        _engine([training], [line("engine/logprob_max_difference", "difference", 0)]),
    ]


def _compared(trainings: Sequence[Facts]) -> list[Curve]:
    """Return the curves of several trainings, one line an arm."""

    def panel(title: str, key: str, **more: Any) -> Panel:
        return Panel(title, tuple(_arm(one, one["series"].get(key)) for one in trainings), **more)

    def derived(title: str, of: Any, one: str, other: str, **more: Any) -> Panel:
        return Panel(title, tuple(_arm(t, _both(of, t["series"], one, other)) for t in trainings), **more)

    labels = [training["label"] for training in trainings]
    colours = [training["colour"] for training in trainings]
    validated = [
        Panel(title, _validated(trainings, key, labels, colours))
        for title, key in (("reward", "reward"), ("quality", "reward/quality"))
    ]
    difference = derived(
        "reference − policy", lambda a, b: a - b, "hri/reference_reward", "reward", zero=True
    )
    ratio = derived(
        "words / target", lambda a, b: a / b if b else None, "lengths/words_mean", "lengths/target_mean"
    )
    weight = panel("weight", "hri/weight")
    advantage = panel("reference advantage", "hri/reference_advantage", zero=True)
    reward = "Mean reward of the policy's stories at each step, one line a training."
    return [
        ("reward", "Reward", reward, [panel("reward", "reward")]),
        *([("validation", "Validation", COMPARED, validated)] if any(map(_validates, trainings)) else []),
        ("parts", "What the reward is made of", MADE_OF, [panel(label, key) for key, label in PARTS]),
        (
            "reference",
            "The human story against the policy",
            "Reward of the human reference minus the policy's mean: above 0 the human's is better.",
            [difference],
        ),
        ("hri", "Human-reference injection", INJECTED, [weight, advantage]),
        (
            "lengths",
            "Length",
            "Mean words of the policy's stories, and how many they are for each word asked for.",
            [panel("words", "lengths/words_mean"), ratio],
        ),
        _engine(trainings, [_arm(t, t["series"].get("engine/logprob_max_difference")) for t in trainings]),
    ]


def _validates(training: Facts) -> bool:
    return training["validation"] is not None


def _engine(trainings: Sequence[Facts], lines: Sequence[Line]) -> Curve:
    limits = {training["engine_limit"] for training in trainings}
    label = "limit" if len(limits) == 1 else "lowest limit"
    return (
        "engine",
        "Sampler against trainer",
        "Largest difference of one fixed text's log-probabilities; the run stops at the limit.",
        [Panel("difference", tuple(lines), log=True, limit=(label, min(limits)))],
    )


def _arm(training: Facts, values: Values | None) -> Line:
    steps = training["steps"]
    return Line(
        training["label"],
        [None] * len(steps) if values is None else values,
        training["colour"],
        dash=training["dash"],
        steps=steps,
    )


def _both(of: Any, series: Mapping[str, Values], one: str, other: str) -> Values | None:
    """Return a figure made of two, None at steps that lack either."""
    if one not in series or other not in series:
        return None
    pairs = zip(series[one], series[other], strict=True)
    return [None if a is None or b is None else of(a, b) for a, b in pairs]


def _validated(
    trainings: Sequence[Facts], key: str, labels: Sequence[str], colours: Sequence[int]
) -> tuple[Line, ...]:
    found = []
    for training, label, colour in zip(trainings, labels, colours, strict=True):
        validation = training["validation"]
        if validation and key in validation["series"]:
            steps, values = validation["steps"], validation["series"][key]
            found.append(Line(label, values, colour, dash=training["dash"], steps=steps, marked=True))
    return tuple(found)


def _lacks(panels: Sequence[Panel]) -> str | None:
    """Say which panels have nothing to show, and why; None when all have."""
    empty = [panel for panel in panels if not panel.drawable()]
    if not empty:
        return None
    if all(panel.log and any(v == 0 for line in panel.lines for v in line.values) for panel in empty):
        return "It is exactly 0 at every step, which a log scale cannot show."
    return f"The metrics hold no {' and no '.join(panel.title for panel in empty)}."
