"""Imports go one way, heavy packages are imported late, and every module says what it does."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "polaris"
FILES = sorted(ROOT.rglob("*.py"))

CORE = {
    "errors",
    "text",
    "config",
    "load",
    "identity",
    "kinds",
    "plan",
    "runtime",
    "storage",
    "s3",
    "artifact",
}
CORE |= {"models", "providers", "answers", "limits", "budget", "batch", "batch_files", "batch_record"}
CORE |= {"caller", "protocol", "retries"}
CORE |= {"fields", "recipe", "chat", "llm", "run", "stage", "cpu_engine", "hashes", "imports", "idle"}
USES: dict[str, set[str]] = {
    "data": set(),
    "reward": {"judge"},
    "judge": {"reward"},
    "train": {"data", "judge", "reward"},
    "serve": set(),
    "generate": {"reward"},
    "evaluate": {"judge", "reward"},
    "report": {"judge", "reward", "evaluate", "train"},
    "probe": set(),
    "execute": {"serve", "probe"},
    "check": {"checks"},
    "checks": {"data", "judge", "train"},
    "release": {"execute", "generate", "train"},
    "cli": {
        "execute",
        "serve",
        "probe",
        "release",
        "check",
        "checks",
        "judge",
        "reward",
        "evaluate",
        "report",
    },
}
"""Part of the package → the parts that it may use beside the core and itself."""

HEAVY = {"torch", "transformers", "trl", "vllm", "deepspeed", "boto3", "botocore", "kubernetes", "openai"}
HEAVY |= {"huggingface_hub", "datasets", "accelerate", "peft", "matplotlib", "numpy", "tensorboard", "wandb"}


def imported(path: Path) -> Iterator[str]:
    """Yield what a file imports from polaris, anywhere in it, as dotted names below polaris."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            if node.module == "polaris":
                yield from (alias.name for alias in node.names)
            elif node.module and node.module.startswith("polaris."):
                yield node.module.removeprefix("polaris.")
        elif isinstance(node, ast.Import):
            yield from (a.name.removeprefix("polaris.") for a in node.names if a.name.startswith("polaris."))


def part_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    part = part_of(path)
    if part in ("__init__", "__main__"):
        return
    assert part in CORE or part in USES, f"say in this test what '{part}' may use"
    allowed = CORE if part in CORE else CORE | {part} | USES[part]
    for name in imported(path):
        target, _, inner = name.partition(".")
        assert target in allowed, f"{part} must not use {name}"
        assert inner != "stage", "a kind's stage is nobody else's business"


def test_the_judge_proper_does_not_know_the_reward() -> None:
    for path in (ROOT / "judge").glob("*.py"):
        # A row of results holds the overall, and that is the reward's to add up; its rules for rows are those
        # of every file of rows.
        if path.name not in ("stage.py", "rows.py", "readings.py", "stories.py"):
            assert not [name for name in imported(path) if name.startswith("reward")], path.name


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_goes_in_and_comes_out(path: Path) -> None:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert text, "no docstring"
    assert len(text.splitlines()[0]) > 20


def loaded_by(*arguments: str) -> set[str]:
    command = [sys.executable, "-X", "importtime", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {
        line.rpartition("|")[2].strip()
        for line in done.stderr.splitlines()
        if line.startswith("import time:")
    }


def test_help_loads_nothing_heavy() -> None:
    loaded = loaded_by("-m", "polaris", "--help")
    assert "typer" in loaded
    assert not loaded & (HEAVY | {"pydantic", "structlog", "yaml"})


def test_a_stage_loads_what_is_heavy_only_when_it_needs_it() -> None:
    loaded = loaded_by(
        "-c", "import polaris.stage, polaris.execute.loop, polaris.execute.garbage, polaris.serve"
    )
    assert "pydantic" in loaded
    assert not loaded & HEAVY
