"""Two gloo processes under DeepSpeed through the worker's own code; the judge is INVENTED."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from by_hand import Step, apart, loss_by_hand
from fakes import metrics, write_job
from models import tiny_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from polaris.train import underway
from polaris.train.checkpoint import complete
from polaris.train.job import read_status

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent


def torchrun(job, processes, program="fakes.py", **variables):
    """Run a program as so many processes; return their exit code and what they said last."""
    paths = [str(HERE), str(HERE.parent), str(HERE.parent.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
        "PYTHONPATH": os.pathsep.join(paths),
        **variables,
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [*command, str(HERE / program), *job.arguments()],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    return done.returncode, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.parametrize("stage", [2, 3])
def test_two_processes_do_an_hri_step(tmp_path, stage):
    base = tiny_model(tmp_path / "base")
    settings = {"processes": 2, "zero_stage": stage, "micro_batch": 1, "max_steps": 2}
    job = write_job(tmp_path / "zero", base, **settings)
    code, said = torchrun(job, 2)
    assert code == 0, said
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


@pytest.mark.parametrize("zero", [0, 3])
def test_one_processs_judge_stops_both_and_they_save_together(tmp_path, zero):
    base = tiny_model(tmp_path / "base")
    settings = {"processes": 2, "zero_stage": zero, "micro_batch": 1, "max_steps": 3, "save_steps": 100}
    whole = write_job(tmp_path / "whole", base, **settings)
    code, said = torchrun(whole, 2)
    assert code == 0, said
    job = write_job(tmp_path / "stopped", base, **settings)
    # Rank 1 alone meets it, at the last of its three calls of the third step.
    code, said = torchrun(job, 2, "faulty.py", FAKE_FAULT_RANK="1", FAKE_FAULT_CALL="9")
    assert code == 1, said
    message = "execute.budget_usd: value 1; spent; checkpoint-2 is saved"
    assert read_status(job.output) == {"code": 4, "message": message}
    assert [path.name for path in complete(job.checkpoints)] == ["checkpoint-2"]
    assert [(note["step"], note["judge/calls"]) for note in underway.read(job.output)] == [(3, 3), (3, 3)]
    resumed = write_job(tmp_path / "stopped", base, resume=job.checkpoints / "checkpoint-2", **settings)
    (job.output / "status.json").unlink()
    code, said = torchrun(resumed, 2)
    assert code == 0, said
    assert [row["step"] for row in metrics(resumed)] == [1, 2, 3]
    for name in ("reward", "lengths/words_mean", "hri/reference_reward"):
        assert metrics(resumed)[2][name] == pytest.approx(metrics(whole)[2][name]), name
    ours, theirs = (load_file(one.output / "model" / "model.safetensors") for one in (resumed, whole))
    assert all((ours[name] == theirs[name]).all() for name in theirs)


@pytest.mark.parametrize(("kind", "shaping"), [("bnpo", False), ("dapo", True)])
def test_the_gradient_of_two_processes_is_the_hand_written_losss(tmp_path, kind, shaping):
    base = tiny_model(tmp_path / "base")
    # Three groups of four over two processes of six rows: the second group is on both.
    size, hri = 4, {"warmup_steps": 1, "shaping": "luffy" if shaping else "none"}
    settings = {"processes": 2, "zero_stage": 3, "prompts_per_step": 3, "group_size": size, "micro_batch": 2}
    job = write_job(
        tmp_path / "a", base, loss=kind, hri=hri, max_steps=2, save_steps=1, max_grad_norm=1e9, **settings
    )
    code, said = torchrun(job, 2, "gradient_worker.py")
    assert code == 0, said
    seen = [torch.load(job.output / f"seen-{rank}.pt") for rank in range(2)]
    step = Step(rewards=seen[0]["rewards"], micro=[rows for one in seen for rows in one["micro"]])
    for one in seen:
        step.add_rows(one["out"])
    assert sorted(sum(step.micro, [])) == list(range(12))
    assert len(step.micro) == 6
    marks = torch.cat([one["out"]["is_reference"] for one in seen])
    assert marks.tolist() == [False, False, False, True] * 3

    model = AutoModelForCausalLM.from_pretrained(job.checkpoints / "checkpoint-1").double()
    loss, _ = loss_by_hand(model, step, size, kind, shaping)
    loss.backward()
    for one in seen:
        assert apart(one["gradients"], model) < 1e-5


def test_comparing_a_sharded_model_with_an_engine_leaves_the_step_whole(tmp_path):
    # The comparison's forward uses an untied LM head in another way than the step's.
    settings = {
        "processes": 2,
        "zero_stage": 3,
        "micro_batch": 1,
        "max_steps": 2,
        "gradient_checkpointing": True,
    }
    job = write_job(tmp_path / "compared", tiny_model(tmp_path / "base"), **settings)
    code, said = torchrun(job, 2, "compared.py")
    assert code == 0, said
    row = metrics(job)[1]
    assert row["engine/logprob_max_difference"] == 0
    assert row["grad_norm"] > 0


def test_in_bf16_the_rotary_frequencies_stay_exact(tmp_path):
    """ZeRO-3 makes every tensor of a model in its format; rounded to bf16 they are another model's."""
    settings = {"processes": 2, "zero_stage": 3, "micro_batch": 1, "max_steps": 2}
    job = write_job(tmp_path / "mixed", tiny_model(tmp_path / "base"), **settings)
    code, said = torchrun(job, 2, "mixed.py")
    assert code == 0, said
    told = json.loads((job.output / "frequencies.json").read_text())
    assert told
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    exact = {name: one for name, one in model.named_buffers() if "inv_freq" in name}
    assert told.keys() == exact.keys()
    for name, (dtype, values) in told.items():
        assert dtype == "torch.float32"
        assert values == exact[name].tolist()
    assert [row["grad_norm"] > 0 for row in metrics(job)] == [True, True]
