"""Read the target's next-token predictions."""

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from selfexplain.target.load import Target
from selfexplain.target.precision import in_float32
from selfexplain.target.sweep import NEAR_TIE, is_coarse, near_ties


@torch.no_grad()
def next_token_logits(target: Target, prompts: Sequence[Sequence[int]], batch_size: int = 128) -> Tensor:
    """Next-token logits of each prompt, `(len(prompts), vocabulary)` float32 on the CPU.

    Prompts of the same length run together, so nothing is padded.

    Args:
        prompts: token ids of each prompt.
        batch_size: maximum number of prompts per forward pass.
    """
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, ids in enumerate(prompts):
        by_length[len(ids)].append(index)
    logits = torch.empty(len(prompts), target.model.config.get_text_config().vocab_size)
    for indices in by_length.values():
        for start in range(0, len(indices), batch_size):
            part = indices[start : start + batch_size]
            input_ids = torch.tensor([list(prompts[index]) for index in part], device=target.model.device)
            output = target.model(input_ids=input_ids, logits_to_keep=1, use_cache=False)
            logits[part] = output.logits[:, -1].float().cpu()
    return logits


def next_tokens(target: Target, texts: Sequence[str]) -> list[int]:
    """The id of the most likely next token after each text."""
    if not texts:
        return []
    return next_token_logits(target, [target.encode(text) for text in texts]).argmax(-1).tolist()


def possible_next_tokens(target: Target, ids: Sequence[int]) -> list[int]:
    """The ids of the tokens that a sweep can report as the most likely next token.

    Usually there is one. If a model below float32 cannot separate its two most likely tokens, the sweep decides in
    float32. Which outputs it decides depends on the shape of its batches. With twice the margin of a sweep, this
    function therefore returns the token of the float32 computation, and then that of the model's own precision.

    Args:
        ids: token ids of the prompt.
    """
    target = target.private()
    logits = next_token_logits(target, [ids])
    token = int(logits.argmax())
    if not is_coarse(target.model) or not near_ties(logits, target.model.dtype, 2 * NEAR_TIE)[0]:
        return [token]
    with in_float32(target.model):
        exact = int(next_token_logits(target, [ids]).argmax())
    return list(dict.fromkeys([exact, token]))
