"""A tiny random Qwen3.5: its padded rows, and what is trained of it in vLLM; the judge is INVENTED."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import heavy  # noqa: F401
import pytest
import torch
from fakes import write_job
from models import tiny_tokenizer
from qwen35 import tiny_qwen35, tiny_seeing_qwen35
from transformers import AutoModelForCausalLM
from vision import vision_folder

from polaris.train import parity

HERE = Path(__file__).parent
CPU = torch.device("cpu")

# In a process of its own: the engine takes hold of the whole process, and torchvision is only there.
PROGRAM = """
import json
from vision import import_torchvision, register_qwen35
import_torchvision()
from fakes import invented_judge
from polaris.load import load
from polaris.runtime import StopFlag
from polaris.train.job import Job
from polaris.train.worker import quieten, train
quieten()
job = Job.parse()
from polaris import cpu_engine
cpu_engine.fit_training(engine=True, zero=False)
import torch
from polaris.train import export, parity
found, write = {}, export.export

def look(trainer, tokenizer, *args, **kwargs):
    ids = found["ids"] = parity.probe_ids(tokenizer)
    found["trainer"] = parity.trainer_logprobs(trainer.model, ids, torch.device("cpu")).tolist()
    write(trainer, tokenizer, *args, **kwargs)

export.export = look
train(job, load(job.config), StopFlag(), judge=invented_judge)
register_qwen35()
from vllm import LLM
# Its linear attention has no other kernel on a CPU.
engine = LLM(str(job.output / "model"), dtype="bfloat16", enforce_eager=True, max_model_len=512)
found["engine"] = parity.engine_logprobs(engine, found["ids"]).tolist()
(job.output / "found.json").write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_qwen35(tmp_path_factory.mktemp("qwen35"))


def test_padded_and_unpadded_rows_have_the_same_logprobs(base):
    model = AutoModelForCausalLM.from_pretrained(base, dtype="float32")
    assert set(model.config.layer_types) == {"linear_attention", "full_attention"}
    ids = parity.probe_ids(tiny_tokenizer())
    assert parity.padding_difference(model, ids, CPU) < 1e-5


def test_so_have_those_of_the_hubs_class():
    ids = parity.probe_ids(tiny_tokenizer())
    assert parity.padding_difference(tiny_seeing_qwen35(), ids, CPU) < 1e-5


def test_a_model_that_does_not_hide_its_padding_is_told(base):
    model = AutoModelForCausalLM.from_pretrained(base, dtype="float32")
    ids = parity.probe_ids(tiny_tokenizer())
    forward = model.forward
    model.forward = lambda **given: forward(**given | {"attention_mask": None})
    assert parity.padding_difference(model, ids, CPU) > 1e-2
    model.forward = lambda **given: forward(**given)
    with torch.no_grad():
        model.lm_head.weight[0, 0] = math.nan
    assert parity.padding_difference(model, ids, CPU) == math.inf


@pytest.mark.slow
def test_what_is_trained_here_loads_in_vllm_and_gives_the_trainers_logprobs(base, tmp_path):
    vision = vision_folder()
    if vision is None:
        pytest.skip("no torchvision, which vLLM imports for Qwen3.5: `make tools` puts it into POLARIS_CACHE")
    job = write_job(tmp_path / "job", base, dtype="bfloat16", max_steps=2, learning_rate=1e-2)
    paths = [*map(str, (vision, HERE, HERE.parent, HERE.parents[1])), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
        "PYTHONPATH": os.pathsep.join(paths),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }
    command = [sys.executable, "-c", PROGRAM, *job.arguments()]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads((job.output / "found.json").read_text())
    assert json.loads((job.output / "model" / "config.json").read_text())["architectures"] == [
        "Qwen3_5ForCausalLM"
    ]
    trainer, engine = torch.tensor(found["trainer"]), torch.tensor(found["engine"])
    assert parity.largest_difference(trainer, engine) < 1e-2
    # The base's own would not pass.
    untrained = parity.trainer_logprobs(
        AutoModelForCausalLM.from_pretrained(base, dtype="float32"), found["ids"], CPU
    )
    assert parity.largest_difference(untrained, engine) > 5e-2
