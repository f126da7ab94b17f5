"""What a target would say next."""

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from selfexplain.target.load import Target


@torch.no_grad()
def next_token_logits(target: Target, prompts: Sequence[Sequence[int]], batch_size: int = 128) -> Tensor:
    """Logits of the next token, `(len(prompts), vocabulary)` float32, of prompts given as token ids.

    Prompts of one length run together, so nothing is padded.
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
    """The id of the most likely next token of each text."""
    if not texts:
        return []
    return next_token_logits(target, [target.encode(text) for text in texts]).argmax(-1).tolist()
