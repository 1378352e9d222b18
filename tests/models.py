"""A folder in, a tiny random chat model with its tokenizer out: offline, in a second, the same each time."""

from __future__ import annotations

from pathlib import Path

END = "<|end|>"

PLAIN = (
    "{%- for message in messages -%}"
    "{{- '<|start|>' + message.role + '\n' + message.content | trim + '<|end|>\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|start|>assistant\n' -}}{%- endif -%}"
)
"""A chat template that knows no thoughts."""

THINKING = (
    "{%- for message in messages -%}"
    "{{- '<|start|>' + message.role + '\n' -}}"
    "{%- if message.role == 'assistant' -%}"
    "{{- '<think>\n' + (message.reasoning_content or '') | trim + '\n</think>\n\n' -}}"
    "{%- endif -%}"
    "{{- message.content | trim + '<|end|>\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    "{{- '<|start|>assistant\n<think>\n' -}}"
    "{%- if not enable_thinking -%}{{- '\n</think>\n\n' -}}{%- endif -%}"
    "{%- endif -%}"
)
"""A chat template that opens `<think>` in its prompt, as Qwen3.5's does, and trims both parts."""

TEXTS = [
    "The lamp went out before the boat had reached the pier, and nobody spoke.",
    "Write a story about a lighthouse. The story should be 100 words long.",
    "She counted the plates twice;\n\none was missing, and so was the cat.",
    "assistant\nuser\nsystem\n\n",
]


def tiny_tokenizer(template: str = PLAIN):
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|pad|>", "<|start|>", END],
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 4, trainer)
    tokenizer.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token=END,
        chat_template=template,
        padding_side="left",
    )


def tiny_model(folder: Path, *, template: str = PLAIN, seed: int = 0, tied: bool = False) -> Path:
    """Write a two-layer Qwen3 of head size 32, the smallest that vLLM serves on a CPU."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = tiny_tokenizer(template)
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=1024,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen3ForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def demo_like_model(folder: Path, demo_model: Path, *, seed: int = 0) -> Path:
    """Write a two-layer random model with the demo model's tokenizer: it fits the demo's settings."""
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(demo_model)
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # transformers writes the weights for their owner alone; a pod's user is another.
    for path in folder.iterdir():
        path.chmod(0o644)
    return folder
