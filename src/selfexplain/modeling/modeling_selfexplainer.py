"""Any causal language model, made to take vectors in and to say what they do."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils import cached_file

import selfexplain
from selfexplain import tiny
from selfexplain.errors import SelfExplainError
from selfexplain.modeling.activation_adapter import ActivationAdapter
from selfexplain.modeling.configuration_selfexplainer import SelfExplainerConfig
from selfexplain.modeling.contract import InjectionConfig
from selfexplain.modeling.explanation import Answer, Explanation, read
from selfexplain.modeling.processing_selfexplainer import SelfExplainerProcessor
from selfexplain.target import capture as residual
from selfexplain.target.blocks import backbone, decoder_blocks
from selfexplain.tasks import activation_patching, feature_description, input_ablation
from selfexplain.tasks.question import Question

logger = logging.getLogger(__name__)

ADAPTER_FILE = "activation_adapter.safetensors"
LORA_FOLDER = "lora"
SHIM_FILE = "modeling_selfexplainer.py"
SHIM = "from selfexplain import SelfExplainerConfig, SelfExplainerForCausalLM  # noqa: F401 (pip install selfexplain)\n"
AUTO_MAP = {
    "AutoConfig": "modeling_selfexplainer.SelfExplainerConfig",
    "AutoModel": "modeling_selfexplainer.SelfExplainerForCausalLM",
    "AutoModelForCausalLM": "modeling_selfexplainer.SelfExplainerForCausalLM",
}
VECTOR_INPUTS = ("activations", "activation_mask", "activation_layers", "activation_positions", "marker_positions")
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token")


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
        """The base initialises itself; the markers are set by `init_markers`."""


class SelfExplainerModel(SelfExplainerPreTrainedModel):
    """The explainer without its head: writes the vectors, then runs the base's backbone.

    Trainers that fuse the head into the loss call this class and never `SelfExplainerForCausalLM.forward`, so the
    vectors are written here.
    """

    def __init__(self, config: SelfExplainerConfig, base: PreTrainedModel | None = None):
        super().__init__(config)
        self.language_model = base if base is not None else AutoModelForCausalLM.from_config(config.text_config)
        d_explainer = self.language_model.config.get_text_config().hidden_size
        self.activation_adapter = ActivationAdapter(self.config.adapter["d_target"], d_explainer)
        self.injection = InjectionConfig(**self.config.injection)
        blocks = decoder_blocks(self.language_model)
        self.injection.check(len(blocks))
        self._pending: tuple[Tensor, Tensor, Tensor] | None = None
        if self.injection.site == "block_output":
            # The hook stays and reads _pending, so that gradient checkpointing, when it recomputes, writes again.
            blocks[self.injection.block].register_forward_hook(self._write_at_block)
        self.post_init()

    def init_markers(self, seed: int = 0) -> None:
        """Draw the markers on the scale of the base's embeddings."""
        weight = self.get_input_embeddings().weight
        sample = self.get_input_embeddings()(torch.arange(min(weight.shape[0], 1024), device=weight.device)).float()
        noise = torch.randn(2, sample.shape[1], generator=torch.Generator().manual_seed(seed))
        self.activation_adapter.markers.data.copy_(noise.to(sample.device) * sample.std())

    def get_input_embeddings(self) -> nn.Embedding:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def write_vectors(self, input_ids: Tensor | None, inputs_embeds: Tensor | None, vectors: Mapping[str, Any]) -> dict:
        """Prepare one forward pass of the base.

        Args:
            input_ids: `(B, T)`; or inputs_embeds: `(B, T, d_explainer)`.
            vectors: `VECTOR_INPUTS` by name; activations None writes nothing.

        Returns:
            `input_ids` or `inputs_embeds`, for the base. At the "block_output" site the vectors wait for their block.

        Raises:
            SelfExplainerError: a width that is not the target's.
        """
        self._pending = None
        activations = vectors["activations"]
        if activations is None:
            return {"input_ids": input_ids} if inputs_embeds is None else {"inputs_embeds": inputs_embeds}
        if activations.shape[-1] != self.config.adapter["d_target"]:
            raise SelfExplainError(
                f"activations have width {activations.shape[-1]}; this explainer reads vectors of width "
                f"{self.config.adapter['d_target']} (the residual stream of its target)."
            )
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        mapped = self.activation_adapter(activations)
        rows, columns = vectors["activation_mask"].nonzero(as_tuple=True)
        write = (rows, vectors["activation_positions"][rows, columns], mapped[rows, columns])
        inputs_embeds = self._write_markers(inputs_embeds, vectors["marker_positions"])
        if self.injection.site == "embedding":
            inputs_embeds = self._write(inputs_embeds, *write)
        else:
            self._pending = write
        return {"inputs_embeds": inputs_embeds}

    def _write_markers(self, hidden: Tensor, marker_positions: Tensor | None) -> Tensor:
        if marker_positions is None or not self.config.injection["markers"]:
            return hidden
        rows, columns, side = (marker_positions >= 0).nonzero(as_tuple=True)
        markers = self.activation_adapter.markers[side].to(hidden.dtype)
        return hidden.index_put((rows, marker_positions[rows, columns, side]), markers)

    def _write(self, hidden: Tensor, rows: Tensor, positions: Tensor, vectors: Tensor) -> Tensor:
        """Write `vectors (N, d)` into `hidden (B, T, d)` at `rows`, `positions` `(N,)` as the contract says."""
        here = hidden[rows, positions].float()  # (N, d)
        if self.injection.norm != "raw":
            vectors = torch.nn.functional.normalize(vectors.float(), dim=-1)
        if self.injection.norm == "match":
            vectors = vectors * here.norm(dim=-1, keepdim=True)
        vectors = self.injection.scale * vectors
        if self.injection.operation == "add":
            vectors = here + vectors
        return hidden.index_put((rows, positions), vectors.to(hidden.dtype))

    def _write_at_block(self, module: nn.Module, args: tuple, output: Any) -> Any:
        if self._pending is None:
            return output
        if isinstance(output, tuple):
            return (self._write(output[0], *self._pending), *output[1:])
        return self._write(output, *self._pending)

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
        inputs = self.write_vectors(input_ids, inputs_embeds, dict(zip(VECTOR_INPUTS, given, strict=True)))
        return backbone(self.language_model)(attention_mask=attention_mask, **inputs, **kwargs)


