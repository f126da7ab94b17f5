"""Find the parts of a causal language model by structure, not by architecture name."""

from typing import TYPE_CHECKING

from torch import nn

from selfexplain.errors import SelfExplainError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def backbone(model: "PreTrainedModel") -> nn.Module:
    """The stack without the head: what maps embeddings to the final hidden states."""
    return getattr(model, model.base_model_prefix)


def decoder_blocks(model: "PreTrainedModel") -> nn.ModuleList:
    """The decoder blocks in order: the one `ModuleList` of the backbone with as many entries as the config has layers.

    Raises:
        SelfExplainError: no such list, or more than one.
    """
    n_layers = model.config.get_text_config().num_hidden_layers
    lists = [m for m in backbone(model).modules() if isinstance(m, nn.ModuleList) and len(m) == n_layers]
    if len(lists) != 1:
        raise SelfExplainError(
            f"{type(model).__name__} has {len(lists)} lists of {n_layers} modules where one list of decoder blocks was "
            "expected. Only decoder-only causal language models can be explained."
        )
    return lists[0]
