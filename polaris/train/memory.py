"""A model's sizes and a `TrainConfig` in, what one GPU must hold out, in bytes, an assumption by each figure.

Three moments of a step are planned: `generate` (the engine writes rollouts), `backward` (forward and
backward of one micro-batch, the largest that may occur) and `step` (the optimiser). Sources: DeepSpeed's
defaults for its buckets and sub-groups, TRL 1.15's fused LM head, vLLM's cache layout; activations are an
estimate by the tensors that a layer keeps. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from polaris.recipe import TrainConfig
from polaris.train import adapters
from polaris.train.settings import Hardware
from polaris.train.shape import Parameters, Shape

GB = 10**9
PHASES = ("generate", "backward", "step")

CONTEXT = 2_500_000_000
"""CUDA context, NCCL's buffers, cuBLAS workspaces, compiled kernels; bytes."""
ASLEEP = 1_000_000_000
"""What the engine keeps while it sleeps: CUDA graphs and its own context; bytes."""
ENGINE_OTHER = 1_500_000_000
"""What the engine's share holds beside weights and cache: activations, CUDA graphs; bytes."""
SPARE = 0.05
"""Share of the GPU that should stay free: the allocator never packs without gaps."""

REDUCE_BUCKET = 500_000_000
LIVE_PARAMETERS = 1_000_000_000
PREFETCH_BUCKET = 50_000_000
SUB_GROUP = 1_000_000_000
"""DeepSpeed's defaults, in elements."""
HEAD_TOKENS, HEAD_COLUMNS = 4096, 32768
"""Tile of TRL's fused LM head: tokens × vocabulary."""


@dataclass(frozen=True)
class Row:
    """One part of the memory: bytes in each phase, and what that rests on."""

    part: str
    generate: float
    backward: float
    step: float
    assumption: str


