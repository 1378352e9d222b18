"""Judges' readings of stories in, how far their scores repeat and what they follow out, as plain JSON data.

Everything that cannot be computed is None with its reason, never NaN. Sources: ICC by Shrout and Fleiss 1979
and McGraw and Wong 1996 (`polaris.judge.icc`); repeatability and limits of agreement by Bland and Altman 1986
(Lancet 327, 307–310); length bias as a partial correlation (`polaris.judge.length_bias`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import combinations, product
from typing import Any

import numpy as np

from polaris.judge.icc import Icc, one_way, two_way
from polaris.judge.length_bias import length_bias
from polaris.judge.readings import Panel, Rater, Reading, Story, labels, stories_of
from polaris.judge.rubric import load_rubric
from polaris.text import prompt_id

METRIC_VERSION = "judge-reliability-1"
"""Changes when the same scores would give other figures."""
FEW_STORIES = 3
"""Fewer stories than this say nothing about a judge."""
TARGET = "log target"
OTHERS = "mean of the other judges"

Facts = dict[str, Any]


def shortage(panel: Panel) -> str | None:
    """Say what is missing for any figure, None when there are two judgements of enough stories."""
    stories = stories_of(panel.raters)
    again = (
        "set judges.NAME.repeats to 3 or so and run again, judge with `polaris judge score --repeats 3`,"
        " or give another judge's scores too"
    )
    copies = sum(rater.copies for rater in panel.raters)
    if len(stories) < FEW_STORIES:
        return f"scores of {len(stories)} stories; at least {FEW_STORIES} are needed: judge more stories"
    counts = [sum(len(rater.readings.get(story, ())) for rater in panel.raters) for story in stories]
    twice = sum(count > 1 for count in counts)
    if twice >= FEW_STORIES:
        return None
    also = f" ({copies} rows are copies of the same judgements)" if copies else ""
    return f"{twice} of {len(stories)} stories are judged more than once{also}: {again}"


def reliability(panel: Panel, *, seed: int, resamples: int) -> Facts:
    """Return the figures of each judge, and of all judges against each other.

    Keys: metric_version, bootstrap, stories, failed, judges (one entry each, see `of_judge`), between
    (see `between`; None for one judge).
    """
    other = _others(panel.raters)
    return {
        "metric_version": METRIC_VERSION,
        "bootstrap": {"resamples": resamples, "seed": seed, "level": 0.95},
        "stories": len(stories_of(panel.raters)),
        "failed": panel.failed + sum(rater.failed for rater in panel.raters),
        "judges": [
            of_judge(rater, panel, other.get(rater.name), seed=seed, resamples=resamples)
            for rater in panel.raters
        ],
        "between": between(panel.raters) if len(panel.raters) > 1 else None,
    }


def of_judge(
    rater: Rater,
    panel: Panel,
    others: dict[Story, float] | None = None,
    *,
    seed: int,
    resamples: int,
) -> Facts:
    """Return what one judge's repeats tell about it.

    Keys: name, judge, rubric, caveats; stories, judgements, failed, copies, repeats (most of a story),
    repeated (stories with at least two), incomplete (stories with fewer than `repeats`); test_retest,
    dimensions, labels; length_bias, and length_bias_beyond_others where other judges are known by the
    mean of their scores; per_story (id, sample, words, target and the overalls, in order).
    """
    stories = sorted(rater.readings)
    counts = [len(rater.readings[story]) for story in stories]
    groups = [rater.readings[story] for story in stories if len(rater.readings[story]) > 1]
    overalls = [[reading.overall for reading in group] for group in groups]
    return {
        "name": rater.name,
        "judge": rater.judge,
        "rubric": rater.rubric,
        "caveats": sorted(rater.caveats),
        "stories": len(stories),
        "judgements": sum(counts),
        "failed": rater.failed,
        "copies": rater.copies,
        "repeats": max(counts, default=0),
        "repeated": len(groups),
        "incomplete": sum(count < max(counts) for count in counts),
        "test_retest": {"icc": one_way(overalls).row(), **_mean_score(overalls), **_differences(overalls)},
        "dimensions": [
            {**_dimension(key, name, top, scores), **_icc(one_way(scores))}
            for key, name, top, scores in _by_dimension(groups)
        ],
        "labels": flips(pair for group in groups for pair in combinations(group, 2)),
        **_length(rater, panel, stories, others, seed, resamples),
        "per_story": [
            {
                "id": story[0],
                "sample": story[1],
                "words": panel.lengths[story].words,
                "target": panel.lengths[story].target,
                "overalls": [reading.overall for reading in rater.readings[story]],
            }
            for story in stories
        ],
    }


def between(raters: Sequence[Rater]) -> Facts:
    """Return how far several judges agree; a judge's score of a story is the mean of its repeats.

    Keys: stories (scored by all), incomplete (by some), rubrics_differ, icc, dimensions (spread and
    ICC(2,1)), labels (every judgement of one judge against every one of another), pairs (each two judges:
    n, correlation, mean_difference of a − b, mean_absolute_difference, limits that hold 95 % of them).
    """
    every = stories_of(raters)
    stories = [story for story in every if all(story in rater.readings for rater in raters)]
    table = [[_mean(rater, story) for rater in raters] for story in stories]
    groups = [[_averaged(rater.readings[story]) for rater in raters] for story in stories]
    return {
        "stories": len(stories),
        "incomplete": len(every) - len(stories),
        "rubrics_differ": len({rater.rubric for rater in raters}) > 1,
        "icc": two_way(table).row(),
        "dimensions": [
            {**_dimension(key, name, top, scores), **_icc(two_way(scores))}
            for key, name, top, scores in _by_dimension(groups)
        ],
        "labels": flips(
            pair
            for a, b in combinations(raters, 2)
            for story in stories
            for pair in product(a.readings[story], b.readings[story])
        ),
        "pairs": [_two_judges(a, b) for a, b in combinations(raters, 2)],
    }


def flips(pairs: Iterable[tuple[Reading, Reading]]) -> Facts:
    """Return how often two judgements of one story have different labels.

    Keys: names (the labels, lowest first), table (the lower label is the row, the higher one the column),
    pairs, flipped, far (flips of more than one label), share (None where there is no pair).
    """
    names = labels()
    table = [[0] * len(names) for _ in names]
    for one, other in pairs:
        low, high = sorted((names.index(one.label), names.index(other.label)))
        table[low][high] += 1
    total = sum(map(sum, table))
    flipped = total - sum(table[place][place] for place in range(len(names)))
    far = sum(count for low, row in enumerate(table) for high, count in enumerate(row) if high - low > 1)
    share = flipped / total if total else None
    return {
        "names": list(names),
        "table": table,
        "pairs": total,
        "flipped": flipped,
        "far": far,
        "share": share,
    }


def _mean_score(groups: Sequence[Sequence[float]]) -> Facts:
    """Return ICC(1,k), the reliability of the mean of k repeats, from ICC(1,1) by Spearman and Brown."""
    single = one_way(groups)
    value = None
    if single.value is not None and 1 + (single.k - 1) * single.value > 0:
        value = single.k * single.value / (1 + (single.k - 1) * single.value)
    return {"icc_of_mean": {"name": "ICC(1,k)", "value": value, "k": single.k}}


def _differences(groups: Sequence[Sequence[float]]) -> Facts:
    """Return how far two scores of one story lie apart.

    mean_absolute_difference and largest_difference are over all pairs of a story's scores; each story
    counts the same. within_sd is the root of the pooled variance within stories; repeatability is
    1.96·√2·within_sd: two scores of the same story differ by less in 95 % of cases.
    """
    if not groups:
        keys = ("mean_absolute_difference", "largest_difference", "within_sd", "repeatability")
        return {**dict.fromkeys(keys), "pairs": 0}
    apart = [[abs(a - b) for a, b in combinations(group, 2)] for group in groups]
    squares = sum(float(np.var(group)) * len(group) for group in groups)
    within = math.sqrt(squares / sum(len(group) - 1 for group in groups))
    return {
        "mean_absolute_difference": sum(sum(each) / len(each) for each in apart) / len(apart),
        "largest_difference": max(max(each) for each in apart),
        "within_sd": within,
        "repeatability": 1.96 * math.sqrt(2) * within,
        "pairs": sum(map(len, apart)),
    }


def _by_dimension(
    groups: Sequence[Sequence[Reading] | Sequence[dict[str, float]]],
) -> list[tuple[str, str, int, list[list[float]]]]:
    """Return key, name, maximum and the scores by story of each dimension that every reading has."""
    tables = [
        [reading.dimensions if isinstance(reading, Reading) else reading for reading in group]
        for group in groups
    ]
    found = []
    for dimension in load_rubric().dimensions:
        if tables and all(dimension.key in scores for group in tables for scores in group):
            table = [[float(scores[dimension.key]) for scores in group] for group in tables]
            found.append((dimension.key, dimension.name, dimension.max, table))
    return found


def _dimension(key: str, name: str, top: int, scores: Sequence[Sequence[float]]) -> Facts:
    """Return the mean of the stories' own standard deviations, and its share of the dimension's range."""
    spread = sum(float(np.std(group, ddof=1)) for group in scores) / len(scores)
    return {"key": key, "name": name, "max": top, "sd": spread, "share": spread / top}


def _icc(found: Icc) -> Facts:
    return {"icc": found.value, "low": found.low, "high": found.high, "reason": found.reason}


def _mean(rater: Rater, story: Story) -> float:
    readings = rater.readings[story]
    return sum(reading.overall for reading in readings) / len(readings)


def _averaged(readings: Sequence[Reading]) -> dict[str, float]:
    """Return the mean of each dimension that all the readings have."""
    keys = set.intersection(*(set(reading.dimensions) for reading in readings))
    return {key: sum(reading.dimensions[key] for reading in readings) / len(readings) for key in keys}


def _others(raters: Sequence[Rater]) -> dict[str, dict[Story, float]]:
    """Return, by judge, the mean score that all the other judges gave to each story that all judged."""
    found: dict[str, dict[Story, float]] = {}
    for rater in raters:
        rest = [other for other in raters if other is not rater]
        if rest:
            shared = set.intersection(*(set(other.readings) for other in raters))
            found[rater.name] = {
                story: sum(_mean(other, story) for other in rest) / len(rest) for story in shared
            }
    return found


def _length(
    rater: Rater,
    panel: Panel,
    stories: Sequence[Story],
    others: dict[Story, float] | None,
    seed: int,
    resamples: int,
) -> Facts:
    lengths = [panel.lengths[story] for story in stories]
    controls: dict[str, Sequence[float | None]] = {}
    if stories and all(length.target for length in lengths):
        controls[TARGET] = [math.log(length.target or 1) for length in lengths]

    def figure(held: dict[str, Sequence[float | None]]) -> Facts:
        return length_bias(
            [_mean(rater, story) for story in stories],
            [length.words for length in lengths],
            held,
            [prompt_id(story[0]) for story in stories],
            seed=seed,
            resamples=resamples,
        ).row()

    beyond = None
    if others is not None:
        beyond = figure({**controls, OTHERS: [others.get(story) for story in stories]})
    return {"length_bias": figure(controls), "length_bias_beyond_others": beyond}


def _two_judges(a: Rater, b: Rater) -> Facts:
    stories = sorted(a.readings.keys() & b.readings.keys())
    scores = np.array([[_mean(a, story), _mean(b, story)] for story in stories]).reshape(-1, 2)
    found: Facts = {"a": a.name, "b": b.name, "n": len(stories), "points": scores.tolist()}
    if not stories:
        keys = ("correlation", "mean_difference", "mean_absolute_difference", "limits")
        return {**found, **dict.fromkeys(keys)}
    apart = scores[:, 0] - scores[:, 1]
    varied = len(stories) > 2 and float(np.ptp(scores, axis=0).min()) > 0
    half = 1.96 * float(np.std(apart, ddof=1)) if len(stories) > 1 else None
    mean = float(apart.mean())
    return {
        **found,
        "correlation": float(np.corrcoef(scores.T)[0, 1]) if varied else None,
        "mean_difference": mean,
        "mean_absolute_difference": float(np.abs(apart).mean()),
        "limits": None if half is None else [mean - half, mean + half],
    }
