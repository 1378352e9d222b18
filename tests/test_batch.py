"""Batch files against a FAKE provider that speaks their API (`fake_batches`): it knows no model."""

from __future__ import annotations

import logging
import traceback
from typing import Any

import pytest
from batch_attempts import BUDGET, CANARY, EACH, Attempt, ask, once, stop_once_made
from fake_batches import completion, fake_batches
from structlog.testing import capture_logs

from polaris.artifact import Progress
from polaris.batch import ROUNDS
from polaris.budget import spent_in
from polaris.chat import ChatRequest, Usage
from polaris.errors import ConfigError, TransientError


def texts(answers: list[Any]) -> list[str]:
    return [answer.text for answer in answers]


def test_all_is_answered_by_batch_at_half_price(tmp_path):
    with fake_batches(looks=2) as fake:
        attempt = Attempt(tmp_path, fake)
        answers = attempt.fill_and_ask(ask(5))
        assert fake.live == []
        assert once(fake, 5)
        assert texts(answers) == [f"Of fox {i}" for i in range(5)]
        usage = attempt.client.usage
        assert (usage.calls, usage.batch_calls, usage.failures) == (5, 5, 0)
        assert usage.usd == pytest.approx(5 * EACH, abs=1e-12)
        assert {answer.tier for answer in answers} == {"batch"}
        assert sum(answer.usd for answer in answers) == pytest.approx(5 * EACH, abs=1e-12)
        again = Attempt(tmp_path, fake)
        assert again.fill(ask(5)).earlier.usd == pytest.approx(5 * EACH, abs=1e-12)
        assert again.client.usage == Usage()
        assert len(fake.batches) == 1


def test_a_batch_holds_the_body_that_a_live_call_sends(tmp_path):
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    request = ChatRequest(({"role": "user", "content": "ƒox"},), max_tokens=9, schema=schema, effort="low")
    with fake_batches() as fake:
        attempt = Attempt(tmp_path, fake)
        attempt.fill([(request, 0), (request, 1), (request, 1)])
        attempt.ask(request, repeat=2)
        assert len(fake.bodies) == 2
        assert list(fake.bodies) == [attempt.client.key(request, repeat) for repeat in (0, 1)]
        assert [fake.live[0]] * 2 == list(fake.bodies.values())


def test_what_is_kept_is_not_submitted(tmp_path):
    with fake_batches() as fake:
        first = Attempt(tmp_path, fake)
        first.fill(ask(2))
        second = Attempt(tmp_path, fake)
        second.record = Progress(second.store, "another-stage/")
        second.fill(ask(4))
        assert once(fake, 4)
        assert second.client.usage.calls == 2


@pytest.mark.parametrize(
    ("limits", "sizes"), [({"most_requests": 2}, [2, 2, 1]), ({"most_bytes": 2200}, [3, 2]), ({}, [5])]
)
def test_a_file_holds_so_many_requests_and_bytes(tmp_path, limits, sizes):
    with fake_batches() as fake:
        attempt = Attempt(tmp_path, fake)
        answers = attempt.fill_and_ask(ask(5), **limits)
        assert [batch["request_counts"]["total"] for batch in fake.batches] == sizes
        assert max(len(fake.files[batch["input_file_id"]]) for batch in fake.batches) <= 3700
        assert (len(answers), len(fake.live)) == (5, 0)
        assert attempt.client.usage.usd == pytest.approx(5 * EACH, abs=1e-12)


def test_a_request_too_long_for_any_file_is_asked_live(tmp_path):
    with fake_batches() as fake:
        answers = Attempt(tmp_path, fake).fill_and_ask(ask(2), most_bytes=50)
        assert (len(answers), len(fake.live), fake.batches) == (2, 2, [])


@pytest.mark.parametrize("ends", ["expired", "cancelled"])
@pytest.mark.parametrize("told", [True, False])
def test_what_came_too_late_goes_into_another_round(tmp_path, ends, told):
    with fake_batches(expire=[3, 1], ends=ends, told=told) as fake:
        attempt = Attempt(tmp_path, fake)
        answers = attempt.fill_and_ask(ask(5))
        assert [batch["request_counts"]["total"] for batch in fake.batches] == [5, 3, 1]
        assert texts(answers) == [f"Of fox {i}" for i in range(5)]
        assert fake.live == []
        assert attempt.client.usage.usd == pytest.approx(5 * EACH, abs=1e-12)


def test_after_the_last_round_it_is_asked_live_also_by_the_next_attempt(tmp_path):
    with fake_batches(expire=[1] * 9) as fake:
        Attempt(tmp_path, fake).fill(ask(1))
        assert len(fake.batches) == ROUNDS
        assert len(Attempt(tmp_path, fake).fill_and_ask(ask(1))) == 1
        assert (len(fake.batches), len(fake.live)) == (ROUNDS, 1)


