"""References under the chat templates of the families that people train, and under ours in their styles."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import trl
from hypothesis import example, given, settings
from hypothesis import strategies as st
from models import END, tiny_tokenizer

from polaris.errors import ConfigError
from polaris.train.references import end_token, reference_ids, reference_text

PROMPT = [{"role": "user", "content": "Write a story about a lighthouse."}]
LONG = [
    {"role": "system", "content": "You write fiction."},
    {"role": "user", "content": "Write of a boat."},
    {"role": "assistant", "content": "<think>\nA pier.\n</think>\n\nIt left the pier."},
    {"role": "user", "content": "Now of a cat."},
]
"""A conversation whose earlier answer was thought about."""

SWITCHED = (
    "{%- set seen = namespace(user=0) -%}"
    "{%- for m in messages -%}"
    "{%- if m.role == 'user' -%}{%- set seen.user = loop.index0 -%}{%- endif -%}"
    "{%- endfor -%}"
    "{%- for m in messages -%}"
    "{%- set said = m.content -%}{%- set thoughts = m.reasoning_content or '' -%}"
    "{%- if m.role == 'assistant' and not thoughts and '</think>' in said -%}"
    "{%- set thoughts = said.split('</think>')[0].split('<think>')[-1].strip('\n') -%}"
    "{%- set said = said.split('</think>')[-1].lstrip('\n') -%}"
    "{%- endif -%}"
    "{{- '<|start|>' + m.role + '\n' -}}"
    "{%- if m.role == 'assistant' and loop.index0 > seen.user -%}"
    "{{- '<think>\n' + thoughts.strip('\n') + '\n</think>\n\n' + said.lstrip('\n') -}}"
    "{%- else -%}{{- said -}}{%- endif -%}"
    "{{- '<|end|>\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    "{{- '<|start|>assistant\n' -}}"
    "{%- if enable_thinking is defined and enable_thinking is false -%}"
    "{{- '<think>\n\n</think>\n\n' -}}"
    "{%- endif -%}"
    "{%- endif -%}"
)
"""As Qwen3's: the model opens its thoughts itself, a switch gives it empty ones, history loses its own."""

OPENED = SWITCHED.replace(
    "{{- '<think>\n\n</think>\n\n' -}}{%- endif -%}",
    "{{- '<think>\n\n</think>\n\n' -}}{%- else -%}{{- '<think>\n' -}}{%- endif -%}",
)
"""As Qwen3.5's: the prompt has opened the thoughts already."""

CHATML = (
    "{%- for m in messages -%}"
    "{{- '<|start|>' + m.role + '\n' + m.content + '<|end|>' + '\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|start|>assistant\n' -}}{%- endif -%}"
)
"""Plain ChatML: no thoughts, and nothing is trimmed."""

HEADED = (
    "{%- if messages[0].role != 'system' -%}"
    "{{- '<|start|>[system]\n\nTell stories.<|end|>' -}}"
    "{%- endif -%}"
    "{%- for m in messages -%}"
    "{{- '<|start|>[' + m.role + ']\n\n' + m.content | trim + '<|end|>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|start|>[assistant]\n\n' -}}{%- endif -%}"
)
"""As Llama's: a head, two line breaks, trimmed text, none between turns, a system turn of its own."""

STYLES = {"switched": SWITCHED, "opened": OPENED, "chatml": CHATML, "headed": HEADED}
THINK = ("qwen3", "qwen3_5_think", "qwen3_5_nothink", "qwen3_6")
ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>")
CASES = [("switched", True), ("switched", False), ("opened", True), ("opened", False)]
CASES += [("chatml", False), ("headed", False)]

words = st.text("abc .\n", min_size=1, max_size=40).filter(str.strip)


@cache
def tokenizer_of(style: str) -> Any:
    return tiny_tokenizer(STYLES[style])


def rendered(style: str, messages: list[dict[str, str]], thinking: bool, **rest: Any) -> str:
    text = tokenizer_of(style).apply_chat_template(messages, tokenize=False, enable_thinking=thinking, **rest)
    assert isinstance(text, str)
    return text


