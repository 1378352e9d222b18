"""Two nodes on one machine: two stages with work folders of their own, real torchrun, a FAKE judge."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_endpoint import fake_endpoint
from fakes import answer, stage

from polaris.artifact import find_manifest, to_rows
from polaris.errors import ConfigError
from polaris.recipe import TrainConfig
from polaris.train.nodes import Team, team_of

TWO = TrainConfig(base="base", judge="judge", nodes=2, micro_batch=3)
HERE = {"POLARIS_NODES": "2", "POLARIS_NODE": "1", "POLARIS_RENDEZVOUS": "job-0.polaris-train:29400"}


def test_rows_are_divided_among_all_nodes():
    assert TWO.world_size == 2
    with pytest.raises(ValueError, match=r"no multiple of nodes 2 × processes 5 × micro_batch 3 = 30"):
        TrainConfig(**TWO.model_dump() | {"processes": 5})


@pytest.mark.parametrize(
    ("nodes", "environment", "message"),
    [
        (2, {}, "train.nodes is 2, but POLARIS_NODES is not set"),
        (2, HERE | {"POLARIS_NODES": "3"}, "train.nodes is 2, but POLARIS_NODES is 3"),
        (1, HERE, "train.nodes is 1, but POLARIS_NODES is 2"),
        (2, HERE | {"POLARIS_NODE": "2"}, "POLARIS_NODE is '2': expected a number from 0 to 1"),
        (1, {"POLARIS_NODE": "1"}, "POLARIS_NODE is '1': expected a number from 0 to 0"),
        (2, HERE | {"POLARIS_RENDEZVOUS": "job-0"}, "POLARIS_RENDEZVOUS is 'job-0': expected HOST:PORT"),
    ],
)
def test_an_environment_that_does_not_fit_is_refused(nodes, environment, message):
    with pytest.raises(ConfigError, match=message):
        team_of(TWO.model_copy(update={"nodes": nodes}), environment)


def test_node_0_is_rank_0_whatever_the_hosts_are_called():
    assert team_of(TWO, HERE) == Team(2, 1, HERE["POLARIS_RENDEZVOUS"])
    assert team_of(TWO.model_copy(update={"nodes": 1}), {}).torchrun("x") == ["--standalone"]
    addresses = []
    for node in range(12):
        arguments = dict(word.split("=", 1) for word in Team(12, node, "zeta:1").torchrun("x"))
        assert arguments["--rdzv-conf"].startswith(f"is_host={int(node == 0)},")
        addresses.append(arguments["--local-addr"])
    # torchrun sorts by address, and has to reach the first.
    assert addresses[0] == "zeta"
    assert addresses == sorted(addresses)


class Nodes:
    """Two stages, one a node."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.starts = 0
        self.stages = []

    def start(self):
        self.starts += 1
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            rendezvous = f"127.0.0.1:{free.getsockname()[1]}"
        # Node 1 first: ranks must not follow from who comes first.
        self.stages = [self._start(node, rendezvous) for node in (1, 0)][::-1]

    def _start(self, node, rendezvous):
        own = {"POLARIS_NODES": "2", "POLARIS_NODE": str(node), "POLARIS_RENDEZVOUS": rendezvous}
        own |= {"POLARIS__EXECUTE__WORK_DIR": str(self.work(node)), "POLARIS_LOG": "json"}
        with (self.folder / f"node-{node}.log").open("a") as file:
            return subprocess.Popen(
                [sys.executable, "-m", "polaris", "stage", "train", str(self.folder / "run.yaml")],
                env=os.environ | own | {"OMP_NUM_THREADS": "1"},
                stdout=file,
                stderr=file,
            )

    def work(self, node):
        return self.folder / f"work-{node}"

    def workers(self, node):
        return [int(path.read_text()) for path in self.work(node).rglob("pids/*")]

    def ended(self):
        return [stage.wait(timeout=120) for stage in self.stages]

    def log(self, node):
        lines = (self.folder / f"node-{node}.log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def said(self, node, event):
        return [line for line in self.log(node) if line["event"] == event]


@contextlib.contextmanager
def two_nodes(tmp_path, monkeypatch, **train):
    """Give the context of a stage in this process, and the nodes that carry it out."""
    with fake_endpoint(answer) as judge:
        nodes = Nodes(tmp_path)
        try:
            yield stage(tmp_path, judge.url, monkeypatch, nodes=2, **train), nodes
        finally:
            for process in nodes.stages:
                process.kill()
                process.wait()


def wait_for(condition, seconds=90):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.1)


