"""A training with adapters whose last act is to compare what the engine would get with what is exported."""

from __future__ import annotations

import json
import sys

import torch
from fakes import invented_judge
from safetensors.torch import load_file

from polaris.load import load
from polaris.runtime import StopFlag
from polaris.train.job import Job
from polaris.train.worker import quieten, train

if __name__ == "__main__":
    quieten()
    job = Job.parse()
    settings = load(job.config)
    from polaris import cpu_engine

    assert settings.train is not None
    cpu_engine.fit_training(engine=False, zero=settings.train.zero_stage > 0)
    from trl.distributed import DistributedBackend

    from polaris.train import adapters, export

    write = export.export

    def compared(trainer, *args, **kwargs):
        gather = DistributedBackend(trainer.accelerator).gather_params
        passes = [
            {name: tensor.clone() for name, tensor in adapters.merged_parameters(trainer.model, gather)}
            for _ in range(2)
        ]
        write(trainer, *args, **kwargs)
        if trainer.accelerator.is_main_process:
            exported = load_file(job.output / "model" / "model.safetensors")
            same = [
                sent.keys() == exported.keys()
                and all(torch.equal(sent[name], exported[name]) for name in exported)
                for sent in passes
            ]
            (job.output / "compared.json").write_text(json.dumps(same))

    export.export = compared
    train(job, settings, StopFlag(), judge=invented_judge)
    sys.exit(0)
