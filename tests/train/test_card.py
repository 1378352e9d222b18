"""The model card of INVENTED figures: no number here was measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from polaris.config import RunConfig
from polaris.identity import identity_of
from polaris.judge.rubric import rubric_identity
from polaris.recipe import LoraConfig
from polaris.train.card import Facts, card

GOLDEN = Path(__file__).with_name("card_golden.md")
CAVEAT = "Judge 'small' asks 'judge', a small model (invented-135M): its scores mean nothing."
SECRETS = ("The lamp went out before the boat", "/home/somebody", "invented-key", "a-story-of-its-own")

CONFIG = {
    "run": "invented",
    "models": {
        "base": {"kind": "checkpoint", "repo": "Owner/Base-9B@0123abc", "thinking": True},
        "trained": {"kind": "trained"},
        "judge": {
            "kind": "endpoint",
            "identity": "invented-135M",
            "url": "http://127.0.0.1:9/v1",
            "model": "j",
        },
    },
    "judges": {"small": {"model": "judge", "form": "compact"}},
    "data": {"books": ["/home/somebody/book.epub"]},
    "reward": {"weights": {"repetition": 1.0}, "overlong": {}},
    "train": {"base": "base", "judge": "small", "group_size": 4, "learning_rate": 2e-6, "processes": 4},
}


def pair(number: int, book: str, rights: str, split: str = "train") -> dict[str, object]:
    return {
        "uid": f"pair-{number}",
        "title": "a-story-of-its-own",
        "prompt": "The lamp went out before the boat",
        "story": "The lamp went out before the boat",
        "target_word_count": 1000 + 50 * number,
        "split": split,
        "provenance": {
            "book": book,
            "sha256": book[:1] * 64,
            "rights": rights,
            "title": "a-story-of-its-own",
        },
    }


def row(step: int, **changed: float | None) -> dict[str, float | None]:
    return {
        "step": step,
        "reward": step / 100,
        "hri/reference_minus_policy_mean": 0.25,
        "lengths/words_mean": 1200.0,
        "lengths/target_mean": 1500.0,
        "lengths/completion_tokens_mean": 2500.0,
        "lengths/truncated": 0.125,
        "step_seconds": 61.5,
    } | changed


COUNTS = {
    "hours": 0.51,
    "rows": 960,
    "judge_failed": 3,
    "references": 232,
    "references_failed": 1,
    "references_clipped": 2,
    "references_cut": 5,
    "references_left_out": 1,
    "prompts": 240,
    "prompts_filtered": 4,
}


def facts() -> Facts:
    config = RunConfig.model_validate(CONFIG)
    assert config.train is not None
    return Facts(
        config=config,
        digest="0123456789abcdef",
        identity={
            "train": identity_of(config.train, {}),
            "reward": identity_of(config.reward, {}),
            "judge": {"settings": {"form": "compact", "temperature": 0.2, "max_story_tokens": None}},
        },
        base="Owner/Base-9B@0123abc",
        judge="invented-135M",
        caveat=CAVEAT,
        versions={"polaris": "9.9.9", "torch": "1.2.3", "boto3": "4.5.6"},
        pairs=[
            pair(1, "A Book | of *Stars*", "CC0-1.0, https://example.org/cc0"),
            pair(2, "A Book | of *Stars*", "CC0-1.0, https://example.org/cc0"),
            pair(3, "Second Book", ""),
            pair(4, "Second Book", "", "validation"),
        ],
        data_digest="fedcba9876543210",
        data_counts={"books": 2, "prompts_from_title": 0},
        rows=[row(1, **{"hri/reference_minus_policy_mean": None}), *(row(step) for step in range(2, 31))],
        counts=COUNTS,
        cost={"calls": 970.0, "cached_calls": 12.0, "usd": 4.2},
        validations=[
            {"step": 0, "n": 3, "failed": 1, "reward": -0.25},
            {"step": 20, "n": 3, "failed": 3, "reward": None},
            {"step": 30, "n": 3, "failed": 0, "reward": 0.5},
        ],
        forecast={"steps": 30, "calls": 960, "usd": 4.0, "hours": 0.6, "hours_low": 0.3, "hours_high": 1.2},
    )


def test_the_card_of_invented_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polaris.train.card.rubric_identity", lambda form: f"invented/1/{form}/00000000")
    assert card(facts()) == GOLDEN.read_text(encoding="utf-8")


def front_of(text: str) -> dict[str, object]:
    assert text.startswith("---\n")
    found: dict[str, object] = yaml.safe_load(text.split("---\n")[1])
    return found


def test_the_front_matter_says_what_is_known_and_no_more() -> None:
    front = front_of(card(facts()))
    assert front["library_name"] == "transformers"
    assert front["base_model"] == "Owner/Base-9B"
    assert "license" not in front
    assert {"grpo", "arxiv:2606.04095", "human-reference-injection"} <= set(front["tags"])
    local = front_of(card(replace(facts(), base="sha256:0123456789abcdef")))
    assert "base_model" not in local


def test_it_names_adapters_where_there_were_any() -> None:
    plain = facts()
    assert "LoRA" not in card(plain)
    train = plain.train.model_copy(update={"lora": LoraConfig(rank=16, alpha=32)})
    identity = {**plain.identity, "train": identity_of(train, {})}
    told = card(replace(plain, config=plain.config.model_copy(update={"train": train}), identity=identity))
    assert "LoRA of rank 16 and alpha 32, merged into these weights" in told
    assert "| `train.lora.rank` | 16 | not set |" in told


def test_it_says_where_rewards_mean_nothing_and_only_there() -> None:
    marked = "These rewards are not to be trusted"
    told = card(facts())
    assert marked in told and "its scores mean nothing" in told
    assert marked not in card(replace(facts(), caveat=None))
    assert rubric_identity("compact") in told


def test_it_holds_no_story_no_path_no_key_and_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "invented-key")
    told = card(facts())
    assert not [secret for secret in SECRETS if secret in told]
    assert "61.5" not in told and "127.0.0.1" not in told


def test_rights_are_the_books_own_or_not_recorded() -> None:
    told = card(facts())
    assert r"| A Book \| of \*Stars\* | `AAAAAAAAAAAAAAAA` | 2 | CC0-1.0, https://example.org/cc0 |" in told
    assert "| Second Book | `SSSSSSSSSSSSSSSS` | 2 | not recorded |" in told
    assert "The books' licences are not recorded" not in told
    long = card(replace(facts(), pairs=[pair(1, "B", "All rights reserved. " * 99)]))
    assert len(next(line for line in long.splitlines() if line.startswith("| B |"))) < 400
    bare = {"uid": "a", "prompt": "p", "story": "s", "target_word_count": 100}
    unknown = card(replace(facts(), pairs=[bare], data_counts={}))
    assert "The books' licences are not recorded." in unknown
    assert "Where the prompts come from is not recorded." in unknown


def test_first_and_last_steps_never_overlap_and_gaps_are_not_counted() -> None:
    short = card(replace(facts(), rows=[row(2, reward=None), row(1, reward=0.5), row(3, reward=-1.0)]))
    assert "| reward, first steps (`reward`) | 0.500 | 1 step |" in short
    assert "| reward, last steps (`reward`) | -1.000 | 1 step |" in short
    none = card(replace(facts(), rows=[row(1, reward=None)]))
    assert "| reward, first steps (`reward`) | none | 0 steps |" in none


def test_a_run_without_references_does_not_claim_any() -> None:
    told = card(replace(facts(), counts=COUNTS | {"references": 0}))
    assert "GRPO without human references" in told
    assert "human-reference-injection" not in front_of(told)["tags"]


def test_settings_are_shown_where_they_are_the_main_ones_or_differ() -> None:
    told = card(facts())
    assert "| `train.learning_rate` | 2e-06 | 1e-06 |" in told
    assert "| `train.hri.warmup_steps` | 15 | the same |" in told
    assert "| `reward.overlong.buffer` | 512 | not set |" in told
    assert "reward.min_words" not in told


@given(st.text(), st.text())
def test_no_text_from_outside_breaks_a_table_or_the_front_matter(title: str, rights: str) -> None:
    told = card(replace(facts(), pairs=[pair(1, "x" + title, rights)], judge=title))
    told.encode()
    front_of(told)
    plain = card(replace(facts(), pairs=[pair(1, "x", "y")], judge="z"))
    assert len(told.splitlines()) == len(plain.splitlines()) + 2 * ("licences are not recorded." in told)
    [line] = [line for line in told.splitlines() if f"`{'x' * 16}`" in line]
    assert line.replace("\\\\", "").replace("\\|", "").count("|") == 5
