"""Answers by content: what decides a key, and what an entry keeps."""

from __future__ import annotations

import json

import pytest

from polaris.answers import Cache, cache_key
from polaris.chat import ChatAnswer, ChatRequest
from polaris.recipe import Sampling
from polaris.storage import FileStore

ASKED = ChatRequest(messages=({"role": "user", "content": "Of a fox."},), max_tokens=64)
PAID = ChatAnswer("A fox.", "stop", 10, 5, attempts=3, usd=0.25, latency_s=1.5, tier="flex")


def test_the_cache_key_holds_what_decides_an_answer_and_no_more():
    def key(identity: str = "m", repeat: int = 0, **changed) -> str:
        values = {"messages": ASKED.messages, "max_tokens": 64} | changed
        return cache_key(identity, ChatRequest(**values), repeat)

    different = [
        key(),
        key("other"),
        key(repeat=1),
        key(max_tokens=65),
        key(schema={"type": "object"}),
        key(thinking=True),
        key(effort="low"),
        key(sampling=Sampling(temperature=0.5)),
        key(messages=({"role": "user", "content": "Of a hen."},)),
    ]
    assert len(set(different)) == len(different)
    assert key(seed=5) == key()


def test_of_two_writers_of_one_key_the_first_counts(tmp_path):
    cache = Cache(FileStore(tmp_path))
    first, second = (ChatAnswer(text, "stop", 1, 1) for text in ("first", "second"))
    assert cache.put("ab", first) == first
    assert cache.put("ab", second).text == "first"


def test_a_key_does_not_change_from_one_version_to_the_next():
    assert cache_key("m", ASKED, 0) == "dbf03153230500c8d5e46e9dc70ac53256f600e24478a229977ed589f73a5f66"


def test_an_entry_tells_what_the_answer_took_when_it_was_bought(tmp_path):
    cache = Cache(FileStore(tmp_path))
    cache.put("ab", PAID)
    kept = cache.get("ab")
    assert kept is not None
    assert kept.cached
    assert (kept.attempts, kept.usd, kept.latency_s, kept.tier) == (3, 0.25, 1.5, "flex")


def test_an_entry_of_an_earlier_version_is_read(tmp_path):
    store = FileStore(tmp_path)
    old = {"text": "A fox.", "finish_reason": "stop", "prompt_tokens": 10, "completion_tokens": 5}
    store.put("cache/judge/ab/ab.json", json.dumps(old).encode())
    kept = Cache(store).get("ab")
    assert kept == ChatAnswer("A fox.", "stop", 10, 5, cached=True)


@pytest.mark.parametrize("content", [b'{"text": "half', b"[]", b'{"text": "a"}', b"\xff"])
def test_an_entry_that_cannot_be_read_is_none_and_is_replaced(tmp_path, content):
    store = FileStore(tmp_path)
    store.put("cache/judge/ab/ab.json", content)
    cache = Cache(store)
    assert cache.get("ab") is None
    assert cache.put("ab", PAID) == PAID
    assert cache.get("ab") is not None


@pytest.mark.parametrize("answer", [ChatAnswer("cut", "length", 1, 1), ChatAnswer(" \n", "stop", 1, 1)])
def test_what_is_incomplete_is_not_kept(tmp_path, answer):
    cache = Cache(FileStore(tmp_path))
    assert cache.put("ab", answer) == answer
    assert cache.get("ab") is None
