"""A model's folder in, how much its log-probabilities differ with padding and in the engine out, as JSON.

A program, `python -m polaris.train.compare QUESTION`: an engine takes hold of its whole process, and whoever
asks needs no torch. The model and the engine are loaded as a training on this machine loads them, one after
the other.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polaris import cpu_engine
from polaris.errors import ConfigError
from polaris.train.settings import Hardware
from polaris.train.worker import quieten

if TYPE_CHECKING:
    import torch

MODULE = "polaris.train.compare"
ROOM = 64
"""Tokens that the engine may read beside the fixed text."""


@dataclass(frozen=True)
class Question:
    """What is compared.

    Attributes:
        model: folder of the model.
        output: file for the answer: libraries write to stdout as they like.
        dtype: the model's number format, as in its `models` section.
        zero_stage: DeepSpeed's; it decides the format in which the trainer holds the model.
        frozen: whether adapters are trained beside the model; the same.
        engine: whether a vLLM engine is compared too.
        engine_memory: its share of GPU memory.

    """

    model: str
    output: str
    dtype: str
    zero_stage: int
    frozen: bool
    engine: bool
    engine_memory: float

    def arguments(self) -> list[str]:
        """Return the program's command line arguments."""
        return [json.dumps(asdict(self))]


@dataclass(frozen=True)
class Answer:
    """What was found.

    Attributes:
        device: where the trainer's model was: `cpu` or `cuda`.
        dtype: in what it computed.
        tokens: length of the text.
        padding: max |Δ log-probability| between padded and unpadded rows of the trainer's model.
        engine: the same between trainer and engine; None: there is none, or it did not start.
        engine_error: why it did not start.

    """

    device: str
    dtype: str
    tokens: int
    padding: float
    engine: float | None = None
    engine_error: str = ""


def main(arguments: list[str] | None = None) -> int:
    """Compare, and write the answer."""
    [text] = sys.argv[1:] if arguments is None else arguments
    question = Question(**json.loads(text))
    quieten()
    # The engine in this process, as it is in a training's.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    Path(question.output).write_text(json.dumps(asdict(compare(question))), encoding="utf-8")
    return 0


def compare(question: Question) -> Answer:
    """Load the model, score a text alone and padded, and then with an engine.

    Raises:
        OSError, ValueError, RuntimeError: of the libraries, where the model cannot be loaded or does not fit.

    """
    import torch

    hardware = Hardware(torch.cuda.is_available(), question.dtype)
    asked, why = question.engine, ""
    if not hardware.cuda:
        asked, why = _fit_cpu(engine=asked)
    from transformers import AutoTokenizer

    from polaris.train import parity

    ids = parity.probe_ids(AutoTokenizer.from_pretrained(question.model))
    ours, padding = _trainers(question, hardware, ids)
    found = Answer(
        device="cuda" if hardware.cuda else "cpu",
        dtype="bfloat16" if hardware.mixed else "float32",
        tokens=len(ids),
        padding=padding,
        engine_error=why,
    )
    if not asked:
        return found
    gc.collect()
    if hardware.cuda:
        torch.cuda.empty_cache()
    difference, why = _engines(question, ids, ours)
    return Answer(**asdict(found) | {"engine": difference, "engine_error": why})


def _fit_cpu(*, engine: bool) -> tuple[bool, str]:
    """Fit the libraries to a CPU; whether there is an engine to ask, and why not."""
    try:
        cpu_engine.fit_training(engine=engine, zero=False)
    except (ImportError, ConfigError) as error:
        return False, _line(error)
    return engine, ""


def _trainers(question: Question, hardware: Hardware, ids: list[int]) -> tuple[torch.Tensor, float]:
    """Return the trainer's log-probabilities and what padding changes; the model is freed again."""
    import torch
    from trl.trainer.utils import create_model_from_path

    from polaris.train import parity

    device = torch.device("cuda" if hardware.cuda else "cpu")
    dtype = hardware.load_dtype(question.zero_stage, frozen=question.frozen)
    # TRL's own: it takes the class that the model's config.json names.
    model: Any = create_model_from_path(question.model, dtype=dtype, device_map=None).to(device)
    with _autocast(hardware, question.zero_stage):
        ours = parity.trainer_logprobs(model, ids, device)
        return ours, parity.padding_difference(model, ids, device)


@contextlib.contextmanager
def _autocast(hardware: Hardware, zero_stage: int) -> Iterator[None]:
    """Compute as a training on this hardware does: under DeepSpeed nothing is cast."""
    import torch

    if not hardware.mixed or zero_stage:
        yield
        return
    with torch.autocast("cuda", dtype=torch.bfloat16):
        yield


def _engines(question: Question, ids: list[int], ours: torch.Tensor) -> tuple[float | None, str]:
    """Return how far the engine is from the trainer; None and why, where it does not start or answer."""
    from polaris.train import parity

    try:
        # The name that TRL makes its engine of, which `fit_training` has fitted to a CPU.
        from trl.generation.vllm_generation import LLM

        llm = LLM(
            model=question.model,
            gpu_memory_utilization=question.engine_memory,
            max_model_len=len(ids) + ROOM,
            max_num_seqs=1,
        )
        return parity.largest_difference(ours, parity.engine_logprobs(llm, ids)), ""
    # Whatever vLLM says on any hardware is an answer, and the trainer's own is worth telling.
    except Exception as error:
        return None, _line(error)


def _line(error: BaseException) -> str:
    """Return an error's first line that says something, without what pydantic adds."""
    said = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = next((line.partition(" [type=")[0] for line in said if "validation error" not in line), "")
    return f"{type(error).__name__}: {told}" if told else type(error).__name__


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # An engine's threads may outlive it; what was asked is written.
    os._exit(code)
