"""A model's sizes, a `TrainConfig` and a GPU's data sheet in, a step's seconds out, a low and a high. Pure.

Training is bound by FLOPs: 2·N a token forward, twice that backward, once more forward where activations are
made again (Kaplan et al. 2020; N parameters), and softmax attention's own. Writing a token reads all weights
and the rows' caches once from the GPU's memory. How near to the data sheet a machine comes is not known
before it runs: each share below is a range, from one that is rarely reached to one that is often fallen
short of. The high end holds the paper's run, about 48 h for 173 steps on four A100 of 80 GB.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from polaris.recipe import TrainConfig
from polaris.train.memory import GB, plan
from polaris.train.settings import Hardware
from polaris.train.shape import Parameters, Shape

TRAINING_SHARE = (0.10, 0.45)
"""Of the GPU's bf16 FLOP/s: padding, ZeRO's traffic and unfused kernels make it small."""
WRITING_SHARE = {"vllm": (0.15, 0.75), "transformers": (0.03, 0.30)}
"""Of the GPU's memory bandwidth, and of its FLOP/s, while stories are written, by engine."""
LENGTH_SHARE = (0.5, 1.0)
"""Mean completion as a share of `max_completion_tokens`; the longest of a batch reaches the limit."""
OTHER = (1.0, 1.1)
"""Factor for all else: weights on their way to the engine, waking it, logs, saves."""
LATENCY_S = (10.0, 60.0)
"""Seconds of one judge call: a fast judge's, and a reasoning one's."""
PAPER = "the paper's run took about 48 h for 173 steps, 1,000 s a step, on four A100 of 80 GB"


@dataclass(frozen=True)
class Range:
    """A low and a high figure of one thing."""

    low: float
    high: float

    def __add__(self, other: Range) -> Range:
        """Return the sum, end by end."""
        return Range(self.low + other.low, self.high + other.high)

    def times(self, factor: float) -> Range:
        """Return both ends times a factor."""
        return Range(self.low * factor, self.high * factor)

    @property
    def middle(self) -> float:
        """The geometric mean: as many times the low end as the high end is of it."""
        return math.sqrt(self.low * self.high)

    def __str__(self) -> str:
        """Return it with two digits of each end."""
        low, high = _short(self.low), _short(self.high)
        return low if low == high else f"{low} to {high}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


@dataclass(frozen=True)
class Gpu:
    """A GPU by its maker's data sheet: dense bf16 FLOP/s accumulated in fp32, bytes/s and bytes of memory."""

    name: str
    flops: float
    bandwidth: float
    memory: float


def _gpu(name: str, teraflops: float, terabytes: float, gigabytes: float) -> Gpu:
    return Gpu(name, teraflops * 1e12, terabytes * 1e12, gigabytes * GB)


GPUS: tuple[tuple[str, Gpu], ...] = (
    # NVIDIA's data sheets of A100, H100, H200 and the HGX B200; figures with sparsity are twice these.
    ("A100 SXM4 40GB", _gpu("A100 40 GB", 312, 1.555, 40)),
    ("A100 PCIE 40GB", _gpu("A100 40 GB", 312, 1.555, 40)),
    ("A100", _gpu("A100 80 GB", 312, 2.0, 80)),
    ("H100 PCIE", _gpu("H100 PCIe", 756, 2.0, 80)),
    ("H100 NVL", _gpu("H100 NVL", 835, 3.9, 94)),
    ("H100", _gpu("H100 SXM", 989, 3.35, 80)),
    ("H200", _gpu("H200", 989, 4.8, 141)),
    ("B200", _gpu("B200", 2250, 8.0, 180)),
    # Data sheets of L4, L40S, A10, A40 and RTX A6000.
    ("L4", _gpu("L4", 121, 0.3, 24)),
    ("L40S", _gpu("L40S", 362, 0.864, 48)),
    ("A10", _gpu("A10", 125, 0.6, 24)),
    ("A40", _gpu("A40", 150, 0.696, 48)),
    ("A6000", _gpu("RTX A6000", 155, 0.768, 48)),
    # The GeForce architectures' white papers; their fp32 accumulation runs at half the rate of fp16's.
    ("3090", _gpu("RTX 3090", 71, 0.936, 24)),
    ("4090", _gpu("RTX 4090", 165, 1.008, 24)),
    ("5090", _gpu("RTX 5090", 210, 1.792, 32)),
)
"""Words of a device's name → its data sheet; the first whose words are all in the name is it."""
ASSUMED, ASSUMED_GB = "NVIDIA A100 80GB PCIe", 80
"""The paper's GPU."""
_OTHERS = {"LAPTOP", "MIG", "D", "TI", "SUPER"}
"""Words by which a device is another one than its name's other words say, or a part of it."""


