"""The supervisor with real torchrun, real workers on a tiny model, and a FAKE judge endpoint."""

import json
import os
import shutil
from pathlib import Path

import pytest
from context import read_output
from fake_endpoint import fake_endpoint
from fakes import STORIES, answer, stage

from polaris.errors import GuardError, InputError, Stopped, TransientError
from polaris.load import load
from polaris.runtime import StopFlag
from polaris.train import worker
from polaris.train.checkpoint import Layout, write_layout
from polaris.train.job import Job
from polaris.train.nodes import Team
from polaris.train.stage import Uploads, prepare, restore, run
from polaris.train.supervise import Trainer, worker_environment

HERE = Path(__file__).parent


@pytest.mark.slow
def test_a_stopped_run_goes_on_elsewhere(tmp_path, monkeypatch):
    contexts = []

    def reply(request, number):
        if number == 7 and len(contexts) == 1:
            contexts[0].stop.signal = 15
        return answer(request, number)

    with fake_endpoint(reply) as judge:
        contexts.append(stage(tmp_path, judge.url, monkeypatch, max_steps=30))
        with pytest.raises(Stopped):
            run(contexts[0])
        stored = contexts[0].progress.folders()
        assert 1 <= len(stored) <= 2
        assert not contexts[0].output.entries
        # Another machine: nothing but the store is left.
        shutil.rmtree(tmp_path / "work")
        contexts.append(stage(tmp_path, judge.url, monkeypatch, max_steps=30))
        run(contexts[1])
    context = contexts[1]
    rows = [json.loads(line) for line in read_output(context, "metrics.jsonl").splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 31))
    assert context.counts["steps"] == 30
    assert context.counts["rows"] == 180
    assert context.counts["references"] == 58
    assert context.cost["calls"] >= len(judge.requests) - 6
    assert {"model/config.json", "model/model.safetensors", "model/chat_template.jinja"} <= set(
        context.output.entries
    )
    kept = context.progress.folders()
    assert "checkpoint-30" in kept
    assert len(kept) <= 2
    log = "".join(path.read_text() for path in tmp_path.rglob("worker.log"))
    assert not any(story in log for story in STORIES)
    assert "fake-key-of-a-test" not in log


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "error", "message"),
    [
        ({"code": 5, "says": "engine is stale: really", "exit": 1}, GuardError, "^engine is stale: really$"),
        ({"says": "Segmentation of a kind", "exit": 9}, RuntimeError, "Segmentation of a kind"),
    ],
)
def test_how_a_worker_ends_is_how_the_stage_ends(tmp_path, monkeypatch, end, error, message):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), str(HERE.parent.parent)]))
    (tmp_path / "end").write_text(json.dumps(end))
    trainer = Trainer(Job(*[tmp_path] * 4), 1, {}, worker="stub_worker")
    with pytest.raises(error, match=message):
        trainer.run(StopFlag(), lambda: None)


def test_worker_environment_leaves_what_the_user_set(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    found = worker_environment(2, {"X": "y"})
    assert (found["OMP_NUM_THREADS"], found["OMP_WAIT_POLICY"], found["X"]) == ("7", "passive", "y")


def checkpoint_of(context, step, *, local=False):
    """Lay a checkpoint and the rows up to it into the store, or into the work folder."""
    folder = context.work / "out" / "checkpoints" / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "weights").write_text(f"weights {step}")
    write_layout(folder, Layout(1, 0))
    if not local:
        context.progress.put_folder(folder.name, folder)
        shutil.rmtree(folder)
    return folder


def damage(context, step):
    [path] = Path(context.store.url.removeprefix("file://")).rglob(f"checkpoint-{step}/weights")
    path.write_text(f"wEights {step}")


def test_a_corrupt_checkpoint_gives_way_to_the_one_before(tmp_path, monkeypatch, capsys):
    context = stage(tmp_path, "http://127.0.0.1:9/v1", monkeypatch)
    for step in (9, 10):
        checkpoint_of(context, step)
    damage(context, 10)
    folder = context.work / "out" / "checkpoints"
    assert restore(context, folder).name == "checkpoint-9"
    assert "checkpoint-10/weights does not match its sha256" in "".join(capsys.readouterr())
    # It will be made again, and then it must be uploaded again.
    assert context.progress.folders() == ["checkpoint-9"]


def test_nothing_is_begun_again_where_no_checkpoint_can_be_read(tmp_path, monkeypatch):
    context = stage(tmp_path, "http://127.0.0.1:9/v1", monkeypatch)
    for step in (9, 10):
        checkpoint_of(context, step)
        damage(context, step)
    with pytest.raises(InputError, match="checkpoint-10/weights does not match"):
        restore(context, context.work / "out" / "checkpoints")
    assert len(context.progress.folders()) == 2


def test_rows_are_stored_before_their_checkpoint(tmp_path, monkeypatch):
    context = stage(tmp_path, "http://127.0.0.1:9/v1", monkeypatch)
    job = Job(context.config_path, context.config_path, tmp_path, context.work / "out")
    folder = checkpoint_of(context, 1, local=True)
    (job.output / "metrics.jsonl").write_text('{"step": 1}\n')
    put, down = context.progress.put, [True]

    def failing(name, data):
        if name == "metrics.jsonl" and down[0]:
            raise TransientError("the store is away")
        put(name, data)

    monkeypatch.setattr(context.progress, "put", failing)
    uploads = Uploads(context, job)
    uploads._bring_up()
    assert context.progress.names() == []
    down[0] = False
    uploads.finish()
    assert context.progress.get("metrics.jsonl") == b'{"step": 1}\n'
    assert context.progress.folders() == [folder.name]


def test_workers_train_by_the_configuration_that_the_digest_was_made_of(tmp_path, monkeypatch):
    monkeypatch.setenv("POLARIS__TRAIN__LEARNING_RATE", "3e-6")
    monkeypatch.setenv("POLARIS__RUN", '"007"')
    context = stage(tmp_path, "http://127.0.0.1:9/v1", monkeypatch)
    assert context.config.train.learning_rate == 3e-6
    job = prepare(context, context.config.train, Team())
    # An upgrade of the release while the workers start; the environment stays that of the stage.
    text = context.config_path.read_text()
    context.config_path.write_text(text.replace("group_size: 3", "group_size: 6"))
    assert load(context.config_path).train.group_size == 6
    assert context.config_path not in [Path(word.partition("=")[2]) for word in job.arguments()]
    seen = []
    monkeypatch.setattr(worker, "train", lambda job, config, stop: seen.append(config))
    monkeypatch.setattr(worker, "quieten", lambda: None)
    assert worker.main(job.arguments()) == 0
    assert seen == [context.config]
    # A second attempt on this machine writes it anew.
    context.config_path.chmod(0o444)
    assert prepare(context, context.config.train, Team()).config == job.config
    assert job.config.stat().st_mode & 0o600 == 0o600
    assert "fake-key-of-a-test" not in job.config.read_text()
