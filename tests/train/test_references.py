import math
from itertools import pairwise

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from models import END, PLAIN, THINKING, tiny_tokenizer

from polaris.errors import ConfigError, InputError
from polaris.train.references import (
    advantages,
    end_token,
    figures,
    reference_ids,
    reference_text,
    shaping_weights,
    weight,
)

PROMPT = [{"role": "user", "content": "Write a story about a lighthouse."}]
STORY = "The lamp went out.\n\nNobody spoke."
REASONING = "I begin with the lamp."


def by_hand(rewards, is_reference, group_size, weight, eps, clip):
    """The formula as a loop over groups in double precision."""
    out = [0.0] * len(rewards)
    for start in range(0, len(rewards), group_size):
        rows = range(start, start + group_size)
        policy = [rewards[i] for i in rows if not is_reference[i] and not math.isnan(rewards[i])]
        if len(policy) < 2:
            continue
        mean = sum(policy) / len(policy)
        std = math.sqrt(sum((r - mean) ** 2 for r in policy) / (len(policy) - 1))
        if min(policy) == max(policy):
            mean, std = policy[0], 0.0
        for i in rows:
            if math.isnan(rewards[i]):
                continue
            scaled = (rewards[i] - mean) / (std + eps)
            if is_reference[i]:
                scaled = weight * scaled if clip is None else max(-clip, min(clip, weight * scaled))
            out[i] = scaled
    return out


# Multiples of 1/64 in [-2, 2]: judged rewards differ by more than fp32's rounding, or not at all.
reward = st.one_of(st.just(math.nan), st.integers(-128, 128).map(lambda n: n / 64))


@st.composite
def batches(draw):
    group_size = draw(st.integers(3, 7))
    groups = draw(st.integers(1, 4))
    rewards = draw(st.lists(reward, min_size=groups * group_size, max_size=groups * group_size))
    injected = draw(st.lists(st.booleans(), min_size=groups, max_size=groups))
    marks = [slot == group_size - 1 and injected[g] for g in range(groups) for slot in range(group_size)]
    return rewards, marks, group_size


LAST = [False, False, False, True]


@settings(deadline=None, max_examples=1000)
@given(
    batches(), st.sampled_from([0.0, 0.1, 0.4]), st.sampled_from([1e-6, 1e-4]), st.sampled_from([None, 10.0])
)
@example(([1.0, math.nan, 0.5, 2.0], LAST, 4), 0.4, 1e-6, None)  # a failed judgement
@example(([1.0, math.nan, math.nan, 2.0], LAST, 4), 0.4, 1e-6, 10.0)  # a single survivor
@example(([0.5, 0.5, math.nan, 2.0], LAST, 4), 0.4, 1e-6, 10.0)  # no variance
@example(([math.nan] * 4, LAST, 4), 0.4, 1e-6, 10.0)
def test_advantages_are_the_formula(batch, weight, eps, clip):
    rewards, marks, group_size = batch
    found = advantages(torch.tensor(rewards), torch.tensor(marks), group_size, weight, eps, clip)
    expected = torch.tensor(by_hand(rewards, marks, group_size, weight, eps, clip), dtype=torch.float64)
    assert found.shape == (len(rewards),)
    assert found.isfinite().all()
    torch.testing.assert_close(found.double(), expected, rtol=2e-5, atol=1e-6)


@settings(deadline=None, max_examples=500)
@given(batches())
def test_at_weight_zero_and_its_eps_it_is_trls_to_the_bit(batch):
    from trl.trainer.utils import nanstd

    rewards, _, group_size = batch
    tensor = torch.tensor(rewards)
    grouped = tensor.view(-1, group_size)
    mean = grouped.nanmean(dim=1).repeat_interleave(group_size)
    std = nanstd(grouped, dim=1).repeat_interleave(group_size)
    theirs = torch.nan_to_num((tensor - mean) / (std + 1e-4), nan=0.0)
    ours = advantages(tensor, torch.zeros(len(rewards), dtype=torch.bool), group_size, 0.0, eps=1e-4)
    for g, row in enumerate(grouped):
        known = row[~row.isnan()]
        rows = slice(g * group_size, (g + 1) * group_size)
        if len(known) and known.min() == known.max():
            assert (ours[rows] == 0).all()
        else:
            assert torch.equal(ours[rows], theirs[rows])


