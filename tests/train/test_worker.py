"""What a process of a training over several nodes makes of the others."""

import pytest
import torch
from heavy import trl  # noqa: F401
from torch.distributed import DistNetworkError

from polaris.errors import TransientError
from polaris.train.job import read_status
from polaris.train.worker import _report, session

CLOSED = RuntimeError(
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.2.0.7]:3479."
    " This is typically caused by a remote worker crashing. Check the logs"
)


@pytest.mark.parametrize("error", [CLOSED, DistNetworkError("The client socket has timed out\nframe #0")])
def test_a_lost_node_is_named_and_no_bug(tmp_path, monkeypatch, error):
    monkeypatch.setenv("POLARIS_NODES", "2")
    monkeypatch.setenv("POLARIS_NODE", "1")
    _report(tmp_path, error)
    status = read_status(tmp_path)
    assert status["code"] == 75
    assert status["message"].startswith("node 0 of this training is gone")
    assert status["message"].endswith(("Connection closed by peer [10.2.0.7]:3479", "socket has timed out"))


@pytest.mark.parametrize("nodes", ["1", "2"])
def test_a_bug_stays_a_bug(tmp_path, monkeypatch, nodes, capfd):
    monkeypatch.setenv("POLARIS_NODES", nodes)
    _report(tmp_path, CLOSED if nodes == "1" else RuntimeError("shape mismatch"))
    assert read_status(tmp_path)["code"] == 1


def test_nodes_that_restored_different_checkpoints_begin_nothing(monkeypatch):
    monkeypatch.setattr("accelerate.utils.gather", lambda own: torch.cat([own, own + 5]))
    with pytest.raises(TransientError, match=r"different checkpoints \(steps 10, 15\)"):
        session(10)
    monkeypatch.setattr("accelerate.utils.gather", lambda own: torch.cat([own, own]))
    assert int(session(10), 16) >= 0
