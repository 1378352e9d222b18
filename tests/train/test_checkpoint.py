import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polaris.errors import ConfigError
from polaris.train import checkpoint
from polaris.train.checkpoint import Layout

LAYOUT = Layout(1, 0)


def make(folder, step, complete=True):
    path = folder / f"checkpoint-{step}"
    path.mkdir()
    if complete:
        checkpoint.write_layout(path, LAYOUT)
    return path


@given(st.sets(st.integers(1, 200)), st.integers(0, 5))
def test_surplus_leaves_the_newest(steps, keep):
    names = [f"checkpoint-{step}" for step in steps]
    gone = checkpoint.surplus([*names, "README.md"], keep)
    left = set(names) - set(gone)
    assert len(left) == min(keep, len(names))
    kept_steps = {checkpoint.step_of(name) for name in left}
    assert all(checkpoint.step_of(name) < min(kept_steps, default=1000) for name in gone)


def test_order_counts_in_numbers():
    names = ["checkpoint-10", "checkpoint-9", "checkpoint-x"]
    assert checkpoint.ordered(names) == ["checkpoint-9", "checkpoint-10"]
    assert checkpoint.ordered([]) == []


def test_complete_needs_the_last_file(tmp_path):
    make(tmp_path, 10)
    make(tmp_path, 2)
    make(tmp_path, 11, complete=False)
    assert [path.name for path in checkpoint.complete(tmp_path)] == ["checkpoint-2", "checkpoint-10"]
    assert checkpoint.complete(tmp_path / "missing") == []


def test_another_division_is_refused(tmp_path):
    path = make(tmp_path, 5)
    checkpoint.check_layout(path, LAYOUT)
    with pytest.raises(ConfigError, match="train.processes 1 and train.zero_stage 0, not 4 and 3"):
        checkpoint.check_layout(path, Layout(4, 3))


def test_metrics_are_cut_at_a_step(tmp_path):
    path = tmp_path / "metrics.jsonl"
    checkpoint.truncate_metrics(path, 1)
    assert not path.exists()
    rows = "".join(json.dumps({"step": step}) + "\n" for step in (1, 2, 3))
    path.write_text(rows + '{"step": 4, "lo')
    assert [row["step"] for row in checkpoint.read_metrics(path)] == [1, 2, 3]
    checkpoint.truncate_metrics(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
