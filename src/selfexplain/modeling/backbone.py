"""The explainer without its language-model head: writes vectors into the residual stream and runs the base."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPast

from selfexplain.modeling.activation_adapter import ActivationAdapter
from selfexplain.modeling.configuration_selfexplainer import SelfExplainerConfig
from selfexplain.modeling.contract import InjectionConfig
from selfexplain.modeling.inputs import VECTOR_INPUTS, check_neighbours, check_vectors, check_without_vectors
from selfexplain.modeling.pending import (
    PendingWrites,
    Write,
    nothing_pends,
    pending,
    recompute_with_own_writes,
    uncompiled,
    writing_pending,
)
from selfexplain.modeling.processing_selfexplainer import SelfExplainerProcessor
from selfexplain.target.blocks import (
    backbone,
    context_length,
    decoder_blocks,
    embedding_site,
    execution_device,
    norms_before_blocks,
)


class SelfExplainerPreTrainedModel(PreTrainedModel):
    """Class attributes that `SelfExplainerModel` and `SelfExplainerForCausalLM` share."""

    config_class = SelfExplainerConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _skip_keys_device_placement: ClassVar[list[str]] = ["past_key_values"]
    _keep_in_fp32_modules_strict: ClassVar[list[str]] = ["activation_adapter"]

    def _init_weights(self, module: nn.Module) -> None:
        """Initialise the adapter where a checkpoint has no weights for it. The base initialises its own weights.

        `init_adapter` replaces these values by ones on the scale of the input of block 0.
        """
        if isinstance(module, ActivationAdapter):
            std = getattr(self.config.get_text_config(), "initializer_range", None) or 0.02
            with torch.device("cpu"):
                fresh = ActivationAdapter(module.d_explainer, **self.config.adapter)
                fresh.reset()
                fresh.markers.normal_(std=std, generator=torch.Generator().manual_seed(0))
            for parameter, value in zip(module.parameters(), fresh.parameters(), strict=True):
                init.copy_(parameter, value)

    def get_decoder(self) -> PreTrainedModel:
        """Return the base's decoder. It reads no vectors: `forward` of this class writes them."""
        return self.language_model.get_decoder()

    def set_decoder(self, decoder: PreTrainedModel) -> None:
        """Replace the base's decoder."""
        self.language_model.set_decoder(decoder)

    @property
    def device(self) -> torch.device:
        """The device that inputs are moved to: where the input embeddings run, also if their weights are offloaded."""
        device = super().device
        return execution_device(self.get_input_embeddings()) if device.type == "meta" else device

    @classmethod
    def register_for_auto_class(cls, auto_class="AutoModel") -> None:
        """Do nothing: transformers would copy this file into the directory of every saved explainer.

        `save_pretrained` writes a one-line module that imports the package instead.
        """


