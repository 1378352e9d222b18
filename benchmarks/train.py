"""A training step with human references against TRL's own, and what checkpoints cost: measured, target, ok.

    python benchmarks/train.py [--rounds 8] [--group-size 6] [--prompts 1] [--tokens 32] [--json FILE]

SmolLM2-135M (POLARIS_DEMO_MODEL) on the CPU; generation in-process, every completion of `--tokens` tokens.

First part: `train_steps.py` twice, once with `ReferenceTrainer` at w > 0 and once with `trl.GRPOTrainer`,
everything else being the same objects. Each is a process of its own and they take turns step by step, in an
order that changes, so that what else the machine does falls on both. The ratio is the median over the rounds
of (our step / TRL's), with a 95 % bootstrap interval over rounds; the first round warms up and is left out.
Beside it stands the least that it could be: one rollout of G fewer is generated, and all rows are trained on,
so that TRL's time of generation shrinks by 1/G and nothing else. That bound takes generation to cost by the
row; where a batch of few rows is paid for by the weights that are read, less is saved. Target: the interval
does not lie above 1. Peak memory is each process's own (ru_maxrss); target: at most 1.05 times TRL's.

Second part: `train_stage.py`, a real stage that saves and uploads while it trains. Blocked is the time in
which the training thread neither computes nor waits for a core (wall - CPU - run queue, as Linux' schedstat
has them): asleep, on a lock, on a disk. Target: in steps during which an upload runs, less than 3 % of their
time. Beside it, without target: how much longer such steps take, which on few cores is mostly what the
upload's checksums and copies take from the training's memory and cores; the save to the local disk, which
does hold the training; and how long a restore takes.

Exit code 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from checks import Check, Span, show

from polaris.runtime import die_with_parent

MOST_MEMORY = 1.05
MOST_BLOCKED = 0.03
RESAMPLES = 5000


def least_ratio(generation_s: float, step_s: float, group_size: int) -> float:
    """Return our step over TRL's if generation costs by the row and one of `group_size` is not generated."""
    return (step_s - generation_s / group_size) / step_s


def interval(values: Sequence[float], seed: int = 0) -> Span:
    """Return the 95 % bootstrap interval (percentiles) of the median."""
    draw = random.Random(seed)
    found = [median(draw.choices(values, k=len(values))) for _ in range(RESAMPLES)]
    cuts = quantiles(found, n=40, method="inclusive")
    return cuts[0], cuts[-1]


def overlapping(steps: Sequence[Span], uploads: Sequence[Span]) -> list[bool]:
    """Tell of each step whether an upload ran for at least a tenth of it."""
    return [
        sum(max(0.0, min(end, other[1]) - max(begin, other[0])) for other in uploads) >= 0.1 * (end - begin)
        for begin, end in steps
    ]


