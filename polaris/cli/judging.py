"""A file of stories and a judge, configured or given by flags, in; what it sees, or its scores, out."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console

from polaris.artifact import Progress, from_rows
from polaris.batch_record import forget_collected
from polaris.budget import open_budget
from polaris.chat import Endpoint
from polaris.cli.scores import by_story, counted, print_scores, summary
from polaris.config import JudgeConfig, RunConfig
from polaris.errors import BudgetError, ConfigError, GuardError, PolarisError, Stopped, TransientError
from polaris.fields import PATTERNS
from polaris.judge.judgements import Outcome, judge_all
from polaris.judge.prompt import messages
from polaris.judge.rows import Row
from polaris.judge.rubric import checked_form, json_schema, rubric_identity
from polaris.judge.score import Judge, open_judge
from polaris.judge.stories import read_row, read_stories
from polaris.llm import STOP_GRACE_S
from polaris.load import load
from polaris.models import EndpointModel
from polaris.plan import Plan
from polaris.providers import providers
from polaris.run import Run, open_run
from polaris.runtime import StopFlag, redact
from polaris.storage import FileStore, Store

Flags = Mapping[str, Any]
"""What flags gave, None where they were not given, by the names of the settings that they stand for."""

NAME = "judge"
"""What flags call their one judge and its model, where a configuration has names."""

_STOPPING = f"stopping: calls under way get {STOP_GRACE_S:g} s; Ctrl-C again ends at once"

_FLAGS = {
    "url": "--url",
    "model": "--model",
    "identity": "--identity",
    "provider": "--provider",
    "api_key_env": "--api-key-env",
    "usd_per_million_prompt_tokens": "--usd-per-million-prompt",
    "usd_per_million_completion_tokens": "--usd-per-million-completion",
    "form": "--form",
    "repeats": "--repeats",
    "concurrency": "--concurrency",
    "reasoning_effort": "--effort",
    "temperature": "--temperature",
    "top_p": "--top-p",
    "batch": "--batch",
    "outage_s": "--outage-s",
    "budget_usd": "--budget-usd",
}

_PRICES = ("usd_per_million_prompt_tokens", "usd_per_million_completion_tokens")


@dataclass(frozen=True)
class _Asked:
    """A judge that is up: the run that configures it, its name there, its endpoint."""

    run: Run
    name: str
    endpoint: Endpoint


def print_prompt(
    path: Path,
    line: int | None,
    key: str | None,
    config: Path | None,
    judge: str | None,
    *,
    form: str | None,
    structured: str | None,
    as_json: bool,
) -> None:
    """Print what a judge sees of one row; raise InputError for a bad row, ConfigError for a bad setting."""
    if config is not None:
        settings = load(config)
        chosen = settings.judges[_named(settings, judge)]
        form = form or chosen.form
        structured = structured or _structured(settings, chosen)
    structured = structured or "json_schema"
    try:
        known = checked_form(form or "full")
    except ValueError as error:
        raise ConfigError(f"--form: {error}") from None
    if structured not in ("json_schema", "prompt"):
        raise ConfigError(f"--structured: value '{structured}'; expected json_schema or prompt")
    row = read_row(path, line=line, key=key)
    enforced = structured == "json_schema"
    asked = messages(row["prompt"], row["story"], known, schema=not enforced)
    schema = json_schema(known) if enforced else None
    if as_json:
        sent = {
            "messages": asked,
            "schema": schema,
            "structured": structured,
            "rubric": rubric_identity(known),
        }
        print(json.dumps(sent, ensure_ascii=False, indent=1))
        return
    for message in asked:
        _print_part(f"{message['role']} message", message["content"])
    if schema is not None:
        _print_part("JSON schema that the answer is held to", json.dumps(schema, indent=1))


def _structured(config: RunConfig, judge: JudgeConfig) -> str:
    model = config.models[judge.model]
    sold = providers()[model.provider].structured if isinstance(model, EndpointModel) else "json_schema"
    return "prompt" if sold == "prompt" else judge.structured


def _print_part(title: str, text: str) -> None:
    terminal = sys.stdout.isatty()
    if terminal:
        # A story may hold the sequences that move a terminal's cursor or rename its window.
        text = "".join(_visible(char) for char in text)
    Console(highlight=False, markup=False).rule(title, characters="=", style="bold" if terminal else "none")
    print(text)


def _visible(char: str) -> str:
    shown = char in "\n\t" or not (ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0)
    return char if shown else f"\\x{ord(char):02x}"


def score_stories(
    stories: Path,
    out: Path,
    config: Path | None,
    judge: str | None,
    endpoint: Flags,
    settings: Flags,
    budget_usd: float | None,
) -> None:
    """Judge a file of stories and write `out`'s scores.jsonl, failures.jsonl and summary.json, or none.

    Raises InputError for faulty rows, ConfigError for faulty flags or settings, both before anything is
    asked; then what `judge_all` does, with every answer kept in `out`/.store.
    """
    rows = read_stories(stories)
    require_writable(out)
    store = FileStore(out / ".store")
    try:
        with _asked(config, judge, endpoint, settings, budget_usd, store) as asked:
            stop = StopFlag(_STOPPING)
            stop.install()
            caveat = asked.run.caveat(asked.name)
            judged, outcome = _judged(asked, rows, caveat, stop)
    except Stopped as stopped:
        raise _kept(stopped, store) from None
    except PolarisError as error:
        raise _in_flags(error, flags=config is None) from None
    notes = [_worded(note) for note in judged.notes] if config is None else judged.notes
    told = by_story(rows, outcome)
    found = summary(told, outcome, judged, caveat, notes)
    files = {
        "scores.jsonl": from_rows(outcome.scores),
        "failures.jsonl": from_rows(outcome.failures),
        "summary.json": (json.dumps(found, indent=1, ensure_ascii=False) + "\n").encode(
            "utf-8", "backslashreplace"
        ),
    }
    _write(out, files)
    forget_collected(_batches(store))
    print_scores(told, found, out)
    if not found["n"]:
        reason, count = next(iter(found["failures"].items()))
        raise GuardError(
            f"no story was judged: {found['judgements_failed']:,} of {outcome.total:,} judgements failed,"
            f" {count:,} of them: {reason}; mend that and run the same command again"
        )


def require_writable(out: Path) -> None:
    """Make the folder for what comes out; raise ConfigError if nothing can be written there."""
    tried = out / ".store" / ".tried"
    try:
        tried.parent.mkdir(parents=True, exist_ok=True)
        tried.write_bytes(b"")
        tried.unlink()
    except OSError as error:
        raise ConfigError(
            f"--out: '{out}' cannot be written ({error.strerror}); name a folder that can be. Nothing was"
            " asked."
        ) from None


def _kept(stopped: Stopped, store: FileStore) -> Stopped:
    """Return the error with what made it stop, and how many answers need not be asked for again."""
    kept = sum(1 for _ in store.list("cache/judge/"))
    number = stopped.code - 128
    by = "Ctrl-C" if number == signal.SIGINT else f"signal {number}"
    answers = counted(kept, "answer is", "answers are")
    stopped.args = (f"stopped by {by}; {answers} kept, the same command goes on from there",)
    return stopped


def _judged(asked: _Asked, rows: list[Row], caveat: str | None, stop: StopFlag) -> tuple[Judge, Outcome]:
    config, store = asked.run.config, asked.run.store
    budget = open_budget(config, store)
    try:
        judge = open_judge(
            config, asked.name, asked.endpoint, store, budget=budget, stopped=lambda: stop.requested
        )
        outcome = asyncio.run(
            judge_all(
                judge,
                rows,
                setting=f"judges.{asked.name}",
                stop=stop,
                caveat=caveat,
                batches=_batches(store),
            )
        )
    finally:
        if budget is not None:
            budget.close()
    return judge, outcome


def _batches(store: Store) -> Progress:
    """Return where the batches under way are on record."""
    return Progress(store, "score/")


@contextmanager
def _asked(
    config: Path | None,
    judge: str | None,
    endpoint: Flags,
    settings: Flags,
    budget_usd: float | None,
    store: FileStore,
) -> Iterator[_Asked]:
    """Give the judge that a configuration or the flags name; its model is served meanwhile if it must be."""
    given = {name: value for name, value in endpoint.items() if value is not None}
    changed = {name: value for name, value in settings.items() if value is not None}
    if config is None:
        if judge is not None:
            raise ConfigError("--judge: given without --config; name a run's YAML file too")
        for name in ("url", "model"):
            if name not in given:
                raise ConfigError(
                    f"{_FLAGS[name]}: missing; give --config with --judge, or --url and --model"
                )
        if budget_usd is not None and not any(given.get(name) for name in _PRICES):
            flags = " and ".join(_FLAGS[name] for name in _PRICES)
            raise ConfigError(f"--budget-usd needs prices: give {flags}")
        run = Run(Path.cwd(), _from_flags(given, changed, budget_usd), {}, Plan({}), store)
        yield _Asked(run, NAME, run.endpoint(NAME))
        return
    if given:
        raise ConfigError(f"{_FLAGS[next(iter(given))]}: given with --config, which names the endpoint")
    loaded = load(config)
    name = _named(loaded, judge)
    model = loaded.judges[name].model
    loaded = _changed(loaded, name, changed, budget_usd)
    if isinstance(loaded.models[model], EndpointModel):
        run = Run(config, loaded, {}, Plan({}), store)
        yield _Asked(run, name, run.endpoint(model))
        return
    from polaris.cli.writing import served

    own = open_run(config)
    with served(own, model) as up:
        # Its answers and books lie with its scores, not in the run's store.
        yield _Asked(Run(config, loaded, own.contents, own.plan, store, own.imports), name, up)


def _named(config: RunConfig, judge: str | None) -> str:
    known = ", ".join(config.judges)
    if judge is None and len(config.judges) == 1:
        return next(iter(config.judges))
    if judge is None or judge not in config.judges:
        value = "missing" if judge is None else f"value '{judge}'"
        raise ConfigError(f"--judge: {value}; expected one of: {known}")
    return judge


def _from_flags(endpoint: Flags, settings: Flags, budget_usd: float | None) -> RunConfig:
    """Return the configuration of one judge behind one endpoint, checked like any other."""
    model = {"kind": "endpoint", "identity": endpoint["model"]} | dict(endpoint)
    raw = {
        "run": "score",
        "models": {NAME: model},
        "judges": {NAME: {"model": NAME} | dict(settings)},
        # A run needs books to train on; this one has none, and nothing asks for them.
        "data": {"books": ["none"]},
        "execute": {"budget_usd": budget_usd},
    }
    return _validated(raw)


def _changed(config: RunConfig, judge: str, settings: Flags, budget_usd: float | None) -> RunConfig:
    """Return the configuration with what flags change of its judge and its budget."""
    raw = config.model_dump()
    raw["judges"][judge] |= settings
    if budget_usd is not None:
        raw["execute"]["budget_usd"] = budget_usd
    return _validated(raw)


def _validated(raw: dict[str, Any]) -> RunConfig:
    try:
        return RunConfig.model_validate(raw)
    except ValidationError as error:
        faults = [_fault(dict(found)) for found in error.errors(include_url=False)]
        raise ConfigError("\n".join(faults)) from None


def _fault(found: dict[str, Any]) -> str:
    said = str(found["msg"]).removeprefix("Value error, ").replace("Input should be", "expected")
    if wanted := PATTERNS.get(found.get("ctx", {}).get("pattern")):
        said = f"expected {wanted}"
    flag = _FLAGS.get(str(found["loc"][-1])) if found["loc"] else None
    return f"{flag}: value '{redact(str(found['input']))}'; {said}" if flag else said


def _in_flags(error: PolarisError, *, flags: bool) -> PolarisError:
    """Return the error in the words of the flags, where it names a setting that nobody wrote."""
    text = str(error).replace("store.url", "--out")
    if flags:
        text = _worded(text)
    for kind in (BudgetError, TransientError, ConfigError):
        if isinstance(error, kind):
            return kind(text)
    return error


def _worded(text: str) -> str:
    """Return a text with flags in place of the settings that they stand for."""
    for name, flag in _FLAGS.items():
        for section in (f"judges.{NAME}", f"models.{NAME}", "execute"):
            text = text.replace(f"{section}.{name}", flag)
        if name.startswith("usd_"):
            text = text.replace(name, flag)
    return text.replace(f"models.{NAME}", "--url")


def _write(out: Path, files: Mapping[str, bytes]) -> None:
    """Write all files or none: each beside its place, then all of them into it."""
    parts = {name: out / f".{name}.part" for name in files}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            parts[name].write_bytes(data)
        for name, part in parts.items():
            part.replace(out / name)
    except OSError as error:
        raise ConfigError(
            f"--out: '{out}' cannot be written: {error.strerror}; name another folder"
        ) from None
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
