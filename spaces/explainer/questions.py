"""A question put three ways: to the explainer, to the same explainer without its evidence, and to the target itself."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from limits import MAX_CHARACTERS, MAX_MAP_TOKENS
from selfexplain import Explanation, FeatureQuery, PatchQuery, SelfExplainError
from selfexplain.features.description import Description
from selfexplain.features.simulate import simulate
from selfexplain.groundtruth.builders.patching import blocks_of_layers
from selfexplain.target.nexttoken import next_token_logits
from selfexplain.target.patching import Patch, run_patches
from selfexplain.tasks import activation_patching, input_ablation, outcome
from selfexplain.tasks.outcome import Outcome
from showcase import Feature, Showcase, most_tokens, residuals

N_BLOCKS = 4
N_EXEMPLARS = 3


@dataclass(frozen=True)
class Said:
    """One answer of the explainer.

    Attributes:
        confidence: None for a control.
        answered: False where the explainer is less sure than it has to be to count as answering.
        correct: whether it states what really happens; None for a description, which is more or less so.
        score: of a description, the correlation of where it holds with how alike the tokens there are to the vector;
            None where it holds nowhere, or is not made of words that a program can apply.
    """

    text: str
    changed: bool | None = None
    output: str | None = None
    confidence: float | None = None
    answered: bool = True
    correct: bool | None = None
    score: float | None = None


@dataclass(frozen=True)
class Exemplar:
    """A text and, for each token, how alike what the target holds there is to a vector, 0 to 1."""

    tokens: tuple[str, ...]
    activations: tuple[float, ...]


@dataclass(frozen=True)
class Trial:
    """A question with its three answers.

    Attributes:
        prompt: the question, `<activation>` where a vector went.
        control: what the same explainer says without its evidence.
        control_from: what took the place of the evidence.
        before, after: what the target says next without and with the intervention; where a token is read, `after` is
            what it says right after that token.
        exemplars: texts in which the target holds something most alike to the vector.
        shades: the same for each token of the visitor's text.
        by_layer: what the explainer says of the same token at every layer that it reads.
    """

    task: str
    prompt: str
    explanation: Said
    control: Said
    control_from: str
    before: str | None = None
    after: str | None = None
    exemplars: tuple[Exemplar, ...] = ()
    shades: tuple[float, ...] = ()
    by_layer: tuple[str, ...] = ()


@dataclass(frozen=True)
class PatchMap:
    """Does a patch change the output? For every token and block of layers: `[token][block]`.

    Attributes:
        predicted: the probability of "would change" against "would remain", in the words of the explainer.
    """

    tokens: tuple[str, ...]
    blocks: tuple[tuple[int, ...], ...]
    predicted: tuple[tuple[float, ...], ...]
    actual: tuple[tuple[bool, ...], ...]


def check_text(showcase: Showcase, text: str, limit: int | None = None) -> list[str]:
    """The tokens of a visitor's text, at most `limit`, and never more than the explainer can be asked about.

    Raises:
        SelfExplainError: empty or too long.
    """
    if len(text) > MAX_CHARACTERS:
        raise SelfExplainError(
            f"The text has {len(text):,} characters; there is room for {MAX_CHARACTERS:,} here. Shorten it."
        )
    if not text.strip():
        raise SelfExplainError("The text is empty. Type a sentence, or take one of the examples.")
    tokens, limit = showcase.tokens(text), limit or most_tokens(showcase.target)
    if len(tokens) > limit:
        raise SelfExplainError(f"The text has {len(tokens)} tokens; there is room for {limit} here. Shorten it.")
    return tokens


def blocks(showcase: Showcase) -> list[tuple[int, ...]]:
    """The blocks of layers that a patch replaces at once, of those that the explainer can be asked about."""
    found = blocks_of_layers(showcase.target.n_layers, min(N_BLOCKS, showcase.target.n_layers))
    return [layers for layers in found if layers[0] in showcase.explainer.config.layers_of("activation_patching")]


# ---------------------------------------------------------------- what does this token hold?


def ask_feature(showcase: Showcase, text: str, layer: int, token: int) -> Trial:
    """What does the target hold after block `layer` at token `token` of `text`?

    Raises:
        SelfExplainError: a text, token or layer that cannot be.
    """
    token = _index(token, len(check_text(showcase, text)), "token")
    layer = _index(layer, showcase.target.n_layers, "layer")
    layers = showcase.explainer.config.layers_of("feature_description")
    if layer not in layers:
        raise SelfExplainError(f"The explainer did not learn to read layer {layer}; it reads {_short(str(layers))}.")
    held = showcase.explainer.capture(text, layers, showcase.foreign).float().cpu()  # (n_layers, T, d)
    control, control_from = _other_vector(showcase, layer, f"{text}{token}")
    queries = [FeatureQuery(vectors[token], each) for vectors, each in zip(held, layers, strict=True)]
    *said, control_said = showcase.explainer.explain([*queries, FeatureQuery(control, layer)])
    at, bank = layers.index(layer), _bank(showcase, layer)
    direction = held[at, token] - bank.mean
    return replace(
        _described(bank, direction, said[at], control_said, control_from),
        after=_next_token(showcase, text, token),
        shades=tuple(bank.alike(held[at], direction).tolist()),
        by_layer=tuple(each.text for each in said),
    )


def ask_direction(showcase: Showcase, feature: Feature) -> Trial:
    """The same question about a feature of the browser."""
    vector = torch.tensor(feature.vector)
    control, control_from = _other_vector(showcase, feature.layer, f"{feature.layer} {feature.index}")
    said = showcase.explainer.explain([FeatureQuery(each, feature.layer) for each in (vector, control)])
    return _described(_bank(showcase, feature.layer), vector, *said, control_from)


@dataclass(frozen=True)
class _Bank:
    """Texts that directions are looked up in, and what the target holds at their tokens, `(T, d)` a text."""

    tokens: list[list[str]]
    held: list[Tensor]
    mean: Tensor

    def alike(self, held: Tensor, direction: Tensor) -> np.ndarray:
        """Cosine of a direction with what is held at each token, `(T,)`, less the mean; negative ones are 0."""
        return cosine_similarity(held - self.mean, direction, dim=-1).clamp(min=0).numpy()


@lru_cache(maxsize=8)
def _bank(showcase: Showcase, layer: int) -> _Bank:
    texts = showcase.texts or [example["text"] for example in showcase.examples["feature"]]
    tokens, held = residuals(showcase, texts, layer)
    return _Bank(tokens, held, torch.cat(held).mean(0))


def _other_vector(showcase: Showcase, layer: int, seed: str) -> tuple[Tensor, str]:
    """What the target holds at a token of another text, and where that is."""
    bank, rng = _bank(showcase, layer), Random(seed)
    text = rng.randrange(len(bank.held))
    token = rng.randrange(len(bank.held[text]))
    return bank.held[text][token], f"the vector at “{visible(bank.tokens[text][token])}” of another text, same layer"


def _described(bank: _Bank, direction: Tensor, said: Explanation, control: Explanation, control_from: str) -> Trial:
    """Look a direction up in the texts, and compare with where two descriptions hold."""
    alike = [bank.alike(held, direction) for held in bank.held]
    best = sorted(range(len(alike)), key=lambda index: -alike[index].max())[:N_EXEMPLARS]
    tokens, everywhere = [token for part in bank.tokens for token in part], np.concatenate(alike)
    return Trial(
        task="feature_description",
        prompt=said.prompt,
        explanation=replace(_said(said), score=_score(said.description, tokens, everywhere)),
        control=Said(control.text, score=_score(control.description, tokens, everywhere)),
        control_from=control_from,
        exemplars=tuple(Exemplar(tuple(bank.tokens[index]), tuple(alike[index].tolist())) for index in best),
    )


def _score(description: Description | None, tokens: Sequence[str], activations: np.ndarray) -> float | None:
    holds = simulate(description, tokens) if description else np.zeros(len(tokens))
    if holds.std() == 0 or activations.std() == 0:
        return None
    return float(np.corrcoef(holds, activations)[0, 1])


def _next_token(showcase: Showcase, text: str, token: int) -> str:
    """What the target finds most likely right after a token of a text."""
    with showcase.reading_target() as target:
        logits = next_token_logits(target, [target.encode(text)[: token + 1]])
    return visible(target.tokenizer.decode([int(logits[0].argmax())]))


# ---------------------------------------------------------------- what if this token held something else?


def ask_patch(
    showcase: Showcase, text: str, source: str, layers: Sequence[int], token: int, source_token: int
) -> Trial:
    """If what the target holds at `source_token` of `source` replaced what it holds at `token` of `text`?

    The vector is the mean over `layers`, and replaces the output of each of them.

    Raises:
        SelfExplainError: a text, token or layer that cannot be.
    """
    token = _index(token, len(check_text(showcase, text)), "token")
    source_token = _index(source_token, len(check_text(showcase, source)), "token of the other text")
    _check_block(showcase, layers)
    others = [example["source"] for example in showcase.examples["patch"] if example["source"] != source]
    rng = Random(f"{text}{source}{layers}{token}")
    other = rng.choice(others or [text])
    other_tokens = showcase.tokens(other)
    other_token = rng.randrange(len(other_tokens) > 1, len(other_tokens))
    said, control = showcase.explainer.explain(
        [
            PatchQuery(text, _block_means(showcase, source, layers)[source_token], layers, token),
            PatchQuery(text, _block_means(showcase, other, layers)[other_token], layers, token),
        ],
        target=showcase.foreign,
    )
    real = showcase.explainer.verify(said, showcase.foreign)
    right = (control.changed, control.output) == (real.actual_changed, real.actual_output)
    return Trial(
        task="activation_patching",
        prompt=said.prompt,
        explanation=replace(_said(said), correct=real.agrees),
        control=Said(control.text, control.changed, control.output, correct=right),
        control_from=f"the vector at “{visible(other_tokens[other_token])}” of “{_short(other)}”, same layers",
        before=real.clean_output,
        after=real.actual_output,
    )


def ask_map(showcase: Showcase, text: str, source: str, source_token: int) -> PatchMap:
    """Does the patch change the output, for every token of `text` and every block of layers?

    Where both texts have as many tokens, a token gets the vector at its own place in `source`; else that of
    `source_token`.
    """
    tokens, source_tokens = (check_text(showcase, each, MAX_MAP_TOKENS) for each in (text, source))
    source_token = _index(source_token, len(source_tokens), "token of the other text")
    aligned = len(tokens) == len(source_tokens)
    predicted, patches = [], []
    for layers in blocks(showcase):
        vectors = _block_means(showcase, source, layers)  # (T, d)
        vectors = vectors if aligned else vectors[source_token].expand(len(tokens), -1)
        predicted.append(_would_change(showcase, text, tokens, layers, vectors))
        patches += [Patch(0, layers, (place,), vector[None]) for place, vector in enumerate(vectors)]
    with showcase.reading_target() as target:
        found = run_patches(target, [target.encode(text)], patches)
    changed = (found.ids != found.clean_ids).view(len(predicted), len(tokens))
    return PatchMap(
        tuple(tokens),
        tuple(blocks(showcase)),
        tuple(zip(*predicted, strict=True)),
        tuple(map(tuple, changed.T.tolist())),
    )


def _check_block(showcase: Showcase, layers: Sequence[int]) -> None:
    """Raise SelfExplainError for layers that no question in training was about."""
    readable, n_layers = showcase.explainer.config.layers_of("activation_patching"), showcase.target.n_layers
    first, n = (layers[0], len(layers)) if layers else (-1, 0)
    if first not in readable or first + n > n_layers or list(layers) != list(range(first, first + n)):
        raise SelfExplainError(
            f"Layers {_short(str(list(layers)))} cannot be patched. Give neighbours in ascending order, from 0 to "
            f"{n_layers - 1}, of which the explainer reads the first; it reads {', '.join(map(str, readable))}."
        )


def _block_means(showcase: Showcase, text: str, layers: Sequence[int]) -> Tensor:
    """Mean over layers of what the target holds at each token, `(T, d)`."""
    return showcase.explainer.capture(text, layers, showcase.foreign).float().mean(0)


@torch.no_grad()
def _would_change(
    showcase: Showcase, text: str, tokens: Sequence[str], layers: Sequence[int], vectors: Tensor
) -> list[float]:
    """The probability that the explainer says "change" of each patch: read where its two possible sentences part."""
    explainer, tokenizer = showcase.explainer, showcase.explainer.processor.tokenizer
    change, remain = (
        tokenizer(outcome.render(Outcome(changed, "")), add_special_tokens=False)["input_ids"]
        for changed in (True, False)
    )
    fork = next(n for n, (a, b) in enumerate(zip(change, remain, strict=False)) if a != b)
    rows = []
    for place, (token, vector) in enumerate(zip(tokens, vectors, strict=True)):
        put = activation_patching.question(text, layers, place, token)
        prompt = put.prompt + tokenizer.decode(change[:fork])
        rows.append(vars(put) | {"prompt": prompt, "activations": [vector], "activation_layers": [layers[0]]})
    inputs = explainer.processor(rows).to(explainer.device)
    logits = explainer(**inputs, logits_to_keep=1).logits[:, -1]  # (T, vocabulary)
    return logits[:, [change[fork], remain[fork]]].float().softmax(-1)[:, 0].tolist()


# ---------------------------------------------------------------- what if a part were removed?


def ask_ablation(showcase: Showcase, text: str, remove: str) -> Trial:
    """Would the target answer differently if `remove` were taken out of `text`?

    No vector goes into this question. The control asks it when the part is gone already: nothing can change then.

    Raises:
        SelfExplainError: a text that cannot be, or without that part.
    """
    check_text(showcase, text)
    if not text.replace(remove, "", 1).strip():
        raise SelfExplainError("That is the whole text. Pick a part of it, so that something is left to answer.")
    said = showcase.explainer.explain_ablation(text, remove, target=showcase.foreign)
    real = showcase.explainer.verify(said, showcase.foreign)
    hint = remove.strip().startswith("Hint:")
    put = input_ablation.question(text.replace(remove, "", 1), None if hint else remove)
    [answer] = showcase.explainer.answer([vars(put) | {"activations": [], "activation_layers": []}])
    claim = outcome.parse(answer.text)
    return Trial(
        task="input_ablation",
        prompt=said.prompt,
        explanation=replace(_said(said), correct=real.agrees),
        control=Said(
            answer.text,
            claim.changed if claim else None,
            claim.output if claim else None,
            correct=claim is not None and not claim.changed and claim.output == real.actual_output,
        ),
        control_from="the same text with that part gone already, so that nothing can change",
        before=real.clean_output,
        after=real.actual_output,
    )


# ---------------------------------------------------------------- what they share


def visible(token: str) -> str:
    """A token as a reader sees it: without the spaces around it, and never empty."""
    return token.replace("\n", "↵").strip() or "␣"


def _said(explanation: Explanation) -> Said:
    said = explanation
    return Said(said.text, said.changed, said.output, said.confidence, said.answered)


def _index(index: int, n: int, what: str) -> int:
    if not -n <= index < n:
        raise SelfExplainError(f"There is no {what} {index}; they are numbered 0 to {n - 1}.")
    return index % n


def _short(text: str, limit: int = 40) -> str:
    line = text.split("\n")[0]
    return line if len(line) <= limit else line[:limit].rsplit(" ", 1)[0] + " …"
