"""Compute fingerprints of the models and texts of a recipe, which determine whether a step runs again."""

from dataclasses import asdict
from typing import Any

from selfexplain import bundled
from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.config import CorpusConfig
from selfexplain.utils.hashing import fingerprint_files
from selfexplain.utils.names import is_hub_id, is_reserved, local_path
from selfexplain.utils.table_files import TABLES, TEXTS, format_of


def fingerprint_model(name: str, revision: str | None) -> str | dict[str, Any]:
    """SHA-256 of a model directory; name and revision of a model on the Hub.

    Raises:
        SelfExplainError: the name is written as a path and there is no such directory.
    """
    path = local_path(bundled.resolve(name))
    if path.is_dir():
        return fingerprint_files(path)
    if name in bundled.NAMES or name.startswith((".", "/", "~")):
        raise SelfExplainError(f"Model {name!r}: there is no directory {path}. Give a model directory or a Hub id.")
    return {"name": name, "revision": revision}


def fingerprint_corpus(name: str, options: CorpusConfig) -> Any:
    """SHA-256 of a text file, or the name of a Hub dataset, with the options that it is read with.

    Raises:
        SelfExplainError: the name is neither a file nor a Hub id nor the reserved name of the generated corpus.
    """
    if is_reserved(name):
        return name
    path = local_path(name)
    if path.is_file():
        return [fingerprint_files(path), asdict(options)]
    if path.is_dir() or format_of(name) in (*TABLES, *TEXTS) or not is_hub_id(name):
        raise SelfExplainError(
            f"Corpus {name!r}: there is no such file. Give a text file, a JSONL, CSV or parquet file, a dataset on the "
            f"Hub (org/name) or {bundled.TINY_WORLD}."
        )
    return [name, asdict(options)]
