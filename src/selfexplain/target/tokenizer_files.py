"""Load a tokenizer that others wrote, after checking that its files cannot run code, hang or fill the memory."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from selfexplain.errors import SelfExplainError
from selfexplain.target import limited
from selfexplain.target.untrusted import find_file, read_json, report_errors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_TOKENIZER_BYTES = 512 * 2**20
MAX_STEPS = 64
"""Largest number of normalizers, pre-tokenizers, post-processors or decoders in one chain."""
MAX_GROWTH = 1000
"""Largest factor by which a chain may lengthen a text."""
WALL_SECONDS = 120
_SAMPLE = "the user's text"
_CHAINS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")


def load_tokenizer(
    name: str, path: str, trust_remote_code: bool = False, texts: Sequence[str] = (), **location
) -> "PreTrainedTokenizerBase":
    """Load a tokenizer.

    Args:
        name: name of the model, for error messages.
        path: Hub id or directory.
        trust_remote_code: whether code in the repository may run.
        texts: texts from the repository that will be encoded.
        location: `revision`, `subfolder` and download options, as `cached_file` of transformers takes them.

    Raises:
        SelfExplainError: a file is missing or damaged, or exceeds a limit of `check_tokenizer_files`.
    """
    from transformers import AutoTokenizer

    with report_errors(
        f"The tokenizer of {name} could not be loaded",
        "Give a model whose directory contains its tokenizer (tokenizer.json or the files of its class).",
    ):
        check_tokenizer_files(name, path, location, texts)
        return AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code, **location)


def check_tokenizer_files(name: str, path: str, location: Mapping[str, Any], texts: Sequence[str] = ()) -> None:
    """Check the files of a tokenizer before it is loaded.

    Chains of normalizers and the like are bounded by their length and by the growth of the text. Chat templates and
    regular expressions are tried on a sample text and on `texts` in a child process with limits (`limited.py`).

    Args:
        name: name of the model, for error messages.
        path: Hub id or directory.
        location: `revision`, `subfolder` and download options.
        texts: further texts that will be encoded.

    Raises:
        SelfExplainError: a file is not valid JSON, a chain is too long, or a limit on time, memory or output was
            reached.
    """
    settings: Mapping[str, Any] = {}
    if (file := find_file(path, "tokenizer_config.json", location)) is not None:
        settings = read_json(file, f"{name}: tokenizer_config.json")
    fast = find_file(path, "tokenizer.json", location)
    has_regex = False
    if fast is not None:
        content = read_json(fast, f"{name}: tokenizer.json", MAX_TOKENIZER_BYTES)
        with report_errors(f"{name}: tokenizer.json is invalid", "Download the file again."):
            for chain in _CHAINS:
                _check_chain(content.get(chain), f"{name}: {chain} of tokenizer.json")
            has_regex = any("Regex" in step for chain in _CHAINS for step in _mappings(content.get(chain)))
    templates = tuple(_templates(path, location, settings, name))
    if templates or has_regex:
        special = {key: _content(value) for key, value in settings.items() if key.endswith("_token")}
        variables = json.dumps({key: value for key, value in special.items() if isinstance(value, str)})
        _try_in_child(name, str(fast) if has_regex else None, templates, variables, (_SAMPLE, *texts))


def _templates(path: str, location: Mapping[str, Any], settings: Mapping[str, Any], name: str) -> Iterator[str]:
    """Yield the chat templates of a repository."""
    found = settings.get("chat_template")
    for template in found if isinstance(found, list) else [found]:
        template = template.get("template") if isinstance(template, Mapping) else template
        if isinstance(template, str):
            yield template
    for file in ("chat_template.jinja", "chat_template.json"):
        if (at := find_file(path, file, location)) is not None:
            with report_errors(f"{name}: {file} cannot be read", "Download the file again."):
                text = (
                    read_json(at, f"{name}: {file}").get("chat_template") if file.endswith("json") else at.read_text()
                )
            if isinstance(text, str):
                yield text


def _content(token: Any) -> Any:
    """Return the text of a special token, which is stored as text or as `{"content": text}`."""
    return token.get("content") if isinstance(token, Mapping) else token


def _mappings(content: Any) -> Iterator[Mapping[str, Any]]:
    """Yield all mappings of nested JSON content."""
    if isinstance(content, Mapping):
        yield content
    children = content.values() if isinstance(content, Mapping) else content if isinstance(content, list) else ()
    for child in children:
        yield from _mappings(child)


def _steps(component: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the steps of a normalizer, pre-tokenizer, post-processor or decoder, which may be nested sequences."""
    if isinstance(component, Mapping):
        nested = [value for key, value in component.items() if key in (*_CHAINS, "processors") or key.endswith("izers")]
        nested += [component["decoders"]] if "decoders" in component else []
        if component.get("type") == "Sequence":
            for steps in nested:
                for step in steps:
                    yield from _steps(step)
        else:
            yield component


def _check_chain(component: Any, source: str) -> None:
    """Check the number of steps of a chain, and how much it can lengthen a text."""
    steps = list(_steps(component))
    growth = 1.0
    for step in steps:
        growth *= _growth(step)
    if len(steps) > MAX_STEPS or growth > MAX_GROWTH:
        raise SelfExplainError(
            f"{source} has {len(steps)} steps that lengthen a text up to {growth:.0f} times; expected at most "
            f"{MAX_STEPS} steps and {MAX_GROWTH} times. Use the tokenizer that the model was published with."
        )


def _growth(step: Mapping[str, Any]) -> float:
    """Return an upper bound of the factor by which one step lengthens a text."""
    kind = step.get("type")
    if kind == "Replace":
        pattern = step.get("pattern") or {}
        shortest = len(pattern.get("String") or "") or 1
        return max(1.0, len(step.get("content") or "") / shortest)
    if kind == "Prepend":
        return 1 + len(step.get("prepend") or "") / 16
    if kind == "TemplateProcessing":
        pieces = step.get("single") or []
        return max(1.0, sum("Sequence" in piece for piece in pieces) + len(pieces) / 16)
    return {"Precompiled": 18.0, "BertNormalizer": 3.0, "ByteLevel": 2.0}.get(str(kind), 1.0)


@lru_cache(maxsize=64)
def _try_in_child(
    name: str, tokenizer: str | None, templates: tuple[str, ...], variables: str, texts: tuple[str, ...]
) -> None:
    """Render templates and encode texts in a child process, and report which limit was reached."""
    job = {"tokenizer": tokenizer, "templates": templates, "variables": json.loads(variables), "texts": texts}
    job["seconds"] = limited.CPU_SECONDS
    what = "chat template" if tokenizer is None else "chat template or the regular expressions in tokenizer.json"
    try:
        result = subprocess.run(
            [sys.executable, "-I", limited.__file__], input=json.dumps(job).encode(), capture_output=True,
            timeout=WALL_SECONDS, env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        result = None
    if result is None or result.returncode:
        raise SelfExplainError(
            f"{name}: the {what} took more than {limited.CPU_SECONDS} seconds, {limited.MEMORY_BYTES // 2**30} GB or "
            f"{limited.MAX_CHARACTERS:,} characters for a short text. Use the tokenizer and the template that the "
            "model was published with."
        )
