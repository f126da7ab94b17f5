"""Load the model being explained."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from selfexplain import bundled
from selfexplain.errors import SelfExplainError, prefix_errors
from selfexplain.target.architecture import check_architecture
from selfexplain.target.blocks import context_length
from selfexplain.target.gguf import read_origin
from selfexplain.target.private_copy import check_embeddings, private_copy
from selfexplain.target.tokenizer_files import load_tokenizer
from selfexplain.target.tokens import encode_text
from selfexplain.target.untrusted import (
    LOADING,
    check_config,
    check_model_files,
    check_whole_model,
    load_config,
    report_errors,
    without_attention,
)
from selfexplain.utils.arguments import as_text
from selfexplain.utils.names import local_path

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class TargetShape:
    """The properties of a target that are known without its weights.

    Attributes:
        name: Hub id, directory or reserved name.
        revision: commit on the Hub; None for a directory.
        n_layers: number of decoder blocks.
        d_model: width of the residual stream.
        weights: what distinguishes the weights from the original ones, such as "dequantised from Q4_1".
    """

    name: str
    revision: str | None
    n_layers: int
    d_model: int
    weights: str | None = None


@dataclass(frozen=True)
class Target:
    """A causal language model with its tokenizer.

    Attributes:
        name: Hub id, directory or reserved name that it was loaded from.
        revision: commit on the Hub; None for a directory.
        weights: what distinguishes the weights from the original ones, such as "dequantised from Q4_1".
    """

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    name: str
    revision: str | None = None
    weights: str | None = None

    def private(self) -> "Target":
        """The same target with new modules: other threads do not see what is hooked or replaced in them.

        Raises:
            SelfExplainError: the embeddings are offloaded.
        """
        check_embeddings(self.model)
        return replace(self, model=private_copy(self.model))

    @property
    def n_layers(self) -> int:
        return self.model.config.get_text_config().num_hidden_layers

    @property
    def d_model(self) -> int:
        return self.model.config.get_text_config().hidden_size

    @property
    def context_length(self) -> int:
        return context_length(self.model.config)

    @property
    def pad_token_id(self) -> int:
        """The tokenizer's padding id, or 0 if it has none. Padded positions are masked, so any id works."""
        return self.tokenizer.pad_token_id or 0

    def encode(self, text: str) -> list[int]:
        """The token ids of a text, with the special tokens before it; see `encode_text`.

        Raises:
            SelfExplainError: the text is empty, longer than the context, or not text.
        """
        if not as_text(text, "The text").strip():
            raise SelfExplainError("The text is empty. Give at least one word.")
        ids = encode_text(self.tokenizer, text)
        if not ids:
            raise SelfExplainError(
                f"The tokenizer of {self.name} produces no tokens for {text!r}. Give a different text."
            )
        if len(ids) > self.context_length:
            raise SelfExplainError(
                f"The text has {len(ids)} tokens; the context of {self.name} holds {self.context_length}. Shorten it."
            )
        return ids


def commit_of(name: str, revision: str | None = None, **hub_options) -> str | None:
    """The commit that `revision` of a Hub repository currently points to; None for a directory.

    Args:
        name: Hub id or directory.
        revision: branch, tag or commit; None for the default branch.
        hub_options: keyword arguments of `transformers.utils.cached_file`.

    Raises:
        OSError: the repository or revision does not exist, or the Hub cannot be reached.
    """
    from transformers.utils import cached_file, extract_commit_hash

    if local_path(name).is_dir():
        return None
    return extract_commit_hash(cached_file(name, "config.json", revision=revision, **hub_options), None)


