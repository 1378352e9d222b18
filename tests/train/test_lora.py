"""Adapters: the gradient against a loss by hand, what they are merged into, resuming and the export."""

import contextlib
import json
import math

import heavy  # noqa: F401
import pytest
import torch
from by_hand import Step, loss_by_hand
from fakes import invented_judge, metrics, write_job
from models import tiny_model
from safetensors.torch import load_file
from test_gradient import second_step
from train.qwen35 import CONFIG_2B
from transformers import AutoModelForCausalLM

from polaris.errors import ConfigError
from polaris.load import load
from polaris.recipe import LoraConfig
from polaris.runtime import StopFlag
from polaris.train import adapters
from polaris.train.checkpoint import complete
from polaris.train.shape import computed, read_shape
from polaris.train.worker import train

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)

LORA = {"rank": 4, "alpha": 8.0}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("base"))


def with_adapters(base, dtype=torch.float32, seed=1):
    """A model whose adapters all do something."""
    import peft

    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    model = peft.get_peft_model(model, adapters.peft_config(LoraConfig.model_validate(LORA)))
    adapters.initialise(model, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 10)
    return model


def test_every_linear_layer_but_the_head_gets_one_and_they_are_counted(base):
    model = with_adapters(base)
    found = {
        name.split(".lora_")[0].rpartition(".")[2]: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    assert sorted(found) == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert all(parameter.dtype == torch.float32 for parameter in found.values())
    learn = sum(p.numel() for p in model.parameters() if p.requires_grad)
    shape = read_shape(model.get_base_model().config.to_dict())
    assert adapters.count(shape, LoraConfig.model_validate(LORA)) == learn


def test_a_vision_tower_gets_none_and_the_sizes_agree_with_transformers(base):
    import peft
    from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

    given = {name: value for name, value in CONFIG_2B.items() if name != "model_type"}
    with torch.device("meta"):
        model = Qwen3_5ForConditionalGeneration(Qwen3_5Config(**given))
    language = sum(p.numel() for name, p in model.named_parameters() if ".visual." not in name)
    shape = read_shape(CONFIG_2B)
    assert computed(shape).language == language
    lora = LoraConfig(rank=32)
    model = peft.get_peft_model(model, adapters.peft_config(lora), low_cpu_mem_usage=True)
    learn = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    assert not [name for name in learn if ".visual." in name or "lm_head" in name]
    assert sum(learn.values()) == adapters.count(shape, lora) == 33_638_400


def test_the_seed_alone_decides_the_first_adapters(base):
    import peft

    settings = adapters.peft_config(LoraConfig.model_validate(LORA))
    found = []
    for before, seed in ((0, 3), (1, 3), (0, 4)):
        torch.manual_seed(before)
        model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings)
        state = torch.get_rng_state()
        adapters.initialise(model, seed)
        assert (torch.get_rng_state() == state).all()
        found.append({n: p.detach().clone() for n, p in model.named_parameters() if "lora_" in n})
    one, same, other = found
    assert all((one[name] == same[name]).all() for name in one)
    assert any((one[name] != other[name]).any() for name in one)
    for name, value in one.items():
        bound = 1 / math.sqrt(value.shape[1]) if "lora_A" in name else 0.0
        assert value.abs().max() <= bound


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_syncs_leave_the_base_as_it_is(base, dtype):
    model = with_adapters(base, dtype)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in range(3):
        sent = dict(adapters.merged_parameters(model, lambda which: contextlib.nullcontext()))
    after = dict(model.named_parameters())
    assert all(torch.equal(before[name], after[name]) for name in before)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    assert sent.keys() == dict(plain.named_parameters()).keys()
    for name, weight in plain.named_parameters():
        if "proj" not in name:
            assert torch.equal(sent[name], weight)
            continue
        at = f"base_model.model.{name.removesuffix('.weight')}"
        down, up = (before[f"{at}.lora_{which}.default.weight"].double() for which in "AB")
        expected = weight.double() + 2.0 * up @ down
        assert sent[name].dtype == dtype
        room = (1e-6 if dtype == torch.float32 else 2**-8) * expected.abs().clamp(min=1e-2)
        assert ((sent[name].double() - expected).abs() <= room).all()


def test_a_merge_and_its_undoing_would_change_a_bfloat16_base(base):
    # What TRL's own sync does: the reason for ours.
    model = with_adapters(base, torch.bfloat16)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model.merge_adapter()
    model.unmerge_adapter()
    assert any(not torch.equal(before[name], p) for name, p in model.named_parameters())


