"""Rows in, TensorBoard's event file out, read back by TensorBoard's own reader; the uploads that carry it."""

import importlib.metadata
import json
import warnings

import pytest
from fakes import stage

from polaris.errors import ConfigError
from polaris.recipe import TrainConfig
from polaris.train import spent
from polaris.train.events import scalars, write_events
from polaris.train.nodes import Team
from polaris.train.records import Records, restore, write
from polaris.train.settings import require_reporters
from polaris.train.stage import prepare

METRICS = [
    {"step": 1, "reward": 0.5, "hri/weight": 0, "hri/reference_reward": None, "step_seconds": 2.0},
    {"step": 2, "reward": 0.75, "hri/weight": 0.1, "step_seconds": 3.0},
]
VALIDATIONS = [{"step": 0, "n": 3, "reward": -0.5}, {"step": 2, "n": 3, "reward": 0.25}]


def read(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    found = EventAccumulator(str(folder))
    found.Reload()
    tags = found.Tags()["scalars"]
    return {tag: [(one.step, one.wall_time, one.value) for one in found.Scalars(tag)] for tag in tags}


def test_tensorboard_reads_the_rows_back(tmp_path):
    path = write_events(tmp_path / "tensorboard", METRICS, VALIDATIONS)
    first = path.read_bytes()
    # As after a resume: written anew, no step comes twice.
    assert write_events(tmp_path / "tensorboard", METRICS, VALIDATIONS).read_bytes() == first
    assert [file.name for file in (tmp_path / "tensorboard").iterdir()] == [path.name]
    found = read(tmp_path / "tensorboard")
    assert found["reward"] == [(1, 2.0, 0.5), (2, 5.0, 0.75)]
    assert found["validation/reward"] == [(0, 0.0, -0.5), (2, 5.0, 0.25)]
    assert found["hri/weight"] == [(1, 2.0, 0.0), (2, 5.0, pytest.approx(0.1))]
    assert "hri/reference_reward" not in found and "step" not in found


def test_the_wall_time_of_rows_that_have_one_is_theirs():
    [(step, wall, values)] = scalars([{"step": 1, "time": 1e9, "reward": 1}], [])
    assert (step, wall, values) == (1, 1e9, {"reward": 1.0})


def lay_out(output, *steps):
    """Write a validation's row and its stories for each of the steps."""
    (output / "samples").mkdir(parents=True, exist_ok=True)
    rows = []
    for step in steps:
        (output / "samples" / f"step-{step:06}.jsonl").write_text(f'{{"uid": "of step {step}"}}\n')
        rows.append(
            {
                "step": step,
                "validation": True,
                "n": 3,
                "failed": step // 2,
                "judge/calls": 3,
                "judge/usd": 0.5,
            }
        )
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (output / "validation.jsonl").write_text(text)
    return rows


def test_records_reach_the_store_and_come_back_up_to_the_checkpoint(tmp_path, monkeypatch):
    context = stage(tmp_path, "http://127.0.0.1:9/v1", monkeypatch)
    here, there = tmp_path / "here", tmp_path / "there"
    rows = lay_out(here, 0, 2, 4)
    records = Records(context.progress, here, tensorboard=True)
    records.put(METRICS)
    names = ["samples/step-000000.jsonl", "samples/step-000002.jsonl", "samples/step-000004.jsonl"]
    event = [name for name in context.progress.names("tensorboard/") if "tfevents" in name]
    assert sorted(context.progress.names()) == [*names, *event, "validation.jsonl"]
    kept = []
    monkeypatch.setattr(context.progress, "put", lambda name, data: kept.append(name))
    records.put(METRICS)
    assert not kept
    monkeypatch.undo()
    # Another machine, which goes on from step 2.
    there.mkdir()
    restore(context.progress, there, 2)
    assert spent.read(context.progress)["calls"] == 3
    assert [json.loads(line) for line in (there / "validation.jsonl").read_text().splitlines()] == rows[:2]
    assert sorted(path.name for path in (there / "samples").iterdir()) == [
        "step-000000.jsonl",
        "step-000002.jsonl",
    ]
    assert context.progress.names("samples/") == names[:2]
    restore(context.progress, there, 2)
    assert spent.read(context.progress)["calls"] == 3
    # And this machine, which holds the later ones still.
    restore(context.progress, here, 0)
    assert spent.read(context.progress)["calls"] == 3 + 3, "the last one was booked before"
    assert [path.name for path in (here / "samples").iterdir()] == ["step-000000.jsonl"]


def test_lost_validations_are_paid_once_in_the_books(tmp_path, monkeypatch):
    from polaris.train import stage as stages

    context = stage(tmp_path, "http://127.0.0.1:9/v1", monkeypatch)
    output = context.work / "out"
    lay_out(output, 0, 2)
    # No checkpoint: the run begins again, and the base model's validation stands.
    job = prepare(context, context.config.train, Team())
    booked = json.loads(context.progress.get("spent.json"))
    assert (booked["calls"], booked["usd"], booked["paid"]) == (3, 0.5, {"validation 2": 3})
    assert prepare(context, context.config.train, Team()) == job
    assert json.loads(context.progress.get("spent.json")) == booked
    # Step 2's validation is repeated with other stories: three calls were paid for again.
    lay_out(output, 0, 2)
    (output / "metrics.jsonl").write_text('{"step": 1, "judge/calls": 6}\n{"step": 2, "judge/calls": 6}\n')
    (output / "counts.json").write_text('{"prompts": 4, "validation_left_out": 1}')
    (output / "model").mkdir()
    stages.write(context, context.config.train, job)
    counts = {name: context.counts[name] for name in context.counts if name.startswith("validation")}
    assert counts == {
        "validations": 2,
        "validation_stories": 6,
        "validation_failed": 1,
        "validation_left_out": 1,
    }
    assert (context.cost["calls"], context.cost["usd"]) == (6 + 6 + 3 + 3 + 3, 1.5)
    assert (context.counts["judge_calls"], context.counts["judge_repaid"]) == (12, 3)
    made = set(context.output.entries)
    assert {"validation.jsonl", "samples/step-000000.jsonl", "samples/step-000002.jsonl"} <= made
    assert any(name.startswith("tensorboard/") for name in made)


def test_without_tensorboard_there_is_no_event_file(tmp_path, monkeypatch):
    context = stage(tmp_path, "http://127.0.0.1:9/v1", monkeypatch)
    Records(context.progress, tmp_path, tensorboard=False).put(METRICS)
    write(context.output, tmp_path, METRICS, [], tensorboard=False)
    assert not context.progress.names() and not context.output.entries


def test_a_missing_reporter_is_named_before_training():
    def asking(*names):
        return TrainConfig(base="base", judge="judge", report_to=names)

    require_reporters(asking("tensorboard"))
    try:
        importlib.metadata.distribution("wandb")
    except importlib.metadata.PackageNotFoundError:
        with pytest.raises(ConfigError, match=r"^train.report_to: value 'wandb'; .*`pip install wandb`"):
            require_reporters(asking("tensorboard", "wandb"))
    else:
        require_reporters(asking("wandb"))
