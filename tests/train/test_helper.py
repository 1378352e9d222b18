"""When a node without rank 0 may end."""

import threading

import pytest
from context import make_artifact
from fakes import stage

from polaris.errors import Stopped, TransientError
from polaris.train import helper
from polaris.train.helper import await_artifact
from polaris.train.job import Job
from polaris.train.nodes import Team
from polaris.train.uploads import Uploads


@pytest.fixture
def context(tmp_path, monkeypatch):
    return stage(tmp_path, "http://127.0.0.1:9/v1", monkeypatch, nodes=2)


def begin(context, tmp_path):
    """Begin node 0's stage."""
    return Uploads(context, Job(context.config_path, tmp_path, tmp_path, tmp_path / "out"), Team(2, 0))


def test_it_ends_when_the_artifact_is_there(context, tmp_path):
    begin(context, tmp_path)
    later = threading.Timer(0.5, make_artifact, (context.run, "train", {"metrics.jsonl": []}))
    later.start()
    await_artifact(context)
    assert context.run.manifest("train"), "and not before"
    later.join()


def test_it_goes_along_when_node_0_begins_again(context, tmp_path):
    begin(context, tmp_path)
    later = threading.Timer(0.5, begin, (context, tmp_path))
    later.start()
    with pytest.raises(TransientError, match="node 0 could not finish and begins again"):
        await_artifact(context)
    later.join()


def test_it_waits_neither_for_ever_nor_against_a_signal(context, tmp_path, monkeypatch):
    monkeypatch.setattr(helper, "MEET_S", 0)
    with pytest.raises(TransientError, match="no artifact within 0 s"):
        await_artifact(context)
    context.stop.signal = 15
    with pytest.raises(Stopped):
        await_artifact(context)
