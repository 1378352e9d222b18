"""The trainer's model and its engine in, the difference of their log-probabilities out, and that of padding.

A weight sync that silently does nothing leaves the engine writing with old weights, and training then
teaches from stories the policy did not write. One fixed text, scored by both, shows it at once.
"""

from __future__ import annotations

from typing import Any

import torch

PROBE = (
    "The ferry left at dusk with nine passengers and a crate of lemons. By morning there were eight, and"
    " nobody aboard, when the customs man asked them, could agree on which of the nine had never been there."
)
"""The fixed text; any would do."""
PADDING = 16
"""Most padding before the text, tokens: more than a linear-attention layer's convolution reaches back."""


def probe_ids(tokenizer: Any) -> list[int]:
    """Return the fixed text's tokens."""
    ids: list[int] = tokenizer(PROBE, add_special_tokens=False)["input_ids"]
    return ids


def trainer_logprobs(model: Any, ids: list[int], device: torch.device) -> torch.Tensor:
    """Return (T − 1,) fp32 log-probabilities of each token given those before it, by the trainer's model.

    Collective where parameters are sharded: every process must call it.
    """
    tokens = torch.tensor([ids], device=device)
    return _logprobs(model, tokens, torch.ones_like(tokens))[0]


def padding_difference(model: Any, ids: list[int], device: torch.device) -> float:
    """Return max |Δ log-probability| of `ids` between a row of its own and the same row padded on the left.

    Padded alone, as where a micro-batch holds one row, and beside a longer row: linear attention must keep
    padding out of its state in both. Position ids are left to the model, as TRL leaves them. At least two
    ids; collective where parameters are sharded. Infinite if there is a NaN.
    """
    alone = trainer_logprobs(model, ids, device)
    longer = ids[:PADDING] + ids
    count = len(longer) - len(ids)
    # Any token pads, for the mask hides it; one of the text's own shows best where it does not.
    tokens = torch.tensor([[ids[0]] * count + ids, longer], device=device)
    mask = torch.ones_like(tokens)
    mask[0, :count] = 0
    found = [_logprobs(model, tokens[:rows], mask[:rows])[0, count:] for rows in (1, 2)]
    return max(largest_difference(alone, padded) for padded in found)


def _logprobs(model: Any, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return (B, T − 1) fp32 log-probabilities of `tokens`, (B, T), on the CPU."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            logits = model(input_ids=tokens, attention_mask=mask, use_cache=False).logits
    finally:
        model.train(was_training)
    scores = logits[:, :-1].float().log_softmax(dim=-1)
    return scores.gather(2, tokens[:, 1:, None]).squeeze(2).cpu()


def engine_logprobs(llm: Any, ids: list[int]) -> torch.Tensor:
    """Return the same from a vLLM `LLM`: raw ones, which no sampling setting has touched."""
    from vllm import SamplingParams

    asked = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
    [output] = llm.generate([{"prompt_token_ids": ids}], sampling_params=asked, use_tqdm=False)
    scores = [place[token].logprob for place, token in zip(output.prompt_logprobs, ids, strict=True) if place]
    return torch.tensor(scores, dtype=torch.float32)


def largest_difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Return max |ours − theirs|; infinite if either holds a NaN, which agrees with nothing."""
    difference = (ours - theirs).abs()
    return float("inf") if bool(difference.isnan().any()) else float(difference.max())
