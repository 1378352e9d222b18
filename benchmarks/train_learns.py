"""Seeds in, the curves of trainings that must learn out: measured, target and ok, and a plot.

    python benchmarks/train_learns.py [--steps 30] [--seeds 1 2 3] [--no-smollm2] [--json FILE] [--plot FILE]

`polaris.train.worker.train` on the CPU; the reward is the recipe's without its judge, a function of a story:
1 at the asked length, falling to 0 at no words and at twice as many, less what a length beyond that and the
self-repetition cost. The small model is a random Llama of two layers with SmolLM2's tokenizer and all of
its 49,152 tokens. For each seed it is trained twice, with human references (w rises to 0.4) and without.

1. It learns: the mean rewards of the last 10 steps, all seeds together, are above those of the first 10;
   one-sided permutation test of the difference of means, p < 0.01, with references. References are not in
   these means. The arm without is stated beside it.
2. References teach: their mean log-probability a token, measured on all of them before and after, rises more
   with references than without, for each seed.

SmolLM2-135M itself (POLARIS_DEMO_MODEL) is trained once with references and shown beside it, without a
target. Exit code 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from checks import Check, show
from train_curve import draw
from train_setup import (
    STORIES,
    STORY_WORDS,
    config_of,
    demo_model,
    no_judge,
    pairs_of,
    prepare_environment,
    worker,
    write_job,
)

ENDS = 10
"""Steps at each end that are compared."""
MOST_P = 0.01
PERMUTATIONS = 20_000
WEIGHT = 0.4
SMALL: dict[str, Any] = {"learning_rate": 3e-3, "prompts_per_step": 2, "group_size": 4, "micro_batch": 4}
LARGE: dict[str, Any] = {"learning_rate": 3e-5, "prompts_per_step": 2, "group_size": 4, "micro_batch": 4}
TOKENS = 24


@dataclass(frozen=True)
class Learned:
    """One training.

    Attributes:
        rewards: the policy's mean reward of each step.
        before: mean log-probability of the references' tokens under the base model, nats.
        after: the same under the trained one.
        seconds: of the training.

    """

    rewards: list[float]
    before: float
    after: float
    seconds: float


def permutation_p(first: Sequence[float], last: Sequence[float], seed: int = 0) -> float:
    """Return the one-sided p of a permutation test that `last` has the greater mean.

    (1 + permutations whose sum is as great) / (1 + permutations): never 0.
    """
    draw_from, pooled, seen = random.Random(seed), [*first, *last], sum(last)
    # Equal sums in another order of addition count as equal.
    as_great = sum(
        sum(draw_from.sample(pooled, len(last))) >= seen - 1e-12 * max(1.0, abs(seen))
        for _ in range(PERMUTATIONS)
    )
    return (1 + as_great) / (1 + PERMUTATIONS)


def small_model(folder: Path, tokenizer_of: Path, seed: int) -> Path:
    """Write a random two-layer Llama with a model's tokenizer and vocabulary."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_of)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def learn(
    folder: Path, model: Path, *, seed: int, weight: float, steps: int, tokens: int = TOKENS, **train: Any
) -> Learned:
    """Train a model on the stories, in this process, and measure it before and after."""
    from polaris.load import load
    from polaris.runtime import StopFlag
    from polaris.train.worker import train as train_job

    hri = {"max_weight": weight, "warmup_steps": 5}
    settings = {"max_steps": steps, "max_completion_tokens": tokens, "save_steps": steps + 1, "hri": hri}
    config = config_of(model, seed=seed, **settings, **train)
    job = write_job(folder, model, config, pairs_of(STORIES, STORY_WORDS))
    loaded = load(job.config, environment={})
    before = reference_logprob(model, loaded, job.pairs)
    begun = time.perf_counter()
    if train_job(job, loaded, StopFlag(), judge=no_judge) is not None:
        sys.exit("stopped by a signal")
    seconds = time.perf_counter() - begun
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    after = reference_logprob(folder / "model", loaded, job.pairs)
    return Learned([row["reward"] for row in rows], before, after, seconds)


