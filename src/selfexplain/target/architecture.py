"""Check by running it that the residual stream of a model can be read and written exactly."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from selfexplain.errors import SelfExplainError
from selfexplain.target.blocks import decoder_blocks

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENS = 5  # of the prompts that the check runs


@torch.no_grad()
def check_architecture(model: "PreTrainedModel", name: str) -> None:
    """Check that blocks give the residual stream, that the model is causal, and that its head can be found.

    Runs two prompts of a few tokens once.

    Args:
        model: loaded model in evaluation mode.
        name: name of the model, for errors.

    Raises:
        SelfExplainError: the model has no list of decoder blocks, does not run on token ids alone, is not causal, or
            its block outputs are not its `hidden_states`.
    """
    kind = type(model).__name__
    remedy = "Choose a different target."
    blocks = decoder_blocks(model)
    if model.get_output_embeddings() is None:
        raise SelfExplainError(f"{kind} (target {name!r}) has no language-model head. {remedy}")
    ids = torch.arange(TOKENS, device=model.get_input_embeddings().weight.device).repeat(2, 1) + 1
    ids[1, -1] += 1
    outputs: dict[int, Tensor] = {}
    handles = [block.register_forward_hook(_keep(outputs, layer)) for layer, block in enumerate(blocks)]
    try:
        states = model(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
    except SelfExplainError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise SelfExplainError(
            f"{kind} (target {name!r}) does not run on token ids alone ({reason}). {remedy}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    shape = (2, TOKENS, model.config.get_text_config().hidden_size)
    if skipped := sorted(set(range(len(blocks))) - outputs.keys()):
        raise SelfExplainError(
            f"Blocks {skipped} of {kind} (target {name!r}) do not run on text alone, so they have no residual stream. "
            f"{remedy}"
        )
    wrong = [layer for layer in range(len(blocks)) if tuple(getattr(outputs.get(layer), "shape", ())) != shape]
    if wrong:
        found = getattr(outputs.get(wrong[0]), "shape", None)
        raise SelfExplainError(
            f"Block {wrong[0]} of {kind} (target {name!r}) returns {tuple(found) if found else 'no tensor'}; expected "
            f"one residual stream of shape {shape}. {remedy}"
        )
    if states is None or len(states) != len(blocks) + 1:
        n = "no" if states is None else len(states)
        raise SelfExplainError(
            f"{kind} (target {name!r}) returns {n} hidden states for {len(blocks)} decoder blocks. {remedy}"
        )
    if any(
        not torch.equal(outputs[layer], states[layer + 1].to(outputs[layer].device)) for layer in range(len(blocks) - 1)
    ):
        raise SelfExplainError(f"The block outputs of {kind} (target {name!r}) are not its hidden states. {remedy}")
    last = outputs[len(blocks) - 1].float()[:, :-1]
    tolerance = max(1e-5, 2 * torch.finfo(model.dtype).eps) * float(last.abs().max())
    if float((last[0] - last[1]).abs().max()) > tolerance:
        raise SelfExplainError(
            f"{kind} (target {name!r}) is not causal: its hidden states depend on later tokens. {remedy}"
        )


def _keep(outputs: dict[int, Tensor], layer: int):
    def hook(module, args, output):
        outputs[layer] = output[0] if isinstance(output, tuple) else output

    return hook
