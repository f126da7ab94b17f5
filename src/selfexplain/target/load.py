"""Load the model being explained."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from selfexplain import bundled
from selfexplain.errors import SelfExplainError
from selfexplain.target.blocks import context_length

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class TargetShape:
    """What is known of a target without its weights."""

    name: str
    revision: str | None
    n_layers: int
    d_model: int


@dataclass(frozen=True)
class Target:
    """A causal language model, its tokenizer, and where they come from."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    name: str
    revision: str | None = None

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
        """The tokenizer's padding id, or 0: padded positions are masked, so any id serves."""
        return self.tokenizer.pad_token_id or 0

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, special tokens included.

        Raises:
            SelfExplainError: the text is empty or longer than the context.
        """
        if not text.strip():
            raise SelfExplainError("the text is empty: give at least one word.")
        ids = self.tokenizer(text)["input_ids"]
        if not ids:
            raise SelfExplainError(f"the tokenizer of {self.name} finds no token in {text!r}.")
        if len(ids) > self.context_length:
            raise SelfExplainError(
                f"the text has {len(ids)} tokens, the context of {self.name} holds {self.context_length}: shorten it."
            )
        return ids


def commit_of(name: str, revision: str | None = None, **hub_options) -> str | None:
    """The commit that `revision` of a Hub repository means now; None for a directory.

    Raises:
        OSError: no such repository, revision or connection.
    """
    from transformers.utils import cached_file, extract_commit_hash

    if Path(name).expanduser().is_dir():
        return None
    return extract_commit_hash(cached_file(name, "config.json", revision=revision, **hub_options), None)


def load_target(name: str, revision: str | None = None, dtype: str = "float32", **options) -> Target:
    """Load a causal language model.

    Args:
        name: Hub id, directory or reserved name (`selfexplain/tiny`, `selfexplain/tiny-sibling`).
        options: of `AutoModelForCausalLM.from_pretrained`, such as `quantization_config`.

    Raises:
        SelfExplainError: nothing there, not a causal language model, or one whose files are missing or broken.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path, revision, _ = _read_config(name, revision)
    with _loading(name):
        model = AutoModelForCausalLM.from_pretrained(path, revision=revision, dtype=dtype, **options).eval()
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision)
    leave_packed(model)
    return Target(model, tokenizer, name, revision)


def leave_packed(model: "PreTrainedModel") -> None:
    """Keep bitsandbytes from repacking 4-bit weights at the first answer, as it does on some CPUs: they could not be
    trained on afterwards, and widths that are no multiple of 64 fail."""
    for module in model.modules():
        if "support_avx512bf16_for_cpu" in vars(module):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010 - what is no Tensor or Module


def target_shape(name: str, revision: str | None = None) -> TargetShape:
    """A target by its configuration alone; arguments and errors as of `load_target`."""
    _, revision, config = _read_config(name, revision)
    text = config.get_text_config()
    return TargetShape(name, revision, text.num_hidden_layers, text.hidden_size)


def _read_config(name: str, revision: str | None) -> tuple[str, str | None, "PreTrainedConfig"]:
    """Where a causal language model lies, its commit and its configuration."""
    from transformers import AutoConfig

    path = bundled.resolve(name)
    if path.startswith("~"):
        path = str(Path(path).expanduser())
    if path.startswith((".", "/")) and not Path(path).is_dir():
        raise SelfExplainError(f"target {name!r}: no such directory. Give a model directory or a Hub id (org/name).")
    with _loading(name):
        revision = commit_of(path, revision) or revision
        config = AutoConfig.from_pretrained(path, revision=revision)
    heads = [name for name in config.architectures or () if name.endswith(("ForCausalLM", "LMHeadModel"))]
    if not heads or config.is_encoder_decoder:
        made_for = ", ".join(config.architectures or ()) or "none"
        raise SelfExplainError(
            f"target {name!r} is a {config.model_type} model (architectures: {made_for}), "
            "not a decoder-only causal language model."
        )
    return path, revision, config


@contextmanager
def _loading(name: str) -> Iterator[None]:
    """Turns what libraries raise on files that are missing or broken into one clear error."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise SelfExplainError(
            f"target {name!r} could not be loaded: {reason} "
            "Give a model directory or the Hub id of a causal language model, with its weights and tokenizer."
        ) from error
