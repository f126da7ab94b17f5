"""Check rows of feature description: run their exemplars on the target again, and score their descriptions again."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from selfexplain.errors import SelfExplainError
from selfexplain.features.description import Description
from selfexplain.features.dictionary import Dictionary
from selfexplain.features.simulate import simulator_score
from selfexplain.groundtruth.builders.builder import BuildContext
from selfexplain.groundtruth.builders.descriptions import OFFLINE
from selfexplain.groundtruth.builders.dictionaries import find_dictionaries
from selfexplain.groundtruth.builders.feature_rows import layers_and_token_ids
from selfexplain.groundtruth.schema import VECTORS
from selfexplain.target.capture import capture
from selfexplain.target.sweep import is_coarse
from selfexplain.target.tokens import token_text

MAX_DIFFERENCE = 1e-3  # of activations, relative to the largest one, in float32
MAX_COARSE_DIFFERENCE = 0.1  # the same for a model of lower precision
MAX_COARSE_CHANGES = 0.3  # fraction of active tokens that may differ more, because TopK can choose another feature
MAX_PLACES = 8  # texts with the same window that are tried


class FeatureCheck:
    """Runs rows of feature description again, given the settings and texts that they were built from.

    Args:
        context: the dataset, with the settings, corpus and seed of its run.

    Raises:
        SelfExplainError: the corpus is empty, or the SAEs are missing or do not fit the target.
    """

    def __init__(self, context: BuildContext) -> None:
        config, target, corpus = context.config, context.target, context.corpus
        self._target = target
        layers, self._token_ids = layers_and_token_ids(config, target, corpus.texts)
        found = find_dictionaries(config, target, self._token_ids, layers, context.directory.root, context.seed)
        self._dictionaries = {(entry.layer, entry.sae_id): entry for entry in found}
        self._classes = {name: set(words) for name, words in context.directory.statistics().classes.items()}

    def __call__(self, target: Any, row: Mapping[str, Any]) -> tuple[str, str]:
        """The stored and the new values of a row that differ: its vector, activations of an exemplar, and its score.

        Raises:
            SelfExplainError: the settings do not include the SAE of the row.
        """
        dictionary = self._dictionaries.get((row["layer"], row["sae_id"]))
        columns = (dictionary.indices == row["feature_index"]).nonzero()[:, 0].tolist() if dictionary else []
        if dictionary is None or not columns:
            raise SelfExplainError(
                f"The settings of the run do not include feature {row['feature_index']} of {row['sae_id']} at layer "
                f"{row['layer']}. Build the dataset again with the present settings."
            )
        pairs = [*self._vector(row, dictionary, columns[0]), *self._activations(row, dictionary, columns[0])]
        pairs += self._score(row)
        return "; ".join(stored for stored, _ in pairs), "; ".join(found for _, found in pairs)

    def _vector(self, row: Mapping[str, Any], dictionary: Dictionary, column: int) -> Iterator[tuple[str, str]]:
        direction = dictionary.directions[column].numpy()
        stored = np.asarray(row[VECTORS][0], np.float32)
        if stored.shape != direction.shape or not np.allclose(stored, direction, atol=1e-3):
            yield f"vector {_rounded(stored[:4])}", f"vector {_rounded(direction[:4])}"

    def _activations(self, row: Mapping[str, Any], dictionary: Dictionary, column: int) -> Iterator[tuple[str, str]]:
        nearest: NDArray[np.float32] | None = None
        for exemplar in row["exemplars"]:
            stored = np.asarray(exemplar["activations"], np.float32)
            for sequence, positions in self._places(exemplar["tokens"]):
                found = self._encode(dictionary, column, sequence)[positions]
                if self._agree(stored, found):
                    return
                nearest = found
            if nearest is not None:
                yield f"activations {_rounded(stored)}", f"activations {_rounded(nearest)}"
                return
        yield "exemplars", "no exemplar occurs in the corpus"

    def _agree(self, stored: NDArray[np.float32], found: NDArray[np.float32]) -> bool:
        coarse = is_coarse(self._target.model)
        tolerance = (MAX_COARSE_DIFFERENCE if coarse else MAX_DIFFERENCE) * float(stored.max(initial=1e-6))
        n_different, n_active = (np.abs(found - stored) > tolerance).sum(), ((stored > 0) | (found > 0)).sum()
        return bool(n_different <= (MAX_COARSE_CHANGES * n_active if coarse else 0))

    def _score(self, row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        if row["description_source"] != OFFLINE or row["simulator_score"] is None:
            return
        description = Description.parse(row["description"], self._classes)
        found = simulator_score(description, row["scoring_exemplars"]).value if description else float("nan")
        if not abs(found - row["simulator_score"]) < 1e-4:
            yield f"simulator score {row['simulator_score']:.4f}", f"simulator score {found:.4f}"

    def _encode(self, dictionary: Dictionary, column: int, sequence: int) -> NDArray[np.float32]:
        """The activations of a feature at all tokens of a text, `(T,)`."""
        input_ids = torch.tensor([self._token_ids[sequence]], device=self._target.model.device)
        with torch.no_grad():
            hidden = capture(self._target.model, input_ids, [dictionary.layer])[0, 0].float()
            return dictionary.encode(hidden).float()[:, column].clamp(min=0).cpu().numpy()

    def _places(self, tokens: Sequence[str]) -> Iterator[tuple[int, slice]]:
        """The texts that contain a window of tokens, and the positions of the window."""
        window, places = "".join(tokens), 0
        for sequence, text in enumerate(self._texts):
            start = text.find(window)
            if start < 0 or not window:
                continue
            words = self._words(self._token_ids[sequence])
            starts = {offset: index for index, offset in enumerate(accumulate(map(len, words), initial=0))}
            first = starts.get(start)
            if first is not None and words[first : first + len(tokens)] == list(tokens):
                yield sequence, slice(first, first + len(tokens))
                places += 1
            if places == MAX_PLACES:
                return

    @cached_property
    def _texts(self) -> list[str]:
        """The tokens of each text, decoded one by one and joined."""
        return ["".join(self._words(ids)) for ids in self._token_ids]

    @cached_property
    def _decoded(self) -> dict[int, str]:
        ids = sorted({token for sequence in self._token_ids for token in sequence})
        return {token: token_text(self._target.tokenizer, token) for token in ids}

    def _words(self, ids: Sequence[int]) -> list[str]:
        return [self._decoded[token] for token in ids]


def _rounded(values: NDArray[np.float32]) -> list[float]:
    return [round(float(value), 3) for value in values]
