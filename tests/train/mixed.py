"""A bf16 training as on GPUs, on a CPU: what its rotary frequencies are is written beside its metrics."""

import json
import sys

from fakes import invented_judge

from polaris import cpu_engine
from polaris.load import load
from polaris.runtime import StopFlag
from polaris.train import build
from polaris.train.job import Job
from polaris.train.settings import Hardware
from polaris.train.worker import quieten, train

if __name__ == "__main__":
    quieten()
    cpu_engine.fit_training(engine=False, zero=True)
    Hardware.mixed = True
    job = Job.parse()
    made = build.build

    def looked(*args):
        found = made(*args)
        buffers = found.trainer.model.named_buffers()
        told = {name: [str(one.dtype), one.tolist()] for name, one in buffers if "inv_freq" in name}
        (job.output / "frequencies.json").write_text(json.dumps(told))
        return found

    build.build = looked
    train(job, load(job.config), StopFlag(), judge=invented_judge)
    sys.exit(0)
