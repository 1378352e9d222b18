"""What a training process makes of its GPUs, and of the other nodes."""

import pytest
import torch
from fakes import write_job
from heavy import trl  # noqa: F401
from torch.distributed import DistNetworkError

from polaris.errors import ConfigError, TransientError
from polaris.load import load
from polaris.runtime import StopFlag
from polaris.train.job import read_status
from polaris.train.worker import _hardware, _report, session, train

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


@pytest.mark.parametrize(
    ("visible", "processes", "told"),
    [
        (
            4,
            1,
            "train.processes: value 1; 4 GPUs are visible to this pod: set train.processes (and zero_stage)"
            " or ask for fewer GPUs (training.gpus in the chart); on a machine of your own name those to be"
            " used in CUDA_VISIBLE_DEVICES",
        ),
        (
            1,
            3,
            "train.processes: value 3; 1 GPU is visible to this pod: set train.processes (and zero_stage) or"
            " ask for more GPUs (training.gpus in the chart)",
        ),
    ],
)
def test_gpus_that_do_not_fit_the_processes_end_it_at_once(tmp_path, monkeypatch, visible, processes, told):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    # There is no model here: nothing is read before the GPUs are counted.
    settings = {"processes": processes, "zero_stage": 2, "micro_batch": 1, "prompts_per_step": 3}
    job = write_job(tmp_path, tmp_path / "no-model", **settings)
    (tmp_path / "no-model").mkdir()
    with pytest.raises(ConfigError) as caught:
        train(job, load(job.config), StopFlag())
    assert str(caught.value) == told
    _report(tmp_path, caught.value)
    assert read_status(tmp_path) == {"code": 2, "message": told}


def test_one_gpu_for_each_process_is_well(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    config = load(write_job(tmp_path, tmp_path / "no-model").config)
    assert _hardware(config, config.train).cuda
