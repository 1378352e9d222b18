"""When a failed call is tried again, and when it is given up: by a clock that is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polaris.chat import CallFailed, ChatRequest, Retry
from polaris.retries import Call, Patience, Retries

FAULT = Retry("answered 500")
SLOW_DOWN = Retry("answered 429", kind="rate limited")
DROPPED = Retry("connection failed", kind="unanswered")
TIMED_OUT = Retry("timed out", kind="timed out")


def a_call(tier: str = "standard", **fields: bool) -> Call:
    return Call(ChatRequest(({"role": "user", "content": "Of a fox."},), 8), "key", 10, tier, **fields)


def fail(retries: Retries, call: Call, retry: Retry, now: float, *, up: bool = False) -> float:
    """Let an attempt fail, and the endpoint be `up` or not if that is asked; return the wait."""
    asked = retries.failed(call, retry, now)
    if asked:
        retries.probed(up=up, now=now)
    return retries.wait_s(call, retry, now, up=asked and up)


def tries(retries: Retries, call: Call, retry: Retry, *, now: float, most: int, step: float = 1.0) -> float:
    """Fail every `step` seconds until it is given up; return when that was."""
    for _ in range(most):
        retries.begin(call, now)
        try:
            fail(retries, call, retry, now)
        except CallFailed as failed:
            assert failed.unavailable
            return now
        now += step
    raise AssertionError("never given up")


@given(st.integers(1, 80), st.none() | st.floats(0, 1e6))
def test_waits_are_jittered_below_an_exponential_bound_on_top_of_retry_after(attempts, after):
    retries, call = Retries(Patience(attempts=100, deadline_s=1e9)), a_call()
    for _ in range(attempts):
        retries.begin(call, 0.0)
    least = min(after or 0.0, 600.0)
    wait_s = fail(retries, call, Retry("answered 503", after), 0.0)
    assert least <= wait_s <= least + min(60.0, 2.0 ** (attempts - 1))


def test_an_endpoint_that_paces_its_callers_is_believed():
    retries, call = Retries(Patience()), a_call()
    for _ in range(12):
        retries.begin(call, 0.0)
    waits = [fail(retries, call, Retry("answered 429", 2.0, kind="rate limited"), 0.0) for _ in range(200)]
    assert min(waits) >= 2.0 and max(waits) <= 2.5
    assert max(waits) - min(waits) > 0.3, "they come back spread out"


def test_alone_a_call_fails_when_its_attempts_are_used_up():
    retries, call = Retries(Patience(attempts=3)), a_call()
    assert tries(retries, call, FAULT, now=0.0, most=9) == 2.0
    assert call.attempts == 3
    assert retries.outage


@pytest.mark.parametrize("others", [True, False])
def test_being_told_to_slow_down_is_no_attempt_but_the_deadline_holds(others):
    retries, call = Retries(Patience(attempts=2, deadline_s=1000.0)), a_call()
    for second in range(500):
        retries.begin(call, float(second))
        fail(retries, call, SLOW_DOWN, float(second))
    assert call.faults == 0
    if others:
        retries.answered(499.5)
    with pytest.raises(CallFailed, match=r"answered 429, and no answer within deadline_s 1000"):
        fail(retries, call, Retry("answered 429", 501.0, kind="rate limited"), 500.0)
    assert retries.outage is not others


def test_a_call_that_waits_for_its_turn_past_its_deadline_is_given_up():
    retries, call = Retries(Patience(deadline_s=10.0)), a_call()
    retries.begin(call, 0.0)
    fail(retries, call, FAULT, 0.5)
    with pytest.raises(Retry) as caught:
        retries.begin(call, 10.0)
    with pytest.raises(CallFailed, match=r"no place for another attempt, .*deadline_s 10 \(1 attempts\)"):
        fail(retries, call, caught.value, 10.0)
    assert call.faults == 1


@pytest.mark.parametrize("retry", [SLOW_DOWN, TIMED_OUT], ids=lambda retry: retry.kind)
def test_an_endpoint_that_answers_nobody_in_whatever_way_is_out_after_outage_s(retry):
    """Even where a deadline would end the calls, or a time-out be over, before their attempts are used up."""
    retries, call = Retries(Patience(attempts=6, deadline_s=3600.0, outage_s=300.0)), a_call()
    retries.under_way = 8
    assert tries(retries, call, retry, now=0.0, most=99, step=50.0) == 300.0
    assert retries.outage


def test_a_deadline_before_outage_s_is_an_outage_too_if_nobody_was_answered():
    for answered in (False, True):
        retries, call = Retries(Patience(attempts=6, deadline_s=100.0, outage_s=300.0)), a_call()
        retries.under_way = 8
        retries.begin(call, 0.0)
        if answered:
            retries.answered(50.0)
        told = "deadline_s 100" if answered else "nobody has got an answer for 100 s"
        with pytest.raises(CallFailed, match=told):
            fail(retries, call, TIMED_OUT, 100.0)
        assert retries.outage is not answered


def test_a_call_that_fails_of_an_endpoint_that_is_up_fails_alone():
    retries, call = Retries(Patience(attempts=3, outage_s=300.0)), a_call()
    retries.under_way = 1
    for second in (0.0, 10.0, 20.0):
        retries.begin(call, second)
        assert not retries.failed(call, FAULT, second), "it may come back"
        retries.wait_s(call, FAULT, second)
    retries.begin(call, 310.0)
    with pytest.raises(CallFailed, match=r"answered 500 \(4 attempts\)"):
        fail(retries, call, FAULT, 310.0, up=True)
    assert not retries.outage
    other = a_call()
    retries.begin(other, 320.0)
    assert not retries.failed(other, FAULT, 320.0), "the silence has ended"


def test_a_call_with_attempts_left_goes_on_where_the_endpoint_is_up():
    retries, call = Retries(Patience(attempts=3, outage_s=300.0)), a_call()
    retries.begin(call, 0.0)
    assert fail(retries, call, TIMED_OUT, 819.0, up=True) < 1.0
    retries.begin(call, 820.0)
    assert fail(retries, call, SLOW_DOWN, 820.0) < 2.0


def test_what_fails_at_once_has_all_its_attempts_before_the_endpoint_is_doubted():
    retries, call = Retries(Patience(attempts=3, outage_s=60.0)), a_call()
    retries.under_way = 8
    for second, asked in ((200.0, False), (201.0, False), (203.0, True)):
        retries.begin(call, 0.0 if not call.attempts else second)
        assert retries.failed(call, DROPPED, second) is asked


def test_calls_that_wait_when_the_endpoint_is_found_to_be_down_make_no_attempt():
    retries, waiting = Retries(Patience(attempts=3, outage_s=300.0)), a_call()
    tries(retries, a_call(), FAULT, now=0.0, most=99, step=100.0)
    with pytest.raises(CallFailed, match=r"answered 500, and nobody has got an answer for 310 s \(0 att"):
        retries.begin(waiting, 310.0)
    # Who asks later is there to find out.
    retries.begin(a_call(in_outage=True), 320.0)
    retries.answered(321.0)
    retries.begin(waiting, 322.0)


def test_while_others_get_answers_a_call_that_has_none_fails():
    retries, call = Retries(Patience(attempts=3, outage_s=300.0)), a_call()
    retries.under_way = 2
    for second in range(3):
        retries.begin(call, second)
        retries.answered(second + 0.3)
        if second < 2:
            fail(retries, call, FAULT, second + 0.5)
    with pytest.raises(CallFailed, match=r"answered 500 \(3 attempts\)"):
        fail(retries, call, FAULT, 2.5)
    assert not retries.outage


def test_an_outage_is_waited_out_even_by_calls_that_began_before_it():
    retries, call = Retries(Patience(attempts=3, outage_s=300.0)), a_call()
    retries.under_way = 8
    retries.begin(call, 0.0)
    retries.answered(1.0)
    for second in range(2, 200, 10):
        fail(retries, call, FAULT, float(second))
        retries.begin(call, float(second))
    assert call.faults == 20
    retries.answered(200.0)
    assert not retries.outage
    fail(retries, call, FAULT, 201.0)
    retries.answered(202.0)
    retries.begin(call, 203.0)
    with pytest.raises(CallFailed):
        fail(retries, call, FAULT, 203.0)


def test_nothing_answered_for_too_long_is_an_outage_until_something_is():
    retries, call = Retries(Patience(attempts=3, outage_s=300.0)), a_call()
    retries.under_way = 8
    retries.answered(100.0)
    assert tries(retries, call, FAULT, now=110.0, most=999, step=10.0) == 410.0
    assert retries.outage
    assert tries(retries, a_call(in_outage=True), FAULT, now=420.0, most=9) == 420.0
    retries.answered(500.0)
    assert not retries.outage


def test_a_silence_begins_with_the_first_failure_and_not_with_the_last_answer_of_long_ago():
    retries, call = Retries(Patience(attempts=1, outage_s=60.0)), a_call()
    retries.answered(0.0)
    assert tries(retries, call, FAULT, now=5000.0, most=99, step=10.0) == 5060.0


def test_the_last_call_of_all_is_judged_by_what_went_before():
    retries, call = Retries(Patience(attempts=2, outage_s=300.0)), a_call()
    retries.under_way = 2
    retries.begin(call, 0.0)
    retries.answered(0.5)
    retries.under_way = 1
    fail(retries, call, FAULT, 1.0)
    retries.begin(call, 2.0)
    with pytest.raises(CallFailed):
        fail(retries, call, FAULT, 3.0)
    assert not retries.outage


@pytest.mark.parametrize(
    ("kind", "tier", "waits"),
    [
        ("no room", "standard", False),
        ("rate limited", "standard", True),
        ("timed out", "standard", True),
        ("fault", "flex", True),
        ("unanswered", "flex", True),
        ("not sent", "flex", True),
    ],
)
def test_a_full_tier_sends_a_call_to_the_standard_one(kind, tier, waits):
    retries, call = Retries(Patience()), a_call("flex")
    retries.begin(call, 0.0)
    wait_s = fail(retries, call, Retry("why", 5.0, kind=kind), 0.0)
    assert (call.tier, wait_s > 0) == (tier, waits)
