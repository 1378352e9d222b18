"""The benchmarks run, and what they compare with is right; how fast anything is, no test says."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from polaris.judge.parse import parse_judgement
from polaris.judge.rubric import load_rubric
from polaris.reward.quality import overall

FOLDER = Path(__file__).parents[1] / "benchmarks"
SMALL = ["--calls", "60", "--concurrency", "4", "--latency", "0.05", "--retry-after", "0.05"]


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    monkeypatch.syspath_prepend(str(FOLDER))
    return {name: importlib.import_module(name) for name in ("judge_server", "judge_log")}


def missed(tmp_path: Path, *arguments: str) -> tuple[list[str], dict]:
    """Run the judge's benchmark; return the checks it missed, those of time left out, and its figures."""
    found = tmp_path / "found.json"
    ended = subprocess.run(
        [sys.executable, str(FOLDER / "judge.py"), *SMALL, *arguments, "--json", str(found)],
        capture_output=True,
        text=True,
    )
    assert found.exists(), ended.stderr
    told = json.loads(found.read_text())
    assert ended.returncode == (0 if all(check["ok"] for check in told["checks"]) else 1)
    return [check["name"] for check in told["checks"] if not check["ok"] and not check["timing"]], told


def test_every_score_is_right_and_a_killed_run_asks_only_what_is_missing(tmp_path):
    names, told = missed(tmp_path)
    assert names == [], told
    by_what = told["figures"]["throughput"]["by_what"]
    assert sum(by_what.values()) > 60
    assert len(by_what) > 2
    assert 0 < told["figures"]["resumed"]["stored"] < 60


def test_a_rate_limit_that_nobody_told_of_loses_no_call(tmp_path):
    names, told = missed(tmp_path, "--limit-rate", "1800")
    assert names == [], told
    assert 0 < told["figures"]["limited"]["refused_share"] < 1


def test_the_function_that_scores_are_compared_with_follows_the_rubric_and_the_recipe(modules):
    server = modules["judge_server"]
    assert {dimension.key: dimension.max for dimension in load_rubric().dimensions} == server.MAXIMA
    for number in range(200):
        story = " ".join(f"word{at * number}" for at in range(100))
        wanted = server.scores_of(story)
        judgement = parse_judgement(server.answer_of(story, 1), "full", story)
        assert judgement.positive | judgement.negative == wanted.dimensions
        assert (judgement.bonus, judgement.penalty) == (wanted.bonus, wanted.penalty)
        assert judgement.quote_validity == pytest.approx(server.quote_validity_of(story))
        assert overall(judgement) == wanted.overall


def test_faults_come_as_often_as_they_say_and_by_seed_and_number_alone(modules):
    server = modules["judge_server"]
    drawn = [server.fault_of(7, number) for number in range(20_000)]
    for name, share in server.SHARES.items():
        assert drawn.count(name) / len(drawn) == pytest.approx(share, rel=0.25)
    assert [server.fault_of(7, number) for number in range(50)] == drawn[:50]
    assert [server.fault_of(8, number) for number in range(50)] != drawn[:50]


def asked(modules: dict[str, ModuleType], story: str, arrived: float, answered: float, wait: float = 0.0):
    """Return a logged request, numbered by its arrival."""
    what = "429" if wait else "answer"
    number = int(arrived * 1000)
    return modules["judge_server"].Asked(
        number, story, 1, arrived, what, answered=answered, delivered=True, retry_after_s=wait
    )


def test_only_what_retry_after_demands_at_the_end_belongs_to_the_ideal_time(modules):
    def ideal(*log):
        return modules["judge_log"].ideal_s(log, 0.5, 2)

    # b waits from 0.5 to 1.5; a's work goes on until 1.0, so half a second is demanded, and no jitter after.
    first, refused, second = (
        asked(modules, "a", 0.0, 0.5),
        asked(modules, "b", 0.01, 0.5, wait=1.0),
        asked(modules, "c", 0.5, 1.0),
    )
    log = (first, refused, second, asked(modules, "b", 1.7, 2.2))
    assert ideal(*log) == pytest.approx((4 * 0.5 / 2, 0.5))
    # A pause that no 429 asked for: nothing is demanded.
    assert ideal(first, asked(modules, "b", 0.01, 0.5), second) == (0.75, 0.0)
    # Two waits at the end that overlap count once, and a gap between them not at all.
    log = (
        first,
        asked(modules, "b", 0.01, 0.5, wait=1.0),
        asked(modules, "c", 0.02, 0.6, wait=1.0),
        asked(modules, "b", 1.5, 2.0, wait=1.0),
        asked(modules, "c", 1.7, 2.2),
        asked(modules, "b", 3.1, 3.6),
    )
    assert ideal(*log)[1] == pytest.approx(1.0 + 1.0)


def test_the_share_of_refused_requests_is_told_by_time(modules):
    log = [
        asked(modules, "a", 0.0, 0.1, wait=1.0),
        asked(modules, "b", 1.0, 1.1),
        asked(modules, "c", 6.0, 6.1),
    ]
    assert modules["judge_log"].refused_shares(log, 5.0) == [(5.0, 2, 0.5), (10.0, 1, 0.0)]
