"""Generation with vectors: which forward passes write them, with any cache."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import GenerationMixin
from transformers.masking_utils import create_masks_for_generate

from selfexplain.errors import SelfExplainError
from selfexplain.modeling.inputs import VECTOR_INPUTS, at_tokens, check_neighbours, check_vectors, check_without_vectors
from selfexplain.target.blocks import context_length

if TYPE_CHECKING:
    from selfexplain.modeling.backbone import SelfExplainerModel


class VectorGenerationMixin(GenerationMixin):
    """Overrides of transformers' generation for models whose forward pass takes vectors.

    The positions of vectors count from the first token that `generate` is given. A forward pass writes the vectors of
    the tokens that it computes: the effect of earlier ones is in the cache.
    """

    if TYPE_CHECKING:
        config: Any
        model: SelfExplainerModel

    @torch.no_grad()
    def generate(self, inputs: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """Generate token ids as transformers does. `past_key_values` may contain the first tokens of `inputs`.

        Args:
            inputs: token ids of the prompt, `(B, T)`; also `input_ids`, or `inputs_embeds` `(B, T, d_explainer)`.
            args: further arguments of transformers' `generate`.
            kwargs: further arguments of transformers' `generate`, and the vector inputs of `forward`.

        Raises:
            SelfExplainError: a vector input is invalid, or the cache does not fit the prompt.
        """
        tokens = next(
            (x for x in (inputs, kwargs.get("inputs_embeds"), kwargs.get("input_ids")) if x is not None), None
        )
        vectors = {name: kwargs.get(name) for name in VECTOR_INPUTS}
        if vectors["activations"] is None:
            check_without_vectors(vectors, None, training=False, processor=None)
        elif tokens is not None:
            self._check_prompt(tokens, vectors)
            n_cached = cached_tokens(kwargs.get("past_key_values"))
            if n_cached:
                kwargs |= self._beyond_cache(vectors, tokens.shape[1], n_cached, kwargs.get("attention_mask"))
        return super().generate(inputs, *args, **kwargs)

    @staticmethod
    def _beyond_cache(vectors: dict[str, Any], n_tokens: int, n_cached: int, mask: Any) -> dict[str, Any]:
        """The vector inputs with positions that count from the first cached token."""
        n_all = mask.shape[1] if isinstance(mask, Tensor) and mask.ndim == 2 else n_tokens
        if n_all == n_cached + n_tokens:  # only the new tokens are given
            return at_tokens(vectors, -n_cached, n_all)
        if n_all != n_tokens or n_all <= n_cached:
            raise SelfExplainError(
                f"The cache contains {n_cached} tokens, and {n_tokens} tokens were given with an attention mask of "
                f"{n_all}. Give all tokens, or only the new tokens with an attention mask of all tokens."
            )
        return vectors

    def _check_prompt(self, tokens: Tensor, vectors: dict[str, Any]) -> None:
        """Check the vectors before the prompt is cut into parts."""
        limits = (self.config.adapter["d_target"], self.config.layers, context_length(self.config))
        check_vectors(vectors, tokens.shape[:2], *limits)
        neighbours = self.model.injection.neighbour_ids
        if neighbours is not None and tokens.ndim == 2:
            rows, slots = vectors["activation_mask"].nonzero(as_tuple=True)
            check_neighbours(tokens, rows, vectors["activation_positions"][rows, slots], neighbours)

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, past_key_values=None, inputs_embeds=None, is_first_iteration: bool = False, **kwargs
    ) -> dict:
        """Pass the vectors of the tokens that are not in the cache yet."""
        vectors = {name: kwargs.pop(name) for name in VECTOR_INPUTS if name in kwargs}
        n_cached = cached_tokens(past_key_values)
        inputs = super().prepare_inputs_for_generation(
            input_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            is_first_iteration=is_first_iteration,
            **kwargs,
        )
        if vectors.get("activations") is None or (n_cached and not is_first_iteration):
            return inputs
        tokens = inputs.get("inputs_embeds")
        tokens = inputs["input_ids"] if tokens is None else tokens
        return inputs | at_tokens(vectors, n_cached, tokens.shape[1])

    def create_masks_for_generate(self, config: Any, *args: Any, **kwargs: Any) -> Any:
        """Make the attention mask of a static cache as the base does: BLOOM needs one without positions of queries."""
        base = self.model.language_model
        return getattr(base, "create_masks_for_generate", create_masks_for_generate)(base.config, *args, **kwargs)

    def _get_candidate_generator(self, *args, model_kwargs: dict, assistant_model=None, **kwargs):
        """Do not pass vectors to an assistant model that cannot read them."""
        assistant = assistant_model.get_base_model() if hasattr(assistant_model, "get_base_model") else assistant_model
        if assistant is not None and not isinstance(assistant, VectorGenerationMixin):
            model_kwargs = {name: value for name, value in model_kwargs.items() if name not in VECTOR_INPUTS}
        return super()._get_candidate_generator(
            *args, model_kwargs=model_kwargs, assistant_model=assistant_model, **kwargs
        )


def cached_tokens(cache: Any) -> int:
    """The number of tokens in a cache; 0 without one."""
    return 0 if cache is None else int(cache.get_seq_length())
