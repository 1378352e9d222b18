"""What one process knows of a run: which judges are too small, where models and endpoints are."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from context import settings

from polaris.errors import ConfigError
from polaris.models import EndpointModel
from polaris.run import open_run, outside_endpoint


@pytest.mark.parametrize(
    ("identity", "small"),
    [
        ("HuggingFaceTB/SmolLM2-135M-Instruct", True),
        ("qwen3-0.6b", True),
        ("Qwen/Qwen3.5-9B", False),
        ("gpt-oss-20b", False),
        ("openai/gpt-5.4", False),
    ],
)
def test_a_judge_known_by_name_gets_its_caveat(tmp_path: Path, identity: str, small: bool) -> None:
    raw = settings(tmp_path)
    name = next(iter(raw["judges"]))
    raw["models"][raw["judges"][name]["model"]]["identity"] = identity
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    caveat = open_run(path).caveat(name)
    assert (caveat is not None) == small
    assert not small or f"{identity}): its scores prove the plumbing and mean nothing." in str(caveat)


def test_transformers_knows_a_served_model_by_its_folder(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLARIS__MODELS__TRAINED__SERVE__ENGINE", "transformers")
    run = open_run(demo)
    assert run.served_name("base") == "base"
    folder = run.work_folder / "models" / run.plan.instances["train"].digest
    assert run.endpoint("trained", {"trained": "http://127.0.0.1:1/v1"}).model == str(folder)
    with pytest.raises(ConfigError, match="no endpoint of this model is up"):
        run.endpoint("trained", {})


@pytest.mark.parametrize("key", ["sk-\u2019secret", "sk-one\nsk-two", "sk-one sk-two", "sk-\x07secret"])
@pytest.mark.parametrize("in_file", [True, False])
def test_a_key_that_no_header_carries_names_its_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, in_file: bool
) -> None:
    monkeypatch.delenv("FAKE_API_KEY", raising=False)
    if in_file:
        (tmp_path / "key").write_text(key, encoding="utf-8")
        monkeypatch.setenv("FAKE_API_KEY_FILE", str(tmp_path / "key"))
    else:
        monkeypatch.setenv("FAKE_API_KEY", key)
    model = EndpointModel(
        kind="endpoint", url="https://x.example/v1", model="m", identity="m", api_key_env="FAKE_API_KEY"
    )
    told = r"^models\.reader\.api_key_env: the key from FAKE_API_KEY .* holds .*; set it to one key"
    with pytest.raises(ConfigError, match=told) as caught:
        outside_endpoint("reader", model)
    assert "sk-" not in str(caught.value)
