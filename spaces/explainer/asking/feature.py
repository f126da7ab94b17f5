"""Ask what a vector of the residual stream encodes."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import numpy as np
import torch
from torch import Tensor

from asking.reference import ReferenceTexts, reference_texts
from asking.text import check_index, check_text, shorten, visible
from asking.trial import Answer, Exemplar, Trial
from sae_features import Feature
from selfexplain import Explanation, FeatureQuery, SelfExplainError
from selfexplain.features.description import Description
from selfexplain.features.simulate import simulate
from selfexplain.target.nexttoken import next_token_logits
from selfexplain.target.tokens import token_text
from selfexplain.tasks.feature_description import TASK
from showcase import Showcase

N_EXEMPLARS = 3


def ask_feature(showcase: Showcase, text: str, layer: int, token: int) -> Trial:
    """Ask what the residual stream after block `layer` encodes at token `token` of `text`.

    The control asks about the vector of a random token of a reference text at the same layer.

    Raises:
        SelfExplainError: The text, token or layer is not valid.
    """
    token = check_index(token, len(check_text(showcase, text)), "token")
    layer = check_index(layer, showcase.target.n_layers, "layer")
    layers = showcase.explainer.config.layers_of(TASK.name)
    if layer not in layers:
        raise SelfExplainError(
            f"The explainer was not trained on layer {layer}. Pick one of these layers: {shorten(str(layers))}."
        )
    residuals = showcase.explainer.capture(text, layers, showcase.separate_target).float().cpu()  # (n_layers, T, d)
    control_vector, control_from = _random_vector(showcase, layer, f"{text}{token}")
    queries = [FeatureQuery(at_layer[token], each) for at_layer, each in zip(residuals, layers, strict=True)]
    *explanations, control = showcase.explainer.explain([*queries, FeatureQuery(control_vector, layer)])
    index, reference = layers.index(layer), reference_texts(showcase, layer)
    direction = residuals[index, token] - reference.mean
    return replace(
        _scored_trial(reference, direction, explanations[index], control, control_from),
        after=_next_token(showcase, text, token),
        shades=tuple(reference.similarity(residuals[index], direction).tolist()),
        by_layer=tuple(explanation.text for explanation in explanations),
    )


def ask_direction(showcase: Showcase, feature: Feature) -> Trial:
    """Ask what the direction of an SAE feature encodes."""
    vector = torch.tensor(feature.vector)
    control_vector, control_from = _random_vector(showcase, feature.layer, f"{feature.layer} {feature.index}")
    explanation, control = showcase.explainer.explain(
        [FeatureQuery(each, feature.layer) for each in (vector, control_vector)]
    )
    return _scored_trial(reference_texts(showcase, feature.layer), vector, explanation, control, control_from)


def _random_vector(showcase: Showcase, layer: int, seed: str) -> tuple[Tensor, str]:
    """Return the vector of a random token of the reference texts, and a phrase that names it."""
    reference, rng = reference_texts(showcase, layer), Random(seed)
    text = rng.randrange(len(reference.residuals))
    token = rng.randrange(len(reference.residuals[text]))
    name = visible(reference.tokens[text][token])
    return reference.residuals[text][token], f"the vector of the token “{name}” from a different text (same layer)"


def _scored_trial(
    reference: ReferenceTexts, direction: Tensor, explanation: Explanation, control: Explanation, control_from: str
) -> Trial:
    """Score two descriptions against the similarity of the reference tokens to a direction."""
    similarities = [reference.similarity(residuals, direction) for residuals in reference.residuals]
    best = sorted(range(len(similarities)), key=lambda index: -similarities[index].max())[:N_EXEMPLARS]
    tokens, all_similarities = [token for text in reference.tokens for token in text], np.concatenate(similarities)
    return Trial(
        task=TASK.name,
        prompt=explanation.prompt,
        explanation=Answer.of(explanation, score=_score(explanation.description, tokens, all_similarities)),
        control=Answer(control.text, score=_score(control.description, tokens, all_similarities)),
        control_from=control_from,
        exemplars=tuple(
            Exemplar(tuple(reference.tokens[index]), tuple(similarities[index].tolist())) for index in best
        ),
    )


def _score(description: Description | None, tokens: Sequence[str], similarities: np.ndarray) -> float | None:
    predicted = simulate(description, tokens) if description else np.zeros(len(tokens))
    if predicted.std() == 0 or similarities.std() == 0:
        return None
    return float(np.corrcoef(predicted, similarities)[0, 1])


def _next_token(showcase: Showcase, text: str, token: int) -> str:
    """Return the target's most likely next token after token `token` of a text."""
    with showcase.reading_target() as target:
        logits = next_token_logits(target, [target.encode(text)[: token + 1]])
    return visible(token_text(target.tokenizer, int(logits[0].argmax())))
