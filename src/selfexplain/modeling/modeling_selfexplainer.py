"""The explainer: a causal language model that reads vectors and answers questions about them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.pytorch_utils import Conv1D

from selfexplain import bundled
from selfexplain.errors import SelfExplainError
from selfexplain.modeling import injection_check, pushing, repository
from selfexplain.modeling.asking import AskingMixin
from selfexplain.modeling.backbone import SelfExplainerModel, SelfExplainerPreTrainedModel
from selfexplain.modeling.base import hub_options, load_base, pin_revision
from selfexplain.modeling.base_weights import BaseWeights
from selfexplain.modeling.configuration_selfexplainer import SelfExplainerConfig
from selfexplain.modeling.contract import InjectionConfig
from selfexplain.modeling.generation import VectorGenerationMixin
from selfexplain.modeling.inputs import VECTOR_INPUTS
from selfexplain.modeling.lora import add_lora_modules
from selfexplain.modeling.lora_switch import LoraSwitch
from selfexplain.modeling.peft_methods import PeftMethodsMixin
from selfexplain.modeling.pending import uncompiled, writing_pending
from selfexplain.modeling.processing_selfexplainer import SelfExplainerProcessor
from selfexplain.target.blocks import attention_modules
from selfexplain.target.load import leave_packed
from selfexplain.target.tokenizer_files import load_tokenizer

__all__ = ["SelfExplainerForCausalLM", "SelfExplainerModel", "SelfExplainerPreTrainedModel"]

_LOADING_ATTRIBUTES = (
    "is_loaded_in_4bit", "is_loaded_in_8bit", "is_quantized", "quantization_method", "hf_quantizer", "hf_device_map",
)  # fmt: skip
"""Attributes that `from_pretrained` sets on a quantised or distributed base, and that trainers read."""


class SelfExplainerForCausalLM(AskingMixin, PeftMethodsMixin, SelfExplainerPreTrainedModel, VectorGenerationMixin):
    """A base causal language model with LoRA weights and an adapter that maps vectors into its residual stream.

    Create one with `from_base` (untrained) or `from_pretrained` (saved). If the explainer explains its own base, it is
    the target while its LoRA weights are switched off (`as_target`).

    Attributes:
        processor: processor that turns questions into model inputs.
        golden_rows: rows that the injection check asks when the explainer is saved; None uses built-in questions.
        golden: questions and answers of the injection check with which the explainer was loaded.
    """

    def __init__(self, config: SelfExplainerConfig, base: PreTrainedModel | None = None):
        super().__init__(config)
        self.model = SelfExplainerModel(config, base)
        self.golden_rows: list[dict] | None = None
        self.golden: injection_check.Golden | None = None
        self._lora_switch = LoraSwitch()
        base = self.language_model
        for name in _LOADING_ATTRIBUTES:
            if name in vars(base):
                setattr(self, name, getattr(base, name))
        leave_packed(base)
        self.post_init()
        if getattr(base, "generation_config", None) is not None:
            self.generation_config = deepcopy(base.generation_config)
        self.base_weights = BaseWeights(base)

    # ---------------------------------------------------------------- create, save, load

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
        """Create an untrained explainer from a base model.

        Args:
            base: loaded model, or the Hub id, directory or reserved name of one.
            tokenizer: tokenizer of the base; None loads it if `base` is a name.
            injection: injection contract; None for `InjectionConfig()`.
            adapter: `kind`, `layers` and `rank` of the `ActivationAdapter`; None for the identity.
            lora: arguments of `add_lora`; None adds no LoRA weights.
            target: `model`, `revision`, `n_layers` and `d_model` of the target; None for the base itself.
            tasks: names of the tasks that the explainer will be trained on.
            revision: branch, tag or commit of the base.
            seed: seed of the markers, the adapter's map and the LoRA weights.
            options: options of `AutoModelForCausalLM.from_pretrained`, if `base` is a name.

        Raises:
            SelfExplainError: the base could not be loaded or cannot read vectors, or the settings do not fit it.
        """
        loaded_here = isinstance(base, str)
        if isinstance(base, str):
            name: str | None = base
            path = bundled.resolve(base)
            revision = pin_revision(base, revision, options)
            trust = bool(options.get("trust_remote_code", False))
            base = load_base(base, revision, **options)
            tokenizer = tokenizer or load_tokenizer(str(name), path, trust, revision=revision, **hub_options(options))
        else:
            name = base.name_or_path or None
        text = base.config.get_text_config()
        itself = {"model": name, "revision": revision, "n_layers": text.num_hidden_layers, "d_model": text.hidden_size}
        target = dict(target or itself)
        injection = injection or InjectionConfig()
        config = SelfExplainerConfig.for_base(
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
        model.base_weights.as_named |= loaded_here
        if tokenizer is not None:
            model.processor = SelfExplainerProcessor.for_contract(tokenizer, injection)
        if lora is not None:
            torch.manual_seed(seed)
            model.add_lora(**lora)
        return model.eval()

    @classmethod
    def from_third_party(
        cls,
        src: str | Path,
        family: str | None = None,
        contract: InjectionConfig | None = None,
        base: str | None = None,
        **options,
    ) -> Self:
        """Load an explainer that another project trained. `save_pretrained` then writes it in this package's format.

        The injection contract is derived from the files, logged, and stored in `config.injection`.

        Args:
            src: Hub id or directory of a whole model or of a LoRA adapter.
            family: name of the family, a key of `third_party.contracts.FAMILIES`. Needed only if the files do not show
                it.
            contract: injection contract that overrides the files; `third_party.contracts.CONTRACTS` has one
                per family. With markers, `neighbour_ids` are the tokens whose embeddings become the markers.
            base: base model of a LoRA adapter, if `adapter_config.json` does not name it.
            options: `revision`, `subfolder`, and options of `AutoModelForCausalLM.from_pretrained`.

        Raises:
            SelfExplainError: the files do not determine the contract (the message says which argument does), or they
                are invalid.
        """
        from selfexplain.modeling.third_party.load import load_third_party

        return load_third_party(cls, src, family, contract, base, **options)

    def add_lora(
        self,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        target_modules: Sequence[str] | str = "all-linear",
        trainable_tokens: Sequence[int] = (),
    ) -> None:
        """Add LoRA weights to the base. Only they and the adapter are trained.

        Args:
            rank: rank of the updates.
            alpha: scale of the updates: they are multiplied by `alpha / rank`.
            dropout: dropout probability at the inputs of the LoRA weights.
            target_modules: names of linear modules, "all-linear" (all except the head) or "attention" (the linear
                modules of the attention, regardless of their names).
            trainable_tokens: token ids whose embeddings are trained too. The differences are saved with the LoRA
                weights.
        """
        from peft import LoraConfig

        if target_modules == "attention":
            target_modules = attention_modules(self.language_model)
        modules = target_modules if isinstance(target_modules, str) else list(target_modules)
        self.config.lora = {"rank": rank, "alpha": alpha, "dropout": dropout, "target_modules": modules}
        self.config.lora |= {"trainable_tokens": list(trainable_tokens)}
        config = LoraConfig(
            r=rank,
            lora_alpha=alpha,
            lora_dropout=dropout,
            target_modules=modules,
            trainable_token_indices=list(trainable_tokens) or None,
            # Conv1D of GPT-2 stores its weight transposed.
            fan_in_fan_out=any(isinstance(module, Conv1D) for module in self.language_model.modules()),
            task_type="CAUSAL_LM",
        )
        add_lora_modules(self.language_model, config)

    def save_pretrained(
        self,
        save_directory: str | Path,
        lora_dtype: str | None = None,
        with_check: bool = True,
        is_main_process: bool = True,
        state_dict: Mapping[str, Tensor] | None = None,
        push_to_hub: bool = False,
        max_shard_size: int | str = "50GB",
        **hub: Any,
    ) -> None:
        """Save the explainer without its base: config, adapter, LoRA weights, processor and a one-line module.

        Golden questions with the explainer's answers are saved too, so that loading can check the injection. If the
        base is merged, was trained, or has no name by which it could be loaded again, it is saved in `merged/`.

        Args:
            save_directory: directory to write to.
            lora_dtype: dtype of the LoRA weights on disk, such as "float16"; None keeps the dtype they were loaded in.
            with_check: whether to save golden questions, which takes a few generated answers.
            is_main_process: whether this process writes. In distributed training, only one may.
            state_dict: weights of the explainer, if a trainer gathered them; None reads them from the explainer.
            push_to_hub: whether to push the files to the Hub afterwards, as `push_to_hub` does.
            max_shard_size: maximum size of a file in `merged/`.
            hub: `repo_id` (the name of the directory by default) and other arguments of `push_to_hub`.

        Raises:
            SelfExplainError: an argument does not exist, the explainer has adapters that cannot be saved, or the Hub
                could not load the base.
        """
        directory, upload = Path(save_directory), pushing.hub_arguments(hub, save_directory, push_to_hub)
        if push_to_hub:
            pushing.check_base_on_hub(self.config)
        if is_main_process:
            before = pushing.timestamps(directory)
            repository.save(self, directory, lora_dtype, with_check, state_dict, max_shard_size)
            if push_to_hub:
                pushing.push(directory, before, **upload)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Push the files that `save_pretrained` writes to the Hub, as transformers does.

        Args:
            repo_id: name of the repository, with or without its organisation.
            options: options of transformers' `push_to_hub`, such as `private`, `token` and `commit_message`.

        Returns:
            Information about the commit.

        Raises:
            SelfExplainError: the base is a local directory, so nobody else could load the explainer.
        """
        pushing.check_base_on_hub(self.config)
        return super().push_to_hub(repo_id, **options)

    def merge_and_save(self, save_directory: str | Path, dtype: str | torch.dtype | None = None) -> Self:
        """Merge the LoRA weights into a new copy of the base and save both, so that loading needs no other base.

        The merged explainer cannot be switched back to its target. This explainer does not change.

        Args:
            save_directory: directory to write to.
            dtype: dtype of the merged weights; None for the dtype of the base.

        Returns:
            The merged explainer.

        Raises:
            SelfExplainError: the base could not be loaded again.
        """
        merged = repository.merge(self, dtype)
        merged.save_pretrained(save_directory)
        return merged

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path | None, *args, check_injection: bool = True, **options
    ) -> Self:
        """Load a saved explainer together with its processor.

        Args:
            pretrained_model_name_or_path: Hub id, directory or reserved name.
            check_injection: whether to check that the explainer answers its golden questions as it did when it was
                saved.
            options: options of `AutoModelForCausalLM.from_pretrained`. `revision` and `subfolder` locate the explainer.
                `token`, `cache_dir`, `local_files_only` and `force_download` apply to the explainer and its base. All
                others (`dtype`, `device_map`, `quantization_config`, `attn_implementation`, `trust_remote_code`, ...)
                apply to the base. The adapter is always loaded in float32. With `output_loading_info=True`, the result
                is the explainer together with transformers' loading info. With the name None, `config` and
                `state_dict` make the explainer.

        Raises:
            SelfExplainError: there is no explainer, a file is missing or damaged, the base could not be loaded or is a
                different model, or the injection check failed.
        """
        if pretrained_model_name_or_path is None:
            return super().from_pretrained(None, *args, **options)
        return repository.load(cls, str(pretrained_model_name_or_path), check_injection=check_injection, **options)

    def check_injection(self) -> None:
        """Check that the explainer reads its vectors.

        Its answers to the golden questions must be as likely as before, and less likely with other vectors.

        Raises:
            SelfExplainError: the check failed. See `selfexplain.modeling.injection_check`.
        """
        injection_check.check(self, self.golden or injection_check.make(self))

    # ---------------------------------------------------------------- model

    @property
    def processor(self) -> SelfExplainerProcessor | None:
        """The processor that turns questions into model inputs."""
        return self.model.processor

    @processor.setter
    def processor(self, processor: SelfExplainerProcessor | None) -> None:
        self.model.processor = processor

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
        """Compute the base's logits, `(B, T, vocabulary)`, with the vectors written into its residual stream.

        Arguments that are not listed here are those of the base.

        Args:
            activations: vectors, `(B, K, d_target)`. `SelfExplainerProcessor.collate` makes these five inputs.
            activation_mask: whether each slot has a vector, `(B, K)`.
            activation_layers: target layer of each vector, `(B, K)`.
            activation_positions: token position of each vector, `(B, K)`.
            marker_positions: token positions of the markers before and after each vector, `(B, K, 2)`; -1 for none.
        """
        values = (activations, activation_mask, activation_layers, activation_positions, marker_positions)
        vectors = dict(zip(VECTOR_INPUTS, values, strict=True))

        def run() -> CausalLMOutputWithPast:
            with self.model.writing(input_ids, inputs_embeds, vectors, past_key_values is not None) as inputs:
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

        return run() if activations is None else uncompiled(run)

    @contextmanager
    def as_target(self) -> Iterator[PreTrainedModel]:
        """Switch the LoRA weights off inside the block, which turns the base into the target, and yield the base.

        Only for explainers that explain their own base. As with `torch.no_grad`, this applies to the calling thread
        (or asyncio task): others may use the explainer meanwhile. Nested blocks are allowed.

        Raises:
            SelfExplainError: the explainer is merged, so its LoRA weights cannot be switched off.
        """
        if self.config.merged:
            raise SelfExplainError(
                "This explainer is merged, so its weights cannot be switched back to those of the target. Load the "
                "target with load_target(...) and pass it as target=."
            )
        with writing_pending(None), self._lora_switch.off(self.language_model):
            yield self.language_model