def gpu_of(name: str) -> Gpu | None:
    """Return the data sheet of a device by its driver's name, None if it is not in the table."""
    words = set(re.findall(r"[A-Z0-9]+", name.upper()))
    if words & _OTHERS:
        return None
    return next((gpu for key, gpu in GPUS if set(key.split()) <= words), None)


@dataclass(frozen=True)
class Machine:
    """What a training runs on, one GPU a process, and the sizes of the model that it trains."""

    gpu: Gpu
    shape: Shape
    parameters: Parameters
    dtype: str
    source: str = ""
    """Where the GPU is known from, if it is not this machine's; '' if it is."""

    def why_not(self) -> str:
        """Return why no time can be forecast, '' where one can."""
        if not Hardware(True, self.dtype).mixed:
            return f"data sheets are read for bfloat16, and this model is trained in {self.dtype}"
        return ""


def step_seconds(machine: Machine, train: TrainConfig) -> Range:
    """Return the seconds of one step without its judge: the rollouts, then forward and backward."""
    policy = train.rows_per_step - (train.prompts_per_step if train.hri.max_weight else 0)
    found = writing_seconds(machine, train, policy) + training_seconds(machine, train)
    return Range(found.low * OTHER[0], found.high * OTHER[1])


def training_seconds(machine: Machine, train: TrainConfig) -> Range:
    """Return the seconds of forward and backward of all rows of a step, on all GPUs together."""
    shape, longest = machine.shape, train.max_prompt_tokens + train.max_completion_tokens
    # Scores and values: 2 · 2 · T/2 · d a token of a causal row of T tokens.
    attention = 2 * longest * shape.heads * shape.head_dim * shape.full_layers
    forward = 2 * machine.parameters.language + attention
    passes = 3.0 + train.gradient_checkpointing + (train.hri.shaping == "luffy")
    # Adapters: the base's own gradients are not made.
    passes -= train.lora is not None
    whole = passes * forward * train.rows_per_step * longest / (train.world_size * machine.gpu.flops)
    low, high = TRAINING_SHARE
    return Range(whole * LENGTH_SHARE[0] / high, whole * LENGTH_SHARE[1] / low)


def writing_seconds(machine: Machine, train: TrainConfig, rows: int) -> Range:
    """Return the seconds in which all GPUs write so many rows, the longest of each batch to the limit."""
    gpu, each = machine.gpu, math.ceil(rows / train.world_size)
    engine = plan(
        machine.shape,
        machine.parameters,
        train.model_copy(update={"rollout_engine": "vllm"}),
        machine.dtype,
        sleep=True,
        capacity=gpu.memory,
    ).engine
    assert engine is not None
    fitting = max(1, int(engine.cache // engine.row)) if train.rollout_engine == "vllm" else each
    at_once = min(each, fitting)
    # A row's cache is half full on average.
    read = (2 * machine.parameters.language + at_once * engine.row / 2) / gpu.bandwidth
    counted = 2 * machine.parameters.language * at_once / gpu.flops
    whole = max(1.0, each / max(1, at_once)) * train.max_completion_tokens * max(read, counted)
    low, high = WRITING_SHARE[train.rollout_engine]
    return Range(whole / high, whole / low)


def judge_seconds(
    calls: int,
    concurrency: int,
    requests_per_minute: int | None,
    tokens_per_minute: int | None,
    tokens: float,
) -> Range:
    """Return the seconds in which so many calls of `tokens` each are answered, asked for at the same time.

    The account's limits are a lower bound of both ends.
    """
    least = 60 * calls / requests_per_minute if requests_per_minute else 0.0
    if tokens_per_minute:
        least = max(least, 60 * calls * tokens / tokens_per_minute)
    waves = math.ceil(calls / concurrency)
    return Range(max(least, waves * LATENCY_S[0]), max(least, waves * LATENCY_S[1]))


def sentences(machine: Machine, train: TrainConfig) -> list[str]:
    """Return what the times rest on."""
    gpu = machine.gpu
    count = f"{train.world_size} × {gpu.name}" + (f" ({machine.source})" if machine.source else "")
    writing, length = _percent(WRITING_SHARE[train.rollout_engine]), _percent(LENGTH_SHARE)
    return [
        f"time: {count}, by its data sheet {gpu.flops / 1e12:,.0f} TFLOP/s in bf16 and"
        f" {gpu.bandwidth / 1e12:.2f} TB/s; training reaches {_percent(TRAINING_SHARE)} of the former,"
        f" writing by {train.rollout_engine} {writing} of the latter; completions have {length} of"
        f" max_completion_tokens {train.max_completion_tokens:,}",
        PAPER,
    ]


def _percent(share: tuple[float, float]) -> str:
    return f"{share[0] * 100:.0f} to {share[1] * 100:.0f} %"
