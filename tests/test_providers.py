"""What each provider of the protocol is sent."""

from __future__ import annotations

from dataclasses import replace

import pytest

from polaris.chat import ChatRequest, Endpoint, SchemaRejected
from polaris.errors import ConfigError
from polaris.protocol import body
from polaris.providers import Provider, providers
from polaris.recipe import Sampling

SAMPLING = Sampling(temperature=1.0, top_p=0.9, top_k=20, repetition_penalty=1.1)
ASKED = ChatRequest(
    messages=({"role": "user", "content": "Of a fox."},),
    max_tokens=64,
    sampling=SAMPLING,
    schema={"type": "object"},
)


def endpoint(provider: str = "openai", **fields) -> Endpoint:
    given = {"url": "http://x/v1", "model": "m", "identity": "i", "setting": "models.reader"} | fields
    return Endpoint(provider=provider, **given)


@pytest.mark.parametrize(
    ("provider", "names"),
    [
        ("openai", {"max_completion_tokens", "top_p"}),
        ("gemini", {"max_completion_tokens", "top_p"}),
        ("other", {"max_tokens", "top_p"}),
        (
            "vllm",
            {"max_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "min_p", "seed"}
            | {"chat_template_kwargs"},
        ),
    ],
)
def test_each_provider_is_told_what_it_knows_and_no_more(provider, names):
    sent = body(endpoint(provider), ASKED, seed=7)
    assert set(sent) == names | {"model", "messages", "response_format"}
    assert sent["response_format"]["json_schema"]["schema"] == {"type": "object"}


def test_a_model_of_ours_on_vllm_is_asked_as_any_vllm_is():
    ours = body(endpoint(ours=True), replace(ASKED, thinking=True), seed=7)
    assert ours == body(endpoint("vllm"), replace(ASKED, thinking=True), seed=7)
    assert ours["chat_template_kwargs"] == {"enable_thinking": True}
    assert (ours["seed"], ours["min_p"], ours["top_k"]) == (7, 0.0, 20)


def test_transformers_takes_a_generation_config():
    sent = body(endpoint(ours=True, engine="transformers"), ASKED, seed=7)
    assert "top_k" not in sent
    assert '"top_k": 20' in sent["generation_config"]
    assert sent["seed"] == 7


@pytest.mark.parametrize("provider", ["openai", "gemini"])
def test_a_reasoning_effort_is_sent_where_it_is_known(provider):
    assert body(endpoint(provider), replace(ASKED, effort="low"), seed=7)["reasoning_effort"] == "low"


@pytest.mark.parametrize("provider", ["vllm", "other"])
def test_a_reasoning_effort_that_nobody_knows_is_refused(provider):
    told = rf"models\.reader\.provider: value '{provider}' takes no reasoning effort 'low'; leave it out"
    with pytest.raises(ConfigError, match=told):
        body(endpoint(provider), replace(ASKED, effort="low"), seed=7)


def test_only_the_flex_tier_is_asked_for_by_name():
    assert body(endpoint(), ASKED, seed=7, tier="flex")["service_tier"] == "flex"
    assert "service_tier" not in body(endpoint(), ASKED, seed=7)


def test_a_provider_without_schemas_is_sent_none(monkeypatch):
    plain = {"openai": Provider(token_limit="max_tokens", structured="prompt")}
    monkeypatch.setattr("polaris.protocol.providers", lambda: plain)
    with pytest.raises(SchemaRejected):
        body(endpoint(), ASKED, seed=7)
    assert "response_format" not in body(endpoint(), replace(ASKED, schema=None), seed=7)


def test_what_is_sold_at_half_price_costs_half():
    for name, provider in providers().items():
        sells = provider.flex or provider.batch
        assert (provider.half_price_tier == 0.5) == sells, name