def test_equal_policy_rewards_teach_nothing_and_the_reference_is_clipped():
    # 0.1 is no binary fraction: a mean of five of it is off, and over eps that would be an advantage.
    rewards = torch.tensor([0.1] * 5 + [1.6])
    marks = torch.tensor([False] * 5 + [True])
    assert advantages(rewards, marks, 6, 0.4, clip=10.0).tolist() == [0.0] * 5 + [10.0]
    found = figures(rewards, marks, 6, 0.4, clip=10.0)
    assert (found["hri/clipped"], found["hri/level_groups"], found["hri/reference_advantage"]) == (1, 1, 10)
    assert advantages(rewards, marks, 6, 0.4)[-1] == pytest.approx(600_000, rel=1e-3)
    assert figures(rewards, marks, 6, 0.4)["hri/clipped"] == 0


def test_the_clip_bounds_the_advantage_and_not_the_distance():
    rewards, marks = torch.tensor([0.0, 2.0, 30.0]), torch.tensor([False, False, True])
    distance = 29 / math.sqrt(2)
    assert advantages(rewards, marks, 3, 0.4, clip=10.0)[2] == pytest.approx(0.4 * distance)
    assert advantages(rewards, marks, 3, 0.5, clip=10.0)[2] == 10
    assert figures(rewards, marks, 3, 0.4, clip=10.0)["hri/clipped"] == 0


def test_a_failed_reference_gets_nothing_and_is_counted():
    batch = torch.tensor([1.0, 0.0, math.nan]), torch.tensor([False, False, True]), 3, 0.4
    assert advantages(*batch).tolist() == pytest.approx([0.5**0.5, -(0.5**0.5), 0.0], rel=1e-5)
    found = figures(*batch)
    assert (found["hri/reference_failed"], found["hri/starved_groups"]) == (1, 0)


def test_one_scored_policy_row_is_no_group():
    batch = torch.tensor([1.0, math.nan, 2.0]), torch.tensor([False, False, True]), 3, 0.4
    assert advantages(*batch).tolist() == [0, 0, 0]
    assert figures(*batch)["hri/starved_groups"] == 1


def test_figures():
    rewards = torch.tensor([0.0, 1.0, 2.0, 0.0, 1.0, 0.5, 0.0, 1.0, math.nan])
    marks = torch.tensor([False, False, True] * 3)
    found = figures(rewards, marks, 3, 0.4)
    assert found["hri/references"] == 3
    assert found["hri/reference_reward"] == 1.25
    assert found["hri/reference_minus_policy_mean"] == 0.75
    assert found["hri/reference_minus_policy_best"] == 0.25
    assert found["hri/reference_minus_policy_worst"] == 1.25
    assert found["hri/reference_beats_all"] == 0.5
    assert found["hri/reference_failed"] == 1


def test_figures_without_references_are_nan():
    rewards, marks = torch.tensor([0.0, 1.0, 2.0]), torch.zeros(3, dtype=torch.bool)
    found = figures(rewards, marks, 3, 0.0)
    assert math.isnan(found["hri/reference_reward"])
    assert found["hri/references"] == 0


@pytest.mark.parametrize(("step", "expected"), [(0, 0.0), (1, 0.4 / 15), (15, 0.4), (172, 0.4)])
def test_the_recipes_weight(step, expected):
    assert weight(step, 0.4, 15) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("decay", "expected"), [("linear", [0.4, 0.325, 0.25, 0.1]), ("cosine", [0.4, 0.35607, 0.25, 0.1])]
)
def test_decayed_weight(decay, expected):
    found = [weight(s, 0.4, 15, decay=decay, decay_steps=100, final_weight=0.1) for s in (15, 40, 65, 115)]
    assert found == pytest.approx(expected, abs=1e-5)


@st.composite
def schedules(draw):
    top = draw(st.floats(0.0, 2.0))
    return {
        "max_weight": top,
        "warmup_steps": draw(st.integers(1, 30)),
        "decay": draw(st.sampled_from(["linear", "cosine"])),
        "decay_steps": draw(st.integers(1, 60)),
        "final_weight": draw(st.floats(0.0, 1.0)) * top,
    }


@given(schedules())
def test_weights_are_bounded_steady_and_end_where_they_should(schedule):
    top, warmup, final = schedule["max_weight"], schedule["warmup_steps"], schedule["final_weight"]
    end = warmup + schedule["decay_steps"]
    values = [weight(s, **schedule) for s in range(end + 5)]
    assert values[: warmup + 1] == [weight(s, top, warmup) for s in range(warmup + 1)]
    assert values[warmup] == top
    assert values[end:] == pytest.approx([final] * 5, abs=1e-12)
    assert all(final - 1e-12 <= value <= top + 1e-12 for value in values[warmup:])
    steps = list(pairwise(values))
    assert all(after <= before + 1e-12 for before, after in steps[warmup:])
    steepest = max(top / warmup, math.pi / 2 * (top - final) / schedule["decay_steps"])
    assert all(abs(after - before) <= steepest + 1e-12 for before, after in steps)


