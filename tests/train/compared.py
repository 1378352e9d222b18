"""A training whose sharded model is compared as with an engine in each step: no CPU has both at once."""

import sys
from types import SimpleNamespace

from fakes import invented_judge
from trl import GRPOTrainer

from polaris import cpu_engine
from polaris.load import load
from polaris.runtime import StopFlag
from polaris.train import parity
from polaris.train.job import Job
from polaris.train.worker import quieten, train

if __name__ == "__main__":
    quieten()
    cpu_engine.fit_training(engine=False, zero=True)
    turn = GRPOTrainer._generate_single_turn

    parity.engine_logprobs = lambda llm, ids: None
    parity.largest_difference = lambda ours, theirs: 0.0

    def compared(self, *args, **kwargs):
        found = turn(self, *args, **kwargs)
        self.vllm_generation = SimpleNamespace(llm=None)
        self._compare_engine()
        return found

    GRPOTrainer._generate_single_turn = compared
    job = Job.parse()
    train(job, load(job.config), StopFlag(), judge=invented_judge)
    sys.exit(0)