@pytest.mark.parametrize(("kind", "shaping"), [("bnpo", False), ("dapo", True)])
def test_the_adapters_gradient_is_the_hand_written_losss(tmp_path, base, monkeypatch, kind, shaping):
    hri = {"warmup_steps": 1, "shaping": "luffy" if shaping else "none"}
    settings = {"loss": kind, "hri": hri, "max_steps": 2, "max_grad_norm": 1e9, "lora": LORA}
    job = write_job(tmp_path / "a", base, **settings)
    seen, found = second_step(job, monkeypatch)
    before = {
        name.removeprefix("base_model.model."): value.double() for name, value in seen["before"].items()
    }
    learn = {name: value.clone().requires_grad_() for name, value in before.items() if "lora_" in name}
    assert any((value != 0).any() for name, value in learn.items() if "lora_B" in name)

    plain = AutoModelForCausalLM.from_pretrained(base).double()
    weights = {}
    for name, value in plain.state_dict().items():
        at = name.removesuffix(".weight")
        if f"{at}.base_layer.weight" not in before:
            weights[name] = value
            continue
        assert torch.equal(before[f"{at}.base_layer.weight"], value)
        down, up = (learn[f"{at}.lora_{which}.default.weight"] for which in "AB")
        weights[name] = value + LORA["alpha"] / LORA["rank"] * up @ down

    def model(**inputs):
        return torch.func.functional_call(plain, weights, kwargs=inputs)

    step = Step(rewards=seen["rewards"], micro=seen["micro"])
    step.add_rows(seen["out"])
    loss, _ = loss_by_hand(model, step, 3, kind, shaping)
    loss.backward()
    ours = {name.removeprefix("base_model.model."): g.double() for name, g in found.items()}
    assert ours.keys() == learn.keys()
    size = torch.stack([value.grad.norm() for value in learn.values()]).norm()
    apart = torch.stack([(ours[name] - value.grad).norm() for name, value in learn.items()]).norm()
    assert size > 1e-3
    assert apart / size < 1e-5


def state(job):
    return load_file(job.output / "model" / "model.safetensors")


def trained(folder, base, **changed):
    job = write_job(folder, base, **{"max_steps": 3, "lora": LORA} | changed)
    train(job, load(job.config), StopFlag(), judge=invented_judge)
    return job


@pytest.mark.parametrize("tied", [False, True])
def test_a_resumed_run_exports_the_same_whole_model(tmp_path, tied):
    base = tiny_model(tmp_path / "base", tied=tied)
    whole = trained(tmp_path / "whole", base, gradient_checkpointing=True)
    assert [row["hri/references"] for row in metrics(whole)] == [0, 2, 2]
    assert all(row["loss"] is not None for row in metrics(whole))
    first, *_ = complete(whole.checkpoints)
    assert (first / "adapter_model.safetensors").is_file()
    assert not (first / "model.safetensors").exists()

    copied = trained(tmp_path / "resumed", base, resume=first, gradient_checkpointing=True)
    ours, theirs, before = state(copied), state(whole), load_file(base / "model.safetensors")
    assert ours.keys() == theirs.keys() == before.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    changed = {name for name in before if not torch.equal(ours[name], before[name])}
    assert changed == {name for name in before if "_proj." in name}
    assert not list((whole.output / "model").glob("adapter*"))


def test_the_export_writes_what_the_adapters_wrote(tmp_path, base):
    found = {}

    def keep(trainer, *args, **kwargs):
        ids = torch.tensor([[5, 6, 7, 8]])
        found["logits"] = trainer.model.eval()(input_ids=ids).logits.detach()
        found["ids"] = ids
        return exported(trainer, *args, **kwargs)

    from polaris.train import export

    exported = export.export
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "export", keep)
        job = trained(tmp_path / "a", base, dtype="bfloat16")
    written = AutoModelForCausalLM.from_pretrained(job.output / "model", dtype="auto")
    assert written.dtype == torch.bfloat16
    untrained = AutoModelForCausalLM.from_pretrained(base)(input_ids=found["ids"]).logits
    apart = (written.float()(input_ids=found["ids"]).logits - found["logits"]).abs().max()
    assert apart < 0.02
    assert (untrained - found["logits"]).abs().max() > 3 * apart


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config fp8, a quantised base"),
        ({"num_experts": 8}, "num_experts 8, a mixture of experts"),
        ({"text_config": {"num_local_experts": 4}}, "num_local_experts 4, a mixture of experts"),
    ],
)
def test_what_gets_no_adapters_is_refused(tmp_path, changed, told):
    base = tiny_model(tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    assert adapters.unfit(config) is None
    (base / "config.json").write_text(json.dumps(config | changed))
    job = write_job(tmp_path / "a", base, lora=LORA)
    with pytest.raises(ConfigError, match=f"train.lora: models.base has {told}.*; name a dense model"):
        train(job, load(job.config), StopFlag(), judge=invented_judge)