def check_complete(context, nodes, steps):
    """Check the artifact, which node 0 has made alone."""
    manifest = find_manifest(context.store, context.output.prefix)
    assert manifest is not None
    assert (manifest.counts["steps"], manifest.counts["rows"]) == (steps, steps * 6)
    assert manifest.counts["references"] == (steps - 1) * 2
    [entry] = [entry for entry in manifest.objects if entry.name == "metrics.jsonl"]
    rows = to_rows(context.store.get(context.output.prefix + entry.key), "metrics")
    assert [row["step"] for row in rows] == list(range(1, steps + 1))
    assert nodes.said(1, "helped")
    assert not nodes.said(1, "complete")
    attempts = [info.key for info in context.store.list(f"{context.output.prefix}attempts/")]
    assert sum(key.endswith("STATUS.json") for key in attempts) == nodes.starts
    assert not list(nodes.work(1).rglob("metrics.jsonl"))


@pytest.mark.slow
def test_two_nodes_train_to_one_artifact(tmp_path, monkeypatch):
    with two_nodes(tmp_path, monkeypatch) as (context, nodes):
        nodes.start()
        assert nodes.ended() == [0, 0]
        check_complete(context, nodes, 3)
        # A node that comes late, as a pod that is started again does, finds it done.
        late = nodes._start(1, "127.0.0.1:9")
        assert late.wait(timeout=60) == 0


@pytest.mark.slow
def test_killed_nodes_go_on_from_a_sharded_checkpoint(tmp_path, monkeypatch):
    # Many steps: these take a quarter of a second, and the kill must not come after the last.
    settings = {"zero_stage": 2, "micro_batch": 1, "max_steps": 60, "save_steps": 2}
    with two_nodes(tmp_path, monkeypatch, **settings) as (context, nodes):
        nodes.start()
        wait_for(context.progress.folders)
        os.kill(nodes.workers(1)[0], signal.SIGKILL)
        assert nodes.ended() == [75, 75]
        [failed] = nodes.said(0, "failed")[-1:]
        assert "node 1 of this training is gone" in failed["reason"]
        newest = max(context.progress.folders(), key=lambda name: int(name.partition("-")[2]))
        shards = [name for name in context.progress.names(f"{newest}/") if "zero_pp_rank_" in name]
        assert len(shards) == 2
        # Other machines: nothing but the store is left.
        shutil.rmtree(nodes.work(0))
        shutil.rmtree(nodes.work(1))
        nodes.start()
        assert nodes.ended() == [0, 0]
        check_complete(context, nodes, 60)
        resumed = [nodes.said(node, "resume")[-1]["checkpoint"] for node in (0, 1)]
        assert resumed == [newest] * 2


@pytest.mark.slow
def test_a_stopped_node_stops_all_and_they_go_on(tmp_path, monkeypatch):
    with two_nodes(tmp_path, monkeypatch, max_steps=40, save_steps=30) as (context, nodes):
        nodes.start()
        wait_for(lambda: any(path.stat().st_size for path in nodes.work(0).rglob("metrics.jsonl")))
        nodes.stages[1].send_signal(signal.SIGTERM)
        assert nodes.ended() == [75, 143]
        assert "node 1 was told to stop" in nodes.said(0, "failed")[0]["reason"]
        [name] = context.progress.folders()
        files = {part.partition("/")[2] for part in context.progress.names(f"{name}/")}
        assert {"rng_state_0.pth", "rng_state_1.pth", "optimizer.pt", "trainer_state.json"} <= files
        # In the same folders, where a part of the checkpoint lies.
        nodes.start()
        assert nodes.ended() == [0, 0]
        check_complete(context, nodes, 40)
        assert nodes.said(1, "resume")[0]["checkpoint"] == name


@pytest.mark.slow
def test_a_killed_stages_workers_do_not_disturb_the_next(tmp_path, monkeypatch):
    with two_nodes(tmp_path, monkeypatch) as (context, nodes):
        nodes.start()
        wait_for(lambda: nodes.workers(0) and nodes.workers(1))
        for process in nodes.stages:
            process.kill()
        assert nodes.ended() == [-signal.SIGKILL] * 2
        nodes.start()
        assert nodes.ended() == [0, 0]
        check_complete(context, nodes, 3)


@pytest.mark.slow
def test_a_node_that_waits_for_the_others_can_be_stopped(tmp_path, monkeypatch):
    with two_nodes(tmp_path, monkeypatch) as (_, nodes):
        waiting = nodes._start(1, "127.0.0.1:9")
        nodes.stages = [waiting]
        wait_for(lambda: nodes.said(1, "begin"))
        time.sleep(5)
        waiting.send_signal(signal.SIGTERM)
        assert waiting.wait(timeout=30) == 143
