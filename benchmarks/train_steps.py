"""`go` lines in, the seconds of a training step each out: our trainer, or TRL's own, in its own process.

    python benchmarks/train_steps.py ours|trl FOLDER --steps 7 --group-size 6 --prompts 1 --tokens 64

Started twice by `train.py`, which lets the two take turns. Both are built by `polaris.train.build` from the
same configuration: arguments, data in their order, reward and tokenizer are the same objects; for `trl` the
class alone is another, `trl.GRPOTrainer` itself. Completions have exactly `--tokens` tokens, rollouts by
`min_new_tokens` and references because they are cut there.

A JSON object a line on stdout: `ready`, then a step each with wall and CPU seconds of the step and of its
generation, at last `rss_kib`, the largest resident set of the process.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

from train_setup import STORIES, config_of, demo_model, no_judge, pairs_of, prepare_environment, worker
from train_setup import write_job as write_job_in


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("trainer", choices=["ours", "trl"])
    parser.add_argument("folder", type=Path)
    for name in ("steps", "group-size", "prompts", "tokens"):
        parser.add_argument(f"--{name}", type=int, required=True)
    given = parser.parse_args()
    # What libraries print must not be read as an answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    prepare_environment()
    trainer = make(given)

    def say(**told: Any) -> None:
        print(json.dumps(told), file=answers, flush=True)

    trainer.add_callback(turns(trainer, say))
    trainer.train()
    say(rss_kib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return 0


def make(given: argparse.Namespace) -> Any:
    """Build a trainer as the product does; with `trl`, TRL's class in the place of ours."""
    worker()
    from polaris import cpu_engine
    from polaris.load import load
    from polaris.train import build
    from polaris.train.settings import Hardware

    cpu_engine.fit_training(engine=False, zero=False)
    config = config_of(
        demo_model(),
        prompts_per_step=given.prompts,
        group_size=given.group_size,
        micro_batch=given.group_size // 2,
        max_steps=given.steps,
        max_completion_tokens=given.tokens,
        save_steps=given.steps + 1,
        # Step 0 has no reference; it warms up both.
        hri={"warmup_steps": 1},
    )
    long = [(of, " ".join([story] * given.tokens)) for of, story in STORIES]
    job = write_job_in(given.folder, demo_model(), config, pairs_of(long, given.tokens))
    loaded = load(job.config, environment={})
    assert loaded.train is not None
    if given.trainer == "trl":
        setattr(build, "ReferenceTrainer", plain)  # noqa: B010
    trainer = build.build(job, loaded, loaded.train, Hardware(False, "float32"), no_judge).trainer
    trainer.generation_config.min_new_tokens = given.tokens
    return trainer


def plain(**given: Any) -> Any:
    """Return TRL's own trainer of the arguments that ours would get; none of its rows is a reference."""
    from trl import GRPOTrainer

    for name in ("hri", "max_level_share", "engine_max_difference", "agree"):
        del given[name]
    rows = given["train_dataset"]
    given["train_dataset"] = rows.add_column("is_reference", [False] * len(rows))
    return GRPOTrainer(**given)


def turns(trainer: Any, say: Any) -> Any:
    """Return a callback that waits for its turn before each step and tells the times after it."""
    from transformers import TrainerCallback

    generate, spent = trainer._generate_single_turn, {"generation_s": 0.0}

    def timed(*args: Any, **kwargs: Any) -> Any:
        begun = time.perf_counter()
        try:
            return generate(*args, **kwargs)
        finally:
            spent["generation_s"] += time.perf_counter() - begun

    trainer._generate_single_turn = timed

    class Turns(TrainerCallback):  # type: ignore[misc]
        begun = cpu = 0.0

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            say(ready=True)

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if sys.stdin.readline() != "go\n":
                # The benchmark is gone.
                os._exit(1)
            spent["generation_s"] = 0.0
            self.begun, self.cpu = time.perf_counter(), time.process_time()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            wall, cpu = time.perf_counter() - self.begun, time.process_time() - self.cpu
            lengths = trainer._metrics["train"]["completions/mean_length"]
            say(wall_s=wall, cpu_s=cpu, **spent, completion_tokens=lengths[-1] if lengths else None)

    return Turns()


if __name__ == "__main__":
    sys.exit(main())
