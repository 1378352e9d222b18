"""A job and a configuration in, the trainer ready to start out."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoTokenizer, PrinterCallback
from transformers.utils import logging as transformers_logging
from trl import GRPOConfig

from polaris import cpu_engine
from polaris.artifact import to_rows
from polaris.budget import Budget, open_budget
from polaris.config import RunConfig
from polaris.errors import ConfigError
from polaris.judge.parse import Judgement
from polaris.judge.score import open_judge
from polaris.llm import ChatClient
from polaris.recipe import TrainConfig, ValidationConfig
from polaris.reward.settings import Settings
from polaris.storage import open_store
from polaris.train import adapters, references
from polaris.train.agreement import Agreement
from polaris.train.callbacks import Stopper
from polaris.train.dataset import training_rows, validation_rows
from polaris.train.job import COUNTS, Job, judge_endpoint
from polaris.train.reward import JudgeStory, Reward
from polaris.train.settings import Hardware, grpo_arguments, order, total_steps
from polaris.train.trainer import ReferenceTrainer
from polaris.train.underway import Notes
from polaris.train.validation import Validation

DDP_TIMEOUT_S = 1800
"""Shortest wait in a collective, seconds: torch's own."""
MARGIN_S = 900.0
"""What a step takes beside its judge, seconds, at most."""
_WHOLE_ROWS = "All reward functions returned None"


@dataclass(frozen=True)
class Opened:
    """A judge to ask, the client by which it is asked, and the budget that pays for it."""

    ask: JudgeStory
    client: ChatClient | None = None
    budget: Budget | None = None


@dataclass(frozen=True)
class Built:
    """A trainer, what it was made of, how many prompts it has, and the rows to validate on."""

    trainer: ReferenceTrainer
    tokenizer: Any
    end_id: int
    prompts: int
    agreement: Agreement
    budget: Budget | None
    reward: Reward
    held_back: list[dict[str, Any]]

    def validation(
        self, job: Job, config: RunConfig, settings: ValidationConfig, stopper: Stopper
    ) -> Validation:
        """Return the callback that validates on the held back rows."""
        return Validation(
            self.held_back,
            settings,
            Settings.of(config.reward, validation=True),
            trainer=self.trainer,
            judged=self.reward,
            agreement=self.agreement,
            stopper=stopper,
            output=job.output,
            seed=config.seed,
        )

    def close(self) -> None:
        """Give the rest of the budget's claimed slices back to other processes."""
        if self.budget is not None:
            self.budget.close()


def build(
    job: Job, config: RunConfig, settings: TrainConfig, hardware: Hardware, judge: JudgeStory | None
) -> Built:
    """Make the trainer; `judge` stands in for the configured one.

    Raises:
        ConfigError, InputError: settings or pairs that cannot be trained on.

    """
    transformers_logging.disable_progress_bar()
    hide_rows()
    thinking = config.thinking(settings.base)
    _check(config, settings.base)
    if settings.lora is not None:
        adapters.check_base(job.model, settings.base)
    tokenizer = AutoTokenizer.from_pretrained(job.model, padding_side="left", truncation_side="left")
    end, end_id = references.end_token(tokenizer, [{"role": "user", "content": ""}], thinking)
    # A converted tokenizer may name another token; the template's is the one that ends a turn.
    tokenizer.eos_token = end
    pairs = to_rows(job.pairs.read_bytes(), job.pairs.name)
    rows, counts = training_rows(pairs, tokenizer, settings, thinking)
    held_back = validation_rows(pairs, tokenizer, settings, thinking, counts)
    if int(os.environ.get("RANK", "0")) == 0:
        (job.output / COUNTS).write_text(json.dumps(counts.to_json()), encoding="utf-8")
    keywords = grpo_arguments(
        settings,
        hardware,
        steps=total_steps(len(rows), settings),
        seed=config.seed,
        thinking=thinking,
        end_id=end_id,
        output=job.checkpoints,
        name=config.run if job.arm is None else f"{config.run}.{job.arm}",
    )
    arguments = GRPOConfig(**keywords, ddp_timeout=_collective_timeout_s(config, settings))
    if "wandb" in settings.report_to:
        os.environ.setdefault("WANDB_DIR", str(job.output))
    if settings.zero_stage and not hardware.cuda:
        cpu_engine.join_processes()
    opened = Opened(judge) if judge is not None else _open_judge(config, settings)
    reward = _reward(job, config, settings, tokenizer, end_id, opened)
    agreement = Agreement(lambda: reward.outcome, config.reward)
    trainer = ReferenceTrainer(
        hri=settings.hri,
        max_level_share=settings.max_level_share,
        engine_max_difference=settings.engine_max_difference,
        agree=agreement,
        model=str(job.model),
        reward_funcs=reward,
        args=arguments,
        train_dataset=Dataset.from_list(rows).select(order(len(rows), settings, config.seed)),
        processing_class=tokenizer,
        peft_config=adapters.peft_config(settings.lora) if settings.lora is not None else None,
    )
    check_rotary(trainer.model)
    freeze_vision(trainer.model)
    trainer.remove_callback(PrinterCallback)
    return Built(trainer, tokenizer, end_id, len(rows), agreement, opened.budget, reward, held_back)


