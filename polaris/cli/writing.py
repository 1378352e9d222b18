"""A prompt and a model in, a story streamed to the terminal out."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from json import loads
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console

from polaris.chat import CallFailed, ChatRequest, Endpoint
from polaris.config import RunConfig
from polaris.errors import ConfigError, InputError, TransientError
from polaris.llm import ChatClient
from polaris.models import CheckpointModel, TrainedModel
from polaris.plan import train_instance
from polaris.recipe import Sampling
from polaris.run import Run, open_run
from polaris.text import THINK_END, count_words, length_sentence

THOUGHT_TOKENS = 8192
KEY = "OPENAI_API_KEY"
HERE = ("localhost", "127.0.0.1", "::1")
"""Hosts to which a key may go unencrypted."""
FIX = {"too long": "ask for fewer words", "refused": "ask for something else"}
"""Kind of a call's failure → what to do, where that is not to try again."""


def write_story(prompt: str, *, words: int, model: str | None, config: Path, temperature: float) -> None:
    """Write one story of about `words` words; the text goes to stdout as it comes.

    Raises ConfigError for an unknown model or no URL, InputError for a model that is not trained yet,
    TransientError for an endpoint that gives no whole story.
    """
    asked = f"{prompt.strip()} {length_sentence(words)}"
    begun = time.monotonic()
    with _endpoint(model, config) as (endpoint, longest):
        tokens = words * 3 + 256 + (THOUGHT_TOKENS if endpoint.thinking else 0)
        if longest:
            # Half a token a character is more than any prompt needs; the rest is the story's.
            tokens = max(16, min(tokens, longest - len(asked) // 2 - 32))
        request = ChatRequest(
            messages=({"role": "user", "content": asked},),
            max_tokens=tokens,
            sampling=Sampling(temperature=temperature),
            thinking=endpoint.thinking,
            seed=time.time_ns() % 2**31,
        )
        story, reason = asyncio.run(_stream(endpoint, request))
    cut = ", cut at the token limit" if reason == "length" else ""
    note = f"{count_words(story):,} words (asked for {words:,}){cut}, {time.monotonic() - begun:.0f} s"
    _note(f"\n{note}")


async def _stream(endpoint: Endpoint, request: ChatRequest) -> tuple[str, str]:
    reasons: list[str] = []
    told = _Splitter(thinking=endpoint.thinking)
    try:
        async with ChatClient(endpoint) as client:
            async for piece in client.stream(request, on_end=reasons.append):
                told.hear(piece)
    except CallFailed as failed:
        told.break_off()
        fix = FIX.get(failed.kind, "try again")
        raise TransientError(
            f"{endpoint.setting}: no whole story from {endpoint.url}: {failed.reason}; {fix}"
        ) from None
    told.end()
    return told.story, "".join(reasons)


class _Splitter:
    """Sends thoughts to stderr and the story to stdout, piece by piece."""

    def __init__(self, *, thinking: bool) -> None:
        self.thinking = thinking
        self.story = ""
        self._waiting = ""

    def hear(self, piece: str) -> None:
        if self.thinking:
            self._waiting += piece
            thought, ended, rest = self._waiting.partition(THINK_END)
            if not ended:
                # What may be the beginning of the end mark waits for the next piece.
                kept = len(THINK_END) - 1
                thought, self._waiting = self._waiting[:-kept], self._waiting[-kept:]
                _print(thought, sys.stderr)
                return
            _print(f"{thought}\n\n", sys.stderr)
            self.thinking = False
            piece = rest
        if not self.story:
            piece = piece.lstrip()
        self.story += piece
        _print(piece, sys.stdout)

    def break_off(self) -> None:
        """End the line, so that what follows on the terminal begins one."""
        if self.thinking and self._waiting:
            _print(f"{self._waiting}\n", sys.stderr)
        if self.story:
            _print("\n", sys.stdout)

    def end(self) -> None:
        if self.thinking:
            _print(f"{self._waiting}\n", sys.stderr)
            raise TransientError("the model never ended its reasoning, so there is no story; try again")
        _print("\n", sys.stdout)


def _print(text: str, file: object) -> None:
    print(text, end="", file=file, flush=True)  # type: ignore[call-overload]


@contextmanager
def _endpoint(model: str | None, config: Path) -> Iterator[tuple[Endpoint, int | None]]:
    """Give an endpoint to ask and its context's length in tokens, where that is known."""
    if model and model.startswith(("http://", "https://")):
        yield _outside(model), None
        return
    if not config.is_file():
        raise ConfigError(
            f"--config: '{config}' does not exist; give the run's YAML file, or an endpoint with --model URL"
        )
    run = open_run(config)
    name = model or _default(run.config)
    if name not in run.config.models:
        raise ConfigError(f"--model: '{name}' is none of this run's models: {', '.join(run.config.models)}")
    found = run.config.models[name]
    if isinstance(found, TrainedModel) and run.manifest(train_instance(found.arm)) is None:
        raise InputError(f"--model: '{name}' is not trained yet; `polaris run {config}` trains it")
    if not isinstance(found, CheckpointModel | TrainedModel):
        yield run.endpoint(name), None
        return
    with served(run, name) as endpoint:
        yield endpoint, found.serve.max_model_len


@contextmanager
def served(run: Run, name: str) -> Iterator[Endpoint]:
    """Serve a model of the run while the block lasts."""
    from polaris.execute.local import LocalExecutor

    executor = LocalExecutor(run)
    # A plain SIGTERM would skip the clean-up and leave the server behind.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        with Console(stderr=True).status(f"starting the server of model {name}"):
            executor.start_service(name)
            while not executor.services().get(name):
                for dead in executor.dead_services():
                    raise TransientError(dead.reason)
                time.sleep(0.2)
        yield run.endpoint(name, {name: executor.service_url(name)})
    finally:
        executor.close()


def _default(config: RunConfig) -> str:
    """Return the model that `train` makes, else that of an arm, else the first."""
    trained = {name: model for name, model in config.models.items() if isinstance(model, TrainedModel)}
    main = [name for name, model in trained.items() if model.arm is None]
    return (main or list(trained) or list(config.models))[0]


def _outside(address: str) -> Endpoint:
    """Return the endpoint at `URL` or `URL#NAME`; without a name its model is the first one that it lists."""
    url, _, name = address.partition("#")
    key = key_for(url)
    if not name:
        name = _first_model(url, key)
        _note(f"model {name}")
    return Endpoint(url, name, name, key, setting="--model", api_key_env=KEY)


def key_for(url: str) -> str:
    """Return the environment's key, or `none`: no key goes unencrypted to another machine."""
    key = os.environ.get(KEY) or "none"
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigError(f"--model: '{url}' is no URL ({error}); give http(s)://HOST[:PORT]/v1") from None
    if key == "none" or parts.scheme == "https" or parts.hostname in HERE:
        return key
    _note(f"{KEY} is not sent to {parts.hostname} over plain http")
    return "none"


def _first_model(url: str, key: str) -> str:
    request = urllib.request.Request(f"{url.rstrip('/')}/models")
    # A redirection must not take the key along to another host.
    request.add_unredirected_header("Authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return str(loads(answer.read())["data"][0]["id"])
    except (OSError, HTTPException, ValueError, LookupError, TypeError) as error:
        raise TransientError(
            f"--model: '{url}' lists no model ({error}); give the base URL up to and with /v1, as URL#NAME if"
            f" it lists none, and export {KEY} if it wants a key"
        ) from None


def _note(text: str) -> None:
    Console(stderr=True, highlight=False, markup=False).print(text, style="dim", soft_wrap=True)