def reference_logprob(model: Path, config: Any, pairs: Path) -> float:
    """Return the mean log-probability, nats a token, of the references after their prompts."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from polaris.artifact import to_rows
    from polaris.train.dataset import training_rows
    from polaris.train.trainer import REFERENCE_COLUMN

    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    rows, _ = training_rows(to_rows(pairs.read_bytes(), pairs.name), tokenizer, config.train, False)
    total, count = 0.0, 0
    for row in rows:
        opened = tokenizer.apply_chat_template(
            row["prompt"], tokenize=True, add_generation_prompt=True, enable_thinking=False, return_dict=True
        )["input_ids"]
        reference = row[REFERENCE_COLUMN]
        ids = torch.tensor([[*opened, *reference]])
        with torch.no_grad():
            logits = network(ids).logits[0, len(opened) - 1 : -1]
        chosen = logits.log_softmax(-1).gather(1, torch.tensor(reference).unsqueeze(1))
        total, count = total + float(chosen.double().sum()), count + len(reference)
    return total / count


def ends(runs: Sequence[Learned]) -> tuple[list[float], list[float]]:
    """Return the first steps' mean rewards of all runs, and the last steps'."""
    first = [reward for run in runs for reward in run.rewards[:ENDS]]
    return first, [reward for run in runs for reward in run.rewards[-ENDS:]]


def checks_of(told: dict[str, list[Learned]]) -> list[Check]:
    """Return the lines of the table: `with` and `without` hold a run a seed, `smollm2` at most one."""
    checks = []
    for name, label, target in (
        ("with", "small model, w > 0", f"< {MOST_P}"),
        ("without", "small model, w = 0", ""),
        ("smollm2", "SmolLM2, w > 0", ""),
    ):
        if not told[name]:
            continue
        first, last = ends(told[name])
        p = permutation_p(first, last)
        checks += [
            Check(f"{label}: mean reward of the first {ENDS} steps", mean(first), "", True, False),
            Check(f"{label}: of the last {ENDS}", mean(last), "", True, False),
            Check(
                f"{label}: p of {len(first)} + {len(last)} step means",
                p,
                target,
                not target or p < MOST_P,
                False,
            ),
        ]
    # The test takes the seeds together; one that fell must not hide in it.
    for name, label in (("with", "w > 0"), ("without", "w = 0")):
        for number, run in enumerate(told[name]):
            change = mean(run.rewards[-ENDS:]) - mean(run.rewards[:ENDS])
            named = f"seed {number + 1}: reward, last {ENDS} steps less first {ENDS}, {label}"
            checks.append(Check(named, change, "", True, False))
    rises = {name: [run.after - run.before for run in runs] for name, runs in told.items()}
    for number, (ours, plain) in enumerate(zip(rises["with"], rises["without"], strict=True)):
        named = f"seed {number + 1}: references' log-prob rises, w > 0"
        checks.append(Check(named, ours, f"> {plain:.3g} at w = 0", ours > plain, False))
    checks += [
        Check("SmolLM2: references' log-prob rises, w > 0", rise, "", True, False)
        for rise in rises["smollm2"]
    ]
    return checks


def measure(folder: Path, given: argparse.Namespace) -> dict[str, list[Learned]]:
    """Run all trainings, one after the other."""
    told: dict[str, list[Learned]] = {"with": [], "without": [], "smollm2": []}
    for seed in given.seeds:
        model = small_model(folder / f"small-{seed}", demo_model(), seed)
        for name, weight in (("with", WEIGHT), ("without", 0.0)):
            place = folder / f"{name}-{seed}"
            told[name].append(learn(place, model, seed=seed, weight=weight, steps=given.steps, **SMALL))
            print(
                f"seed {seed}, w up to {weight}: {told[name][-1].seconds:.0f} s", file=sys.stderr, flush=True
            )
    if not given.no_smollm2:
        run = learn(
            folder / "large", demo_model(), seed=given.seeds[0], weight=WEIGHT, steps=given.steps, **LARGE
        )
        told["smollm2"].append(run)
        print(f"SmolLM2: {run.seconds:.0f} s", file=sys.stderr, flush=True)
    return told


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--no-smollm2", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    prepare_environment()
    worker()
    with tempfile.TemporaryDirectory() as folder:
        told = measure(Path(folder), given)
    checks = checks_of(told)
    show(checks)
    figures = {name: [asdict(run) for run in runs] for name, runs in told.items()}
    if given.plot:
        draw(figures, given.plot)
    if given.json:
        written = {"checks": [asdict(check) for check in checks], "figures": figures}
        given.json.write_text(json.dumps(written, indent=1), encoding="utf-8")
    return 0 if all(check.ok for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
