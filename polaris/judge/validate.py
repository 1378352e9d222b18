"""Pairs of stories of which people chose one, and a judge's scores of them, in; how often it agrees out.

The pairs have LitBench's columns (Fein et al. 2025): `prompt`, `chosen_story`, `rejected_story`, and perhaps
`chosen_upvotes`, `rejected_upvotes` and `id`. Each story is scored alone, so no order of two can matter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polaris.errors import InputError
from polaris.judge.length_bias import bootstrap
from polaris.judge.readings import Panel, Rater, Source, Story, kinds, panel, read_rows
from polaris.judge.stories import raise_faults, without_thinking
from polaris.text import count_words

METRIC_VERSION = "judge-validation-1"
"""Changes when the same pairs and scores would give other figures."""
POSITION_BIAS = "none is possible: each story is judged alone, so a judge never sees two stories in an order"
CHOSEN, REJECTED = 0, 1
"""A side's number as the `sample` of its story."""
GAPS = (5.0, 10.0, 20.0)
"""Upper ends of the classes of score gaps; ties are in none."""
VOTES = (2.0, 5.0)
"""Upper ends of the classes of upvote ratios."""
_MOST_VOTES = 1e15
_FEW = 10
"""With fewer prompts a bootstrap interval is too narrow to be believed."""

Facts = dict[str, Any]


@dataclass(frozen=True)
class Pair:
    """One prompt's two stories; people chose the first."""

    id: str
    prompt: str
    chosen: str
    rejected: str
    upvotes: tuple[float, float] | None = None
    """Upvotes of the chosen and of the rejected story."""


def read_pairs(path: Path) -> list[Pair]:
    """Return the file's pairs; one without `id` is called by its line's number.

    Raises:
        InputError: rows lack a column, have an empty story, the same text on both sides or an id that is
            there already; one line each, `file:line: field: …`.

    """
    faults: list[str] = []
    pairs: list[Pair] = []
    ids: set[str] = set()
    for row in read_rows(path):
        place = row[""]
        found = _faults(row)
        name = str(row.get("id", place.rpartition(":")[2]))
        if name in ids:
            found.append("id: given before; expected one of its own")
        ids.add(name)
        faults += [f"{place}: {fault}" for fault in found]
        if not found:
            chosen, rejected = (without_thinking(row[key]) for key in ("chosen_story", "rejected_story"))
            pairs.append(Pair(name, row["prompt"], chosen, rejected, _upvotes(row)))
    raise_faults(path, faults)
    if not pairs:
        raise InputError(f"{path}: no pair is there; give rows with prompt, chosen_story, rejected_story")
    return pairs