class Steps:
    """A process of `train_steps.py` that takes a step when it is told to."""

    def __init__(self, which: str, folder: Path, given: argparse.Namespace) -> None:
        script = Path(__file__).with_name("train_steps.py")
        options = {"steps": given.rounds + 1, "group-size": given.group_size, "prompts": given.prompts}
        options["tokens"] = given.tokens
        command = [sys.executable, str(script), which, str(folder / which)]
        command += [f"--{name}={value}" for name, value in options.items()]
        self._log = (folder / f"{which}.log").open("w+")
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            preexec_fn=die_with_parent,
        )

    def answer(self) -> dict[str, Any]:
        """Return the next line that it says."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            sys.exit(f"a training process ended early:\n{self._log.read()[-3000:]}")
        found: dict[str, Any] = json.loads(line)
        return found

    def step(self) -> dict[str, Any]:
        """Have it take a step; return its times."""
        assert self._process.stdin
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return self.answer()

    def end(self) -> float:
        """Wait for its end; return its largest resident set, MiB."""
        found = self.answer()["rss_kib"] / 1024
        self._process.wait()
        self._log.close()
        return float(found)


def pair(folder: Path, given: argparse.Namespace) -> tuple[list[Check], dict[str, Any]]:
    """Let both trainers take their steps in turn."""
    # One after the other: they would take each other's cores while they load.
    ours = Steps("ours", folder, given)
    ours.answer()
    trl = Steps("trl", folder, given)
    trl.answer()
    told: dict[str, list[dict[str, Any]]] = {"ours": [], "trl": []}
    for number in range(given.rounds + 1):
        turn = [("ours", ours), ("trl", trl)]
        for name, process in turn if number % 2 else turn[::-1]:
            told[name].append(process.step())
            took = told[name][-1]["wall_s"]
            print(f"step {number}, {name}: {took:.1f} s", file=sys.stderr, flush=True)
    memory = ours.end(), trl.end()
    told = {name: steps[1:] for name, steps in told.items()}
    ratios, cpu_ratios = (
        [our[key] / their[key] for our, their in zip(told["ours"], told["trl"], strict=True)]
        for key in ("wall_s", "cpu_s")
    )
    step_s, generation_s = (median(step[key] for step in told["trl"]) for key in ("wall_s", "generation_s"))
    least = least_ratio(generation_s, step_s, given.group_size)
    between = interval(ratios)
    more = memory[0] / memory[1]
    lengths = {step["completion_tokens"] for steps in told.values() for step in steps}
    checks = [
        Check(
            "tokens of every completion", max(lengths), f"= {given.tokens}", lengths == {given.tokens}, False
        ),
        Check(
            "step, ours / TRL's", median(ratios), f"<= 1; least {least:.3f}", between[0] <= 1, True, between
        ),
        Check(
            "the same in CPU time", median(cpu_ratios), f"least {least:.3f}", True, True, interval(cpu_ratios)
        ),
        Check("generation's share of TRL's step", generation_s / step_s, "", True, True),
        Check("peak memory, ours / TRL's", more, f"<= {MOST_MEMORY}", more <= MOST_MEMORY, False),
    ]
    return checks, {"steps": told, "peak_mib": memory, "least_ratio": least}


def upload(folder: Path, given: argparse.Namespace) -> tuple[list[Check], dict[str, Any]]:
    """Run the stage and restore its checkpoint."""
    script, found_file = Path(__file__).with_name("train_stage.py"), folder / "stage.json"
    command = [sys.executable, str(script), str(folder / "stage"), str(found_file)]
    # A step between two saves has no upload, to compare with.
    command += [f"--steps={2 * given.saves}", "--save-steps=2", "--group-size=3", f"--tokens={given.tokens}"]
    done = subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent
    )
    if done.returncode:
        sys.exit(f"the stage ended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")
    found: dict[str, Any] = json.loads(found_file.read_text(encoding="utf-8"))
    return stage_checks(found, given.save_steps), found


def stage_checks(found: dict[str, Any], save_steps: int) -> list[Check]:
    """Return the lines of what a stage has told; a save every `save_steps` steps is what shares are of."""
    # The first two warm up and come before any save.
    steps, blocked = found["steps"][2:], found["blocked"][2:]
    during = overlapping(steps, found["uploads"])
    seconds = [end - begin for begin, end in steps]
    quiet = [took for took, upload in zip(seconds, during, strict=True) if not upload]
    busy = [took for took, upload in zip(seconds, during, strict=True) if upload]
    if not quiet or not busy:
        return [Check("steps with and without an upload", len(busy), "some of both", False, False)]
    share = sum(b for b, upload in zip(blocked, during, strict=True) if upload) / sum(busy)
    usual = median(quiet)
    saves = [end - begin for begin, end in found["saves"]]
    longer = [took - usual for took in busy]
    size = found["checkpoint_bytes"] / 2**20
    interval_s = save_steps * usual
    # The last upload has no step beside it any more.
    beside = sum(begin < steps[-1][1] for begin, _ in found["uploads"])
    return [
        Check(
            "blocked in steps during an upload, share", share, f"< {MOST_BLOCKED}", share < MOST_BLOCKED, True
        ),
        Check("blocked in other steps, share", _share_of(blocked, during, quiet), "", True, True),
        Check("step without an upload, s", usual, "", True, True, interval(quiet)),
        Check("longer with an upload beside it, s", median(longer), "", True, True, interval(longer)),
        Check(
            f"the same, share of {save_steps} steps (train.save_steps)",
            sum(longer) / beside / interval_s,
            "",
            True,
            True,
        ),
        Check("save to the local disk, s", median(saves), "", True, True, interval(saves)),
        Check("checkpoint, MiB", size, "", True, False),
        Check("restore: download and checksums, s", found["download_s"], "", True, True),
        Check("restore: load until a step can begin, s", found["load_s"], "", True, True),
        Check("the same start without a checkpoint, s", found["start_s"], "", True, True),
    ]


def _share_of(blocked: Sequence[float], during: Sequence[bool], quiet: Sequence[float]) -> float:
    return sum(b for b, upload in zip(blocked, during, strict=True) if not upload) / sum(quiet)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=8, help="pairs of steps")
    parser.add_argument("--group-size", type=int, default=6)
    parser.add_argument("--prompts", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--saves", type=int, default=5, help="checkpoints of the stage")
    parser.add_argument("--save-steps", type=int, default=5, help="what shares are stated of")
    parser.add_argument("--only", choices=["pair", "upload"])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    checks: list[Check] = []
    figures: dict[str, Any] = {"settings": {name: str(value) for name, value in vars(given).items()}}
    with tempfile.TemporaryDirectory() as folder:
        for name, part in (("pair", pair), ("upload", upload)):
            if given.only in (None, name):
                found, figures[name] = part(Path(folder), given)
                checks += found
    show(checks)
    if given.json:
        told = {"checks": [asdict(check) for check in checks], "figures": figures}
        given.json.write_text(json.dumps(told, indent=1), encoding="utf-8")
    return 0 if all(check.ok for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
