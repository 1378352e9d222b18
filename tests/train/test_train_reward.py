"""The reward function's bookkeeping; what it adds up is tested in tests/reward."""

import asyncio
import random
from dataclasses import fields, replace

import pytest
import torch
from models import END, THINKING, tiny_tokenizer

from polaris.chat import Usage
from polaris.errors import BudgetError, ConfigError
from polaris.judge.parse import Judgement
from polaris.judge.score import JudgeFailed
from polaris.recipe import (
    DisqualificationGate,
    OverlongPenalty,
    RewardConfig,
    RewardWeights,
    ThinkingPenalty,
)
from polaris.train.agreement import Failures
from polaris.train.references import advantages
from polaris.train.reward import Reward

TOKENIZER = tiny_tokenizer(THINKING)
END_ID = TOKENIZER.convert_tokens_to_ids(END)
LOOSE = RewardConfig(min_words=1, min_target=1, lower_floor=0, upper_floor=0)
ONLY_QUALITY = RewardWeights(repetition=0, length=0, blank=0)


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
    rest = {"max_completion_tokens": 64} | rest
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


def test_an_error_ends_no_row_but_its_own_and_is_told():
    judged = []

    async def judge(prompt, story):
        if story == "a b c d":
            raise BudgetError("execute.budget_usd: value 1; spent")
        if story == "b c d e":
            raise ConfigError("models.judge.api_key_env: not accepted")
        await asyncio.sleep(0)
        judged.append(story)
        return Judgement.of_nothing()

    reward = make(judge)
    found, logged = ask(reward, [f"{story}{END}" for story in ("a b c d", "b c d e", "c d e f")])
    assert found == [None, None, 0.0]
    assert judged == ["c d e f"]
    assert reward.outcome.error == (2, "models.judge.api_key_env: not accepted")
    assert (reward.outcome.asked, reward.outcome.failed) == (3, 2)
    assert logged["judge/failed"] == [2]


def test_a_bug_of_the_judges_is_no_outcome():
    async def judge(prompt, story):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ask(make(judge), [f"a b c d{END}"])


def test_the_judge_is_out_where_it_judged_nothing_and_its_endpoint_is_why():
    reward = make(failing("a b c d", unavailable=True))
    ask(reward, [f"a b c d{END}", f"b c d e{END}"])
    assert not reward.outcome.out
    ask(reward, [f"a b c d{END}", END])
    assert reward.outcome.out
    ask(reward, [END])
    assert not reward.outcome.out
    reward = make(failing("a b c d"), outage=lambda: True)
    ask(reward, [f"a b c d{END}"])
    assert reward.outcome.out
    assert reward.outcome.reason == "cut"
    ask(reward, [END])
    assert not reward.outcome.out, "who asks nothing knows of no outage"


def test_one_story_that_is_never_answered_is_no_outage_of_the_judge():
    reward = make(failing("a b c d", unavailable=True), outage=lambda: True)
    found, _ = ask(reward, [f"{story}{END}" for story in ["b c d e"] * 15 + ["a b c d"]])
    assert found.count(None) == 1
    assert (reward.outcome.out, reward.outcome.failed, reward.outcome.asked) == (False, 1, 16)
    assert Failures(RewardConfig()).check([reward.outcome]) is None


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
        assert reward.outcome.usage == Usage(calls=3, prompt_tokens=30, usd=0.75)


def test_every_counter_of_the_calls_is_logged_even_when_it_is_zero():
    spent = Usage(retries=3, rate_limited=2)
    _, logged = ask(make(nothing_special, usage=lambda: spent), [f"a b c d{END}"])
    expected = {"judge/cached" if f.name == "cached_calls" else f"judge/{f.name}" for f in fields(Usage)}
    assert expected <= set(logged)
    assert (logged["judge/retries"], logged["judge/rate_limited"], logged["judge/repairs"]) == ([3], [2], [0])


def judgement(**scores):
    found = Judgement.of_nothing()
    return replace(found, positive=found.positive | {"P1": 10}, negative=found.negative | scores)


