"""A finished training's own facts in, its model card (Markdown with YAML front matter) out. Pure.

Nothing in it is written from memory: what the run has not recorded, the card says is not recorded. It holds
no story, no path and no time. The front matter is what model hubs read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from polaris.config import RunConfig
from polaris.identity import identity_of
from polaris.judge.rubric import rubric_identity
from polaris.models import TrainedModel
from polaris.recipe import RewardConfig, Sampling, TrainConfig
from polaris.text import THINK_END, encodable, length_sentence
from polaris.train.card_figures import figures, forecast, plural, table

CARD = "README.md"
"""The card's name beside the weights."""
PAPER = "2606.04095"
"""The recipe's arXiv number."""

_ALWAYS = (
    "train.prompts_per_step",
    "train.group_size",
    "train.learning_rate",
    "train.max_completion_tokens",
    "train.loss",
    "train.hri.max_weight",
    "train.hri.warmup_steps",
    "train.hri.decay",
    "train.sampling.",
    "reward.weights.",
)
"""Beginnings of settings that are shown even where they are the recipe's."""
_PACKAGES = ("polaris", "polaris_code", "torch", "transformers", "trl", "peft", "vllm", "deepspeed")
_MOST_RIGHTS = 300
"""Characters of a book's rights that are shown: some books carry a whole licence there."""
_MARKUP = re.compile(r"[\\`*_\[\]<>|&~$]")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Facts:
    """What the card is written from.

    Attributes:
        config: the run's configuration; it has the section of this training.
        digest: of the train instance.
        identity: the train instance's, with `params`, `train`, `reward`, `base` and `judge`.
        base: the base model's identity, `owner/name@revision` or `sha256:…`.
        judge: the identity of the model that judged.
        caveat: the warning that goes with the judge's scores; None for a judge to be trusted.
        versions: packages, as a manifest records them.
        pairs: rows of the data stage's `pairs.jsonl`.
        data_digest: of the data instance.
        data_counts: what that stage counted.
        rows: the training's metrics, a row a step.
        counts: the train stage's own, judge and references included.
        cost: what the judge's calls cost, those of lost steps included.
        validations: its validations, a row each.
        forecast: what the training expected before its first step (`forecast.json`); None if it did not.

    """

    config: RunConfig
    digest: str
    identity: Mapping[str, Any]
    base: str
    judge: str
    caveat: str | None
    versions: Mapping[str, str]
    pairs: Sequence[Row]
    data_digest: str
    data_counts: Mapping[str, float]
    rows: Sequence[Row]
    counts: Mapping[str, float]
    cost: Mapping[str, float]
    validations: Sequence[Row] = ()
    forecast: Mapping[str, Any] | None = None

    @property
    def arm(self) -> str | None:
        """The training's name under `arms`; None is `train` itself."""
        found: str | None = self.identity.get("params", {}).get("arm")
        return found

    @property
    def train(self) -> TrainConfig:
        """The training's section."""
        return self.config.training(self.arm)

    def count(self, name: str) -> str:
        """Return one of the train stage's counts as text."""
        return f"{self.counts[name]:,.0f}" if name in self.counts else "unknown"

    @property
    def injected(self) -> bool:
        """Whether a reference was ever injected."""
        return self.counts["references"] > 0

    def split(self, name: str) -> list[Row]:
        """Return the pairs of a split, `train` or `validation`."""
        return [pair for pair in self.pairs if pair.get("split", "train") == name]


def card(facts: Facts) -> str:
    """Return the card; equal facts give the same characters."""
    parts = (_front, _what, _training, figures, forecast, _judge, _data, _limits, _use)
    return encodable("\n\n".join(text for part in parts if (text := part(facts))) + "\n")


def _front(facts: Facts) -> str:
    """Return the front matter; what is not known, a licence above all, is left out."""
    told: dict[str, Any] = {"library_name": "transformers"}
    name, _, revision = facts.base.partition("@")
    if revision:
        told["base_model"] = name
    tags = ["polaris", "grpo", "reinforcement-learning", "story-generation", f"arxiv:{PAPER}"]
    told["tags"] = tags + ["human-reference-injection"] * facts.injected
    return f"---\n{yaml.safe_dump(told, sort_keys=False, allow_unicode=True)}---"


