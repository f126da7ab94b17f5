"""The arguments of `save_pretrained` that concern the Hub, and the upload of what it wrote."""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfexplain import bundled
from selfexplain.errors import SelfExplainError

if TYPE_CHECKING:
    from selfexplain.modeling.configuration_selfexplainer import SelfExplainerConfig

OWN_ARGUMENTS = (
    "lora_dtype", "with_check", "is_main_process", "state_dict", "push_to_hub", "max_shard_size",
)  # fmt: skip
HUB_ARGUMENTS = ("repo_id", "private", "token", "revision", "create_pr", "commit_message", "commit_description")
FIXED_ARGUMENTS: dict[str, Any] = {
    "variant": None,
    "safe_serialization": True,
    "save_peft_format": True,
    "save_original_format": True,
    "distributed_checkpoint": False,
}
"""Arguments of transformers that have one possible value here, because the format of an explainer is fixed."""

Timestamps = dict[Path, int]


def hub_arguments(given: Mapping[str, Any], directory: str | Path, push: bool) -> dict[str, Any]:
    """Check the arguments of `save_pretrained` that it does not name itself, and return those of the upload.

    Args:
        given: the arguments.
        directory: directory to write to; its name is the default `repo_id`.
        push: whether the files are pushed.

    Raises:
        SelfExplainError: an argument does not exist, has no effect, or has a value that is not supported.
    """
    known = [*OWN_ARGUMENTS, *HUB_ARGUMENTS, *FIXED_ARGUMENTS]
    for name, value in given.items():
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"Its arguments are {', '.join(known)}."
            raise SelfExplainError(f"save_pretrained has no argument {name!r}. {hint}")
        if name in FIXED_ARGUMENTS and value != FIXED_ARGUMENTS[name]:
            raise SelfExplainError(
                f"save_pretrained got {name}={value!r}. Explainers are saved with {name}={FIXED_ARGUMENTS[name]!r}: "
                "their format is fixed. Leave the argument out."
            )
        if name in HUB_ARGUMENTS and name != "token" and not push and value is not None:
            raise SelfExplainError(
                f"save_pretrained got {name}={value!r}, which has no effect without push_to_hub=True. Add it, or leave "
                f"{name} out."
            )
    hub = {name: value for name, value in given.items() if name in HUB_ARGUMENTS}
    return {"repo_id": Path(directory).resolve().name, **hub} if push else {}


def check_base_on_hub(config: "SelfExplainerConfig") -> None:
    """Check that others could load the base of an explainer that is pushed.

    Raises:
        SelfExplainError: its base is a directory of this machine.
    """
    name = config.base_model_name_or_path
    if config.merged or name is None or bundled.resolve(name) != name:
        return
    if name.startswith((".", "/", "~")) or Path(name).exists():
        raise SelfExplainError(
            f"The base of this explainer is the local directory {name!r}, so nobody else could load the explainer from "
            "the Hub. Push the base and set config.base_model_name_or_path to its Hub id, or use merge_and_save."
        )


def timestamps(directory: Path) -> Timestamps:
    """Return when each file of a directory was last modified."""
    return {file: file.stat().st_mtime_ns for file in directory.rglob("*") if file.is_file()}


def push(directory: Path, before: Timestamps, repo_id: str, **options: Any) -> None:
    """Upload the files of a directory that are new or were modified.

    Args:
        directory: directory of an explainer.
        before: result of `timestamps` before the explainer was saved.
        repo_id: name of the repository, with or without its organisation. It is created if it does not exist.
        options: other arguments named in `HUB_ARGUMENTS`.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=options.pop("token", None))
    repo_id = api.create_repo(repo_id, private=options.pop("private", None), exist_ok=True).repo_id
    if (revision := options.get("revision")) is not None:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    changed = [file for file, time in timestamps(directory).items() if before.get(file) != time]
    names = [file.relative_to(directory).as_posix() for file in changed]
    options.setdefault("commit_message", "Upload explainer")
    api.upload_folder(repo_id=repo_id, folder_path=directory, allow_patterns=names, **options)