@pytest.mark.parametrize("prompt", [PROMPT, LONG], ids=["short", "long"])
@pytest.mark.parametrize(("style", "thinking"), CASES)
@settings(deadline=None, max_examples=60)
@given(words, words)
@example("The lamp went out.\n\nNobody spoke.", "I begin with the lamp.")
@example("\n\n The lamp went out. \n", "\n I begin with the lamp. \n\n")
def test_it_is_what_the_template_renders(
    style: str, thinking: bool, prompt: list[dict[str, str]], story: str, reasoning: str
) -> None:
    turn = {"role": "assistant", "content": story}
    if thinking:
        turn["reasoning_content"] = reasoning
    whole = rendered(style, [*prompt, turn], thinking)
    opened = rendered(style, prompt, thinking, add_generation_prompt=True)
    text = reference_text(tokenizer_of(style), prompt, story, reasoning, thinking)
    assert opened + text == whole.removesuffix("\n")
    assert text.endswith(END)
    assert text.count(END) == 1


FAMILIES = [(name, thinking) for name in THINK for thinking in (True, False)]
FAMILIES += [(name, False) for name in ("qwen2_5", "qwen3_instruct_2507", "llama3_1", "gemma3")]


@pytest.mark.parametrize("prompt", [PROMPT, LONG], ids=["short", "long"])
@pytest.mark.parametrize(("family", "thinking"), FAMILIES)
def test_it_is_what_the_families_own_templates_render(
    family: str, thinking: bool, prompt: list[dict[str, str]]
) -> None:
    """With the templates themselves, as TRL has them beside its code."""
    tokenizer = tiny_tokenizer((Path(trl.__file__).parent / "chat_templates" / f"{family}.jinja").read_text())
    tokenizer.add_special_tokens({"additional_special_tokens": list(ENDS)})
    story, reasoning = "The lamp went out.\n\nNobody spoke.", "I begin with the lamp."
    turn = {"role": "assistant", "content": story} | ({"reasoning_content": reasoning} if thinking else {})
    whole, opened = (
        tokenizer.apply_chat_template(
            messages, tokenize=False, enable_thinking=thinking, add_generation_prompt=opens
        )
        for messages, opens in (([*prompt, turn], False), (prompt, True))
    )
    text = reference_text(tokenizer, prompt, story, reasoning, thinking)
    assert opened + text == whole.removesuffix("\n")
    end, _ = end_token(tokenizer, prompt, thinking)
    assert end in ENDS
    assert text.endswith(story + end)
    assert (reasoning in text) == thinking


@pytest.mark.parametrize(
    ("style", "thinking", "begins"),
    [
        ("switched", True, "<think>\nWhy not?\n</think>\n\nThe lamp."),
        ("switched", False, "The lamp."),
        ("opened", True, "Why not?\n</think>\n\nThe lamp."),
        ("opened", False, "The lamp."),
        ("chatml", False, "The lamp."),
        ("headed", False, "The lamp."),
    ],
)
def test_thoughts_are_opened_once_and_by_whoever_should(style: str, thinking: bool, begins: str) -> None:
    tokenizer = tokenizer_of(style)
    text = reference_text(tokenizer, LONG, "The lamp.", "Why not?", thinking)
    assert text == begins + END
    assert end_token(tokenizer, LONG, thinking) == (END, tokenizer.convert_tokens_to_ids(END))
    assert tokenizer.decode(reference_ids(tokenizer, text, 1000, thinking)) == text
    opened = rendered(style, LONG, thinking, add_generation_prompt=True)
    answer = (opened + text).rpartition("<|start|>")[2]
    assert answer.count("<think>") == answer.count("</think>") == ("think" in STYLES[style])
    assert "A pier." not in opened or style in ("chatml", "headed"), "history keeps no thoughts"


@pytest.mark.parametrize("style", ["chatml", "headed"])
def test_a_template_without_thoughts_cannot_think(style: str) -> None:
    with pytest.raises(ConfigError, match="renders no reasoning"):
        reference_text(tokenizer_of(style), PROMPT, "The lamp.", "Why not?", True)