def _what(facts: Facts) -> str:
    how = "with human-reference injection" if facts.injected else "without human references"
    rows = [
        ("base model", _code(facts.base)),
        ("method", f"GRPO {how}"),
        *_adapters(facts.train),
        ("run", _code(facts.config.run)),
        *([("arm", _code(facts.arm))] if facts.arm else []),
        ("digest", _code(facts.digest)),
        ("seed", str(facts.config.seed)),
        ("number format", facts.config.dtype(facts.train.base)),
    ]
    text = (
        f"A model that writes stories, trained with POLARIS {facts.versions['polaris']} by the recipe of"
        f" [arXiv {PAPER}](https://arxiv.org/abs/{PAPER}). The training wrote this card from its own records."
    )
    return f"# {facts.config.run}\n\n{text}\n\n{table(('what', 'value'), rows)}"


def _adapters(train: TrainConfig) -> list[tuple[str, str]]:
    if train.lora is None:
        return []
    rank, alpha = train.lora.rank, train.lora.alpha
    return [("adapters", f"LoRA of rank {rank} and alpha {alpha:g}, merged into these weights")]


def _training(facts: Facts) -> str:
    train, steps = facts.train, len(facts.rows)
    nodes = f" on {train.nodes} nodes" if train.nodes > 1 else ""
    engine = "vLLM inside the training" if train.rollout_engine == "vllm" else "transformers' own generation"
    zero = f"DeepSpeed ZeRO stage {train.zero_stage}" if train.zero_stage else "no DeepSpeed"
    packages = ", ".join(f"{name} {facts.versions[name]}" for name in _PACKAGES if name in facts.versions)
    return "\n\n".join(
        (
            "## How it was trained",
            "The main settings, and every other one of `train` and `reward` that decides the result and"
            " differs from the recipe's.",
            table(
                ("setting", "this run", "recipe"),
                [
                    ("optimiser steps taken", f"{steps:,}", "173, of 1,388 prompts"),
                    *_settings(facts.identity),
                ],
            ),
            f"Training processes: {train.world_size}{nodes}, {zero}; stories by {engine}. Which hardware this"
            " was is not recorded; the recipe's is four A100 of 80 GB.",
            f"Versions: {packages}.",
        )
    )