class SelfExplainerModel(SelfExplainerPreTrainedModel):
    """The explainer without its head.

    The vectors are written by this class and not by `SelfExplainerForCausalLM`, because trainers that fuse the head
    into the loss call only this class.
    """

    def __init__(self, config: SelfExplainerConfig, base: PreTrainedModel | None = None):
        super().__init__(config)
        if base is None:
            base = AutoModelForCausalLM.from_config(config.text_config)
        else:
            for module in base.modules():  # otherwise `post_init` would initialise modules added after loading
                setattr(module, "_is_hf_initialized", True)  # noqa: B010 - mypy expects Tensor or Module
        self.language_model = base
        weight = self.get_input_embeddings().weight
        device = execution_device(self.get_input_embeddings())
        with torch.device(device):
            self.activation_adapter = ActivationAdapter(weight.shape[1], **self.config.adapter)
        self.injection = InjectionConfig(**self.config.injection)
        blocks = decoder_blocks(self.language_model)
        self.injection.check(len(blocks))
        self._embedding_site: tuple[float, nn.Module | None] | None = None
        self.processor: SelfExplainerProcessor | None = None
        self._key = object()  # owner of pending writes; replicas of this model share it, copies have their own
        # The hooks are never removed: they write what the forward pass that runs them was given. They are bound
        # methods, so those of a copied model belong to the copy.
        for norm in norms_before_blocks(self.language_model):
            norm.register_forward_hook(self._write_normed_embeddings)
        if self.injection.site == "block_output":
            blocks[self.injection.block].register_forward_hook(self._write_block_output)
        if self.injection.site == "block_input":
            blocks[self.injection.block].register_forward_pre_hook(self._write_block_input, with_kwargs=True)
        self.post_init()
        if device.type != "meta":  # without weights, the site is measured when it is first used
            self._measure_embedding_site()

    @property
    def _embedding_scale(self) -> float:
        """The factor of `embedding_site`."""
        return self._measure_embedding_site()[0]

    @property
    def _embedding_norm(self) -> nn.Module | None:
        """The norm of `embedding_site`."""
        return self._measure_embedding_site()[1]

    def _measure_embedding_site(self) -> tuple[float, nn.Module | None]:
        """Measure `embedding_site` once and keep the result."""
        if self._embedding_site is None:
            self._embedding_site = embedding_site(self.language_model)
        return self._embedding_site

    @torch.no_grad()
    def init_adapter(self, seed: int = 0) -> None:
        """Draw the markers at the scale of the input of block 0, and initialise the adapter's map.

        Args:
            seed: seed of the markers and of the map, if the map is random.
        """
        embeddings = self.get_input_embeddings()
        ids = torch.arange(min(embeddings.weight.shape[0], 1024), device=execution_device(embeddings))
        sample = embeddings(ids) if self._embedding_norm is None else self._embedding_norm(embeddings(ids))
        noise = torch.randn(2, sample.shape[1], generator=torch.Generator().manual_seed(seed)).to(sample.device)
        self.activation_adapter.markers.copy_(noise * sample.float().std() * self._embedding_scale)
        self.activation_adapter.reset(seed)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    @contextmanager
    def writing(
        self,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        vectors: Mapping[str, Any],
        is_part: bool = False,
    ) -> Iterator[dict[str, Tensor | None]]:
        """Write vectors during the one forward pass of the base that runs inside the block.

        Args:
            input_ids: token ids, `(B, T)`; None if `inputs_embeds` is given.
            inputs_embeds: embeddings, `(B, T, d_explainer)`; None if `input_ids` is given.
            vectors: the inputs named in `VECTOR_INPUTS`. If `activations` is None, nothing is written.
            is_part: whether the tokens are a part of the prompt, because others are or will be in the cache.

        Yields:
            The `input_ids` or `inputs_embeds` to pass to the base.

        Raises:
            SelfExplainError: see `check_vectors`, `check_neighbours` and `check_without_vectors`.
        """
        if vectors["activations"] is None:
            check_without_vectors(vectors, input_ids, self.training and torch.is_grad_enabled(), self.processor)
            with writing_pending(None):
                yield {"input_ids": input_ids} if inputs_embeds is None else {"inputs_embeds": inputs_embeds}
            return
        self._measure_embedding_site()  # before the writes are pending, because it runs the base
        writes = self._prepare(input_ids, inputs_embeds, vectors, is_part)
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if self._embedding_norm is None:
            inputs_embeds = self._write_embeddings(inputs_embeds, writes)
        if torch.is_grad_enabled():
            recompute_with_own_writes(self.language_model)
        with writing_pending(writes):
            yield {"inputs_embeds": inputs_embeds}

    def _prepare(
        self, input_ids: Tensor | None, inputs_embeds: Tensor | None, vectors: Mapping[str, Any], is_part: bool
    ) -> PendingWrites:
        """Check the vectors and map them with the adapter."""
        tokens = input_ids if inputs_embeds is None else inputs_embeds
        assert tokens is not None
        shape = tokens.shape[:2]
        check_vectors(vectors, shape, self.config.adapter["d_target"], self.config.layers, context_length(self.config))
        activations, mask, layers, activation_positions, marker_positions = (vectors[name] for name in VECTOR_INPUTS)
        rows, slots = mask.nonzero(as_tuple=True)  # (N,), (N,)
        positions = activation_positions[rows, slots]
        if input_ids is not None and self.injection.neighbour_ids is not None:
            check_neighbours(input_ids, rows, positions, self.injection.neighbour_ids, is_part)
        mapped = self.activation_adapter(activations[rows, slots], layers[rows, slots])
        writes = PendingWrites(self._key, vectors=Write(rows, positions, mapped))
        if self.injection.markers and marker_positions is not None:
            rows, slots, side = (marker_positions >= 0).nonzero(as_tuple=True)
            markers = self.activation_adapter(sides=side)
            writes.markers = Write(rows, marker_positions[rows, slots, side], markers)
        return writes

    def _write_normed_embeddings(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        if nothing_pends():
            return output
        writes = pending(self._key)
        if writes.markers is None and writes.vectors is None:  # as in `_measure_embedding_site`
            return output
        return uncompiled(lambda: self._write_embeddings(output, writes))

    def _write_embeddings(self, hidden: Tensor, writes: PendingWrites) -> Tensor:
        """Write the markers, and the vectors if the site is the embedding.

        Args:
            hidden: `(B, T, d)`. The base multiplies it by `_embedding_scale` before block 0.
            writes: pending writes of this forward pass.
        """
        markers = writes.take_markers()
        if markers is not None:
            rows, positions, values = markers.to(hidden.device)
            hidden = hidden.index_put((rows, positions), (values / self._embedding_scale).to(hidden.dtype))
        if self.injection.site == "embedding":
            hidden = self._write(hidden, writes.take_vectors(), self._embedding_scale)
        return hidden

    def _write_block_input(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        if nothing_pends():
            return args, kwargs
        if args:
            return (self._write_block(args[0]), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": self._write_block(kwargs["hidden_states"])}

    def _write_block_output(self, module: nn.Module, args: tuple, output: Any) -> Any:
        if nothing_pends():
            return output
        return (self._write_block(output[0]), *output[1:]) if isinstance(output, tuple) else self._write_block(output)

    def _write_block(self, hidden: Tensor) -> Tensor:
        return uncompiled(lambda: self._write(hidden, pending(self._key).take_vectors()))

    def _write(self, hidden: Tensor, write: Write | None, factor: float = 1.0) -> Tensor:
        """Write vectors as the injection contract prescribes.

        Args:
            hidden: `(B, T, d)`.
            write: vectors to write; None for nothing.
            factor: factor by which the base multiplies `hidden` afterwards. The contract applies to the product.
        """
        if write is None:
            return hidden
        rows, positions, vectors = write.to(hidden.device)
        residual = factor * hidden[rows, positions].float()  # (N, d)
        if self.injection.norm != "raw":
            vectors = nn.functional.normalize(vectors, dim=-1)
        if self.injection.norm == "match":
            vectors = vectors * residual.norm(dim=-1, keepdim=True)
        vectors = self.injection.scale * vectors
        if self.injection.operation == "add":
            vectors = residual + vectors
        return hidden.index_put((rows, positions), (vectors / factor).to(hidden.dtype))

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        activations: Tensor | None = None,
        activation_mask: Tensor | None = None,
        activation_layers: Tensor | None = None,
        activation_positions: Tensor | None = None,
        marker_positions: Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPast:
        """Compute the final hidden states, `(B, T, d_explainer)`.

        Args:
            input_ids: token ids, `(B, T)`.
            attention_mask: `(B, T)`.
            inputs_embeds: embeddings, `(B, T, d_explainer)`, instead of `input_ids`.
            activations: vectors, `(B, K, d_target)`. `SelfExplainerProcessor.collate` makes these five inputs.
            activation_mask: whether each slot has a vector, `(B, K)`.
            activation_layers: target layer of each vector, `(B, K)`.
            activation_positions: token position of each vector, `(B, K)`.
            marker_positions: token positions of the markers before and after each vector, `(B, K, 2)`; -1 for none.
            kwargs: further inputs of the base's backbone.
        """
        values = (activations, activation_mask, activation_layers, activation_positions, marker_positions)
        vectors = dict(zip(VECTOR_INPUTS, values, strict=True))
        is_part = kwargs.get("past_key_values") is not None

        def run() -> BaseModelOutputWithPast:
            with self.writing(input_ids, inputs_embeds, vectors, is_part) as inputs:
                return backbone(self.language_model)(attention_mask=attention_mask, **inputs, **kwargs)

        return run() if activations is None else uncompiled(run)
