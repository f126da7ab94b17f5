"""Any causal language model, made to take vectors in and to say what they do."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from selfexplain import bundled
from selfexplain.errors import SelfExplainError
from selfexplain.modeling import injection_check
from selfexplain.modeling import repository as loading
from selfexplain.modeling.activation_adapter import ActivationAdapter
from selfexplain.modeling.asking import AskingMixin
from selfexplain.modeling.configuration_selfexplainer import SelfExplainerConfig
from selfexplain.modeling.contract import InjectionConfig
from selfexplain.modeling.inputs import VECTOR_INPUTS, check_neighbours, check_vectors
from selfexplain.modeling.processing_selfexplainer import SelfExplainerProcessor
from selfexplain.target.blocks import attention_modules, backbone, context_length, decoder_blocks, embedding_site
from selfexplain.target.load import leave_packed

# What loading in 8 or 4 bits, or on several devices, leaves on a model, for trainers to see.
_HOW_LOADED = (
    "is_loaded_in_4bit", "is_loaded_in_8bit", "is_quantized", "quantization_method", "hf_quantizer", "hf_device_map",
)  # fmt: skip


class Waiting(NamedTuple):
    """Vectors `(N, d_explainer)` for `rows`, `positions` `(N,)` of the residual stream."""

    rows: Tensor
    positions: Tensor
    vectors: Tensor


class SelfExplainerPreTrainedModel(PreTrainedModel):
    """Flags shared by the two classes below; what depends on the base is inherited from it at run time."""

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
        """The base initialises itself; the adapter is set by `init_adapter`."""

    @classmethod
    def register_for_auto_class(cls, auto_class="AutoModel") -> None:
        """Nothing to do: `save_pretrained` writes the shim, and must not copy this package's files beside it."""