@pytest.mark.parametrize(("story", "scores"), [("a b c d", {"N2": 7}), ("a b c d", {"N10": 8}), ("a", {})])
def test_the_gate_disqualifies_rollouts_and_never_a_reference(story, scores):
    async def judge(prompt, story):
        return judgement(**scores)

    config = LOOSE.model_copy(update={"disqualify": DisqualificationGate(), "weights": ONLY_QUALITY})
    _, logged = ask(make(judge, config), [f"{story}{END}"] * 2, [False, True])
    assert logged["reward/quality"] == [-1.59]
    assert logged["hri/reference_quality"] == [(10 - sum(scores.values())) / 100]
    assert ask(make(judge), [f"{story}{END}"])[1]["reward/quality"] == logged["hri/reference_quality"]


def test_the_token_terms_count_thoughts_and_completion():
    terms = {"thinking": ThinkingPenalty(limit=4, penalty=0.25), "overlong": OverlongPenalty(buffer=8)}
    config = LOOSE.model_copy(update=terms)
    texts = [
        f"a</think>a b c d{END}",
        f"a b c d e f g h</think>a b c d{END}",
        "no end to these thoughts at all",
    ]
    counts = [len(TOKENIZER(text)["input_ids"]) for text in texts]
    reward = make(nothing_special, config, thinking=True, max_completion_tokens=counts[1])
    found, logged = ask(reward, texts)
    assert logged["reward/thinking"] == [0, 0.25, 0.25]
    overlong = [min(1.0, max(0.0, (n - counts[1] + 8) / 8)) for n in counts]
    assert logged["reward/overlong"] == overlong
    assert overlong[1] == 1
    plain, without = ask(make(nothing_special, thinking=True), texts)
    assert found[:2] == pytest.approx([plain[0] - overlong[0], plain[1] - 1.25])
    assert not {"reward/thinking", "reward/overlong"} & set(without)


def test_a_reference_pays_for_its_length_like_any_row():
    config = LOOSE.model_copy(update={"overlong": OverlongPenalty(buffer=8)})
    found, _ = ask(
        make(nothing_special, config, max_completion_tokens=5), [f"a b c d{END}"] * 2, [False, True]
    )
    assert found[0] == found[1] < 0


def test_quote_validity_is_logged_for_the_stories_that_have_one():
    async def judge(prompt, story):
        found = Judgement.of_nothing()
        return replace(found, quote_validity={"a b c d": 0.5, "b c d e": 1.0}.get(story))

    _, logged = ask(make(judge), [f"{story}{END}" for story in ("a b c d", "b c d e", "c d e f", "")])
    assert logged["judge/quote_validity"] == [0.5, 1.0]
    assert "judge/quote_validity" not in ask(make(nothing_special), [f"a b c d{END}"])[1]


@pytest.mark.parametrize("seed", range(20))
def test_one_call_in_ten_failing_leaves_the_advantages_of_the_others_alone(seed):
    # A FAKE judge that fails by chance: what it cannot judge must be as if it had never been written.
    drawn = random.Random(seed)
    groups, size = 8, 6
    stories = [f"{'abcdefgh'[g]} {'abcdef'[i]} c d" for g in range(groups) for i in range(size)]
    scores = {story: drawn.randint(0, 15) for story in stories}
    lost = {story for story in stories if drawn.random() < 0.1}
    marks = [i == size - 1 for _ in range(groups) for i in range(size)]

    async def judge(prompt, story):
        if story in lost:
            raise JudgeFailed("cut")
        found = Judgement.of_nothing()
        return replace(found, positive=found.positive | {"P1": scores[story]})

    config = LOOSE.model_copy(update={"weights": ONLY_QUALITY})
    rewards, _ = ask(make(judge, config), [f"{story}{END}" for story in stories], marks)
    assert [value is None for value in rewards] == [story in lost for story in stories]
    tensor = torch.tensor([float("nan") if value is None else value for value in rewards])
    found = advantages(tensor, torch.tensor(marks), size, 0.4, clip=10.0)
    for start in range(0, groups * size, size):
        rows = range(start, start + size)
        kept = [i for i in rows if stories[i] not in lost]
        if not kept:
            continue
        alone = advantages(tensor[kept], torch.tensor(marks)[kept], len(kept), 0.4, clip=10.0)
        torch.testing.assert_close(found[kept], alone, rtol=1e-5, atol=1e-7)
        assert all(found[i] == 0 for i in rows if stories[i] in lost)
