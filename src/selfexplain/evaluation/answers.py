"""Ask explainers for answers, and cache the answers so that an interrupted evaluation continues."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm.auto import tqdm

from selfexplain.modeling.explanation import Answer
from selfexplain.utils.io import write_atomically

Row = Mapping[str, Any]


class Explainer(Protocol):
    """The interface of systems that answer questions, such as `SelfExplainerForCausalLM`."""

    def answer(self, rows: Sequence[Row], batch_size: int = ..., progress: str | None = ...) -> Sequence[Any]:
        """One answer per row, with a `text` and its `log_prob`."""
        ...


def answer_all(
    explainer: Explainer, rows: Sequence[Row], batch_size: int, progress: str, cache: Path | None = None
) -> list[Answer]:
    """Answer all rows, with a progress bar.

    Args:
        progress: label of the progress bar.
        cache: file to which answers are written as they arrive; answers in it that belong to `rows` are reused.
    """
    keys = [_key(row) for row in rows]
    answers = _read_cache(cache, keys) if cache else []
    if cache:  # rewritten, because an interrupted run may have left an incomplete line
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(cache, "".join(map(_cache_line, keys, answers)))
    with tqdm(total=len(rows), initial=len(answers), desc=progress, unit="row") as bar:
        while len(answers) < len(rows):
            start, end = len(answers), min(len(answers) + 8 * batch_size, len(rows))
            replies = explainer.answer(rows[start:end], batch_size=batch_size)
            new = [Answer(reply.text, reply.log_prob) for reply in replies]
            if cache:
                with cache.open("a", encoding="utf-8") as file:
                    file.writelines(map(_cache_line, keys[start:end], new))
            answers += new
            bar.update(len(new))
    return answers


def read_answers(path: Path, rows: Sequence[Row]) -> list[Answer]:
    """Read the answers that `answer_all` cached: those to the leading rows, up to the first row without one.

    There are fewer answers than rows if the rows changed or the run was interrupted, and none if there is no file.
    """
    return _read_cache(path, [_key(row) for row in rows])


def _key(row: Row) -> str:
    """Hash of everything in a row that an explainer sees."""
    digest = hashlib.sha256(json.dumps([row["prompt"], list(row["placeholder_offsets"])]).encode())
    digest.update(np.asarray(row["activation_layers"], dtype=np.int64).tobytes())
    digest.update(np.asarray(row["activations"], dtype=np.float32).tobytes())
    return digest.hexdigest()[:16]


def _cache_line(key: str, answer: Answer) -> str:
    return json.dumps({"row": key, **asdict(answer)}) + "\n"


def _read_cache(path: Path, keys: Sequence[str]) -> list[Answer]:
    """Cached answers to the leading rows, given the keys of all rows."""
    answers: list[Answer] = []
    if path.is_file():
        for key, line in zip(keys, path.read_text(encoding="utf-8").splitlines(), strict=False):
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                break
            if entry.pop("row") != key:
                break
            answers.append(Answer(**entry))
    return answers
