"""A configuration with every section at work, and the digests of its plan, for tests of identity."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polaris.config import RunConfig
from polaris.plan import Plan, plan

Where = tuple[str, ...]

FULL: dict[str, Any] = {
    "run": "full",
    "store": {"url": "s3://bucket/prefix"},
    "models": {
        "base": {"kind": "checkpoint", "path": "/models/base"},
        "other": {"kind": "checkpoint", "path": "/models/other"},
        "hub": {"kind": "checkpoint", "repo": "owner/name@1"},
        "trained": {"kind": "trained"},
        "outside": {
            "kind": "endpoint",
            "identity": "a/b",
            "url": "http://h/v1",
            "model": "b",
            "usd_per_million_prompt_tokens": 1.0,
            "usd_per_million_completion_tokens": 2.0,
        },
    },
    "data": {"books": ["/books/a.epub", "/books/b.epub"], "prompts": "/prompts.jsonl"},
    "judges": {"strict": {"model": "outside"}, "local": {"model": "other"}},
    "reward": {"thinking": {}, "overlong": {}, "disqualify": {}},
    "train": {
        "base": "base",
        "judge": "strict",
        "hri": {
            "decay": "linear",
            "decay_steps": 100,
            "final_weight": 0.1,
            "until_step": 150,
            "shaping": "luffy",
        },
        "lora": {},
    },
    "arms": {"plain": {"hri": {"max_weight": 0.3}}},
    "evaluations": {
        "quality": {
            "kind": "story-quality",
            "prompts": "/quality.jsonl",
            "models": ["base", "hub", "trained"],
            "baseline": "base",
            "judge": "strict",
        },
        "second": {
            "kind": "story-quality",
            "prompts": "/second.jsonl",
            "models": ["other", "outside", "trained"],
            "judge": "local",
        },
        "length": {
            "kind": "length",
            "prompts": "/length.jsonl",
            "models": ["hub"],
            "judge": "strict",
            "targets": [500, 1000],
        },
    },
}
"""Every section, every kind of model, and every model and judge at work somewhere."""

SHARED: tuple[Where, ...] = (("train", "nodes"), ("train", "processes"))
"""Settings of `train` that every arm has to share."""

CONTENTS = {
    Path(path): f"hash of {path}"
    for path in (
        "/models/base",
        "/models/other",
        "/books/a.epub",
        "/books/b.epub",
        "/prompts.jsonl",
        "/quality.jsonl",
        "/second.jsonl",
        "/length.jsonl",
    )
}


def config_of(raw: Mapping[str, Any]) -> RunConfig:
    return RunConfig.model_validate(raw, context={"base": Path("/")})


def digests(config: RunConfig, contents: Mapping[Path, str] = CONTENTS) -> dict[str, str]:
    return of_plan(plan(config, contents))


def of_plan(plan: Plan) -> dict[str, str]:
    return {name: instance.digest for name, instance in plan.instances.items()}


def with_setting(where: Where, value: Any) -> RunConfig:
    raw: dict[str, Any] = config_of(FULL).model_dump(mode="python")
    place: Any = raw
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = value
    if where in SHARED:
        for arm in raw["arms"].values():
            arm[where[-1]] = value
    return config_of(raw)
