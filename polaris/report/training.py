"""The train stage's metric rows in, its series and summary out; nothing is smoothed or filled in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from polaris.config import RunConfig

SUMMED = ("judge/calls", "judge/cached", "judge/failed", "hri/clipped", "step_seconds")


def training_facts(
    rows: Sequence[Mapping[str, Any]], config: RunConfig, identities: Mapping[str, str], pairs: int | None
) -> dict[str, Any]:
    """Return what was trained and every numeric series, one value a step (None where a row has none).

    Keys: base, base_identity, judge, judge_identity, pairs, steps (the step numbers), series, summary
    (the reward's mean over the first and last tenth of the steps; sums of calls, failures and seconds).
    """
    assert config.train is not None
    rows = sorted(rows, key=lambda row: row["step"])
    keys = sorted({key for row in rows for key, value in row.items() if _is_number(value)} - {"step"})
    series = {key: [_finite(row.get(key)) for row in rows] for key in keys}
    judge_model = config.judges[config.train.judge].model
    return {
        "base": config.train.base,
        "base_identity": identities.get(config.train.base),
        "judge": config.train.judge,
        "judge_identity": identities.get(judge_model),
        "pairs": pairs,
        "prompts_per_step": config.train.prompts_per_step,
        "group_size": config.train.group_size,
        "hri_weight": config.train.hri.max_weight,
        "engine_limit": config.train.engine_max_difference,
        "steps": [row["step"] for row in rows],
        "series": series,
        "summary": _summary(series, len(rows)),
    }


def _summary(series: Mapping[str, Sequence[float | None]], steps: int) -> dict[str, Any]:
    edge = max(1, steps // 10)
    reward = series.get("reward", [])
    return {
        "steps": steps,
        "edge_steps": edge,
        "reward_first": _mean(reward[:edge]),
        "reward_last": _mean(reward[-edge:]),
        **{key: sum(value for value in series[key] if value is not None) for key in SUMMED if key in series},
    }


def _mean(values: Sequence[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if found else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _finite(value: Any) -> float | None:
    return float(value) if _is_number(value) and math.isfinite(value) else None
