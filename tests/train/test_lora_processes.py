"""Adapters under DeepSpeed on two processes and beside a colocated engine; the judge is INVENTED."""

import json

import pytest
import torch
from fakes import metrics, write_job
from models import tiny_model
from safetensors.torch import load_file
from test_colocate import colocated, run
from test_zero import torchrun

from polaris.train.adapters import merged_weight
from polaris.train.checkpoint import complete

pytestmark = pytest.mark.slow

LORA = {"rank": 4, "alpha": 8.0}


@pytest.mark.parametrize("stage", [2, 3])
def test_two_processes_train_adapters_and_those_sharded_resume(tmp_path, stage):
    base = tiny_model(tmp_path / "base")
    settings = {
        "processes": 2,
        "zero_stage": stage,
        "micro_batch": 1,
        "max_steps": 2,
        "gradient_checkpointing": True,
        "lora": LORA,
    }
    job = write_job(tmp_path / "whole", base, **settings)
    code, said = torchrun(job, 2, "adapters_sync.py")
    assert code == 0, said
    assert [row["hri/references"] for row in metrics(job)] == [0, 2]
    assert json.loads((job.output / "compared.json").read_text()) == [True, True]
    first, _ = complete(job.checkpoints)
    assert list(first.glob("global_step*")), "DeepSpeed was not used"
    if stage == 2:
        return
    again = write_job(tmp_path / "resumed", base, resume=first, **settings)
    code, said = torchrun(again, 2)
    assert code == 0, said
    ours, theirs, before = (
        load_file(folder / "model.safetensors")
        for folder in (again.output / "model", job.output / "model", base)
    )
    assert ours.keys() == theirs.keys() == before.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert {name for name in before if not torch.equal(ours[name], before[name])} == {
        name for name in before if "_proj." in name
    }


def test_the_engine_follows_the_adapters_and_the_base_stays(tmp_path):
    base = tiny_model(tmp_path / "base")
    job = colocated(tmp_path / "a", base, max_steps=3, lora=LORA)
    code, message, rows = run(job)
    assert code == 0, message
    assert [row["hri/references"] for row in rows] == [0, 2, 2]
    assert all(0 < row["engine/logprob_max_difference"] < 1e-3 for row in rows)
    learnt = load_file(complete(job.checkpoints)[-1] / "adapter_model.safetensors")
    before = load_file(base / "model.safetensors")
    written = load_file(job.output / "model" / "model.safetensors")
    for name, weight in before.items():
        at = f"base_model.model.{name.removesuffix('.weight')}.lora_"
        if f"{at}A.weight" in learnt:
            weight = merged_weight(weight, learnt[f"{at}A.weight"], learnt[f"{at}B.weight"], 2.0)
            assert not torch.equal(written[name], before[name])
        # To the bit: three syncs have left nothing in the base.
        assert torch.equal(written[name], weight), name
