"""Batches that outlive the process that made them, and the budget meanwhile, against a FAKE provider."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest
from batch_attempts import BUDGET, EACH, Attempt, ask, once, start_child, stop_once_made
from fake_batches import completion, fake_batches

from polaris.artifact import Progress
from polaris.batch_record import forget_collected
from polaris.budget import Books, spent_in
from polaris.chat import Usage
from polaris.errors import BudgetError, TransientError


@pytest.mark.parametrize("at", ["POST /v1/batches", "GET /v1/files/output_batch_1"])
def test_a_killed_process_is_followed_by_one_that_buys_nothing_twice(tmp_path, at):
    """Kill -9 between the making of a batch and its record, and while one of two is collected.

    Between submit and collect a whole stage is killed in `judge/test_judge_batch.py`.
    """
    with fake_batches(looks=1) as fake:
        killed = start_child(fake, tmp_path)

        def kill(method: str, path: str) -> None:
            if f"{method} {path}".startswith(at) and killed.poll() is None:
                os.kill(killed.pid, signal.SIGKILL)
                killed.wait()

        fake.before_answer = kill
        killed.communicate(timeout=60)
        assert killed.returncode == -signal.SIGKILL
        assert fake.batches
        fake.before_answer = lambda method, path: None
        second = start_child(fake, tmp_path)
        out, log = second.communicate(timeout=60)
        assert second.returncode == 0, log
        usd, earlier = json.loads(out.splitlines()[-1])
        assert once(fake, 4)
        assert len(fake.batches) == 2
        # What is booked is on record, what is not is booked by the second.
        assert usd + earlier == pytest.approx(4 * EACH, abs=1e-12)
        answers = Attempt(tmp_path, fake).fill_and_ask(ask(4))
        assert (len(answers), fake.live) == (4, [])


@pytest.mark.parametrize("number", range(1, 8))
def test_a_stop_at_any_moment_leaves_all_on_record(tmp_path, number):
    with fake_batches(looks=1, broken=lambda body: "fox 3" in str(body)) as fake:
        attempt = Attempt(tmp_path, fake, budget=1.0)

        def stop_at(method: str, path: str) -> None:
            if len(fake.seen) > number:
                attempt.stop.signal = signal.SIGTERM
                time.sleep(0.25)

        fake.before_answer = stop_at
        attempt.fill(ask(4), most_requests=2)
        fake.before_answer = lambda method, path: None
        last = Attempt(tmp_path, fake, budget=1.0)
        result = last.fill(ask(4), most_requests=2)
        assert once(fake, 4)
        booked = last.client.usage + result.earlier
        assert booked.usd == pytest.approx(3 * EACH, abs=1e-12)
        assert booked.batch_calls == 3
        books = spent_in(last.store, BUDGET)
        assert books.held == 0
        assert 3 * EACH - 1e-9 <= books.spent < 1


def test_a_stop_ends_polling_at_once_and_books_the_estimate(tmp_path):
    with fake_batches(looks=-1) as fake:
        attempt = Attempt(tmp_path, fake, budget=1.0)
        stopped_at: list[float] = []

        def stop_at(method: str, path: str) -> None:
            if path == "/v1/batches/batch_0":
                attempt.stop.signal = signal.SIGTERM
                stopped_at.append(time.monotonic())

        fake.before_answer = stop_at
        result = attempt.fill(ask(3), poll_s=600.0)
        assert time.monotonic() - stopped_at[0] < 60
        assert (result.submitted, result.answered) == (1, 0)
        [name] = attempt.record.names("batches/")
        kept = json.loads(attempt.record.get(name) or b"")
        assert kept["batch"] == "batch_0"
        assert kept["usd"] > 0
        assert spent_in(attempt.store, BUDGET).spent == pytest.approx(kept["usd"])
        # The next one reserves nothing again, and books what it cost in truth.
        fake.before_answer, fake.released = lambda method, path: None, True
        last = Attempt(tmp_path, fake, budget=1.0)
        last.fill(ask(3))
        assert last.money is not None
        assert last.money.spent == pytest.approx(3 * EACH - kept["usd"])


def test_a_killed_run_takes_its_batch_though_another_has_answered_some(tmp_path):
    with fake_batches(looks=-1) as fake:
        first = Attempt(tmp_path, fake)
        stop_once_made(fake, first)
        first.fill(ask(4))
        other = Attempt(tmp_path, fake)
        other.ask(ask(2)[1][0])
        fake.released = True
        last = Attempt(tmp_path, fake)
        answers = last.fill_and_ask(ask(6))
        assert once(fake, 6)
        assert len(fake.batches) == 2
        assert (len(fake.live), len(answers)) == (1, 6)
        assert last.client.usage.batch_calls == 6


def test_a_batch_whose_creation_was_not_answered_is_found(tmp_path):
    with fake_batches(drop_creations=1) as fake:
        Attempt(tmp_path, fake).fill(ask(2))
        assert once(fake, 2)
        assert len(fake.batches) == 1
        assert ("GET", "/v1/batches") in fake.seen


def test_a_mark_is_searched_for_beyond_the_first_page(tmp_path):
    with fake_batches() as fake:
        for n in range(1, 6):
            other = Attempt(tmp_path, fake)
            other.record = Progress(other.store, f"stage-{n}/")
            other.fill(ask(n))
        attempt = Attempt(tmp_path, fake)
        first = Progress(attempt.store, "stage-1/")
        [name] = first.names("batches/")
        kept = json.loads(first.get(name) or b"")
        attempt.record.put(name, json.dumps(kept | {"batch": None, "usage": None, "files": []}).encode())
        attempt.forget_answers()
        assert attempt.fill(ask(1)).answered == 1
        assert once(fake, 5)


def test_answers_that_were_lost_are_fetched_again_and_not_booked_again(tmp_path):
    with fake_batches() as fake:
        Attempt(tmp_path, fake).fill(ask(3))
        again = Attempt(tmp_path, fake)
        again.forget_answers()
        result = again.fill(ask(3))
        assert (result.answered, result.earlier.batch_calls, again.client.usage) == (3, 3, Usage())
        fake.lost_files = True
        again.forget_answers()
        bought = Attempt(tmp_path, fake)
        fake.before_answer = lambda method, _: setattr(
            fake, "lost_files", method == "GET" and fake.lost_files
        )
        assert bought.fill(ask(3)).submitted == 1
        assert set(fake.submitted.values()) == {2}


def test_a_budget_too_small_for_the_next_file_ends_after_what_is_out(tmp_path):
    with fake_batches(looks=3) as fake:
        attempt = Attempt(tmp_path, fake, budget=2.2 * EACH)
        with pytest.raises(BudgetError, match="execute.budget_usd"):
            attempt.fill(ask(6), most_requests=2)
        assert len(fake.submitted) == attempt.client.usage.batch_calls == 2
        assert spent_in(attempt.store, BUDGET).spent == pytest.approx(2 * EACH)
        richer = Attempt(tmp_path, fake, budget=1.0)
        result = richer.fill(ask(6), most_requests=2)
        assert once(fake, 6)
        assert (richer.client.usage + result.earlier).usd == pytest.approx(6 * EACH, abs=1e-12)


def test_a_file_that_the_budget_cannot_hold_becomes_smaller(tmp_path):
    with fake_batches(looks=1) as fake:
        attempt = Attempt(tmp_path, fake, budget=3.5 * EACH)
        with pytest.raises(BudgetError, match=r"0\.00045 USD are known to be spent"):
            attempt.fill(ask(4))
        assert once(fake, 3)
        assert attempt.client.usage.batch_calls == 3
        assert spent_in(attempt.store, BUDGET).spent == pytest.approx(3 * EACH)


def test_what_a_killed_process_reserved_comes_back_when_its_batches_are_collected(tmp_path):
    with fake_batches(looks=-1) as fake:
        killed = start_child(fake, tmp_path, "1.0")

        def kill(method: str, path: str) -> None:
            if path == "/v1/batches/batch_1" and killed.poll() is None:
                os.kill(killed.pid, signal.SIGKILL)
                killed.wait()

        fake.before_answer = kill
        killed.communicate(timeout=60)
        assert killed.returncode == -signal.SIGKILL
        left = Attempt(tmp_path, fake, budget=1.0)
        assert spent_in(left.store, BUDGET) == Books(pytest.approx(4 * EACH), 0.0)
        # As if the estimate had been ten times as much.
        for name in left.record.names("batches/"):
            kept = json.loads(left.record.get(name) or b"")
            left.record.put(name, json.dumps(kept | {"usd": 20 * EACH}).encode())
        assert left.money is not None
        left.money.settle(0.0, 36 * EACH)
        left.money.close()
        fake.before_answer, fake.released = lambda method, path: None, True
        left.fill(ask(4), most_requests=2)
        assert once(fake, 4)
        assert spent_in(left.store, BUDGET) == Books(pytest.approx(4 * EACH), 0.0)


@pytest.mark.parametrize("written", [False, True])
def test_a_record_that_cannot_be_written_books_nothing(tmp_path, monkeypatch, written):
    with fake_batches() as fake:
        attempt = Attempt(tmp_path, fake, budget=1.0)
        put = attempt.record.put

        def failing(name: str, data: bytes) -> None:
            if written:
                put(name, data)
            raise TransientError("store.url: FAKE trouble")

        monkeypatch.setattr(attempt.record, "put", failing)
        with pytest.raises(TransientError, match="FAKE trouble"):
            attempt.fill(ask(4))
        assert (fake.batches, attempt.record.names()) == ([], [])
        assert spent_in(attempt.store, BUDGET) == Books(0.0, 0.0)
        Attempt(tmp_path, fake, budget=1.0).fill(ask(4))
        assert spent_in(attempt.store, BUDGET).spent == pytest.approx(4 * EACH)


def test_what_is_collected_can_be_forgotten_and_what_is_out_cannot(tmp_path):
    with fake_batches(answer=lambda _: completion("Once", "length"), looks=-1) as fake:
        out = Attempt(tmp_path, fake)
        stop_once_made(fake, out)
        out.fill(ask(3)[2:])
        fake.before_answer, fake.looks = lambda method, path: None, 0
        Attempt(tmp_path, fake).fill(ask(2))
        forget_collected(out.record)
        assert len(out.record.names()) == 1
        fake.released = True
        last = Attempt(tmp_path, fake)
        last.fill(ask(3))
        assert sorted(fake.submitted.values()) == [1, 2, 2]
        assert last.client.usage.batch_calls == 3


def test_a_file_waits_for_what_an_earlier_one_leaves_of_its_reservation(tmp_path):
    with fake_batches(looks=2) as fake:
        requests = ask(8, max_tokens=400)
        attempt = Attempt(tmp_path, fake)
        estimate = sum(attempt.client.estimate_usd(request, tier="batch") for request, _ in requests)
        assert estimate == pytest.approx(8 * 4 * EACH)
        attempt = Attempt(tmp_path, fake, budget=0.55 * estimate)
        attempt.fill(requests, most_requests=4)
        assert once(fake, 8)
        assert spent_in(attempt.store, BUDGET).spent == pytest.approx(8 * EACH)


def test_a_batch_that_failed_under_an_earlier_attempt_is_submitted_anew(tmp_path):
    with fake_batches(fail=["billing_hard_limit"]) as fake:
        first = Attempt(tmp_path, fake)
        stop_once_made(fake, first)
        first.fill(ask(2))
        assert Attempt(tmp_path, fake).fill(ask(2)).answered == 2
        assert once(fake, 2)