def _settings(identity: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the settings that are always shown and those that differ, with the recipe's values."""
    recipe = _flat({"train": identity_of(TrainConfig(base="base", judge="judge"), {})})
    recipe |= _flat({"reward": identity_of(RewardConfig(), {})})
    found = []
    for name, value in _flat({part: identity[part] for part in ("train", "reward")}).items():
        same = value == recipe.get(name)
        if name not in ("train.base", "train.judge") and (name.startswith(_ALWAYS) or not same):
            theirs = "the same" if same else _value(recipe[name]) if name in recipe else "not set"
            found.append((_code(name), _value(value), theirs))
    return found


def _judge(facts: Facts) -> str:
    settings = facts.config.judges[facts.train.judge]
    asked = facts.identity["judge"]["settings"]
    rows = [("model", _code(facts.judge)), ("rubric", _code(rubric_identity(settings.form)))]
    rows += [(_code(name), _value(value)) for name, value in asked.items()]
    parts = ["## The judge", table(("what", "value"), rows)]
    if facts.caveat:
        parts.append(
            f"> **These rewards are not to be trusted.** {_plain(facts.caveat)} What they trained is not to"
            " be trusted either."
        )
    parts.append("The reward is one model's reading of a story by one rubric. No person scored any story.")
    return "\n\n".join(parts)


def _data(facts: Facts) -> str:
    trained, held = facts.split("train"), facts.split("validation")
    made = facts.data_counts.get("prompts_from_title")
    prompts = (
        "Where the prompts come from is not recorded."
        if made is None
        else "Each prompt was made from its story's title."
        if made
        else "The prompts came from a prompts file."
    )
    text = (
        f"{len(trained):,} {plural(len(trained), 'pair')} of a prompt and a human's story to train on,"
        f" {len(held):,} held back for validation; {facts.count('prompts_filtered')} of the former left"
        f" out because their prompts are too long. {prompts} The pairs, with every story's author, are the"
        f" data artifact {_code(facts.data_digest)} of this run."
    )
    books = _books(facts.pairs)
    parts = [f"## Data\n\n{text}"]
    if books:
        parts.append(table(("book", "sha256", "pairs", "rights, as the book says"), books))
    if not any(_provenance(pair).get("rights") for pair in facts.pairs):
        parts.append("The books' licences are not recorded.")
    parts.append(
        "The licences of the base model and of these weights are not recorded: see where the base model"
        " came from."
    )
    return "\n\n".join(parts)


def _books(pairs: Iterable[Row]) -> list[tuple[str, str, str, str]]:
    """Return each book's title, hash, number of pairs and rights, in the order of the pairs."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for pair in pairs:
        if provenance := _provenance(pair):
            found.setdefault(str(provenance["sha256"]), []).append(provenance)
    return [
        (
            _plain(books[0]["book"]),
            _code(sha256[:16]),
            f"{len(books):,}",
            _plain(_cut(books[0].get("rights") or "")) or "not recorded",
        )
        for sha256, books in found.items()
    ]


def _provenance(pair: Row) -> Mapping[str, Any]:
    found: Mapping[str, Any] = pair.get("provenance") or {}
    return found


def _limits(facts: Facts) -> str:
    return "\n".join(
        (
            "## Limits\n",
            "- It was trained to please a judge. It may have learned what this judge and rubric reward"
            " and readers do not: a rising reward alone shows no better story.",
            "- The figures above are of the training. How the model does on prompts that it was not trained"
            " on, beside its base, is in the run's report, not here.",
            "- It was not trained to be safe or truthful: it has what its base model has of that, or less.",
            "- It may repeat passages of the books that it was trained on.",
        )
    )


def _use(facts: Facts) -> str:
    config, thinking = facts.config, facts.config.thinking(facts.train.base)
    targets = [int(pair["target_word_count"]) for pair in facts.split("train")]
    made = {name: model.arm for name, model in config.models.items() if isinstance(model, TrainedModel)}
    named = [name for name, arm in made.items() if arm == facts.arm]
    write = f'polaris write "A ferry that runs once a year" --words {max(targets)} --config CONFIG.yaml'
    if facts.arm and named:
        write += f" --model {named[0]}"
    drawn = ", ".join(f"{key} {value:g}" for key, value in Sampling().model_dump().items() if value)
    think = (
        f"The model reasons first, and only what follows `{THINK_END}` is the story: leave room for both."
        if thinking
        else "It was trained without reasoning."
    )
    parts = [
        "## How to use it",
        f"With the run's configuration and store:\n\n```\n{write}\n```" if named else "",
        "Elsewhere, from this folder, with any client of the OpenAI protocol:\n\n```\n"
        f"vllm serve . --dtype {config.dtype(facts.train.base)}\n```",
        "The prompt is one user message, rendered by the chat template here, with"
        f' `"chat_template_kwargs": {{"enable_thinking": {str(thinking).lower()}}}` in the request. {think}',
        f"It was trained on prompts that end with their length, as in “{length_sentence(max(targets))}”, of"
        f" {min(targets):,} to {max(targets):,} words. The recipe's evaluation draws with {drawn}.",
    ]
    return "\n\n".join(part for part in parts if part)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        inner = isinstance(value, Mapping)
        found |= _flat(value, f"{prefix}{name}.") if inner else {f"{prefix}{name}": value}
    return found


def _value(value: Any) -> str:
    return _plain(value if isinstance(value, str) else json.dumps(value))


def _plain(text: object) -> str:
    """Return text from outside as one line in which nothing is markup."""
    return _MARKUP.sub(r"\\\g<0>", _line(text))


def _code(text: object) -> str:
    return f"`{_line(text).replace('`', chr(39)).replace('|', '/')}`"


def _line(text: object) -> str:
    return " ".join("".join(sign if sign.isprintable() else " " for sign in str(text)).split())


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_RIGHTS else f"{text[:_MOST_RIGHTS].rstrip()}…"
