"""What benchmarks/reward.py compares is the same to the last digit; how fast it is, no test says."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polaris.text import count_words

FILE = Path(__file__).parents[2] / "benchmarks" / "reward.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    sys.path.insert(0, str(FILE.parent))
    try:
        return importlib.import_module(FILE.stem)
    finally:
        sys.path.remove(str(FILE.parent))


@pytest.mark.parametrize("words", [1, 149, 150, 700, 3000])
def test_stories_are_as_long_as_asked_and_the_same_by_seed(benchmark: ModuleType, words: int) -> None:
    story = benchmark.make_story(words, 5)
    assert count_words(story) == words
    assert benchmark.make_story(words, 5) == story != benchmark.make_story(words, 6)


def test_no_term_is_idle(benchmark: ModuleType) -> None:
    words, blank, penalty, reward, repetition = benchmark.our_terms(benchmark.make_story(4000, 1), 4100)
    assert (words, blank, penalty) == (4000, 0.0, 0.0)
    assert 0 < reward < 1 and repetition > 0
    assert benchmark.our_terms(benchmark.make_story(100, 1), 4100)[1:3] == (1.0, 1 - 100 / (4100 - 615))


few_words = st.lists(st.sampled_from(["a", "b", "A", "c.", "d\n", "&amp;", "\u0130", " " * 30]), max_size=300)


@given(few_words.map(" ".join) | st.text(), st.integers(1, 20_000))
def test_both_ways_give_the_same_terms(benchmark: ModuleType, text: str, target: int) -> None:
    assert benchmark.difference([text], target) <= benchmark.TOLERANCE


def test_the_command_tells_its_checks(tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    command = [sys.executable, str(FILE), "--repeats", "2", "--stories", "1", "--json", str(found)]
    ended = subprocess.run(command, capture_output=True, text=True)
    told = json.loads(found.read_text())
    assert ended.returncode == (0 if all(check["ok"] for check in told["checks"]) else 1), ended.stderr
    assert [check["name"] for check in told["checks"] if not check["ok"] and not check["timing"]] == []
    assert "direct / ours" in ended.stdout