def story_rows(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Return the stories to judge: `id`, `sample` (0 chosen, 1 rejected), prompt, story, words, no target."""
    return [
        {
            "id": pair.id,
            "sample": side,
            "prompt": pair.prompt,
            "story": text,
            "words": count_words(text),
            "target_word_count": None,
        }
        for pair in pairs
        for side, text in ((CHOSEN, pair.chosen), (REJECTED, pair.rejected))
    ]


def agreement(pairs: Sequence[Pair], source: Source, *, seed: int, resamples: int) -> Facts:
    """Return how often the judge scores the chosen story higher.

    A story's score is the mean of its repeats; a tie counts half. A pair with an unscored story is counted
    in `n_failed` and in no figure. Keys: metric_version, judge, rubric, caveats, repeats, pairs, n, n_failed,
    failures (by reason), ties, agreement, mean_gap, by_gap, by_upvotes, length, position_bias, bootstrap,
    per_pair. A figure is value, low, high, n, method.

    Raises:
        InputError: the scores are by several judges, of other stories, or of none of these pairs.

    """
    rater, words = _rater(pairs, source)
    rows = [_row(pair, rater, words) for pair in pairs]
    scored = [row for row in rows if row["gap"] is not None]
    resampled = {"seed": seed, "resamples": resamples}

    def share(of: Sequence[Facts], key: str = "agrees") -> Facts:
        return _share([row[key] for row in of], [row["prompt"] for row in of], **resampled)

    shorter = [row for row in scored if row["longer"] == 0]
    longer = [row for row in scored if row["longer"] == 1]
    balanced = [share(shorter)["value"], share(longer)["value"]]
    return {
        "metric_version": METRIC_VERSION,
        "judge": rater.judge,
        "rubric": rater.rubric,
        "caveats": sorted(rater.caveats),
        "bootstrap": {**resampled, "level": 0.95},
        "repeats": max(len(readings) for readings in rater.readings.values()),
        "pairs": len(rows),
        "n": len(scored),
        "n_failed": len(rows) - len(scored),
        "failures": kinds(str(row.get("reason")) for row in source.failures),
        "ties": sum(row["gap"] == 0 for row in scored),
        "agreement": share(scored),
        "mean_gap": sum(row["gap"] for row in scored) / len(scored) if scored else None,
        "by_gap": _classes([row for row in scored if row["gap"]], lambda row: abs(row["gap"]), GAPS, share),
        "by_upvotes": _classes(
            [row for row in scored if row["votes"] is not None], lambda row: row["votes"], VOTES, share
        ),
        "length": {
            "longer_is_chosen": share(scored, "longer"),
            "same_length": sum(row["longer"] == 0.5 for row in scored),
            "shorter_chosen": share(shorter),
            "longer_chosen": share(longer),
            "balanced": None if None in balanced else sum(balanced) / 2,
            "judge_prefers_longer": share([row for row in scored if row["longer"] != 0.5], "judge_longer"),
        },
        "position_bias": POSITION_BIAS,
        "per_pair": [{key: value for key, value in row.items() if key != "prompt"} for row in rows],
    }


def _faults(row: Mapping[str, Any]) -> list[str]:
    found = []
    for key in ("prompt", "chosen_story", "rejected_story"):
        if key not in row:
            found.append(f"{key}: missing")
        elif not isinstance(row[key], str):
            found.append(f"{key}: {type(row[key]).__name__} in place of a string")
        elif not row[key].strip():
            found.append(f"{key}: empty")
    for key in ("chosen_upvotes", "rejected_upvotes"):
        value = row.get(key)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (number and abs(value) < _MOST_VOTES):
            found.append(f"{key}: {type(value).__name__} in place of a number")
    name = row.get("id", "")
    if isinstance(name, bool) or not isinstance(name, str | int):
        found.append(f"id: {type(name).__name__} in place of a string")
    if not found and row["chosen_story"].strip() == row["rejected_story"].strip():
        found.append("rejected_story: the same text as chosen_story, so nothing was preferred")
    return found


def _upvotes(row: Mapping[str, Any]) -> tuple[float, float] | None:
    chosen, rejected = row.get("chosen_upvotes"), row.get("rejected_upvotes")
    return None if chosen is None or rejected is None else (float(chosen), float(rejected))


def _rater(pairs: Sequence[Pair], source: Source) -> tuple[Rater, dict[Story, int]]:
    """Return the one judge's readings of the pairs' stories, and the stories' words."""
    words = {(row["id"], row["sample"]): row["words"] for row in story_rows(pairs)}
    found: Panel = panel([source])
    if not found.raters:
        raise InputError(f"{source.name}: holds no score; {len(source.failures)} judgements failed")
    if len(found.raters) != 1:
        names = " and ".join(rater.name for rater in found.raters)
        raise InputError(f"{source.name}: scores by {names}: give the scores of one judge")
    rater = found.raters[0]
    rater.readings = {story: rater.readings[story] for story in rater.readings if story in words}
    if not rater.readings:
        raise InputError(
            f"{source.name}: no score is of these pairs; judge them with `polaris judge validate --out`"
        )
    for story in rater.readings:
        told = found.lengths[story].words
        if told is not None and told != words[story]:
            raise InputError(
                f"{source.name}: words: {told} for {story}, but that pair's story has {words[story]}:"
                " these are not the scores of these pairs"
            )
    return rater, words


def _row(pair: Pair, rater: Rater, words: Mapping[Story, int]) -> Facts:
    chosen, rejected = (_score(rater, (pair.id, side)) for side in (CHOSEN, REJECTED))
    lengths = words[pair.id, CHOSEN], words[pair.id, REJECTED]
    gap = None if chosen is None or rejected is None else chosen - rejected
    longer = _wins(lengths[0] - lengths[1])
    return {
        "id": pair.id,
        "prompt": pair.prompt,
        "chosen": chosen,
        "rejected": rejected,
        "gap": gap,
        "agrees": None if gap is None else _wins(gap),
        "chosen_words": lengths[0],
        "rejected_words": lengths[1],
        "longer": longer,
        "judge_longer": None if gap is None else _wins(gap * (longer - 0.5)),
        "votes": _ratio(pair.upvotes),
    }


def _score(rater: Rater, story: Story) -> float | None:
    readings = rater.readings.get(story)
    return sum(reading.overall for reading in readings) / len(readings) if readings else None


def _wins(difference: float) -> float:
    """Return 1 for more, 0 for less, and half for a tie."""
    return 0.5 if difference == 0 else float(difference > 0)


def _ratio(upvotes: tuple[float, float] | None) -> float | None:
    """Return how many times the rejected story's upvotes the chosen one has."""
    return None if upvotes is None or min(upvotes) <= 0 else upvotes[0] / upvotes[1]


def _share(values: Sequence[float], prompts: Sequence[str], *, seed: int, resamples: int) -> Facts:
    """Return the mean of 0, ½ and 1 with its interval; pairs of one prompt are not independent."""
    if not values:
        return {"value": None, "low": None, "high": None, "n": 0, "method": None}
    numbers, clusters = np.array(values), len(set(prompts))
    value, method = float(numbers.mean()), "bootstrap over prompts"
    interval = None
    if clusters >= _FEW:
        interval = bootstrap(lambda at: float(numbers[at].mean()), prompts, seed=seed, resamples=resamples)
    if interval is None or interval[0] == interval[1]:
        interval, method = wilson(value, clusters), "Wilson, with the number of prompts for n"
    return {"value": value, "low": interval[0], "high": interval[1], "n": len(values), "method": method}


def wilson(share: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Return Wilson's 95 % score interval of a share of `n` (Wilson 1927)."""
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def _classes(rows: Sequence[Facts], value: Any, ends: Sequence[float], share: Any) -> list[Facts]:
    """Return the share in each class of a value: above one end, up to the next; empty ones are left out."""
    found = []
    for low, high in zip((None, *ends), (*ends, None), strict=True):
        inside = [
            row for row in rows if (low is None or value(row) > low) and (high is None or value(row) <= high)
        ]
        if inside:
            found.append({"name": _class(low, high), "above": low, "up_to": high, **share(inside)})
    return found


def _class(above: float | None, up_to: float | None) -> str:
    """Return a class in words; its lower end does not belong to it."""
    if up_to is None:
        return f"above {above:g}"
    return f"up to {up_to:g}" if above is None else f"{above:g} to {up_to:g}"
