"""A run's folder in, a training on a tiny model with an INVENTED judge out: no score here means anything."""

from __future__ import annotations

import json
import sys
import zlib
from pathlib import Path

import pytest
import yaml
from context import make_context
from fake_endpoint import Reply
from models import tiny_model

from polaris.judge.parse import Judgement
from polaris.judge.rubric import load_rubric
from polaris.load import load
from polaris.runtime import StopFlag
from polaris.stage import StageContext
from polaris.train.job import Job
from polaris.train.worker import quieten, train

STORIES = [
    "The lamp went out before the boat had reached the pier, and nobody spoke.",
    "She counted the plates twice; one was missing, and so was the cat.",
    "Nobody had told the postman that the house was gone.",
    "He sold the clock, and from then on it was always noon.",
]


async def invented_judge(prompt: str, story: str) -> Judgement:
    """Score a story by a checksum of its text: deterministic, and meaningless on purpose."""
    number = zlib.crc32(story.encode())
    rubric = load_rubric()
    return Judgement(
        positive={d.key: (number >> i) % (d.max + 1) for i, d in enumerate(rubric.positive)},
        negative={d.key: (number >> (i + 8)) % (d.max + 1) for i, d in enumerate(rubric.negative)},
        bonus=None,
        penalty=None,
    )


def write_pairs(path: Path, *, apart: int = 0) -> Path:
    """Write a pair a story; their targets lie so many words apart."""
    rows = [
        {
            "uid": f"pair-{i}",
            "prompt": f"Write story {i}. The story should be {100 + apart * i} words long.",
            "story": story,
            "reasoning": "I begin with what is missing.",
            "target_word_count": 100 + apart * i,
            "split": "train",
        }
        for i, story in enumerate(STORIES)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_config(
    path: Path, model: Path, *, thinking: bool = False, dtype: str = "float32", **train: object
) -> Path:
    settings = {
        "base": "base",
        "judge": "judge",
        "prompts_per_step": 2,
        "group_size": 3,
        "micro_batch": 3,
        "max_steps": 3,
        "max_prompt_tokens": 128,
        "max_completion_tokens": 32,
        "learning_rate": 1e-3,
        "gradient_checkpointing": False,
        "rollout_engine": "transformers",
        "save_steps": 1,
        "hri": {"max_weight": 0.4, "warmup_steps": 2},
    } | train
    book = path.parent / "unread.epub"
    book.touch()
    document = {
        "run": "tiny",
        "models": {
            "base": {"kind": "checkpoint", "path": str(model), "dtype": dtype, "thinking": thinking},
            "judge": {
                "kind": "endpoint",
                "identity": "invented",
                "url": "http://127.0.0.1:9/v1",
                "model": "none",
            },
        },
        "judges": {"judge": {"model": "judge"}},
        "data": {"books": [str(book)]},
        "train": settings,
    }
    path.write_text(yaml.safe_dump(document))
    return path


def write_job(folder: Path, model: Path, *, resume: Path | None = None, **settings: object) -> Job:
    folder.mkdir(parents=True, exist_ok=True)
    return Job(
        config=write_config(folder / "run.yaml", model, **settings),
        pairs=write_pairs(folder / "pairs.jsonl"),
        model=model,
        output=folder,
        resume=resume,
    )


def metrics(job: Job) -> list[dict[str, float]]:
    return [json.loads(line) for line in (job.output / "metrics.jsonl").read_text().splitlines()]


def answer(request: object, number: int) -> Reply:
    """A judgement that no story earned."""
    rubric = load_rubric()
    scores = {d.key: (number + i) % (d.max + 1) for i, d in enumerate(rubric.positive + rubric.negative)}
    return Reply(json.dumps(scores | {"bonus": None, "penalty": None}))


def stage(
    tmp_path: Path,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    budget_usd: float | None = None,
    apart: int = 0,
    reward: dict[str, object] | None = None,
    **train: object,
) -> StageContext:
    """Write a run whose train stage has its pairs, and return that stage's context."""
    monkeypatch.setenv("FAKE_API_KEY", "fake-key-of-a-test")
    base = tmp_path / "base"
    if not base.exists():
        tiny_model(base)
    pairs = write_pairs(tmp_path / "pairs.jsonl", apart=apart)
    (tmp_path / "book.epub").touch()
    outside = {
        "kind": "endpoint",
        "url": url,
        "api_key_env": "FAKE_API_KEY",
        "identity": "fake",
        "model": "j",
        "usd_per_million_completion_tokens": 1000.0,
    }
    config = {
        "run": "test",
        "store": {"url": "store"},
        "models": {"base": {"kind": "checkpoint", "path": "base", "dtype": "float32"}, "judge": outside},
        "data": {"books": ["book.epub"]},
        "judges": {
            "judge": {
                "model": "judge",
                "form": "compact",
                "attempts": 1,
                "max_tokens": 64,
                "outage_s": 1.0,
            }
        },
        "reward": reward or {},
        "train": {
            "base": "base",
            "judge": "judge",
            "prompts_per_step": 2,
            "group_size": 3,
            "micro_batch": 3,
            "max_steps": 3,
            "max_prompt_tokens": 128,
            "max_completion_tokens": 32,
            "gradient_checkpointing": False,
            "rollout_engine": "transformers",
            "save_steps": 1,
            "hri": {"warmup_steps": 1},
        }
        | train,
        "execute": {"work_dir": "work", "budget_usd": budget_usd},
    }
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    return make_context(tmp_path, config, "train", {"data": {"pairs.jsonl": rows}})


if __name__ == "__main__":
    quieten()
    job = Job.parse()
    train(job, load(job.config), StopFlag(), judge=invented_judge)
    sys.exit(0)