def load_target(name: str, revision: str | None = None, dtype: str = "float32", **options) -> Target:
    """Load a causal language model.

    Args:
        name: Hub id, directory or reserved name (`selfexplain/tiny`, `selfexplain/tiny-sibling`).
        revision: branch, tag or commit on the Hub; None for the default branch.
        dtype: name of the torch dtype of the weights.
        options: keyword arguments of `AutoModelForCausalLM.from_pretrained`, such as `quantization_config`.

    Raises:
        SelfExplainError: the model does not exist, is not a causal language model, has missing or damaged files, its
            embeddings are offloaded, or its residual stream cannot be read (`check_architecture`).
    """
    from transformers import AutoModelForCausalLM

    trust = options["trust_remote_code"] = bool(options.get("trust_remote_code"))  # None would ask on the terminal
    path, revision, _ = _read_config(name, revision, trust)
    with LOADING, _report_load_errors(name):
        with prefix_errors(f"Target {name!r} could not be loaded"):
            check_model_files(name, path, {"revision": revision}, trust)
        options = without_attention(path, {"revision": revision}, options)
        model, info = AutoModelForCausalLM.from_pretrained(
            path, revision=revision, dtype=dtype, use_safetensors=True, output_loading_info=True, **options
        )
        tokenizer = load_tokenizer(name, path, trust, revision=revision)
    if missing := sorted(info["missing_keys"]):
        raise SelfExplainError(
            f"The weights of target {name!r} lack {len(missing)} parameters of {type(model).__name__}, such as "
            f"{missing[0]}, which would be random. Give a model whose weights are complete."
        )
    leave_packed(model)
    check_embeddings(model)
    check_architecture(model.eval(), name)
    return Target(model, tokenizer, name, revision, weights_of(path))


def leave_packed(model: "PreTrainedModel") -> None:
    """Prevent bitsandbytes from repacking 4-bit weights during the first forward pass, as it does on some CPUs.

    Repacked weights cannot be trained on, and repacking fails for widths that are not a multiple of 64.
    """
    for module in model.modules():
        if "support_avx512bf16_for_cpu" in vars(module):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010 - mypy expects Tensor or Module


def target_shape(name: str, revision: str | None = None, trust_remote_code: bool = False) -> TargetShape:
    """Read the shape of a target from its configuration, without loading weights.

    Args:
        name: Hub id, directory or reserved name.
        revision: branch, tag or commit on the Hub; None for the default branch.
        trust_remote_code: whether code in the repository may run.

    Raises:
        SelfExplainError: the model does not exist or is not a causal language model.
    """
    path, revision, config = _read_config(name, revision, trust_remote_code)
    text = config.get_text_config()
    return TargetShape(name, revision, text.num_hidden_layers, text.hidden_size, weights_of(path))


def weights_of(path: str) -> str | None:
    """What distinguishes the weights in a converted directory from the original ones; None for other models."""
    origin = read_origin(path)
    return origin.summary if origin else None


def _read_config(
    name: str, revision: str | None, trust_remote_code: bool
) -> tuple[str, str | None, "PreTrainedConfig"]:
    """The directory or Hub id of a causal language model, its commit and its configuration."""
    from transformers import PreTrainedConfig

    path = bundled.resolve(name)
    if path.startswith("~"):
        path = str(local_path(path))
    if path.startswith((".", "/")) and not Path(path).is_dir():
        raise SelfExplainError(
            f"Target {name!r} is not a directory. Give an existing model directory or a Hub id (org/name)."
        )
    with _report_load_errors(name):
        check_whole_model(name, path, {"revision": revision})
        revision = commit_of(path, revision) or revision
        check_config(PreTrainedConfig.get_config_dict(path, revision=revision)[0], f"{name}: config.json")
        config = load_config(path, trust_remote_code, revision=revision)
    if not _has_text_decoder(config):
        architectures = ", ".join(config.architectures or ()) or "none"
        raise SelfExplainError(
            f"Target {name!r} is a {config.model_type} model (architectures: {architectures}), not a decoder-only "
            "causal language model. Choose a model with such a head."
        )
    return path, revision, config


def _has_text_decoder(config: "PreTrainedConfig") -> bool:
    """Whether a model is a decoder-only causal language model, or a multimodal model whose text part is one."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    heads = config.architectures or ()
    is_multimodal = config.get_text_config() is not config and config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    endings = ("ForCausalLM", "LMHeadModel", *(["ForConditionalGeneration"] if is_multimodal else []))
    return not config.is_encoder_decoder and any(head.endswith(endings) for head in heads)


def _report_load_errors(name: str) -> AbstractContextManager[None]:
    """Turn the errors that libraries raise for missing or damaged files into one `SelfExplainError`."""
    return report_errors(
        f"Target {name!r} could not be loaded",
        "Give a model directory or the Hub id of a causal language model, with its weights and tokenizer.",
    )