@pytest.mark.parametrize(
    "bad",
    [
        completion("", "content_filter"),
        completion("", refusal="no"),
        {"choices": []},
        ["nothing"],
        completion("half", "abort"),
    ],
    ids=["filtered", "refused", "empty", "none", "aborted"],
)
def test_an_unusable_answer_is_left_for_the_live_path(tmp_path, bad):
    with fake_batches() as fake:
        fake.answer = lambda body: bad if "fox 1" in str(body) and not fake.live else completion("a")
        attempt = Attempt(tmp_path, fake)
        result = attempt.fill(ask(3))
        assert result.answered == 2
        fake.answer = lambda body: completion("live")
        assert texts(Attempt(tmp_path, fake).fill_and_ask(ask(3))) == ["a", "live", "a"]
        assert (len(fake.live), len(fake.batches)) == (1, 1)


def test_what_is_in_the_error_file_is_left_for_the_live_path(tmp_path):
    with fake_batches(broken=lambda body: "fox 2" in str(body)) as fake:
        attempt = Attempt(tmp_path, fake)
        answers = attempt.fill_and_ask(ask(3))
        assert texts(answers) == ["Of fox 0", "Of fox 1", "Of fox 2"]
        assert [answer.tier for answer in answers] == ["batch", "batch", "standard"]
        assert (len(fake.live), len(fake.batches)) == (1, 1)
        assert attempt.client.usage.usd == pytest.approx(4 * EACH, abs=1e-12)


def test_a_cut_answer_is_never_bought_again(tmp_path):
    with fake_batches(answer=lambda _: completion("Once", "length")) as fake:
        first, second = Attempt(tmp_path, fake), Attempt(tmp_path, fake)
        for attempt in (first, second):
            [answer] = attempt.fill_and_ask(ask(1))
            assert (answer.text, answer.finish_reason) == ("Once", "length")
        assert (fake.live, len(fake.batches)) == ([], 1)
        assert first.client.usage.usd == pytest.approx(EACH, abs=1e-12)
        assert second.client.usage.usd == 0


def test_a_batch_that_fails_validation_is_an_error_of_the_configuration(tmp_path):
    with fake_batches(fail=["model_not_found"]) as fake:
        attempt = Attempt(tmp_path, fake, budget=1.0)
        with pytest.raises(
            ConfigError, match=r"models\.reader: .*model_not_found, line 1.*batch: false"
        ) as caught:
            attempt.fill(ask(2))
        assert "words of the request" not in str(caught.value)
        assert attempt.record.names() == []
        assert spent_in(attempt.store, BUDGET).spent == 0
        assert Attempt(tmp_path, fake).fill(ask(2)).answered == 2


@pytest.mark.parametrize("most_queued", [5, 3])
def test_a_full_queue_is_waited_for_and_files_become_smaller(tmp_path, most_queued):
    with fake_batches(looks=2, most_queued=most_queued) as fake:
        attempt = Attempt(tmp_path, fake)
        attempt.fill(ask(9), most_requests=4)
        assert once(fake, 9)
        assert attempt.client.usage.batch_calls == 9


def test_a_queue_that_stays_full_is_transient(tmp_path):
    with fake_batches(most_queued=0) as fake:
        attempt = Attempt(tmp_path, fake)
        with pytest.raises(TransientError, match="queue is full .token_limit_exceeded.; run again later"):
            attempt.fill(ask(4))
        assert attempt.record.names() == []


def test_trouble_while_polling_is_waited_out(tmp_path):
    with fake_batches(looks=1) as fake:
        troubled = [False]

        def trouble(method: str, path: str) -> None:
            if path == "/v1/batches/batch_0" and not troubled[0]:
                troubled[0] = True
                fake.statuses += [500, 503, 429, 502]

        fake.before_answer = trouble
        assert Attempt(tmp_path, fake).fill(ask(2)).answered == 2
        assert once(fake, 2)


@pytest.mark.parametrize(
    ("status", "kind", "told"),
    [
        (401, ConfigError, "models.reader.api_key_env: .*not accepted"),
        (404, ConfigError, "models.reader: .*knows no batch"),
        (503, TransientError, "models.reader: .*not answered about batch.*on record, run again later"),
    ],
)
def test_what_no_waiting_mends_names_the_setting(tmp_path, status, kind, told):
    with fake_batches(looks=-1) as fake:
        first = Attempt(tmp_path, fake)
        stop_once_made(fake, first)
        first.fill(ask(2))
        fake.statuses = [status] * 50
        with pytest.raises(kind, match=told):
            Attempt(tmp_path, fake).fill(ask(2), outage_s=0.0)
        fake.statuses, fake.released = [], True
        assert Attempt(tmp_path, fake).fill(ask(2)).answered == 2
        assert once(fake, 2)


def test_neither_key_nor_story_reaches_logs_records_or_errors(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    with fake_batches(fail=["invalid_json_line"]) as fake, capture_logs() as events:
        attempt = Attempt(tmp_path, fake)
        with pytest.raises(ConfigError) as caught:
            attempt.fill(ask(2))
        Attempt(tmp_path, fake).fill(ask(2))
        kept = b"".join(attempt.record.get(name) or b"" for name in attempt.record.names())
    shown = "".join(traceback.format_exception(caught.value)) + str(events) + caplog.text + kept.decode()
    assert CANARY not in shown
    assert "fox" not in shown
