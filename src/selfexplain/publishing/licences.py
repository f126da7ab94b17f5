"""Look up the licences of models and datasets on the Hub."""

import logging
import re
from typing import TYPE_CHECKING, Any

from selfexplain.errors import SelfExplainError
from selfexplain.publishing.facts import source_of
from selfexplain.publishing.hub_calls import call_hub
from selfexplain.publishing.markdown import is_web_address
from selfexplain.publishing.metadata import Licence
from selfexplain.publishing.public_names import is_local
from selfexplain.runs.recipe import Recipe
from selfexplain.utils.names import is_reserved

if TYPE_CHECKING:
    from huggingface_hub import HfApi

logger = logging.getLogger(__name__)


def base_licence(api: "HfApi", base: str, full: bool) -> Licence | None:
    """The licence of an explainer's base.

    Args:
        api: client.
        base: name of the base.
        full: whether the base's weights are published, which needs access to a gated base.

    Returns:
        The licence; None if the base is local or reserved, or names no licence.

    Raises:
        SelfExplainError: the base is not on the Hub, or it is gated and this login has no access although `full` is
            set.
    """
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if is_local(base) or is_reserved(base):
        return None
    try:
        info = call_hub(api.model_info, base)
        if info.gated and full:
            call_hub(api.auth_check, base)
    except GatedRepoError as error:
        raise SelfExplainError(
            f"The base {base} is gated and this login has no access to it. Accept its conditions on "
            f"{api.endpoint}/{base}, then publish again. The adapter form (without --full) needs no access."
        ) from error
    except RepositoryNotFoundError as error:
        raise SelfExplainError(
            f"The base {base} is not on the Hub, or it is private. If it has a different id there, give it with "
            "--base ID. Otherwise publish with --full, which needs no base."
        ) from error
    if info.gated:
        logger.info("The base %s is gated: users of the explainer have to accept its conditions first.", base)
    data: dict[str, Any] = info.card_data.to_dict() if info.card_data else {}
    fields = {key: data[key] for key in ("license", "license_name", "license_link") if isinstance(data.get(key), str)}
    if not _is_file_or_web_address(fields.get("license_link", "")):
        del fields["license_link"]
    return Licence(**fields) if "license" in fields else None


def _is_file_or_web_address(link: str) -> bool:
    """Whether the Hub can link to a licence without running code: "LICENSE.md" or an address on the web, or no link."""
    return is_web_address(link) or re.fullmatch(r"[\w./-]*", link) is not None


def source_licences(api: "HfApi", recipe: Recipe) -> dict[str, str]:
    """The licences of the target and of what the rows were made from, by name.

    Names that are not on the Hub or have no licence there are left out.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    sources = {source_of(recipe, task)[0]: "dataset" for task in recipe.tasks}
    licences = {}
    for name, kind in {**sources, recipe.target: "model"}.items():
        if is_local(name) or is_reserved(name):
            continue
        try:
            info: Any = call_hub(api.repo_info, name, repo_type=kind)
        except RepositoryNotFoundError:
            logger.warning("%s is not on the Hub, or it is private. The cards do not name its licence.", name)
            continue
        licence = info.card_data.get("license") if info.card_data else None
        if licence:
            licences[name] = licence if isinstance(licence, str) else ", ".join(licence)
    return licences
