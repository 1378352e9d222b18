"""A vLLM engine inside the training process, on a CPU; the judge is INVENTED."""

import json
import os
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest
from fakes import write_job
from held_back import hold_back
from models import tiny_model

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent

# In processes of their own: the engine takes hold of the whole process, and its settings are for good.
PROGRAM = """
import json, sys
from pathlib import Path
from fakes import invented_judge
from polaris.errors import PolarisError
from polaris.load import load
from polaris.runtime import StopFlag
from polaris.train.job import Job
from polaris.train.worker import quieten, train
quieten()
job = Job.parse(sys.argv[2:])
if sys.argv[1] == "stale":
    from polaris import cpu_engine
    cpu_engine.fit_training(engine=True, zero=False)
    from trl.generation.vllm_generation import VLLMGeneration
    sync, calls = VLLMGeneration.sync_weights, []
    VLLMGeneration.sync_weights = lambda self: calls.append(1) if calls else (calls.append(1), sync(self))
import vllm
drawn, generate = [], vllm.LLM.generate

def watched(self, prompts, sampling_params, **rest):
    if sampling_params.max_tokens > 1:
        names = ("temperature", "top_k", "repetition_penalty")
        drawn.append([getattr(sampling_params, name) for name in names])
    return generate(self, prompts, sampling_params=sampling_params, **rest)

vllm.LLM.generate = watched
found = {"code": 0, "message": "", "drawn": drawn}
try:
    train(job, load(job.config), StopFlag(), judge=invented_judge)
except PolarisError as error:
    found |= {"code": error.code, "message": str(error)}
(job.output / "found.json").write_text(json.dumps(found))
"""


def run(job, fault="none"):
    paths = [str(HERE), str(HERE.parent), str(HERE.parent.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
        "PYTHONPATH": os.pathsep.join(paths),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, fault, *job.arguments()],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads((job.output / "found.json").read_text())
    path = job.output / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return found["code"], found["message"], rows


def drawn(job):
    return json.loads((job.output / "found.json").read_text())["drawn"]


def colocated(folder, base, **changed):
    settings = {"rollout_engine": "vllm", "max_completion_tokens": 24, "max_steps": 2, "learning_rate": 1e-2}
    return write_job(folder, base, **settings | changed)


def test_engine_follows_every_update(tmp_path):
    base = tiny_model(tmp_path / "base")
    sampling = {"temperature": 0.5, "top_k": 9, "repetition_penalty": 1.25}
    job = colocated(tmp_path / "a", base, validation={"every_steps": 2, "sampling": sampling})
    hold_back(job.pairs)
    code, message, rows = run(job)
    assert code == 0, message
    assert [row["hri/references"] for row in rows] == [0, 2]
    assert all(0 < row["engine/logprob_max_difference"] < 1e-3 for row in rows)
    # Before the first step and after the second, by its own sampling, which does not stay.
    its, ours = [0.5, 9, 1.25], [1.0, 20, 1.1]
    assert [one for one, _ in groupby(drawn(job))] == [its, ours, its]


def test_a_stale_engine_stops_the_run(tmp_path):
    base = tiny_model(tmp_path / "base")
    code, message, rows = run(colocated(tmp_path / "a", base, max_steps=4), "stale")
    assert code == 5
    assert message.startswith("engine is stale: after the weight sync of step ")
    assert "train.engine_max_difference" in message
    assert len(rows) < 4


def test_the_runs_seed_decides_what_the_engine_writes(tmp_path):
    # The engine reseeds its whole process when it starts.
    base = tiny_model(tmp_path / "base")
    entropies = []
    for name in ("a", "b"):
        job = colocated(tmp_path / name, base, max_steps=1)
        if name == "b":
            job.config.write_text(f"seed: 7\n{job.config.read_text()}")
        entropies.append(run(job)[2][0]["entropy"])
    assert entropies[0] != entropies[1]
