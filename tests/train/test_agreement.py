"""What all training processes decide from what each of them met."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polaris.errors import BudgetError, ConfigError, GuardError, TransientError
from polaris.recipe import RewardConfig
from polaris.train.agreement import Agreement, Failures, Outcome

CUT = "answer finished with 'length'"


def window(calls=4, share=0.5):
    return Failures(RewardConfig(failed_window=calls, max_failed_share=share))


def failed(number, asked, **rest):
    return Outcome(asked=asked, failed=number, reason=CUT if number else "", **rest)


def test_the_window_is_of_all_processes_calls():
    found = window()
    assert found.check([failed(1, 2), failed(0, 2)]) is None
    error = found.check([failed(1, 2), failed(2, 2)])
    assert isinstance(error, GuardError)
    assert str(error) == (
        "the judge keeps failing: 3 of the last 4 calls, above reward.max_failed_share 0.5 of a window of 4"
        " (reward.failed_window); the last reason: answer finished with 'length'"
    )


def test_failures_that_come_at_once_are_compared_with_the_window_before_it_is_full():
    assert window(100).check([failed(48, 48)]) is None
    assert window(90).check([failed(46, 48)]) is not None


def test_a_step_larger_than_the_window_counts_whole():
    assert window(4).check([failed(4, 48)]) is None
    assert window(4).check([failed(25, 48)]) is not None


def test_old_steps_leave_the_window():
    found = window(4)
    for _ in range(5):
        assert found.check([failed(2, 4)]) is None
        assert found.check([failed(0, 4)]) is None
    assert found.check([]) is None


def test_a_limit_of_all_never_stops():
    assert window(4, share=1.0).check([failed(9, 9)]) is None


@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.integers(1, 30))
def test_a_judge_that_fails_always_is_stopped_within_its_window(asked, calls):
    found, done = window(calls), 0
    for number in asked:
        error, done = found.check([failed(number, number)]), done + number
        # A step without any call decides nothing.
        if number:
            assert (error is not None) == (2 * done > calls)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=40), st.integers(1, 30))
def test_half_of_the_calls_failing_is_within_a_limit_of_half(steps, calls):
    found = window(calls)
    for failures, more in steps:
        assert found.check([failed(failures, 2 * failures + more)]) is None


@pytest.mark.parametrize(
    ("outcomes", "kind"),
    [
        ([failed(3, 3, out=True)], TransientError),
        # One judgement shows that the endpoint answers, in whichever process.
        ([failed(2, 3, out=True)], None),
        ([failed(1, 1, out=True), failed(1, 3)], None),
        # This process's judge answered, so the other's failures are failures.
        ([failed(3, 3, out=True), failed(0, 3)], None),
        # It was asked nothing, or nothing came back: it does not know.
        ([failed(3, 3, out=True), failed(0, 0)], TransientError),
        ([failed(3, 3, out=True), failed(3, 3)], TransientError),
        ([failed(0, 3, out=True)], None),
    ],
)
def test_an_outage_is_one_where_nobody_gets_an_answer(outcomes, kind):
    error = window(100).check(outcomes)
    assert type(error) is (kind or type(None))
    if kind:
        assert str(error).startswith("the judge is out: ")
        assert str(error).endswith(f"calls failed: {CUT}")


def test_one_processs_error_is_everybodys_and_the_final_one_counts():
    busy = Outcome(asked=3, failed=3, error=(75, "no credit"))
    spent = Outcome(asked=3, failed=1, error=(4, "execute.budget_usd: value 1"))
    refused = Outcome(asked=3, failed=1, error=(2, "models.judge.api_key_env: not accepted"))
    assert type(window().check([Outcome(), spent])) is BudgetError
    assert str(window().check([busy, spent, Outcome()])) == "execute.budget_usd: value 1"
    assert type(window().check([busy, spent, refused])) is ConfigError
    assert type(window().check([busy])) is TransientError


def test_an_agreement_raises_what_it_keeps():
    outcomes = iter([failed(0, 3), failed(0, 3, error=(4, "spent"))])
    agree = Agreement(lambda: next(outcomes), RewardConfig())
    agree()
    assert agree.error is None
    with pytest.raises(BudgetError, match="^spent$") as caught:
        agree()
    assert caught.value is agree.error
