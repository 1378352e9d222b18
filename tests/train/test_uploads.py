"""Which checkpoints come to be complete in the store, where one node or two upload them."""

import json
import shutil

import pytest
from fakes import stage

from polaris.errors import TransientError
from polaris.train import uploads
from polaris.train.checkpoint import Layout, write_layout
from polaris.train.job import Job
from polaris.train.nodes import Team
from polaris.train.stage import restore
from polaris.train.uploads import Deliveries, Uploads


@pytest.fixture
def nodes(tmp_path, monkeypatch):
    """Give the stage's context and the jobs of two nodes."""
    context = stage(tmp_path, "http://127.0.0.1:9/v1", monkeypatch, nodes=2)
    jobs = [Job(context.config_path, tmp_path, tmp_path, tmp_path / f"out-{node}") for node in (0, 1)]
    return context, jobs


def save(jobs, step, session="s", only=(0, 1)):
    """Write each node's part of a checkpoint."""
    for node in only:
        folder = jobs[node].checkpoints / f"checkpoint-{step}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"rank-{node}").write_text(f"{session} {step}")
        write_layout(folder, Layout(2, 2, session))


def here(job):
    return sorted(path.name for path in job.checkpoints.iterdir())


def test_a_checkpoint_is_complete_when_both_nodes_files_are_there(nodes):
    context, jobs = nodes
    first, second = Uploads(context, jobs[0], Team(2, 0)), Deliveries(context, jobs[1], Team(2, 1))
    save(jobs, 5)
    second._bring_up()
    assert context.progress.names("checkpoint-5") == []
    first._bring_up()
    first._bring_up()
    assert context.progress.folders() == []
    second._bring_up()
    first._bring_up()
    assert context.progress.folders() == ["checkpoint-5"]
    for node in (0, 1):
        shutil.rmtree(jobs[node].output)
        path = restore(context, jobs[node].checkpoints, Team(2, node))
        assert {file.name for file in path.iterdir()} == {"rank-0", "rank-1", "polaris.json"}
        assert (path / "rank-1").read_text() == "s 5"


def test_another_sessions_part_is_never_taken(nodes):
    context, jobs = nodes
    save(jobs, 5, "old", only=[1])
    second = Deliveries(context, jobs[1], Team(2, 1))
    second.finish()
    assert [name for name in context.progress.names("checkpoint-5") if "node-1-old" in name]
    save(jobs, 5, "new", only=[0])
    first = Uploads(context, jobs[0], Team(2, 0))
    first._bring_up()
    assert context.progress.folders() == []
    # The node whose session is another does not answer either.
    Deliveries(context, jobs[1], Team(2, 1))._bring_up()
    first._bring_up()
    assert context.progress.folders() == []


def test_the_next_one_waits_and_nothing_that_may_be_wanted_is_dropped(nodes):
    context, jobs = nodes
    first, second = Uploads(context, jobs[0], Team(2, 0)), Deliveries(context, jobs[1], Team(2, 1))
    save(jobs, 1)
    first._bring_up()
    for step in (2, 3, 4, 5):
        save(jobs, step)
        first._bring_up()
    assert here(jobs[0]) == ["checkpoint-4", "checkpoint-5"]
    second._bring_up()
    assert here(jobs[1]) == [f"checkpoint-{step}" for step in (1, 2, 3, 4, 5)]
    first._bring_up()
    assert context.progress.folders() == ["checkpoint-1"]
    assert json.loads(context.progress.get("wanted.json"))["checkpoint"] == "checkpoint-5"
    second._bring_up()
    first._bring_up()
    assert context.progress.folders() == ["checkpoint-1", "checkpoint-5"]
    assert here(jobs[1]) == ["checkpoint-5"]


def test_the_last_one_needs_no_asking(nodes, monkeypatch, capsys):
    context, jobs = nodes
    monkeypatch.setattr(uploads, "DELIVERY_S", 0.3)
    save(jobs, 5)
    Deliveries(context, jobs[1], Team(2, 1)).finish()
    Uploads(context, jobs[0], Team(2, 0)).finish()
    assert context.progress.folders() == ["checkpoint-5"]
    # A node that never delivers leaves the one before.
    save(jobs, 6)
    Uploads(context, jobs[0], Team(2, 0)).finish()
    assert context.progress.folders() == ["checkpoint-5"]
    assert "nothing_from_nodes=1" in "".join(capsys.readouterr())


def test_a_store_that_is_away_at_the_end_hides_nothing(nodes, monkeypatch):
    context, jobs = nodes
    save(jobs, 5)

    def away(*_):
        raise TransientError("the store is away")

    monkeypatch.setattr(context.progress, "put_files", away)
    Deliveries(context, jobs[1], Team(2, 1)).finish()
    Uploads(context, jobs[0], Team(2, 0)).finish()
    assert context.progress.folders() == []


def test_a_part_on_this_machine_is_no_checkpoint(nodes):
    context, jobs = nodes
    save(jobs, 5, only=[0])
    # Not for this node alone either, when train.nodes is changed.
    assert restore(context, jobs[0].checkpoints, Team()) is None
    assert here(jobs[0]) == []
    save(jobs, 6, session="", only=[0])
    assert restore(context, jobs[0].checkpoints, Team()).name == "checkpoint-6"
    assert restore(context, jobs[0].checkpoints, Team(2, 0)) is None
