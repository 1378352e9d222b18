"""A trained model in, a folder that vLLM and transformers load out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

_COPIED = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")


def export(trainer: Any, tokenizer: Any, base: Path, folder: Path, *, dtype: str, end_id: int) -> None:
    """Write weights as `dtype`, tokenizer, chat template and generation config; every process must call it.

    Adapters are merged in fp32 and then rounded once, so that what is written is a whole model. A
    processor's settings come along, so that whatever loads the base loads this. Modes are 0644: another
    user's process serves the model.
    """
    import torch

    from polaris.train import adapters

    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if trainer.accelerator.is_main_process:
        model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
        if (merged := getattr(model, "peft_config", None)) is not None:
            ((_, settings),) = merged.items()
            state = adapters.merged_state(state, settings.lora_alpha / settings.r)
            model = model.get_base_model()
        wanted = getattr(torch, dtype)
        ends = model.generation_config.eos_token_id
        known = [] if ends is None else ends if isinstance(ends, list) else [ends]
        model.generation_config.eos_token_id = list(dict.fromkeys([end_id, *known]))
        model.generation_config.pad_token_id = tokenizer.pad_token_id
        shutil.rmtree(folder, ignore_errors=True)
        cast = {name: _cast(tensor, wanted) for name, tensor in state.items()}
        model.save_pretrained(folder, state_dict=cast)
        _declare(folder / "config.json", dtype)
        tokenizer.save_pretrained(folder)
        for name in _COPIED:
            if (base / name).exists():
                shutil.copyfile(base / name, folder / name)
        for path in folder.iterdir():
            path.chmod(0o644)
    trainer.accelerator.wait_for_everyone()


def _declare(path: Path, dtype: str) -> None:
    """Say the written format in config.json, nested sections too: transformers says the trainer's."""

    def changed(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: dtype if key == "dtype" else changed(inner) for key, inner in value.items()}

    config = changed(json.loads(path.read_text(encoding="utf-8")))
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _cast(tensor: Any, dtype: Any) -> Any:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor
