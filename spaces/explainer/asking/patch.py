"""Ask what a patch would change, and run the patch on the target."""

from collections.abc import Sequence
from random import Random

import torch
from torch import Tensor

from asking.text import check_index, check_text, shorten, visible
from asking.trial import Answer, PatchMap, Trial
from examples import PatchExample
from limits import MAX_MAP_TOKENS
from selfexplain import PatchQuery, SelfExplainError
from selfexplain.groundtruth.builders.patching import blocks_of_layers
from selfexplain.target.patching import Patch, run_patches
from selfexplain.tasks import activation_patching, outcome
from selfexplain.tasks.activation_patching import TASK
from selfexplain.tasks.outcome import Outcome
from showcase import Showcase

N_BLOCKS = 4


def blocks(showcase: Showcase) -> list[tuple[int, ...]]:
    """Return the blocks of layers that can be patched: those whose first layer the explainer was trained on."""
    n_layers = showcase.target.n_layers
    trained = showcase.explainer.config.layers_of(TASK.name)
    return [layers for layers in blocks_of_layers(n_layers, min(N_BLOCKS, n_layers)) if layers[0] in trained]


def ask_patch(
    showcase: Showcase, text: str, source: str, layers: Sequence[int], token: int, source_token: int
) -> Trial:
    """Ask how the target's output changes when a vector of `source` replaces the one at `token` of `text`.

    The vector is the mean over `layers` of the residual stream at `source_token`. It replaces the output of each of
    these layers. The control asks about a vector of a different source text.

    Raises:
        SelfExplainError: A text, token or layer is not valid.
    """
    token = check_index(token, len(check_text(showcase, text)), "token")
    source_token = check_index(source_token, len(check_text(showcase, source)), "source token")
    _check_layers(showcase, layers)
    examples = showcase.examples_of(TASK.name, PatchExample)
    other_sources = [example.source for example in examples if example.source != source]
    rng = Random(f"{text}{source}{layers}{token}")
    other = rng.choice(other_sources or [text])
    other_tokens = showcase.tokens(other)
    other_token = rng.randrange(len(other_tokens) > 1, len(other_tokens))
    explanation, control = showcase.explainer.explain(
        [
            PatchQuery(text, _mean_over_layers(showcase, source, layers)[source_token], layers, token),
            PatchQuery(text, _mean_over_layers(showcase, other, layers)[other_token], layers, token),
        ],
        target=showcase.separate_target,
    )
    measured = showcase.explainer.verify(explanation, showcase.separate_target)
    control_correct = (control.changed, control.output) == (measured.actual_changed, measured.actual_output)
    return Trial(
        task=TASK.name,
        prompt=explanation.prompt,
        explanation=Answer.of(explanation, correct=measured.agrees),
        control=Answer(control.text, control.changed, control.output, correct=control_correct),
        control_from=f"the vector of “{visible(other_tokens[other_token])}” in “{shorten(other)}” (same layers)",
        before=measured.clean_output,
        after=measured.actual_output,
    )


def ask_map(showcase: Showcase, text: str, source: str, source_token: int) -> PatchMap:
    """Predict and measure whether the output changes, for every token of `text` and every block of layers.

    If both texts have the same number of tokens, each token gets the vector at the same position of `source`.
    Otherwise every token gets the vector at `source_token`.

    Raises:
        SelfExplainError: A text or token is not valid.
    """
    tokens, source_tokens = (check_text(showcase, each, MAX_MAP_TOKENS) for each in (text, source))
    source_token = check_index(source_token, len(source_tokens), "source token")
    aligned = len(tokens) == len(source_tokens)
    predicted, patches = [], []
    for layers in blocks(showcase):
        vectors = _mean_over_layers(showcase, source, layers)  # (T, d)
        vectors = vectors if aligned else vectors[source_token].expand(len(tokens), -1)
        predicted.append(_change_probabilities(showcase, text, tokens, layers, vectors))
        patches += [Patch(0, layers, (position,), vector[None]) for position, vector in enumerate(vectors)]
    with showcase.reading_target() as target:
        results = run_patches(target, [target.encode(text)], patches)
    changed = (results.ids != results.clean_ids).view(len(predicted), len(tokens))
    return PatchMap(
        tuple(tokens),
        tuple(blocks(showcase)),
        tuple(zip(*predicted, strict=True)),
        tuple(map(tuple, changed.T.tolist())),
    )


def _check_layers(showcase: Showcase, layers: Sequence[int]) -> None:
    """Raise SelfExplainError for layers that no training question was about."""
    trained, n_layers = showcase.explainer.config.layers_of(TASK.name), showcase.target.n_layers
    first, n = (layers[0], len(layers)) if layers else (-1, 0)
    if first not in trained or first + n > n_layers or list(layers) != list(range(first, first + n)):
        raise SelfExplainError(
            f"Layers {shorten(str(list(layers)))} cannot be patched together. Give consecutive layers in ascending "
            f"order, from 0 to {n_layers - 1}, that start at one of these layers: {', '.join(map(str, trained))}."
        )


def _mean_over_layers(showcase: Showcase, text: str, layers: Sequence[int]) -> Tensor:
    """Return the residual stream at each token, averaged over layers, `(T, d)`."""
    return showcase.explainer.capture(text, layers, showcase.separate_target).float().mean(0)


@torch.no_grad()
def _change_probabilities(
    showcase: Showcase, text: str, tokens: Sequence[str], layers: Sequence[int], vectors: Tensor
) -> list[float]:
    """Return the explainer's probability of a change for the patch at each token.

    The probability is read at the first token in which the sentences for "changes" and "unchanged" differ.
    """
    explainer, processor = showcase.explainer, showcase.explainer.processor
    rows, encoded = [], []
    for position, (token, vector) in enumerate(zip(tokens, vectors, strict=True)):
        question = activation_patching.question(text, layers, position, token)
        row = vars(question) | {"activations": [vector], "activation_layers": [layers[0]]}
        change, remain = (
            processor.encode_answered(row, outcome.render(Outcome(changed, ""))) for changed in (True, False)
        )
        fork = next(n for n, (a, b) in enumerate(zip(change.completion, remain.completion, strict=False)) if a != b)
        encoded.append((change.ids + change.completion[:fork], change.positions))
        rows.append(row)
    ids, positions = zip(*encoded, strict=True)
    inputs = processor.collate(ids, positions, rows, left=True)
    inputs = {name: value.to(explainer.device) for name, value in inputs.items()}
    logits = explainer(**inputs, logits_to_keep=1).logits[:, -1]  # (T, vocabulary)
    return logits[:, [change.completion[fork], remain.completion[fork]]].float().softmax(-1)[:, 0].tolist()
