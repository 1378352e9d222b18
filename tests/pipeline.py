"""A folder in, a whole run's configuration with a tiny random model out, and helpers to run and kill it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from models import tiny_model

from polaris.load import load
from polaris.storage import open_store

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "examples" / "demo"
ONCE = "story-quality"


def write_config(folder: Path, model: Path, **changed: Any) -> Path:
    """Write a run of the demo's books with a tiny random model, which is also the judge."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("anthology.epub", "prompts.jsonl", "heldout.jsonl", "length.jsonl"):
        shutil.copy(DEMO / name, folder / name)
    serve = {"max_model_len": 4096, "enforce_eager": True}
    config = {
        "run": "tiny",
        "models": {
            "base": {"kind": "checkpoint", "path": str(model), "dtype": "float32", "serve": serve},
            "trained": {"kind": "trained", "serve": serve},
        },
        "data": {"books": ["anthology.epub"], "prompts": "prompts.jsonl", "min_words": 200, "max_words": 650},
        "judges": {
            "tiny": {
                "model": "base",
                "form": "compact",
                "temperature": 1.0,
                "max_tokens": 600,
                "concurrency": 1,
            }
        },
        "reward": {"min_words": 1, "min_target": 5, "lower_floor": 20, "upper_floor": 40},
        "train": {
            "base": "base",
            "judge": "tiny",
            "prompts_per_step": 1,
            "group_size": 3,
            "micro_batch": 3,
            "max_steps": 3,
            "max_prompt_tokens": 1024,
            "max_completion_tokens": 48,
            "learning_rate": 1e-4,
            "hri": {"warmup_steps": 1},
            "gradient_checkpointing": False,
            "save_steps": 1,
            "engine_max_difference": 1e-3,
        },
        "evaluations": {
            ONCE: {
                "kind": "story-quality",
                "prompts": "heldout.jsonl",
                "models": ["base", "trained"],
                "baseline": "base",
                "judge": "tiny",
                "limit": 3,
                "max_tokens": 48,
                "concurrency": 1,
                "bootstrap": 200,
            }
        },
        **changed,
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def make_model(folder: Path, *, seed: int = 0) -> Path:
    """Write the tiny model, with a context long enough for a judge's prompt in bytes."""
    tiny_model(folder, seed=seed)
    config = folder / "config.json"
    raw = json.loads(config.read_text())
    config.write_text(json.dumps({**raw, "max_position_embeddings": 4096}))
    return folder


def polaris(*arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
    """Start the command in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "polaris", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], timeout: float = 560) -> str:
    """Wait for a command; return all that it said."""
    try:
        said, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
        raise AssertionError(f"not done after {timeout} s:\n{said}") from None
    return said


def process_of(instance: str, config: Path) -> int | None:
    """Return the process id of a running stage of a configuration."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[1:6] == [b"-m", b"polaris", b"stage", instance.encode(), str(config).encode()]:
            return int(entry.name)
    return None


GROWING = ("/metrics", "/validation.jsonl", "/tensorboard/", "/under-way-", "/spent")
"""What a training's records are called in the store: later steps add to them."""


def lasting(before: Mapping[str, str], after: Mapping[str, str]) -> set[str]:
    """Return the pieces that are still there and that nobody has a reason to write again."""
    return {key for key in before if key in after and not any(part in key for part in GROWING)}


@dataclass
class Killer:
    """Kills each named stage once with SIGKILL, as soon as its log tells of its first finished piece."""

    config: Path
    instances: list[str]
    killed: dict[str, dict[str, str]] = field(default_factory=dict)
    """Instance → the progress and cache objects that existed then, with their etags."""

    def __post_init__(self) -> None:
        self._loaded = load(self.config)
        self._store = open_store(self._loaded.store)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def saved(self) -> dict[str, str]:
        """Return the pieces that are saved now: complete checkpoints, rows and judge answers."""
        run = f"runs/{self._loaded.run}/"
        found = [*self._store.list(run), *self._store.list("cache/judge/")]
        kept = ("/progress/", "cache/", "MANIFEST.json")
        return {info.key: info.etag for info in found if any(part in info.key for part in kept)}

    def _watch(self) -> None:
        waiting = list(self.instances)
        while waiting and not self._ended.wait(0.005):
            for name in list(waiting):
                if self._has_piece(name) and (pid := process_of(name, self.config)):
                    # Held, so that it cannot finish while its pieces are listed.
                    os.kill(pid, signal.SIGSTOP)
                    self.killed[name] = self.saved()
                    os.kill(pid, signal.SIGKILL)
                    waiting.remove(name)

    def _has_piece(self, name: str) -> bool:
        logs = self._loaded.execute.work_dir / self._loaded.run / "logs" / name
        kind = name.partition(".")[0]
        # Evaluate and report have no pieces: they are killed as soon as they have begun.
        told = {"train": "checkpoint_uploaded", "evaluate": '"begin"', "report": '"begin"'}.get(
            kind, '"event": "progress"'
        )
        nothing_yet = '"done": 0,'
        return any(
            told in line and nothing_yet not in line
            for path in logs.glob("*.log")
            for line in path.read_text(errors="replace").splitlines()
        )


def wait_for(condition: Any, seconds: float = 60) -> None:
    """Wait until a condition holds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.05)
