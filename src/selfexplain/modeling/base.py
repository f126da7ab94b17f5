"""Load the base model of an explainer."""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import transformers
from safetensors import SafetensorError

from selfexplain import bundled
from selfexplain.errors import SelfExplainError
from selfexplain.target.load import commit_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# If bitsandbytes is installed, every import of it warns that an optional CPU kernel is missing.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token")
"""Options of `from_pretrained` that control how files are downloaded. They apply to the explainer and to its base."""


def hub_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that are in `HUB_OPTIONS`."""
    return {name: options[name] for name in HUB_OPTIONS if name in options}


def pin_revision(name: str, revision: str | None, options: Mapping[str, Any]) -> str | None:
    """Resolve a revision to a commit, so that all files are read from the same commit.

    Args:
        name: Hub id, directory or reserved name.
        revision: branch, tag or commit; None means the default branch.
        options: options of `from_pretrained`; only `HUB_OPTIONS` are used.

    Returns:
        The commit, or `revision` itself if `name` is a directory or the Hub cannot resolve it.
    """
    try:
        return commit_of(bundled.resolve(name), revision, **hub_options(options)) or revision
    except OSError:  # loading reports why the repository cannot be read
        return revision


def load_base(name: str, revision: str | None = None, **options) -> "PreTrainedModel":
    """Load a base model from safetensors files. Pickled weights are never read.

    Args:
        name: Hub id, directory or reserved name.
        revision: branch, tag or commit of a Hub id.
        options: options of `AutoModelForCausalLM.from_pretrained`.

    Raises:
        SelfExplainError: the model could not be loaded; the message contains the reason.
    """
    try:
        # The class is looked up late, because importing it imports modules of this package that import this file.
        return transformers.AutoModelForCausalLM.from_pretrained(
            bundled.resolve(name), revision=revision, use_safetensors=True, **options
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, TypeError, SafetensorError) as error:
        at = f" at revision {revision}" if revision else ""
        raise SelfExplainError(
            f"The base model {name!r}{at} could not be loaded: {first_line(error)} Give the Hub id or the directory of "
            "a causal language model with safetensors weights, and only options that this model supports."
        ) from error


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, ending with a full stop."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0] if lines[0].endswith(".") else f"{lines[0]}."