class SelfExplainerModel(SelfExplainerPreTrainedModel):
    """The explainer without its head: writes the vectors, then runs the base's backbone.

    Trainers that fuse the head into the loss call this class and never `SelfExplainerForCausalLM.forward`, so the
    vectors are written here.
    """

    def __init__(self, config: SelfExplainerConfig, base: PreTrainedModel | None = None):
        super().__init__(config)
        self.language_model = base if base is not None else AutoModelForCausalLM.from_config(config.text_config)
        weight = self.get_input_embeddings().weight
        self.activation_adapter = ActivationAdapter(weight.shape[1], **self.config.adapter).to(weight.device)
        self.injection = InjectionConfig(**self.config.injection)
        blocks = decoder_blocks(self.language_model)
        self.injection.check(len(blocks))
        self._embedding_scale, self._embedding_norm = embedding_site(self.language_model)
        self._markers: Waiting | None = None
        self._vectors: Waiting | None = None
        # The hooks stay and read what waits, so that gradient checkpointing, when it recomputes, writes again.
        if self._embedding_norm is not None:
            self._embedding_norm.register_forward_hook(lambda module, args, output: self._write_embeddings(output))
        if self.injection.site == "block_output":
            blocks[self.injection.block].register_forward_hook(self._write_block_output)
        if self.injection.site == "block_input":
            blocks[self.injection.block].register_forward_pre_hook(self._write_block_input, with_kwargs=True)
        self.post_init()

    @torch.no_grad()
    def init_adapter(self, seed: int = 0) -> None:
        """Draw the markers on the scale of what enters block 0, and start the map from the identity where it can."""
        embeddings = self.get_input_embeddings()
        ids = torch.arange(min(embeddings.weight.shape[0], 1024), device=embeddings.weight.device)
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
        self, input_ids: Tensor | None, inputs_embeds: Tensor | None, vectors: Mapping[str, Any]
    ) -> Iterator[dict[str, Tensor | None]]:
        """One forward pass of the base: gives its `input_ids` or `inputs_embeds`, and writes the vectors on their way.

        Args:
            input_ids: `(B, T)`; or inputs_embeds: `(B, T, d_explainer)`.
            vectors: `VECTOR_INPUTS` by name; activations None writes nothing.

        Raises:
            SelfExplainError: see `check_vectors` and `check_neighbours`.
        """
        self._markers = self._vectors = None
        if vectors["activations"] is None:
            yield {"input_ids": input_ids} if inputs_embeds is None else {"inputs_embeds": inputs_embeds}
            return
        self._prepare(input_ids, inputs_embeds, vectors)
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if self._embedding_norm is None:
            inputs_embeds = self._write_embeddings(inputs_embeds)
        try:
            yield {"inputs_embeds": inputs_embeds}
        finally:
            if not torch.is_grad_enabled():
                self._markers = self._vectors = None

    def _prepare(self, input_ids: Tensor | None, inputs_embeds: Tensor | None, vectors: Mapping[str, Any]) -> None:
        """Map the vectors, and let them and their markers wait for the place where they are written."""
        tokens = input_ids if inputs_embeds is None else inputs_embeds
        assert tokens is not None
        shape = tokens.shape[:2]
        check_vectors(vectors, shape, self.config.adapter["d_target"], self.config.layers, context_length(self.config))
        activations, mask, layers, activation_positions, marker_positions = (vectors[name] for name in VECTOR_INPUTS)
        rows, slots = mask.nonzero(as_tuple=True)  # (N,), (N,)
        positions = activation_positions[rows, slots]
        if input_ids is not None and self.injection.neighbour_ids is not None:
            check_neighbours(input_ids, rows, positions, self.injection.neighbour_ids)
        self._vectors = Waiting(rows, positions, self.activation_adapter(activations[rows, slots], layers[rows, slots]))
        if self.injection.markers and marker_positions is not None:
            rows, slots, side = (marker_positions >= 0).nonzero(as_tuple=True)
            markers = self.activation_adapter.markers[side]
            self._markers = Waiting(rows, marker_positions[rows, slots, side], markers)

    def _write_embeddings(self, hidden: Tensor) -> Tensor:
        """Markers, and the vectors where this is their site; `hidden (B, T, d)` enters block 0 times a factor."""
        if self._markers is not None:
            rows, positions, markers = self._markers
            hidden = hidden.index_put((rows, positions), (markers / self._embedding_scale).to(hidden.dtype))
        if self._vectors is not None and self.injection.site == "embedding":
            hidden = self._write(hidden, self._embedding_scale)
        return hidden

    def _write_block_input(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        if self._vectors is None:
            return None
        if args:
            return (self._write(args[0]), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": self._write(kwargs["hidden_states"])}

    def _write_block_output(self, module: nn.Module, args: tuple, output: Any) -> Any:
        if self._vectors is None:
            return output
        return (self._write(output[0]), *output[1:]) if isinstance(output, tuple) else self._write(output)

    def _write(self, hidden: Tensor, factor: float = 1.0) -> Tensor:
        """Write the waiting vectors into `hidden (B, T, d)`, standing for `factor` times itself, by the contract."""
        assert self._vectors is not None
        rows, positions, vectors = (tensor.to(hidden.device) for tensor in self._vectors)
        here = factor * hidden[rows, positions].float()  # (N, d)
        if self.injection.norm != "raw":
            vectors = nn.functional.normalize(vectors, dim=-1)
        if self.injection.norm == "match":
            vectors = vectors * here.norm(dim=-1, keepdim=True)
        vectors = self.injection.scale * vectors
        if self.injection.operation == "add":
            vectors = here + vectors
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
        """Final hidden states `(B, T, d_explainer)`; vector inputs as `SelfExplainerProcessor.collate` gives them."""
        given = (activations, activation_mask, activation_layers, activation_positions, marker_positions)
        with self.writing(input_ids, inputs_embeds, dict(zip(VECTOR_INPUTS, given, strict=True))) as inputs:
            return backbone(self.language_model)(attention_mask=attention_mask, **inputs, **kwargs)


class SelfExplainerForCausalLM(AskingMixin, SelfExplainerPreTrainedModel, GenerationMixin):
    """An explainer: a base causal language model, LoRA weights, and an adapter through which vectors enter.

    Made by `from_base` (new) or `from_pretrained` (published). With its LoRA switched off it is the target again,
    wherever the target is its own base.

    Attributes:
        processor: turns questions into inputs.
        golden_rows: questions that the saved explainer will have to answer as this one does; None makes some up.
        golden: what it had to answer when it was loaded.
    """

    def __init__(self, config: SelfExplainerConfig, base: PreTrainedModel | None = None):
        super().__init__(config)
        self.model = SelfExplainerModel(config, base)
        self.processor: SelfExplainerProcessor | None = None
        self.golden_rows: list[dict] | None = None
        self.golden: injection_check.Golden | None = None
        self._is_target = False  # within `as_target`
        base = self.language_model
        for name in _HOW_LOADED:
            if name in vars(base):
                setattr(self, name, getattr(base, name))
        leave_packed(base)
        self.post_init()

    # ---------------------------------------------------------------- make, save, load

    @classmethod
    def from_base(
        cls,
        base: PreTrainedModel | str,
        tokenizer=None,
        injection: InjectionConfig | None = None,
        adapter: Mapping | None = None,
        lora: Mapping | None = None,
        target: Mapping | None = None,
        tasks: Sequence[str] = (),
        revision: str | None = None,
        seed: int = 0,
        **options,
    ) -> Self:
        """Wrap a loaded model, or one named by Hub id, directory or reserved name.

        Args:
            tokenizer: of the base; loaded with it where the base is named.
            injection: the contract; `InjectionConfig()` by default.
            adapter: `kind`, `layers`, `rank` of the `ActivationAdapter`; the identity by default.
            lora: `rank`, `alpha`, `dropout`, `target_modules` of LoRA weights to add; None adds none.
            target: `model`, `revision`, `n_layers`, `d_model` of the model explained; the base itself by default.
            tasks: the questions it will be trained on.
            seed: draws the markers, the adapter's map and the LoRA weights.
            options: of `AutoModelForCausalLM.from_pretrained`, where the base is named.

        Raises:
            SelfExplainError: a base that does not load or cannot take vectors, or settings that do not fit it.
        """
        if isinstance(base, str):
            name: str | None = base
            path = bundled.resolve(base)
            hub = {key: options[key] for key in (*loading.HUB_OPTIONS, "trust_remote_code") if key in options}
            revision = loading.pinned(base, revision, options)
            base = loading.load_base(base, revision, **options)
            tokenizer = tokenizer or AutoTokenizer.from_pretrained(path, revision=revision, **hub)
        else:
            name = base.name_or_path or None
        text = base.config.get_text_config()
        own = {"model": name, "revision": revision, "n_layers": text.num_hidden_layers, "d_model": text.hidden_size}
        target = dict(target or own)
        injection = injection or InjectionConfig()
        config = loading.config_around(
            base,
            base_model_name_or_path=name,
            base_model_revision=revision,
            injection=vars(injection),
            adapter={"kind": "identity", **(adapter or {}), "d_target": target["d_model"]},
            target=target,
            tasks=list(tasks),
        )
        model = cls(config, base)
        model.model.init_adapter(seed)
        if tokenizer is not None:
            model.processor = SelfExplainerProcessor.for_contract(tokenizer, injection)
        if lora is not None:
            torch.manual_seed(seed)
            model.add_lora(**lora)
        return model.eval()

    @classmethod
    def from_foreign(
        cls,
        src: str | Path,
        family: str | None = None,
        contract: InjectionConfig | None = None,
        base: str | None = None,
        **options,
    ) -> Self:
        """Load an explainer that another project trained; `save_pretrained` then writes it in our own form.

        The contract under which it reads vectors is settled from its files, logged, and stands in `config.injection`.

        Args:
            src: Hub id or directory of a whole model or of a LoRA adapter.
            family: one of `foreign.NAMES`, where its files do not say whose it is.
            contract: how it reads vectors, where that is known better; `foreign.FAMILIES` holds each family's.
                With markers, `neighbour_ids` are the tokens whose embeddings they are.
            base: of an adapter, where `adapter_config.json` does not name it.
            options: `revision`, `subfolder`, and those of `AutoModelForCausalLM.from_pretrained`.

        Raises:
            SelfExplainError: what the files leave open, as a question, and what to pass; or files that do not fit.
        """
        from selfexplain.modeling.third_party import load as foreign

        return foreign.load(cls, src, family, contract, base, **options)

    def add_lora(
        self,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        target_modules: Sequence[str] | str = "all-linear",
        trainable_tokens: Sequence[int] = (),
    ) -> None:
        """Add LoRA weights to the base; they and the adapter are all that is trained.

        Args:
            target_modules: names of linear modules, "all-linear" (without the head) or "attention" (those of the
                attention, whatever they are called).
            trainable_tokens: ids whose embeddings are trained as well, kept as differences beside the LoRA weights.
        """
        from peft import LoraConfig

        if target_modules == "attention":
            target_modules = attention_modules(self.language_model)
        modules = target_modules if isinstance(target_modules, str) else list(target_modules)
        self.config.lora = {"rank": rank, "alpha": alpha, "dropout": dropout, "target_modules": modules}
        self.config.lora |= {"trainable_tokens": list(trainable_tokens)}
        self.language_model.add_adapter(
            LoraConfig(
                r=rank,
                lora_alpha=alpha,
                lora_dropout=dropout,
                target_modules=modules,
                trainable_token_indices=list(trainable_tokens) or None,
                task_type="CAUSAL_LM",
            )
        )

    def save_pretrained(
        self, save_directory: str | Path, lora_dtype: str | None = None, with_check: bool = True, **kwargs
    ) -> None:
        """Write the adapter form: config, `activation_adapter.safetensors`, `lora/`, processor and a one-line shim.

        Golden vectors with the explainer's answers to them go beside, so that loading can check that injection is live.
        A merged explainer is written whole, its base in `merged/`.

        Args:
            lora_dtype: of the LoRA weights on disk, such as "float16"; None keeps what they were loaded from.
            with_check: whether to write the golden vectors, which costs a few answers.

        Raises:
            SelfExplainError: the base has no name to load it by.
        """
        loading.save(self, Path(save_directory), lora_dtype, with_check)

    def merge_and_save(self, save_directory: str | Path, dtype: str | torch.dtype | None = None) -> Self:
        """Write the full form, which needs no base: the LoRA weights are merged into a fresh copy of it.

        The merged explainer cannot be switched back to its target; this one is left as it is.

        Args:
            dtype: of the merged weights; None keeps the base's here.

        Returns:
            The merged explainer.

        Raises:
            SelfExplainError: the base does not load again.
        """
        whole = loading.merge(self, dtype)
        whole.save_pretrained(save_directory)
        return whole

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, *args, check_injection: bool = True, **options
    ) -> Self:
        """Load a published explainer by Hub id, directory or reserved name; `.processor` comes with it.

        Args:
            check_injection: whether to check that it answers its golden vectors as it did when it was saved.
            options: of `AutoModelForCausalLM.from_pretrained`. `revision` and `subfolder` say where the explainer lies;
                `token`, `cache_dir`, `local_files_only` and `force_download` hold for it and its base; the others
                (`dtype`, `device_map`, `quantization_config`, `attn_implementation`, `trust_remote_code`, ...) are the
                base's. The adapter stays in float32 whatever they say.

        Raises:
            SelfExplainError: no explainer there, a file of it is missing or damaged, its base does not load or is
                another one, or its injection is not live.
        """
        return loading.load(cls, str(pretrained_model_name_or_path), check_injection=check_injection, **options)

    def check_injection(self) -> None:
        """Check that the vectors are read: golden answers come out as before, and other vectors change them.

        Raises:
            SelfExplainError: they do not. See `selfexplain.modeling.injection_check`.
        """
        injection_check.check(self, self.golden or injection_check.make(self))

    # ---------------------------------------------------------------- the model

    @property
    def language_model(self) -> PreTrainedModel:
        """The base causal language model."""
        return self.model.language_model

    def get_input_embeddings(self) -> nn.Embedding:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.language_model.set_output_embeddings(new_embeddings)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values=None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        activations: Tensor | None = None,
        activation_mask: Tensor | None = None,
        activation_layers: Tensor | None = None,
        activation_positions: Tensor | None = None,
        marker_positions: Tensor | None = None,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        """Logits `(B, T, vocabulary)` of the base with the vectors written in.

        Args:
            activations: `(B, K, d_target)`; activation_mask `(B, K)`; activation_layers, activation_positions `(B, K)`;
                marker_positions `(B, K, 2)`, as `SelfExplainerProcessor.collate` gives them.
        """
        given = (activations, activation_mask, activation_layers, activation_positions, marker_positions)
        with self.model.writing(input_ids, inputs_embeds, dict(zip(VECTOR_INPUTS, given, strict=True))) as inputs:
            return self.language_model(
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                labels=labels,
                use_cache=use_cache,
                logits_to_keep=logits_to_keep,
                **inputs,
                **kwargs,
            )

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, past_key_values=None, inputs_embeds=None, is_first_iteration: bool = False, **kwargs
    ) -> dict:
        """Vectors go in with the prompt; later steps find them in the cache."""
        vectors = {name: kwargs.pop(name) for name in VECTOR_INPUTS if name in kwargs}
        inputs = super().prepare_inputs_for_generation(
            input_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            is_first_iteration=is_first_iteration,
            **kwargs,
        )
        return inputs | vectors if is_first_iteration or not kwargs.get("use_cache", True) else inputs

    @contextmanager
    def as_target(self) -> Iterator[PreTrainedModel]:
        """The base with its LoRA switched off: the target, where an explainer explains its own base.

        Raises:
            SelfExplainError: a merged explainer, which has nothing to switch off.
        """
        if self.config.merged:
            raise SelfExplainError(
                "this explainer is merged: its weights cannot be switched back to the target's. Give the target "
                "itself, by load_target(...)."
            )
        self.model._markers = self.model._vectors = None
        if not self.config.lora or self._is_target:  # nothing to switch off, or it is off already
            yield self.language_model
            return
        self._is_target = True
        self.language_model.disable_adapters()
        try:
            yield self.language_model
        finally:
            self.language_model.enable_adapters()
            self._is_target = False
