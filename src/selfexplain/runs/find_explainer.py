"""Find the explainer that a user names: a run directory, a model directory, a Hub id or a reserved name."""

from pathlib import Path

from selfexplain import bundled
from selfexplain.errors import SelfExplainError
from selfexplain.runs.run_directory import RunDirectory
from selfexplain.utils.names import looks_like_path


def find_explainer(run_or_model: str) -> str:
    """Return the explainer of a run directory. Model directories and Hub ids are returned unchanged; a reserved name
    becomes the directory of the shipped model.

    Raises:
        SelfExplainError: the directory does not exist, contains neither a run nor a model, or contains a run without a
            trained explainer.
    """
    path = Path(run_or_model)
    run = RunDirectory(path)
    if not path.exists() and looks_like_path(run_or_model):
        raise SelfExplainError(f"{path} does not exist. Give a run directory, a model directory or a Hub id.")
    if run.has_explainer and run.is_run:
        return str(run.explainer)
    if run.is_run:
        raise SelfExplainError(
            f"{path} has no trained explainer. Finish the run with the command that started it, or name the model that "
            "it evaluates."
        )
    if path.is_dir() and not (path / "config.json").is_file():
        raise SelfExplainError(
            f"{path} contains neither a run (manifest.json) nor a model (config.json). Give the directory of a run or "
            "a model."
        )
    return bundled.resolve(run_or_model)
