"""The reward function's bookkeeping; what it adds up is tested in tests/reward."""

import asyncio
from dataclasses import replace

import pytest
from models import END, THINKING, tiny_tokenizer

from polaris.chat import Usage
from polaris.errors import GuardError, TransientError
from polaris.judge.parse import Judgement
from polaris.judge.score import JudgeFailed
from polaris.recipe import RewardConfig
from polaris.train.reward import Reward

TOKENIZER = tiny_tokenizer(THINKING)
END_ID = TOKENIZER.convert_tokens_to_ids(END)
LOOSE = RewardConfig(min_words=1, min_target=1, lower_floor=0, upper_floor=0)


def ask(reward, texts, references=None):
    """Call as TRL does; return the rewards and all values logged, by name."""
    logged = {}
    found = asyncio.run(
        reward(
            prompts=[[{"role": "user", "content": "Write."}]] * len(texts),
            completions=None,
            completion_ids=[TOKENIZER(text)["input_ids"] for text in texts],
            target_word_count=[4] * len(texts),
            is_reference=references or [False] * len(texts),
            log_metric=lambda name, value: logged.setdefault(name, []).append(value),
        )
    )
    return found, logged


def make(judge, config=LOOSE, thinking=False, **rest):
    return Reward(judge, config, TOKENIZER, thinking=thinking, end_id=END_ID, **rest)


async def nothing_special(prompt, story):
    return Judgement.of_nothing()


def failing(*bad, unavailable=False):
    async def judge(prompt, story):
        if story in bad or not bad:
            raise JudgeFailed("cut", unavailable=unavailable)
        return Judgement.of_nothing()

    return judge


def test_a_failed_judgement_is_no_reward_and_is_counted():
    found, logged = ask(make(failing("a b c d")), [f"a b c d{END}", f"b c d e{END}"])
    assert found == [None, 0.0]
    assert logged["judge/failed"] == [1]
    assert logged["judge/calls"] == [2]
    assert logged["reward/quality"] == [0.0]


def test_a_judge_that_returns_none_has_failed():
    async def judge(prompt, story):
        return None

    found, logged = ask(make(judge), [f"a b c d{END}"])
    assert found == [None]
    assert logged["judge/failed"] == [1]


def test_only_what_follows_the_thoughts_is_judged():
    seen = []

    async def judge(prompt, story):
        seen.append((prompt, story))
        return Judgement.of_nothing()

    texts = [f"first thoughts\n</think>\n\na b c d{END}", "thoughts without an end", f"\n</think>\n\n{END}"]
    found, logged = ask(make(judge, thinking=True), texts)
    assert seen == [("Write.", "a b c d")]
    assert found[0] == 0.0
    assert logged["reward/blank"] == [0.0, 1.0, 1.0]
    assert logged["judge/calls"] == [1]
    assert logged["lengths/truncated"] == [0.0, 1.0, 0.0]
    assert logged["lengths/words_mean"] == [4, 0, 0]


def test_reference_figures_are_kept_apart():
    _, logged = ask(make(nothing_special), [f"a b c d{END}", f"a b c{END}"], [False, True])
    assert logged["lengths/words_mean"] == [4]
    assert logged["hri/reference_words"] == [3]


def test_the_run_stops_when_too_many_calls_fail():
    config = LOOSE.model_copy(update={"failed_window": 4, "max_failed_share": 0.5})
    reward = make(failing("a b c d"), config)
    ask(reward, [f"a b c d{END}"] * 2)
    ask(reward, [f"b c d e{END}"] * 4)
    ask(reward, [f"a b c d{END}"] * 2)
    with pytest.raises(GuardError, match="3 of the last 4 calls.*max_failed_share 0.5.*cut"):
        ask(reward, [f"a b c d{END}"])


def test_a_judge_that_is_down_is_transient():
    with pytest.raises(TransientError, match="answered none"):
        ask(make(failing(unavailable=True)), [f"a b c d{END}"])


def test_counts_are_made_up_for_the_mean_over_processes():
    spent = Usage()

    async def judge(prompt, story):
        nonlocal spent
        spent += Usage(calls=1, prompt_tokens=10, usd=0.25)
        return Judgement.of_nothing()

    reward = make(judge, processes=2, usage=lambda: spent)
    for _ in range(2):
        _, logged = ask(reward, [f"a b c d{END}"] * 3)
        assert logged["judge/calls"] == [6]
        assert logged["judge/prompt_tokens"] == [60]
        assert logged["judge/usd"] == [1.5]


def test_quote_validity_is_logged_for_the_stories_that_have_one():
    async def judge(prompt, story):
        found = Judgement.of_nothing()
        return replace(found, quote_validity={"a b c d": 0.5, "b c d e": 1.0}.get(story))

    _, logged = ask(make(judge), [f"{story}{END}" for story in ("a b c d", "b c d e", "c d e f", "")])
    assert logged["judge/quote_validity"] == [0.5, 1.0]
    assert "judge/quote_validity" not in ask(make(nothing_special), [f"a b c d{END}"])[1]