@given(schedules(), st.integers(1, 90), st.integers(0, 100))
def test_no_reference_from_until_step_on(schedule, until, step):
    expected = 0.0 if step >= until else weight(step, **schedule)
    assert weight(step, **schedule, until_step=until) == expected


@settings(deadline=None)
@given(st.lists(st.floats(-60.0, 0.0), min_size=2, max_size=8), st.sampled_from([0.01, 0.1, 1.0]))
def test_shaping_is_the_gradient_of_p_over_p_plus_gamma(values, gamma):
    logprobs = torch.tensor([values], dtype=torch.float64, requires_grad=True)
    p = logprobs.exp()
    (p / (p + gamma)).sum().backward()
    marks = torch.ones(1, len(values), dtype=torch.bool)
    marks[0, 0] = False
    found = shaping_weights(logprobs.detach(), marks, gamma)
    assert found[0, 0] == 1
    torch.testing.assert_close(found[0, 1:], logprobs.grad[0, 1:], rtol=1e-12, atol=0)
    assert (found[0, 1:] <= 0.25 + 1e-12).all()


def test_shaping_peaks_at_gamma_and_leaves_padding_finite():
    logprobs = torch.tensor([[math.log(0.1), -math.inf, math.nan, 0.0]])
    marks = torch.tensor([[True, True, False, True]])
    assert shaping_weights(logprobs, marks, 0.1)[0].tolist() == pytest.approx([0.25, 0.0, 1.0, 0.1 / 1.1**2])


def render(tokenizer, *, thinking, **parts):
    turn = {"role": "assistant", "content": parts["story"]}
    if thinking:
        turn["reasoning_content"] = parts["reasoning"]
    return tokenizer.apply_chat_template([*PROMPT, turn], tokenize=False, enable_thinking=thinking)


@pytest.mark.parametrize(("template", "thinking"), [(PLAIN, False), (THINKING, False), (THINKING, True)])
def test_prompt_and_reference_are_the_templates_own_rendering(template, thinking):
    tokenizer = tiny_tokenizer(template)
    opened = tokenizer.apply_chat_template(
        PROMPT, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
    )
    text = reference_text(tokenizer, PROMPT, f"\n {STORY}\n", f" {REASONING} ", thinking)
    whole = render(tokenizer, thinking=thinking, story=f"\n {STORY}\n", reasoning=f" {REASONING} ")
    assert opened + text == whole.removesuffix("\n")
    assert text == (f"{REASONING}\n</think>\n\n" if thinking else "") + STORY + END
    assert opened.count("<think>") + text.count("<think>") == (template is THINKING)


def test_end_token_is_the_templates_not_the_tokenizers():
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = "<|start|>"
    assert end_token(tokenizer, PROMPT, False) == (END, tokenizer.convert_tokens_to_ids(END))


def test_a_template_that_closes_no_turn_is_refused():
    tokenizer = tiny_tokenizer(
        "{%- for m in messages -%}{{- m.role + ': ' + m.content + '\n' -}}{%- endfor -%}"
    )
    with pytest.raises(ConfigError, match="no special token"):
        end_token(tokenizer, PROMPT, False)


def test_thinking_on_a_template_without_thoughts_is_refused():
    with pytest.raises(ConfigError, match="renders no reasoning"):
        reference_text(tiny_tokenizer(PLAIN), PROMPT, STORY, REASONING, True)


@pytest.mark.parametrize("mark", [END, "</think>"])
def test_a_text_that_ends_itself_is_refused(mark):
    with pytest.raises(InputError, match="story holds"):
        reference_text(tiny_tokenizer(THINKING), PROMPT, f"The lamp{mark} went out.", REASONING, True)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 60))
def test_reference_ids_keep_the_end_only_if_whole(limit):
    tokenizer = tiny_tokenizer(THINKING)
    text = reference_text(tokenizer, PROMPT, STORY, REASONING, True)
    whole = reference_ids(tokenizer, text, 10_000, True)
    assert tokenizer.decode(whole) == text
    cut = reference_ids(tokenizer, text, limit, True)
    begins = tokenizer.decode(whole[:limit]).partition("</think>")[2].strip()
    assert (cut is None) == (not begins)
    if cut is not None:
        assert cut == whole[:limit]
        assert (cut[-1] == tokenizer.convert_tokens_to_ids(END)) == (limit >= len(whole))