@dataclass(frozen=True)
class Engine:
    """The colocated engine's share of one GPU, bytes; it writes `rows` in a step."""

    share: float
    weights: float
    cache: float
    """What is left for KV cache and linear-attention states; negative: it cannot start."""
    row: float
    """What one row of full length takes of it."""
    rows: int

    @property
    def at_once(self) -> int:
        """How many rows of full length it writes at a time."""
        return max(0, min(self.rows, int(self.cache // self.row)))


@dataclass(frozen=True)
class MemoryPlan:
    """What one GPU must hold."""

    rows: tuple[Row, ...]
    capacity: float
    """Bytes of one GPU."""
    engine: Engine | None
    """None where transformers itself writes the rollouts."""

    def total(self, phase: str) -> float:
        """Return the bytes of a phase."""
        return sum(float(getattr(row, phase)) for row in self.rows)

    @property
    def peak_phase(self) -> str:
        """The phase that needs most."""
        return max(PHASES, key=self.total)

    @property
    def peak(self) -> float:
        """Bytes that the largest phase needs."""
        return self.total(self.peak_phase)

    @property
    def margin(self) -> float:
        """Bytes that stay free; negative: it does not fit."""
        return self.capacity - self.peak

    @property
    def fits(self) -> bool:
        """Whether the largest phase fits the GPU at all."""
        return self.margin >= 0

    @property
    def spare(self) -> bool:
        """Whether it also leaves the share that should stay free."""
        return self.margin >= SPARE * self.capacity


@dataclass(frozen=True)
class _Work:
    """What all rows are computed from."""

    shape: Shape
    parameters: Parameters
    train: TrainConfig
    dtype: str
    trained: int
    sleep: bool
    capacity: float

    @property
    def stage(self) -> int:
        return self.train.zero_stage

    @property
    def processes(self) -> int:
        return self.train.world_size

    @property
    def held(self) -> int:
        """Bytes of a parameter of the base model."""
        return _held(self.train, self.dtype)

    @property
    def held_trained(self) -> int:
        """Bytes of a parameter that learns, and of its gradient: adapters are fp32 but under ZeRO."""
        return 2 if Hardware(True, self.dtype).load_dtype(self.stage) == "bfloat16" else 4

    @property
    def adapters(self) -> int:
        """Parameters of all adapters."""
        return adapters.count(self.shape, self.train.lora) if self.train.lora is not None else 0

    @property
    def activation(self) -> int:
        """Bytes of an activation."""
        return 2 if Hardware(True, self.dtype).mixed else 4

    @property
    def longest(self) -> int:
        return self.train.max_prompt_tokens + self.train.max_completion_tokens

    @property
    def tokens(self) -> int:
        """Tokens of one micro-batch, all rows at full length."""
        return self.train.micro_batch * self.longest

    @property
    def head_is_trained(self) -> bool:
        return self.trained >= self.parameters.language


def plan(
    shape: Shape,
    parameters: Parameters,
    train: TrainConfig,
    dtype: str,
    *,
    sleep: bool,
    capacity: float,
    trained: int | None = None,
) -> MemoryPlan:
    """Return what one GPU of `capacity` bytes must hold in each phase of a step.

    `dtype` is the base model's, `sleep` whether the engine gives its memory back while it does not write,
    `trained` the number of parameters that learn: None is the adapters of `train.lora`, without those the
    language model whole, a vision tower frozen.
    """
    if trained is None:
        whole = parameters.language
        trained = adapters.count(shape, train.lora) if train.lora is not None else whole
    work = _Work(shape, parameters, train, dtype, trained, sleep, capacity)
    parts: list[Callable[[_Work], Row | None]] = [
        _weights,
        _gradients,
        _optimiser,
        _in_flight,
        _activations,
        _head,
        _rollouts,
        _merge,
    ]
    rows = [row for part in parts if (row := part(work)) is not None]
    rows.append(_context())
    return MemoryPlan(tuple(rows), capacity, _engine(work))


def _context() -> Row:
    size = float(CONTEXT)
    return Row("context", size, size, size, "CUDA, NCCL, workspaces: taken as 2.5 GB")


def _weights(work: _Work) -> Row:
    total, held = work.parameters.total, work.held
    size = total * held / (work.processes if work.stage == 3 else 1)
    shared = f" / {work.processes} GPUs" if work.stage == 3 else ""
    vision = f", {_billions(work.parameters.vision)} of them vision" if work.parameters.vision else ""
    told = f"{_billions(total)}{vision} × {held} B"
    if work.adapters:
        size += work.adapters * work.held_trained / (work.processes if work.stage == 3 else 1)
        told += f", frozen; adapters {_billions(work.adapters)} × {work.held_trained} B"
    return Row("weights", size, size, size, f"{told}{shared}")


def _gradients(work: _Work) -> Row:
    size = float(work.trained * work.held_trained)
    told = f"{_billions(work.trained)} learn × {work.held_trained} B"
    if work.stage:
        size /= work.processes
        told += f" / {work.processes} GPUs"
    elif work.processes > 1:
        size *= 2
        told += " × 2: DDP keeps a copy in its buckets"
    return Row("gradients", size if work.stage == 3 else 0.0, size, size, told)


def _optimiser(work: _Work) -> Row:
    if not work.stage:
        size = 8.0 * work.trained
        return Row("optimiser", size, size, size, "AdamW: 2 × 4 B; what learns is fp32 itself")
    size = 12.0 * work.trained / work.processes
    told = f"AdamW 2 × 4 B and fp32 master 4 B / {work.processes} GPUs"
    return Row("optimiser", size, size, size, told)


def _in_flight(work: _Work) -> Row | None:
    """Return ZeRO's buffers: gathered weights, gradients on their way, gradients in fp32."""
    if not work.stage:
        return None
    largest = work.shape.head
    bucket = min(REDUCE_BUCKET, work.trained)
    if work.stage == 2:
        backward = (bucket + min(largest, work.trained)) * work.held_trained
        step = 4.0 * work.trained / work.processes
        return Row(
            "ZeRO in flight",
            0.0,
            backward,
            step,
            "bucket of 0.5 bn and the largest gradient; step: fp32 gradients",
        )
    live = min(LIVE_PARAMETERS, work.parameters.total) + min(PREFETCH_BUCKET, work.parameters.total) + largest
    step = 4.0 * min(work.trained / work.processes, SUB_GROUP)
    told = "1.05 bn weights live, LM head, bucket of 0.5 bn; step: fp32 gradients of 1 bn"
    return Row("ZeRO in flight", largest * work.held, (live + bucket) * work.held, step, told)


def _activations(work: _Work) -> Row:
    """Return what forward keeps for backward, of one micro-batch at full length."""
    shape, tokens = work.shape, work.tokens
    full, linear = (_layer(work, linear=kind) * tokens for kind in (False, True))
    whole = shape.full_layers * full + shape.linear_layers * linear
    inputs = shape.layers * shape.hidden * work.activation * tokens
    # Of the layer that is run again, what it keeps and as much again for the gradients of that.
    kept = inputs + 2 * max(full, linear if shape.linear_layers else 0)
    told = f"{tokens:,} tokens, {shape.layers} layers' inputs and one layer run again"
    if work.train.gradient_checkpointing:
        return Row("activations", 0.0, kept, 0.0, f"{told}; {whole / GB:,.0f} GB without checkpointing")
    told = f"{tokens:,} tokens, all {shape.layers} layers; {kept / GB:,.1f} GB with gradient_checkpointing"
    return Row("activations", 0.0, float(whole), 0.0, told)


def _layer(work: _Work, *, linear: bool) -> int:
    """Return the bytes a token that a layer keeps: norms in fp32 too, residuals, MLP, attention."""
    shape, size = work.shape, work.activation
    common = shape.hidden * (4 * size + 2 * 4) + 4 * shape.intermediate * size
    if work.train.lora is not None:
        # Each adapter keeps its own input, cast, and the few numbers between its two matrices.
        common += sum(
            (inputs + work.train.lora.rank) * times * size
            for inputs, _, times in adapters.layer_sizes(shape, linear=linear)
        )
    if linear and (found := shape.linear):
        # Projected, convolved, and inside the kernel queries, keys, values, two transforms and the output.
        return common + (2 * (2 * found.keys + found.values) + 7 * found.values) * size
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    return common + (queries * (4 if shape.gated else 3) + 2 * keys) * size


def _head(work: _Work) -> Row:
    tile = min(work.tokens, HEAD_TOKENS) * HEAD_COLUMNS * 4
    size = tile + work.tokens * work.shape.hidden * 4
    told = "TRL ≥ 1.15's fused head: fp32 tile"
    if work.head_is_trained:
        size += work.shape.head * (4 + work.held_trained)
        told += f", head's gradient in fp32 and × {work.held_trained} B"
    whole = work.tokens * work.shape.vocabulary * 4 / GB
    return Row("LM head", 0.0, float(size), 0.0, f"{told}; logits whole: {whole:,.1f} GB a copy")


def _rollouts(work: _Work) -> Row:
    if work.train.rollout_engine == "transformers":
        rows = work.train.rows_per_step // work.processes
        size = rows * _row(work)
        told = f"transformers: cache of {rows} rows at once"
        if work.stage == 3:
            size += work.parameters.total * work.held
            told += ", and the weights gathered whole"
        return Row("generation", size, 0.0, 0.0, told)
    share = work.train.engine_memory * work.capacity
    told = f"engine_memory {work.train.engine_memory:g} × {work.capacity / GB:.0f} GB"
    if work.sleep:
        rest = min(float(ASLEEP), share)
        return Row("engine", share, rest, rest, f"{told}; asleep it keeps 1 GB (taken)")
    return Row("engine", share, share, share, f"{told}, held all the time: it does not sleep")


def _merge(work: _Work) -> Row | None:
    """Return what merging one matrix for the engine takes: its fp32 copy, what is added, and the sum."""
    if work.train.lora is None or work.train.rollout_engine != "vllm":
        return None
    largest = max(inputs * outputs for inputs, outputs, _ in adapters.linear_sizes(work.shape))
    size = float(largest * (4 + 4 + work.held))
    told = f"one matrix at a time, the largest {_billions(largest)}, for the engine: fp32 twice, and the sum"
    return Row("adapters merged", size, 0.0, 0.0, told)


def _engine(work: _Work) -> Engine | None:
    if work.train.rollout_engine != "vllm":
        return None
    share = work.train.engine_memory * work.capacity
    weights = float(work.parameters.total * work.activation)
    rows = work.train.rows_per_step // work.processes
    return Engine(share, weights, share - weights - ENGINE_OTHER, _row(work), rows)


def _row(work: _Work) -> float:
    """Return the bytes that one row of full length takes in the cache; linear layers keep one fp32 state."""
    shape = work.shape
    cache = shape.full_layers * 2 * shape.kv_heads * shape.head_dim * work.activation * work.longest
    state = 0
    if found := shape.linear:
        matrix = found.value_heads * found.key_head_dim * found.value_head_dim * 4
        state = shape.linear_layers * (matrix + (2 * found.keys + found.values) * found.kernel * 4)
    return float(cache + state)


def checkpoint_bytes(shape: Shape, parameters: Parameters, train: TrainConfig, dtype: str) -> float:
    """Return the bytes of one checkpoint on one node: the weights, and its part of the optimiser's state.

    With adapters it holds those alone: the base is where it was.
    """
    state = 12 if train.zero_stage else 8
    shared = train.nodes if train.zero_stage else 1
    if train.lora is not None:
        learn = adapters.count(shape, train.lora)
        return 4.0 * learn + learn * state / shared
    return parameters.total * _held(train, dtype) + parameters.language * state / shared


def _held(train: TrainConfig, dtype: str) -> int:
    frozen = train.lora is not None
    return 2 if Hardware(True, dtype).load_dtype(train.zero_stage, frozen=frozen) == "bfloat16" else 4


def _billions(count: int) -> str:
    return f"{count / GB:.2f} bn" if count >= GB / 10 else f"{count / 1e6:.0f} m"
