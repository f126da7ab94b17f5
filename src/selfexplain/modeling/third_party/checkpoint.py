"""Read the small files of a third-party checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from selfexplain import bundled
from selfexplain.errors import SelfExplainError
from selfexplain.modeling.repository import ExplainerFiles
from selfexplain.utils.parsing import parse_json, parse_yaml


@dataclass(frozen=True)
class Checkpoint(ExplainerFiles):
    """A third-party checkpoint and the parsed content of its small files; None for a file that does not exist.

    Attributes:
        model: `config.json` of a whole model.
        adapter: `adapter_config.json` of a peft adapter.
        oracle: `ao_config.json` of an Activation Oracle.
        sidecar: `nla_meta.yaml` of a natural-language autoencoder.
    """

    model: Mapping[str, Any] | None = None
    adapter: Mapping[str, Any] | None = None
    oracle: Mapping[str, Any] | None = None
    sidecar: Mapping[str, Any] | None = None


def read_checkpoint(source: str, location: Mapping[str, Any]) -> Checkpoint:
    """Download and parse the small files of a checkpoint.

    Args:
        source: Hub id, directory or reserved name.
        location: `revision`, `subfolder` and download options.

    Raises:
        SelfExplainError: the source does not contain a checkpoint, contains a damaged file, or contains an explainer
            of this package.
    """
    files = Checkpoint(source, bundled.resolve(source), location)
    files = replace(
        files,
        model=_parse(files, "config.json"),
        adapter=_parse(files, "adapter_config.json"),
        oracle=_parse(files, "ao_config.json"),
        sidecar=_parse(files, "nla_meta.yaml"),
    )
    if files.model is None and files.adapter is None:
        raise SelfExplainError(
            f"{source} contains neither config.json nor adapter_config.json. Give the directory or the Hub id of a "
            "checkpoint. If the checkpoint is in a subfolder of a repository, pass subfolder= too."
        )
    if files.model is not None and files.model.get("model_type") == "selfexplainer":
        raise SelfExplainError(f"{source} is an explainer of this package. Load it with from_pretrained.")
    return files


def _parse(files: Checkpoint, file: str) -> Mapping[str, Any] | None:
    """Parse one JSON or YAML file; None if it does not exist."""
    try:
        path = files.find(file)
        if path is None:
            return None
        parse = parse_json if path.suffix == ".json" else parse_yaml
        content = parse(path.read_text(encoding="utf-8"), file)
    except (OSError, ValueError) as error:  # a SelfExplainError is a ValueError
        raise SelfExplainError(
            f"{files.name}: {file} could not be read ({error}). Give the directory or the Hub id of a checkpoint."
        ) from error
    if not isinstance(content, Mapping):
        raise SelfExplainError(
            f"{files.name}: {file} contains a {type(content).__name__}, expected a mapping. Download the file again."
        )
    return content
