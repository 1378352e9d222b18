"""A run's books, prompts and tokenizer in, how many pairs it trains on and how many steps that makes out."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from polaris.checks.base_model import source_of
from polaris.checks.finding import Finding, Subject, failed, lines, unchecked
from polaris.checks.trainings import of_each
from polaris.config import RunConfig
from polaris.data.epub import read_epub
from polaris.data.pairs import Pairs, Source, pair
from polaris.data.prompts import read_prompts
from polaris.errors import PolarisError
from polaris.fields import stored_as
from polaris.hashes import hash_of
from polaris.imports import fetch, find_import
from polaris.recipe import TrainConfig
from polaris.storage import open_store
from polaris.train.settings import accumulation, steps_per_epoch, total_steps

COUNTERS = ("transformers", "torch", "trl")
"""What the training's own counting of tokens imports."""


def check_data(subject: Subject) -> Iterator[Finding]:
    """Pair the stories as the data stage will, count tokens as the training will, and say what a step is."""
    config = subject.config
    if not config.trainings():
        return
    with tempfile.TemporaryDirectory() as folder:
        pairs = pairs_of(subject)
        if pairs is None:
            yield unchecked("data", "books or prompts are missing, as `plan` says")
            yield from of_each(config, lambda train: iter([_schedule(None, train)]))
            return
        counts = pairs.counts
        left = sum(count for name, count in counts.items() if name.startswith("left_out_"))
        told = (
            f"{counts['train']} pairs to train on, {counts['validation']} held back, {left} stories left out"
        )
        told = f"{told} of {counts['stories']}"
        if not counts["train"]:
            words = f"{config.data.min_words:,} to {config.data.max_words:,} words"
            yield failed(
                "data", told, f"give books with stories of {words}, or set data.min_words and max_words"
            )
            return
        yield Finding("ok", "data", told)
        counted: dict[tuple[object, ...], tuple[Finding, int | None]] = {}

        def look(train: TrainConfig) -> Iterator[Finding]:
            key = (
                train.base,
                train.max_prompt_tokens,
                train.max_completion_tokens,
                train.prompts_per_step,
            )
            if key not in counted:
                counted[key] = _tokens(config, train, pairs, Path(folder))
            finding, prompts = counted[key]
            yield finding
            subject.seen[prompts_key(train)] = prompts
            yield _schedule(prompts, train)

        yield from of_each(config, look)


def pairs_of(subject: Subject) -> Pairs | None:
    """Return the pairs that the data stage will make, read once; None if a file or an import is missing."""
    if "pairs" not in subject.seen:
        with tempfile.TemporaryDirectory() as folder:
            subject.seen["pairs"] = _pairs(subject.config, Path(folder))
    found: Pairs | None = subject.seen["pairs"]
    return found


def prompts_key(train: TrainConfig) -> tuple[str, str, int]:
    """Return where a subject's `seen` holds how many prompts a training is left with; None: not known."""
    return ("prompts", train.base, train.max_prompt_tokens)


def _pairs(config: RunConfig, folder: Path) -> Pairs | None:
    """Return the pairs that the data stage will make; None if a file or an import of them is missing."""
    settings = config.data
    named = [*settings.books, *([settings.prompts] if settings.prompts else [])]
    local = {path: _local(config, path, folder) for path in named}
    if None in local.values():
        return None
    prompts = read_prompts(local[settings.prompts] or Path()) if settings.prompts else None
    sources = []
    for path in settings.books:
        found = local[path]
        assert found is not None
        book, sha256 = read_epub(found, name=str(path)), hash_of(found)
        sources += [Source(story, book.title, sha256, book.rights) for story in book.stories]
    return pair(sources, prompts, settings, config.seed)


def _local(config: RunConfig, path: Path, folder: Path) -> Path | None:
    name = stored_as(path)
    if name is None:
        return path if path.is_file() else None
    store = open_store(config.store)
    manifest = find_import(store, name)
    return None if manifest is None else fetch(store, manifest, folder)


def _tokens(config: RunConfig, train: TrainConfig, pairs: Pairs, folder: Path) -> tuple[Finding, int | None]:
    """Return what becomes of the pairs by their tokens, and the number of prompts; None if it is unknown."""
    missing = [name for name in COUNTERS if find_spec(name) is None]
    if missing:
        why = f"prompts too long and references cut: {', '.join(missing)} not installed"
        return unchecked("tokens", why, "pip install 'polaris[train]'"), None
    source = source_of(config, train.base)
    if source is None:
        fix = "check where its files are, or where the hub can be reached"
        return unchecked("tokens", f"the tokenizer of models.{train.base} is not at hand", fix), None
    try:
        from transformers import AutoTokenizer

        from polaris.train.dataset import training_rows
    # A package that another version of one it builds on breaks says so in these.
    except (ImportError, RuntimeError) as error:
        fix = "install the versions that `versions` asks for"
        return failed("tokens", f"trl cannot be imported: {str(error).splitlines()[-1]}", fix), None

    model = folder / f"tokenizer-{train.base}"
    model.mkdir(exist_ok=True)
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(source.small_files(model))
    except (OSError, ValueError) as error:
        what = str(error).splitlines()[0]
        fix = "give the model's folder with its tokenizer files"
        return failed("tokens", f"models.{train.base}: no tokenizer can be read: {what}", fix), None
    if not tokenizer.chat_template:
        fix = "give a chat model's folder with its tokenizer files"
        return failed("tokens", f"models.{train.base} has no chat template", fix), None
    try:
        rows, counts = training_rows(pairs.rows, tokenizer, train, config.thinking(train.base))
    except PolarisError as error:
        return next(lines("tokens", error)), None
    told = (
        f"{counts.prompts} prompts; {counts.prompts_filtered} longer than max_prompt_tokens"
        f" {train.max_prompt_tokens} left out; of the references {counts.references_cut} cut at"
        f" {train.max_completion_tokens} tokens, {counts.references_left_out} without a story within them"
    )
    if counts.references_left_out * 2 > len(rows):
        fix = "raise train.max_completion_tokens"
        return Finding("warning", "tokens", told, fix), len(rows)
    return Finding("ok", "tokens", told), len(rows)


def _schedule(prompts: int | None, train: TrainConfig) -> Finding:
    return Finding("ok", "schedule", schedule(prompts, train))


def schedule(prompts: int | None, train: TrainConfig) -> str:
    """Return what a step is made of, and how many there are of so many prompts (None: not known)."""
    nodes = f"{train.nodes} nodes × " if train.nodes > 1 else ""
    told = (
        f"{train.rows_per_step} rows a step = {train.prompts_per_step} prompts × {train.group_size} rows ="
        f" {nodes}{_count(train.processes, 'process', 'processes')} × {train.micro_batch} rows ×"
        f" {accumulation(train)} accumulated"
    )
    if prompts is None and train.max_steps is None:
        return f"{told}; a pass has a step for each {train.prompts_per_step} prompts"
    steps = total_steps(prompts or 0, train)
    if prompts is None:
        return f"{told}; {_count(steps, 'step', 'steps')} (max_steps)"
    unused = prompts - steps_per_epoch(prompts, train) * train.prompts_per_step
    return f"{told}; {_count(steps, 'step', 'steps')} for {prompts:,} prompts, {unused} of each pass unused"


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
