"""Two gloo processes under DeepSpeed through the worker's own code; the judge is INVENTED."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import metrics, write_job
from models import tiny_model
from safetensors.torch import load_file

from polaris.train.checkpoint import complete

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent


def torchrun(job, processes):
    paths = [str(HERE), str(HERE.parent), str(HERE.parent.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
        "PYTHONPATH": os.pathsep.join(paths),
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [*command, str(HERE / "fakes.py"), *job.arguments()],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.parametrize("stage", [2, 3])
def test_two_processes_do_an_hri_step(tmp_path, stage):
    base = tiny_model(tmp_path / "base")
    settings = {"processes": 2, "zero_stage": stage, "micro_batch": 1, "max_steps": 2}
    job = write_job(tmp_path / "zero", base, **settings)
    torchrun(job, 2)
    one, two = metrics(job)
    assert (one["hri/references"], two["hri/references"]) == (0, 2)
    assert two["judge/calls"] == 6
    assert two["hri/reference_advantage"] != 0
    assert [path.name for path in complete(job.checkpoints)] == ["checkpoint-1", "checkpoint-2"]
    assert list((job.checkpoints / "checkpoint-2").glob("global_step*")), "DeepSpeed was not used"
    trained, before = (load_file(folder / "model.safetensors") for folder in (job.output / "model", base))
    assert trained.keys() == before.keys()
    assert all(trained[name].shape == before[name].shape for name in before)
    assert any((trained[name] != before[name]).any() for name in before)
