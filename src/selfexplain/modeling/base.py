"""Load the base model of an explainer."""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from selfexplain import bundled
from selfexplain.errors import prefix_errors
from selfexplain.target.load import commit_of
from selfexplain.target.untrusted import LOADING, check_model_files, report_errors, without_attention

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# If bitsandbytes is installed, every import of it warns that an optional CPU kernel is missing.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

GREEDY = {
    "do_sample": False, "num_beams": 1, "num_return_sequences": 1, "return_dict_in_generate": False,
    "min_length": None, "min_new_tokens": None, "stop_strings": None, "max_time": None, "token_healing": False,
    "watermarking_config": None, "temperature": None, "top_k": None, "top_p": None,
    "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "encoder_repetition_penalty": 1.0, "sequence_bias": None,
    "bad_words_ids": None, "suppress_tokens": None, "begin_suppress_tokens": None, "forced_bos_token_id": None,
    "forced_eos_token_id": None, "exponential_decay_length_penalty": None, "guidance_scale": None,
}  # fmt: skip
"""Options of `generate` for greedy decoding, whatever the `generation_config` of the base contains."""

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
    from transformers import AutoModelForCausalLM  # here, because importing it imports modules that import this file

    options["trust_remote_code"] = bool(options.get("trust_remote_code"))  # None would ask on the terminal
    at = f" at revision {revision}" if revision else ""
    subject = f"The base model {name!r}{at} could not be loaded"
    advice = (
        "Give the Hub id or the directory of a causal language model with safetensors weights, and only options that "
        "this model supports."
    )
    with LOADING, report_errors(subject, advice):
        location = {"revision": revision, "subfolder": options.get("subfolder", ""), **hub_options(options)}
        path = bundled.resolve(name)
        if "gguf_file" not in options:
            with prefix_errors(subject):
                check_model_files(name, path, location, options["trust_remote_code"])
            options = without_attention(path, location, options)
        return AutoModelForCausalLM.from_pretrained(path, revision=revision, use_safetensors=True, **options)
