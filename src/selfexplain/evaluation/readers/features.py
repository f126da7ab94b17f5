"""Readers of feature descriptions: which tokens does a vector stand for?"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from selfexplain.evaluation.readers.reader import Fitted, Material, NotAvailable, Row, best_on_validation, reader
from selfexplain.evaluation.readers.token_lens import RIDGES, TokenLens, first_vectors, fit_maps
from selfexplain.features.describers.offline import describe, grammar_of, uses_wordnet
from selfexplain.features.description import MAX_TOKENS, Description, clean
from selfexplain.features.grammar import wordnet
from selfexplain.features.simulate import score
from selfexplain.features.windows import Exemplar
from selfexplain.target.lens import logit_lens as run_logit_lens
from selfexplain.target.load import Target
from selfexplain.target.tokens import token_text
from selfexplain.tasks import feature_description
from selfexplain.training.pairing import paired_activations

TASK = feature_description.TASK

N_TOKENS = 10_000
"""Tokens of training windows on which the token lens is fitted."""

N_POOL = 400
"""Different tokens of training windows that the describer sees next to those that the token lens reads."""

ACTIVE = (3, 10, 30)
"""Candidate numbers of the nearest tokens on which the describer takes a feature to be active."""

N_VALIDATION = 100
"""Validation vectors on which settings are chosen."""

N_READ = 2 * MAX_TOKENS  # tokens that are read, because several have the same text


@reader(TASK)
def token_lens(material: Material) -> Fitted:
    """The words whose embeddings are nearest to the vector, mapped by the token lens."""
    lens, k = material.share(_choose_lens)
    return Fitted(_each(lambda rows: _word_lists(lens.read(rows), k)), {"ridge": lens.lens.ridge, "k": k})


@reader(TASK)
def token_lens_grammar(material: Material) -> Fitted:
    """What the describer writes about a feature that is active on the tokens nearest to the vector."""
    lens, _ = material.share(_choose_lens)
    pool = _pool(material)

    def with_active(n_active: int) -> Callable[[Sequence[Row]], list[str]]:
        return lambda rows: _described(material, lens, pool, n_active, rows)

    n_active = best_on_validation(ACTIVE, lambda n: _score(material, with_active(n)(_validation(material))))
    return Fitted(_each(with_active(n_active)), {"ridge": lens.lens.ridge, "active": n_active})


@reader(TASK)
def logit_lens(material: Material) -> Fitted:
    """The words that the logit lens of the vector ranks first."""
    target = material.target
    texts = _texts(target)

    def read(rows: Sequence[Row]) -> list[list[str]]:
        nearest = [
            logits[:, : len(texts)].topk(N_READ).indices for logits in run_logit_lens(target, first_vectors(rows))
        ]
        return [_distinct(texts[token] for token in tokens) for tokens in torch.cat(nearest).tolist()]

    validation = read(_validation(material))
    k = best_on_validation(_SIZES, lambda size: _score(material, _word_lists(validation, size)))
    return Fitted(_each(lambda rows: _word_lists(read(rows), k)), {"k": k})


_SIZES = tuple(range(1, MAX_TOKENS + 1))
"""Candidate numbers of words."""


@dataclass(frozen=True)
class _TextLens:
    """A token lens that reads texts.

    Attributes:
        lens: the lens.
        texts: cleaned text of each token of the vocabulary.
    """

    lens: TokenLens
    texts: Sequence[str] = field(repr=False)

    def read(self, rows: Sequence[Row]) -> list[list[str]]:
        """The distinct texts of the tokens nearest to the vector of each row, the nearest first."""
        nearest = self.lens.nearest(first_vectors(rows), _layers(rows), N_READ)
        return [_distinct(self.texts[token] for token in tokens) for tokens in nearest.tolist()]


def _choose_lens(material: Material) -> tuple[_TextLens, int]:
    """The lens and the number of words that describe the validation vectors best, chosen one after the other."""
    material.require("exemplars", "scoring_exemplars")
    target, texts = material.target, _texts(material.target)
    layers = sorted(set(_layers(material.train)))
    activations, embeddings = paired_activations(
        target, target, _window_texts(material), layers, N_TOKENS, fit_to="embedding"
    )
    pairs = list(zip(activations, embeddings, strict=True))
    lenses = [_TextLens(TokenLens(target, layers, fit_maps(pairs, ridge), ridge), texts) for ridge in RIDGES]
    validation = _validation(material)
    read = {id(lens): lens.read(validation) for lens in lenses}

    def score_of(lens: _TextLens, k: int) -> float:
        return _score(material, _word_lists(read[id(lens)], k))

    lens = best_on_validation(lenses, lambda candidate: score_of(candidate, MAX_TOKENS))
    return lens, best_on_validation(_SIZES, lambda k: score_of(lens, k))


def _described(
    material: Material, lens: _TextLens, pool: Sequence[str], n_active: int, rows: Sequence[Row]
) -> list[str]:
    """What the describer writes about activations that equal the similarities of the nearest tokens.

    It sees these tokens, and those of the pool, most of which are inactive.
    """
    texts = [lens.texts[token] for token in lens.lens.token_ids.tolist()]
    number = {text: n for n, text in enumerate(dict.fromkeys(texts))}
    of_token, names = np.array([number[text] for text in texts]), list(number)
    in_pool = np.isin(np.arange(len(names)), [number[text] for text in pool if text in number])
    descriptions = [row["description"] for row in material.train]
    grammar = grammar_of(descriptions, material.classes)
    use_wordnet = uses_wordnet(descriptions, material.classes) and wordnet.available()
    answers = []
    for row in rows:
        similarities = lens.lens.similarities(first_vectors([row]), _layers([row]))[0].numpy()
        activations = _activations(similarities, of_token, len(names), n_active).astype(np.float32)
        # One window per token, because the order of the tokens means nothing.
        shown = np.flatnonzero(in_pool | (activations > 0))
        windows = [Exemplar(tokens=[names[n]], activations=activations[n : n + 1]) for n in shown]
        (description, _), *_ = describe(windows, material.classes, grammar=grammar, use_wordnet=use_wordnet)
        answers.append(str(description))
    return answers


def _activations(similarities: NDArray, of_token: NDArray, n_texts: int, n_active: int) -> NDArray:
    """The similarity of each distinct text, `(n_texts,)`; 0 for all but the `n_active` highest ones."""
    highest = np.full(n_texts, -np.inf)
    np.maximum.at(highest, of_token, similarities)
    threshold = np.sort(highest)[-min(n_active + 1, n_texts)]
    return np.clip(highest - threshold, 0, None)


def _pool(material: Material) -> list[str]:
    """Random different tokens of the training windows."""
    distinct = sorted({clean(token) for tokens in _windows(material) for token in tokens})
    order = np.random.default_rng(material.seed).permutation(len(distinct))[:N_POOL]
    return [distinct[index] for index in order]


def _windows(material: Material) -> list[list[str]]:
    """The tokens of the windows of the training rows, each once."""
    exemplars = {id(row["exemplars"]): row["exemplars"] for row in material.train}
    windows = (tuple(window["tokens"]) for of_row in exemplars.values() for window in of_row)
    return [list(tokens) for tokens in dict.fromkeys(windows) if tokens]


def _window_texts(material: Material) -> list[str]:
    """The texts of these windows in random order."""
    windows = _windows(material)
    # Some tokenizers drop the space before a word when they decode it alone.
    space = "" if any(token.startswith(" ") for tokens in windows for token in tokens) else " "
    order = np.random.default_rng(material.seed).permutation(len(windows))
    return [space.join(windows[index]) for index in order]


def _validation(material: Material) -> list[Row]:
    """Validation rows with different vectors.

    Raises:
        NotAvailable: there are no validation rows.
    """
    distinct = list({_key(row): row for row in material.validation}.values())[:N_VALIDATION]
    if not distinct:
        raise NotAvailable("there are no validation rows on which its settings can be chosen")
    return distinct


def _score(material: Material, answers: Sequence[str]) -> float:
    """Mean simulator score of answers to the validation rows."""
    rows = _validation(material)
    parsed = [Description.parse(answer, material.classes) for answer in answers]
    return float(np.mean([score(d, row["scoring_exemplars"]) for d, row in zip(parsed, rows, strict=True)]))


def _each(read: Callable[[Sequence[Row]], list[str]]) -> Callable[[Sequence[Row]], list[str]]:
    """The same function, called only once per vector: rows about one vector differ in the wording of the question."""

    def answer(rows: Sequence[Row]) -> list[str]:
        distinct = {_key(row): row for row in rows}
        answers = dict(zip(distinct, read(list(distinct.values())), strict=True))
        return [answers[_key(row)] for row in rows]

    return answer


def _key(row: Row) -> Hashable:
    return tuple(row["activation_layers"]), np.asarray(row["activations"]).tobytes()


def _word_lists(read: Sequence[Sequence[str]], k: int) -> list[str]:
    """Descriptions that list the first `k` of the words that were read."""
    return [str(Description.of_tokens(words[:k])) for words in read]


def _layers(rows: Sequence[Row]) -> list[int]:
    """The layer of the vector of each row."""
    return [row["activation_layers"][0] for row in rows]


def _distinct(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def _texts(target: Target) -> list[str]:
    """The cleaned text of each token of the vocabulary."""
    n_tokens = len(target.tokenizer)
    return [clean(token_text(target.tokenizer, token)) for token in range(n_tokens)]
