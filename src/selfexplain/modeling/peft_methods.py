"""peft around an explainer: methods find the LoRA weights of its base, and what would be inexact is refused."""

from typing import TYPE_CHECKING, Any

from torch import nn

from selfexplain.errors import SelfExplainError
from selfexplain.modeling.base_weights import remove_peft_modules

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers import PreTrainedModel as _Methods
else:
    _Methods = object  # the class that has this mixin is also a PreTrainedModel

_SECOND_ADAPTER = (
    "A second adapter was given to an explainer that has LoRA weights. It would replace them or switch them off. Train "
    "these LoRA weights further, or merge them with merge_and_save(...) and add the adapter to the merged explainer."
)
_VIRTUAL_TOKENS = (
    "Prompt tuning or prefix tuning was given to an explainer. It puts virtual tokens before the prompt, so vectors "
    "would be written at other tokens. Use LoRA."
)


class _BaseAdapters(dict):
    """The `peft_config` of the base. peft adds an entry before it adds an adapter, so adding one is refused here."""

    def update(self, *args: Any, **kwargs: Any) -> None:
        raise SelfExplainError(_SECOND_ADAPTER)

    def __setitem__(self, name: str, config: Any) -> None:
        raise SelfExplainError(_SECOND_ADAPTER)


class PeftMethodsMixin(_Methods):
    """transformers' methods for adapters, for a model whose adapters are in its `language_model`."""

    if TYPE_CHECKING:
        config: Any
        language_model: PreTrainedModel

    @property
    def peft_config(self) -> dict:
        """Name of each adapter -> its configuration. Missing if there are no adapters.

        Raises:
            AttributeError: there are no adapters.
        """
        if "_outer_peft_config" in vars(self):
            return vars(self)["_outer_peft_config"]
        return _BaseAdapters(self.language_model.peft_config)

    @peft_config.setter
    def peft_config(self, value: dict) -> None:
        self._outer_peft_config = value  # set by peft when it has put adapters around the explainer

    @peft_config.deleter
    def peft_config(self) -> None:
        self.__dict__.pop("_outer_peft_config", None)  # deleted by peft when it has merged them

    @peft_config.deleter
    def peft_config(self) -> None:
        del self._outer_peft_config

    def add_adapter(self, adapter_config: Any, adapter_name: str | None = None) -> None:
        self._refuse_second_adapter()
        super().add_adapter(adapter_config, adapter_name)

    def load_adapter(self, *args: Any, **kwargs: Any) -> Any:
        self._refuse_second_adapter()
        return super().load_adapter(*args, **kwargs)

    def _refuse_second_adapter(self) -> None:
        if isinstance(getattr(self, "peft_config", None), _BaseAdapters):
            raise SelfExplainError(_SECOND_ADAPTER)

    def set_adapter(self, adapter_name: list[str] | str) -> None:
        self._adapted.set_adapter(adapter_name)

    def disable_adapters(self) -> None:
        """Switch all adapters off, for all threads, until `enable_adapters`. See also `as_target`."""
        self._adapted.disable_adapters()

    def enable_adapters(self) -> None:
        self._adapted.enable_adapters()

    def active_adapters(self) -> list[str]:
        return self._adapted.active_adapters()

    def delete_adapter(self, adapter_names: list[str] | str) -> None:
        """Delete adapters. Without the last one, the explainer has no LoRA weights, and its base is the bare model."""
        self._adapted.delete_adapter(adapter_names)
        if not hasattr(self, "peft_config"):
            remove_peft_modules(self.language_model)
            self.config.lora = None

    def get_adapter_state_dict(self, *args: Any, **kwargs: Any) -> dict:
        return self._adapted.get_adapter_state_dict(*args, **kwargs)

    @property
    def _adapted(self) -> Any:
        """The model that has the adapters: the base, or this one if peft was told so."""
        return super() if vars(self).get("_hf_peft_config_loaded") else self.language_model

    def get_submodule(self, target: str) -> nn.Module:
        # peft looks for this module, which no explainer has, when it sets up virtual tokens.
        if target == "embeddings.word_embeddings":
            raise SelfExplainError(_VIRTUAL_TOKENS)
        return super().get_submodule(target)
