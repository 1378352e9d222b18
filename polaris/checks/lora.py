"""A training's base model in, whether adapters go with it and how many they are out."""

from __future__ import annotations

from collections.abc import Iterator

from polaris.checks.base_model import config_json
from polaris.checks.finding import Finding, Subject, lines, unchecked
from polaris.checks.trainings import of_each
from polaris.errors import ConfigError
from polaris.recipe import TrainConfig
from polaris.train.adapters import count, refusal, unfit
from polaris.train.shape import read_shape


def check_lora(subject: Subject) -> Iterator[Finding]:
    """Refuse adapters on a base that they cannot be merged into; count them on any other."""
    yield from of_each(subject.config, lambda train: _adapters(subject, train))


def _adapters(subject: Subject, train: TrainConfig) -> Iterator[Finding]:
    if train.lora is None:
        return
    found = config_json(subject.config, train.base)
    if found is None:
        fix = f"give models.{train.base} a folder, or `polaris model import` it first"
        yield unchecked("lora", f"the config.json of models.{train.base} is not at hand", fix)
    elif refused := unfit(found):
        yield from lines("lora", ConfigError(refusal(train.base, *refused)))
    else:
        learn = count(read_shape(found), train.lora)
        told = f"rank {train.lora.rank}, alpha {train.lora.alpha}: {learn:,} parameters learn"
        yield Finding("ok", "lora", f"{told}; the base stays as it is, and what is exported is whole")