def _reward(
    job: Job, config: RunConfig, settings: TrainConfig, tokenizer: Any, end_id: int, opened: Opened
) -> Reward:
    """Return the reward of stories that a judge scores; what the judge's client spends is noted at once."""
    reward = Reward(
        opened.ask,
        config.reward,
        tokenizer,
        thinking=config.thinking(settings.base),
        end_id=end_id,
        max_completion_tokens=settings.max_completion_tokens,
        processes=settings.world_size,
        notes=Notes(job.output, int(os.environ.get("RANK", "0"))),
        **_booked(opened.client),
    )
    if opened.client:
        opened.client.on_spending = reward.note
    return reward


def _booked(client: ChatClient | None) -> dict[str, Any]:
    """Return how a reward learns what its judge's client spends, and whether its endpoint is down."""
    if client is None:
        return {}
    return {
        "usage": lambda: client.usage,
        "in_flight": lambda: client.in_flight,
        "outage": lambda: client.outage,
    }


def _collective_timeout_s(config: RunConfig, settings: TrainConfig) -> int:
    """Return how long a process waits for the others in a collective: one of them may ask its judge.

    It is the time of one call, not of as many as may wait for each other's turn: this also ends a training
    that hangs, and what a slow judge has answered by then is kept for the next attempt.
    """
    return max(DDP_TIMEOUT_S, int(config.judges[settings.judge].deadline_s + MARGIN_S))


def _check(config: RunConfig, base: str) -> None:
    if config.reward.thinking and not config.thinking(base):
        raise ConfigError(
            f"reward.thinking: {base} does not think; leave it out, or set models.{base}.thinking to true"
        )


def check_rotary(model: Any) -> None:
    """Raise ConfigError if rotary frequencies are not fp32: rounded, they are not those that are served."""
    for name, buffer in model.named_buffers():
        if "inv_freq" in name and buffer.dtype != torch.float32:
            raise ConfigError(
                f"train.zero_stage: {name} was rounded to {buffer.dtype} while the model was made: install"
                " deepspeed 0.19.8, which knows data_types.keep_in_fp32_modules, or set train.zero_stage: 2"
            )


def freeze_vision(model: Any) -> int:
    """Take a vision tower out of training, and return how many tensors that are: only text is trained.

    No gradient reaches it, and its optimiser state would only take memory.
    """
    frozen = 0
    for name, parameter in model.named_parameters():
        if not set(adapters.VISION).isdisjoint(name.split(".")):
            parameter.requires_grad_(False)
            frozen += 1
    return frozen


def hide_rows() -> None:
    """Keep prompts and stories out of the log: TRL warns of a row without a reward by printing it whole."""
    logger = logging.getLogger("trl.trainer.grpo_trainer")
    if _no_whole_row not in logger.filters:
        logger.addFilter(_no_whole_row)


def _no_whole_row(record: logging.LogRecord) -> bool:
    return _WHOLE_ROWS not in record.getMessage()


def _open_judge(config: RunConfig, settings: TrainConfig) -> Opened:
    """Open the configured judge; each process has a client of its own, and its share of the limits."""
    name, store = settings.judge, open_store(config.store)
    own = config.judges[name]
    own = own.model_copy(update={"concurrency": max(1, own.concurrency // settings.world_size)})
    shared = config.model_copy(update={"judges": {**config.judges, name: own}})
    budget = open_budget(config, store)
    judge = open_judge(shared, name, judge_endpoint(), store, budget=budget, share=settings.world_size)

    async def ask(prompt: str, story: str) -> Judgement:
        return (await judge.score(prompt, story)).judgement

    return Opened(ask, judge.client, budget)
