"""What the benchmarks of training compute of their times is right; how fast anything is, no test says."""

from __future__ import annotations

import importlib
import importlib.util
import json
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    # By its path: a folder of tests has its name.
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location("train_benchmark", FOLDER / "train.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def learns(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("train_learns")


def test_the_bound_takes_one_rollout_of_the_group_from_the_generation_alone(train):
    # 6 s of generation by 6 rows, 4 s of training: 5 + 4 of 10.
    assert train.least_ratio(6.0, 10.0, 6) == pytest.approx(0.9)
    assert train.least_ratio(0.0, 10.0, 6) == 1.0
    assert train.least_ratio(10.0, 10.0, 4) == pytest.approx(0.75)


def test_the_interval_holds_the_median_and_narrows_with_more_rounds(train):
    draw = random.Random(1)
    few, many = ([draw.gauss(0.95, 0.05) for _ in range(count)] for count in (8, 200))
    wide, narrow = train.interval(few), train.interval(many)
    assert wide[0] <= sorted(few)[4] and sorted(few)[3] <= wide[1]
    assert narrow[0] < 0.95 < narrow[1]
    assert narrow[1] - narrow[0] < wide[1] - wide[0]
    assert train.interval([0.9] * 8) == (0.9, 0.9)
    assert train.interval(few) == wide


def test_a_step_has_an_upload_where_one_runs_for_a_tenth_of_it(train):
    steps = [(0.0, 10.0), (10.0, 20.0), (20.0, 30.0), (30.0, 40.0)]
    assert train.overlapping(steps, [(9.5, 12.0), (38.0, 50.0)]) == [False, True, False, True]
    # Several short ones add up.
    assert train.overlapping(steps[:1], [(1.0, 1.6), (3.0, 3.6)]) == [True]


def test_what_a_stage_tells_is_put_into_shares(train):
    # Two steps before the first save, then one with and one without an upload, twice.
    spans = [(0.0, 9.0), (10.0, 20.0), (22.0, 33.0), (33.0, 43.0), (45.0, 57.0), (57.0, 67.0)]
    told = {
        "steps": spans,
        "blocked": [5.0, 0.0, 0.2, 0.1, 0.03, 0.1],
        "saves": [(20.0, 22.0), (43.0, 45.0), (67.0, 69.0)],
        "uploads": [(22.5, 30.0), (45.5, 50.0), (69.5, 75.0)],
        "download_s": 5.0,
        "load_s": 3.0,
        "start_s": 1.0,
        "checkpoint_bytes": 2**30,
    }
    found = {check.name: check for check in train.stage_checks(told, 5)}
    share = found["blocked in steps during an upload, share"]
    assert share.measured == pytest.approx(0.23 / 23) and share.ok
    assert found["step without an upload, s"].measured == 10.0
    assert found["longer with an upload beside it, s"].measured == 1.5
    assert found["the same, share of 5 steps (train.save_steps)"].measured == pytest.approx(1.5 / 50)
    assert found["checkpoint, MiB"].measured == 1024
    told["blocked"][2] = 1.0
    assert not train.stage_checks(told, 5)[0].ok
    told["uploads"] = []
    assert [check.ok for check in train.stage_checks(told, 5)] == [False]


def test_the_permutation_test_knows_rising_rewards_from_level_ones(learns):
    draw = random.Random(2)
    level = [draw.random() for _ in range(30)]
    assert 0.4 < learns.permutation_p(level, level) < 0.6
    risen = [value + 0.5 for value in level]
    assert learns.permutation_p(level, risen) < 0.001
    assert learns.permutation_p(risen, level) > 0.99
    assert learns.permutation_p([0.1] * 3, [0.1] * 3) == 1.0
    # All 20 ways of three of six are as likely: only one is as great as the one seen.
    assert learns.permutation_p([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]) == pytest.approx(1 / 20, abs=0.01)


def test_the_table_of_learning_needs_every_seed_to_gain_more(learns):
    def run(rewards, rise):
        return learns.Learned(rewards, -10.0, -10.0 + rise, 1.0)

    rising, level = [i / 30 for i in range(30)], [0.5] * 30
    told = {"with": [run(rising, 2.0)] * 2, "without": [run(level, 1.0)] * 2, "smollm2": []}
    assert all(check.ok for check in learns.checks_of(told))
    changes = {check.name: check.measured for check in learns.checks_of(told)}
    assert changes["seed 2: reward, last 10 steps less first 10, w > 0"] == pytest.approx(20 / 30)
    assert changes["seed 1: reward, last 10 steps less first 10, w = 0"] == 0
    told["without"] = [run(level, 1.0), run(level, 2.5)]
    assert [check.name for check in learns.checks_of(told) if not check.ok] == [
        "seed 2: references' log-prob rises, w > 0"
    ]
    told["with"] = [run(level, 3.0)] * 2
    assert [check.measured for check in learns.checks_of(told) if not check.ok] == [1.0]


def test_the_plot_is_the_same_to_the_byte_and_carries_no_date(learns, tmp_path):
    draw = random.Random(3)
    run = {"rewards": [draw.random() for _ in range(30)], "before": -10.0, "after": -8.0}
    told = {"with": [run] * 3, "without": [run] * 3, "smollm2": [run]}
    for name in ("a.svg", "b.svg"):
        learns.draw(json.loads(json.dumps(told)), tmp_path / name)
    text = (tmp_path / "a.svg").read_text()
    assert text == (tmp_path / "b.svg").read_text()
    assert "dc:date" not in text
