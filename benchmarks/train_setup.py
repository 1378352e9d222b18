"""A folder and a model in, the configuration and the pairs of a small training out, and a judge that is none.

Shared by the benchmarks of training. The stories are written for this file; the judge says nothing, and the
reward has no term for it: what is left of the reward is length and repetition, computed as in every run.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from polaris.judge.parse import Judgement
from polaris.train.job import Job

STORIES = (
    ("a ferry", "The last ferry left without its captain, who waved."),
    ("a clock", "He sold the clock; since then it is noon."),
    ("a lamp", "Every night her lamp let her read less."),
    ("a letter", "The letter came forty years late. The dog signed."),
    ("a bridge", "Both halves of the bridge missed each other politely."),
    ("an orchard", "The grafted tree argued; we ate what it decided."),
    ("a mirror", "The hall mirror was slow and still ate breakfast."),
    ("a well", "Somebody below called: one coin was not enough."),
    ("a train", "The train stopped nowhere, and one woman got off."),
    ("a map", "Our street was blue there, so we rowed."),
    ("a violin", "He played so softly that the walls moved closer."),
    ("a winter", "By February we visited each other through upper windows."),
)
"""What a story is of, and the story."""
STORY_WORDS = 9
"""About what each of them has."""


async def no_judge(prompt: str, story: str) -> Judgement:
    """Return the judgement that says nothing; the reward's weight for it is 0."""
    return Judgement.of_nothing()


def demo_model() -> Path:
    """Return the folder of SmolLM2-135M-Instruct.

    Raises:
        SystemExit: the environment names none.

    """
    found = os.environ.get("POLARIS_DEMO_MODEL", "")
    if not found or not (Path(found) / "model.safetensors").is_file():
        sys.exit("POLARIS_DEMO_MODEL names no folder with SmolLM2-135M-Instruct: `make model` fetches it")
    return Path(found).resolve()


def prepare_environment() -> None:
    """Set what must be set before torch is imported: threads, no compiler, no network."""
    from polaris import cpu_engine

    for name, value in cpu_engine.thread_environment(1).items():
        os.environ.setdefault(name, value)
    # Without CUDA or not, what is compared is the same arithmetic on the CPU.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


def worker() -> Any:
    """Import the product's worker and its trainer, their import-time warnings put up with."""
    import warnings

    from polaris.train import worker as found

    found.quieten()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("polaris.train.build")
    warnings.simplefilter("ignore")
    return found


def pairs_of(stories: Sequence[tuple[str, str]], target: int) -> list[dict[str, Any]]:
    """Return the stage's pairs: prompt, story and target word count."""
    return [
        {
            "uid": f"pair-{number}",
            "prompt": f"Write a story about {of}. The story should be {target} words long.",
            "story": story,
            "reasoning": "",
            "target_word_count": target,
            "split": "train",
        }
        for number, (of, story) in enumerate(stories)
    ]


def config_of(model: Path, *, seed: int = 3479, **train: Any) -> dict[str, Any]:
    """Return a run's configuration: in-process generation, and a reward of length and repetition alone."""
    settings = {
        "base": "base",
        "judge": "judge",
        "max_prompt_tokens": 128,
        "gradient_checkpointing": False,
        "rollout_engine": "transformers",
    }
    return {
        "run": "bench",
        "seed": seed,
        "store": {"url": "store"},
        "models": {
            "base": {"kind": "checkpoint", "path": str(model), "dtype": "float32"},
            # Never asked: the judge is handed to the worker.
            "judge": {
                "kind": "endpoint",
                "identity": "none",
                "url": "http://127.0.0.1:9/v1",
                "model": "none",
                "api_key_env": "BENCH_KEY",
            },
        },
        "judges": {"judge": {"model": "judge"}},
        "data": {"books": ["no-book.epub"]},
        # The recipe's tolerances are for thousands of words.
        "reward": {
            "weights": {"quality": 0.0, "length_reward": 1.0},
            "min_words": 1,
            "min_target": 1,
            "lower_floor": STORY_WORDS,
            "upper_floor": STORY_WORDS,
        },
        "train": settings | train,
        "execute": {"work_dir": "work"},
    }


def write_job(folder: Path, model: Path, config: dict[str, Any], pairs: list[dict[str, Any]]) -> Job:
    """Write configuration and pairs into a new folder; return the worker's job there."""
    folder.mkdir(parents=True)
    (folder / "no-book.epub").write_bytes(b"never read")
    (folder / "run.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    lines = "".join(json.dumps(pair) + "\n" for pair in pairs)
    (folder / "pairs.jsonl").write_text(lines, encoding="utf-8")
    return Job(folder / "run.yaml", folder / "pairs.jsonl", model, folder)