class SelfExplainerForCausalLM(SelfExplainerPreTrainedModel, GenerationMixin):
    """An explainer: a base causal language model, LoRA weights, and an adapter through which vectors enter.

    Made by `from_base` (new) or `from_pretrained` (published). With its LoRA switched off it is the target again,
    wherever the target is its own base.
    """

    def __init__(self, config: SelfExplainerConfig, base: PreTrainedModel | None = None):
        super().__init__(config)
        self.model = SelfExplainerModel(config, base)
        self.processor: SelfExplainerProcessor | None = None
        self.post_init()

    # ---------------------------------------------------------------- make, save, load

    @classmethod
    def from_base(
        cls,
        base: PreTrainedModel | str,
        tokenizer=None,
        injection: InjectionConfig | None = None,
        lora: Mapping | None = None,
        target: Mapping | None = None,
        tasks: Sequence[str] = (),
        revision: str | None = None,
        seed: int = 0,
        **load_kwargs,
    ) -> Self:
        """Wrap a loaded model, or one named by Hub id, directory or reserved name.

        Args:
            tokenizer: of the base; loaded with it where the base is named.
            injection: the contract; `InjectionConfig()` by default.
            lora: `rank`, `alpha`, `dropout`, `target_modules` of LoRA weights to add; None adds none.
            target: `model`, `revision`, `n_layers`, `d_model` of the model explained; the base itself by default.
            tasks: the questions it will be trained on.
            seed: draws the markers and the LoRA weights.
            load_kwargs: passed to `AutoModelForCausalLM.from_pretrained` where the base is named.
        """
        name = base if isinstance(base, str) else None
        if isinstance(base, str):
            tokenizer = tokenizer or AutoTokenizer.from_pretrained(tiny.resolve(base), revision=revision)
            base = AutoModelForCausalLM.from_pretrained(tiny.resolve(base), revision=revision, **load_kwargs)
        name = name or base.name_or_path or None
        text = base.config.get_text_config()
        target = dict(
            target
            or {"model": name, "revision": revision, "n_layers": text.num_hidden_layers, "d_model": text.hidden_size}
        )
        injection = injection or InjectionConfig()
        config = SelfExplainerConfig(
            text_config=base.config,
            base_model_name_or_path=name,
            base_model_revision=revision,
            injection=vars(injection),
            adapter={"kind": "identity", "d_target": target["d_model"]},
            target=target,
            tasks=list(tasks),
            attn_implementation=base.config._attn_implementation,  # else building the outer config unsets the base's
        )
        model = cls(config, base)
        model.model.init_markers(seed)
        if tokenizer is not None:
            model.processor = SelfExplainerProcessor(tokenizer, injection.placeholder, injection.markers)
        if lora is not None:
            torch.manual_seed(seed)
            model.add_lora(**lora)
        return model.eval()

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
            trainable_tokens: ids whose embeddings are trained as well, kept as differences beside the LoRA weights.
        """
        from peft import LoraConfig

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

    def save_pretrained(self, save_directory: str | Path, lora_dtype: str | None = None, **kwargs) -> None:
        """Write the adapter form: config, `activation_adapter.safetensors`, `lora/`, processor and a one-line shim.

        Args:
            lora_dtype: of the LoRA weights on disk, such as "float16"; None keeps theirs.

        Raises:
            SelfExplainError: the base has no name to load it by.
        """
        if self.config.base_model_name_or_path is None:
            raise SelfExplainError(
                "this explainer's base has no name, so the saved adapter could not find it again: "
                "make it with from_base(<Hub id or directory>), or set config.base_model_name_or_path."
            )
        directory = Path(save_directory)
        directory.mkdir(parents=True, exist_ok=True)
        self.config.package_version = selfexplain.__version__
        self.config.text_config._name_or_path = self.config.base_model_name_or_path  # not the directory it lies in here
        self.config.architectures = [type(self).__name__]
        self.config.auto_map = AUTO_MAP
        self.config.save_pretrained(directory)
        save_file(
            {"markers": self.model.activation_adapter.markers.detach().cpu().contiguous()}, directory / ADAPTER_FILE
        )
        if self.config.lora:
            for adapter in self.language_model.peft_config.values():
                adapter.base_model_name_or_path = (
                    self.config.base_model_name_or_path
                )  # not the directory it lies in here
            self.language_model.save_pretrained(directory / LORA_FOLDER)
            if lora_dtype is not None:
                file = directory / LORA_FOLDER / "adapter_model.safetensors"
                weights = {name: w.to(getattr(torch, lora_dtype)) for name, w in load_file(file).items()}
                save_file(weights, file, metadata={"format": "pt"})
        if self.processor is not None:
            self.processor.save_pretrained(directory)
        (directory / SHIM_FILE).write_text(SHIM)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, *args, config=None, revision=None, **kwargs
    ) -> Self:
        """Load a published explainer by Hub id, directory or reserved name; `.processor` comes with it.

        Options of `AutoModelForCausalLM.from_pretrained` (dtype, device_map, quantization_config, attn_implementation,
        token, cache_dir, ...) go to the base.

        Raises:
            SelfExplainError: no explainer there, or a file of it is missing.
        """
        name = tiny.resolve(str(pretrained_model_name_or_path))
        for unused in ("adapter_kwargs", "trust_remote_code", "_from_auto", "_commit_hash", "code_revision"):
            kwargs.pop(unused, None)
        hub = {key: kwargs[key] for key in HUB_OPTIONS if key in kwargs}
        if not isinstance(config, SelfExplainerConfig):
            try:
                found, _ = PreTrainedConfig.get_config_dict(name, revision=revision, **hub)
            except (OSError, ValueError) as error:
                raise SelfExplainError(
                    f"{pretrained_model_name_or_path}: no explainer there ({str(error).splitlines()[0]}) "
                    "Give the directory of a saved explainer, or its Hub id (org/name)."
                ) from error
            if found.get("model_type") != "selfexplainer":
                raise SelfExplainError(
                    f"{pretrained_model_name_or_path} holds a {found.get('model_type')} model, not a self-explainer."
                )
            config = SelfExplainerConfig.from_dict(found)
        if config.base_model_name_or_path is None:
            raise SelfExplainError(
                f"{pretrained_model_name_or_path} names no base model: "
                "its config.json is not one that save_pretrained wrote."
            )
        base = AutoModelForCausalLM.from_pretrained(
            tiny.resolve(config.base_model_name_or_path), revision=config.base_model_revision, **kwargs
        )
        outer = SelfExplainerConfig.from_dict(
            config.to_dict() | {"text_config": base.config}, attn_implementation=base.config._attn_implementation
        )
        model = cls(outer, base)
        try:
            adapter = load_file(cached_file(name, ADAPTER_FILE, revision=revision, **hub))
            if config.lora:
                options = {"adapter_kwargs": {"subfolder": LORA_FOLDER, "revision": revision} | hub}
                if Path(name).is_dir():
                    model.language_model.load_adapter(str(Path(name) / LORA_FOLDER))
                else:
                    model.language_model.load_adapter(name, **options)
        except (OSError, ValueError) as error:
            raise SelfExplainError(
                f"{pretrained_model_name_or_path} is not a complete explainer: {str(error).splitlines()[0]} "
                "Save or download it again."
            ) from error
        model.model.activation_adapter.load_state_dict(adapter)
        model.processor = SelfExplainerProcessor.from_pretrained(name, revision=revision, **hub)
        return model.eval()

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
        inputs = self.model.write_vectors(input_ids, inputs_embeds, dict(zip(VECTOR_INPUTS, given, strict=True)))
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
        """The base with its LoRA switched off: the target, where an explainer explains its own base."""
        self.model._pending = None
        if not self.config.lora:
            yield self.language_model
            return
        self.language_model.disable_adapters()
        try:
            yield self.language_model
        finally:
            self.language_model.enable_adapters()

    # ---------------------------------------------------------------- ask

    def capture(self, text: str, layers: Sequence[int]) -> Tensor:
        """The target's residual stream, `(n_layers, T, d)`: outputs of decoder blocks `layers` on `text`.

        Raises:
            SelfExplainError: an empty or over-long text, a layer that does not exist, or a target that is not the base.
        """
        if self.config.target and self.config.target.get("model") != self.config.base_model_name_or_path:
            raise SelfExplainError(
                f"this explainer explains {self.config.target['model']}, which is not its own base: "
                "capture there with load_target(...) and selfexplain.target.capture."
            )
        ids = self._text_ids(text)
        with self.as_target() as target:
            return residual.capture(target, ids[None].to(self.device), layers)[:, 0]

    def explain_feature(self, vector: Tensor, layer: int, template: int = 0) -> Explanation:
        """What inputs make a direction `(d,)` of the residual stream after block `layer` active?"""
        layer = self._layers([layer])[0]
        return self._explain("feature_description", feature_description.question(layer, template), [vector], [layer])

    def explain_patch(
        self, text: str, vector: Tensor, layers: Sequence[int], position: int, template: int = 0
    ) -> Explanation:
        """If `vector (d,)` replaces the residual stream after each block of `layers` at token `position`, what happens?

        Args:
            text: what the target reads.
            position: token index, from 0, special tokens included; negative from the end.
        """
        layers, ids = self._layers(layers), self._text_ids(text)
        if not -len(ids) <= position < len(ids):
            raise SelfExplainError(f"position {position} given; the text has tokens 0 to {len(ids) - 1}.")
        position %= len(ids)
        token = self._processor.tokenizer.decode([ids[position]])
        question = activation_patching.question(text, layers, position, token, template)
        return self._explain("activation_patching", question, [vector], [layers[0]])

    def explain_ablation(self, text: str, remove: str | None = None) -> Explanation:
        """If `remove` (the hint, where None) is taken out of `text`, does the answer change, and to what?"""
        self._text_ids(text)
        if remove is not None and remove not in text:
            raise SelfExplainError(f"{remove!r} does not occur in the text: give a part of it, letter by letter.")
        hint = remove is None or remove.strip().startswith("Hint:")
        return self._explain("input_ablation", input_ablation.question(text, None if hint else remove), [], [])

    @torch.no_grad()
    def answer(
        self, rows: Sequence[Mapping], batch_size: int = 64, progress: str | None = None, max_new_tokens: int = 48
    ) -> list[Answer]:
        """Greedy answers to ground-truth rows, of which only the question is read; `progress` names a progress bar.

        Raises:
            SelfExplainError: rows that cannot be right, or longer than the context.
        """
        processor = self._processor
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]["prompt"]))
        answers: dict[int, Answer] = {}
        limit = self.config.get_text_config().max_position_embeddings
        bar = tqdm(total=len(rows), desc=progress, unit="row", disable=progress is None, mininterval=2)
        for start in range(0, len(rows), batch_size):
            part = order[start : start + batch_size]
            inputs = processor([rows[index] for index in part]).to(self.device)
            n_prompt = inputs["input_ids"].shape[1]
            room = limit - n_prompt
            if room < 1:
                raise SelfExplainError(
                    f"the question has {n_prompt} tokens, the context holds {limit}: shorten the text."
                )
            end = processor.tokenizer.eos_token_id
            generated = self.generate(
                **inputs, do_sample=False, num_beams=1, max_new_tokens=min(max_new_tokens, room), eos_token_id=end,
                pad_token_id=processor.tokenizer.pad_token_id or 0, return_dict_in_generate=True, output_logits=True,
            )  # fmt: skip
            tokens = generated.sequences[:, n_prompt:]  # (B, T_new)
            log_probs = torch.stack(generated.logits, 1).float().log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
            real = torch.cat([torch.ones_like(tokens[:, :1]), (tokens == end).cumsum(1)[:, :-1] == 0], dim=1)
            totals = (log_probs * real).sum(1).tolist()
            texts = processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
            for index, text, total in zip(part, texts, totals, strict=True):
                answers[index] = Answer(text.strip(), total)
            bar.update(len(part))
        bar.close()
        return [answers[index] for index in range(len(rows))]

    @property
    def _processor(self) -> SelfExplainerProcessor:
        if self.processor is None:
            raise SelfExplainError(
                "this explainer has no processor: set explainer.processor = SelfExplainerProcessor(tokenizer)."
            )
        return self.processor

    def _text_ids(self, text: str) -> Tensor:
        if not text.strip():
            raise SelfExplainError("the text is empty: give at least one word.")
        ids = torch.tensor(self._processor.tokenizer(text)["input_ids"])
        limit = self.config.get_text_config().max_position_embeddings
        if len(ids) > limit:
            raise SelfExplainError(f"the text has {len(ids)} tokens, the context holds {limit}: shorten it.")
        return ids

    def _layers(self, layers: Sequence[int]) -> list[int]:
        return residual.check_layers(list(layers), self.config.target["n_layers"])

    def _explain(self, task: str, question: Question, vectors: Sequence[Tensor], layers: Sequence[int]) -> Explanation:
        for vector in vectors:
            if tuple(vector.shape) != (self.config.adapter["d_target"],):
                raise SelfExplainError(
                    f"a vector of shape ({self.config.adapter['d_target']},) is needed; {tuple(vector.shape)} given."
                )
        row = {
            "prompt": question.prompt,
            "placeholder_offsets": question.placeholder_offsets,
            "activations": vectors,
            "activation_layers": layers,
        }
        return read(task, question.prompt, self.answer([row])[0], self.config.injection)
