"""The memory plan: the paper's configuration fits 80 GB, and what each setting changes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from train.qwen35 import CONFIG

from polaris.recipe import LoraConfig, TrainConfig
from polaris.train import adapters
from polaris.train.memory import GB, MemoryPlan, Row, checkpoint_bytes, plan
from polaris.train.shape import computed, read_shape

SHAPE = read_shape(CONFIG)
PARAMETERS = computed(SHAPE)


def settings(**changed: Any) -> TrainConfig:
    return TrainConfig.model_validate(
        {"base": "base", "judge": "critic", "processes": 4, "zero_stage": 3} | changed
    )


def planned(*, sleep: bool = True, dtype: str = "bfloat16", **changed: Any) -> MemoryPlan:
    return plan(SHAPE, PARAMETERS, settings(**changed), dtype, sleep=sleep, capacity=80 * GB)


def row(found: MemoryPlan, part: str) -> Row:
    return next(row for row in found.rows if row.part == part)


def test_the_papers_configuration_fits_80_gb() -> None:
    found = planned()
    assert found.fits
    assert found.spare
    assert found.peak_phase in ("generate", "backward")
    assert 55 < found.peak / GB < 70
    # 2 bytes a weight and gradient and 12 a parameter of optimiser state, each a quarter here.
    for part, size in (("weights", 4.70), ("gradients", 4.48), ("optimiser", 26.86)):
        assert row(found, part).step / GB == pytest.approx(size, abs=0.01)
    assert all(row.assumption for row in found.rows)
    assert found.engine is not None
    assert found.engine.at_once >= 1


def test_without_sleep_the_engines_share_stays_taken() -> None:
    awake = planned(sleep=False)
    assert row(awake, "engine").backward == 0.3 * 80 * GB
    assert not awake.fits
    assert planned(sleep=False, micro_batch=1, engine_memory=0.3).peak < awake.peak
    generated = planned(sleep=False, rollout_engine="transformers")
    assert generated.engine is None
    assert row(generated, "generation").generate > PARAMETERS.total * 2


def test_what_zero_shares_out() -> None:
    peaks = [planned(zero_stage=stage).peak for stage in (0, 2, 3)]
    assert peaks == sorted(peaks, reverse=True)
    plain = planned(zero_stage=0)
    assert row(plain, "weights").step == 4 * PARAMETERS.total
    assert row(plain, "optimiser").step == 8 * PARAMETERS.language
    assert row(plain, "gradients").step == 8 * PARAMETERS.language
    assert "DDP" in row(plain, "gradients").assumption
    alone = planned(zero_stage=0, processes=1)
    assert row(alone, "gradients").step == 4 * PARAMETERS.language
    assert "ZeRO in flight" not in [row.part for row in plain.rows]


def test_activations_with_and_without_checkpointing() -> None:
    without = row(planned(gradient_checkpointing=False), "activations")
    kept = row(planned(), "activations")
    assert without.backward > 5 * kept.backward
    inputs = 32 * 2 * 8448 * 4096 * 2
    assert inputs < kept.backward < 4 * inputs
    assert f"{without.backward / GB:,.0f} GB without" in kept.assumption


def test_the_head_is_never_whole() -> None:
    head = row(planned(), "LM head")
    # 16,896 tokens × 248,320 × 4 bytes, which TRL before 1.15 had several times over.
    assert "16.8 GB a copy" in head.assumption
    assert head.backward < 7.5 * GB
    adapter = plan(
        SHAPE, PARAMETERS, settings(), "bfloat16", sleep=True, capacity=80 * GB, trained=40_000_000
    )
    assert row(adapter, "LM head").backward < GB
    assert adapter.peak < planned().peak - 30 * GB


def test_the_engine_holds_the_whole_model_and_a_cache() -> None:
    engine = planned().engine
    assert engine is not None
    assert engine.weights == 2 * PARAMETERS.total
    # 8 layers × 2 × 4 heads × 256 × 2 bytes a token, and 24 states of 2 MiB.
    assert engine.row == pytest.approx(8 * 2 * 4 * 256 * 2 * 8448 + 24 * 2 * 2**20, rel=0.1)
    assert engine.rows == 12
    small = planned(engine_memory=0.2).engine
    assert small is not None
    assert (small.cache < 0, small.at_once) == (True, 0)


def test_a_checkpoint_is_the_weights_and_the_optimisers_state() -> None:
    assert checkpoint_bytes(SHAPE, PARAMETERS, settings(), "bfloat16") / GB == pytest.approx(126, abs=1)
    assert checkpoint_bytes(SHAPE, PARAMETERS, settings(zero_stage=0), "bfloat16") / GB == pytest.approx(
        109, abs=1
    )


def test_adapters_leave_the_base_frozen_and_their_own_state() -> None:
    learn = 2 * adapters.count(SHAPE, LoraConfig(rank=16))
    assert learn == adapters.count(SHAPE, LoraConfig(rank=32))
    alone = planned(lora={}, zero_stage=0, processes=1)
    assert row(alone, "weights").step == 2 * PARAMETERS.total + 4 * learn
    assert "frozen; adapters" in row(alone, "weights").assumption
    assert row(alone, "gradients").step == 4 * learn
    assert row(alone, "optimiser").step == 8 * learn
    assert row(alone, "adapters merged").generate == 4096 * 12288 * (4 + 4 + 2)
    assert alone.peak < planned(zero_stage=0, processes=1).peak - 80 * GB
    sharded = planned(lora={})
    assert row(sharded, "weights").step == (2 * PARAMETERS.total + 2 * learn) / 4
    assert row(sharded, "optimiser").step == 12 * learn / 4
    assert sharded.engine == planned().engine
    # An adapter keeps its input, which a frozen matrix would not.
    assert row(sharded, "activations").backward > row(planned(), "activations").backward
    generated = planned(lora={}, rollout_engine="transformers")
    assert "adapters merged" not in [one.part for one in generated.rows]
    saved = checkpoint_bytes(SHAPE, PARAMETERS, settings(lora={}, zero_stage=0), "bfloat16")
    assert saved == 12 * learn


@given(
    stage=st.sampled_from([0, 2, 3]),
    processes=st.sampled_from([1, 2, 4, 8]),
    micro=st.sampled_from([1, 2]),
    sleep=st.booleans(),
    dtype=st.sampled_from(["bfloat16", "float32"]),
    engine=st.sampled_from(["vllm", "transformers"]),
)
def test_more_of_anything_never_takes_less(
    stage: int, processes: int, micro: int, sleep: bool, dtype: str, engine: str
) -> None:
    chosen = {"zero_stage": stage, "processes": processes, "micro_batch": micro, "rollout_engine": engine}
    found = planned(sleep=sleep, dtype=dtype, **chosen)
    assert found.peak == max(found.total(phase) for phase in ("generate", "backward", "step"))
    assert found.margin == found.capacity - found.peak
    assert all(each >= 0 for row in found.rows for each in (row.generate, row.backward, row.step))
    assert planned(sleep=sleep, dtype=dtype, **chosen | {"max_completion_tokens": 16384}).peak >= found.peak
    assert planned(sleep=False, dtype=dtype, **chosen).peak >= found.peak
