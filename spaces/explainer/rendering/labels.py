"""Names and explanations of systems and metrics."""

from dataclasses import dataclass

from selfexplain.evaluation.metrics import METRICS
from selfexplain.utils.formatting import format_name


@dataclass(frozen=True)
class Label:
    """How the demo names a system or a metric, and what it means."""

    name: str
    meaning: str = ""


SYSTEMS = {
    "explainer": Label("explainer", "The trained explainer."),
    "shuffled_vector": Label(
        "control: shuffled vector", "The explainer, asked with the vector of a different row from the same layer."
    ),
    "zero_vector": Label("control: zero vector", "The explainer, asked with a vector of zeros."),
    "text_only": Label("control: no vector", "The explainer, asked without a vector."),
    "untrained": Label("baseline: untrained", "The explainer's base model before training."),
    "selfie": Label("baseline: SelfIE", "The untrained target, asked to interpret the vector (SelfIE)."),
    "nearest_neighbour": Label("baseline: nearest row", "The answer of the most similar training row."),
    "lookup_rule": Label(
        "baseline: lookup rule", "The most common label in the training data for rows of the same kind; no vector."
    ),
    "majority": Label("baseline: majority", "The most common label in the training data."),
    "trained_without_vectors": Label(
        "baseline: trained without vectors", "The same explainer, trained on the same questions without their vectors."
    ),
    "gradient_boosting": Label(
        "reader: gradient boosting",
        "A classifier on a few numbers per question, such as token type, position, norm and margin.",
    ),
    "token_lens": Label(
        "reader: token lens", "The words whose embeddings are nearest to the vector after a linear map; no training."
    ),
    "token_lens_grammar": Label(
        "reader: token lens, described", "What the describer writes about the tokens that the token lens reads."
    ),
    "logit_lens": Label("reader: logit lens", "The words that the target's own head reads from the vector."),
    "logit_lens_options": Label(
        "reader: logit lens, options",
        "Where gradient boosting predicts a change: the option that the target's head reads from the vector.",
    ),
    "logit_lens_vocabulary": Label(
        "reader: logit lens, vocabulary", "The same, with the whole vocabulary in place of the options."
    ),
    "substitution": Label(
        "reader: substitution",
        "The target, run on the text with the token that the token lens reads from the vector.",
    ),
    "second_choice": Label(
        "reader: second choice",
        "Where gradient boosting predicts a change: the option that the target ranks next with the hint.",
    ),
    "asked_in_words": Label(
        "reader: asked in words", "The target, asked in words for its answer without the hint; no training."
    ),
    "ground_truth": Label("upper bound: ground truth", "The ground-truth descriptions, scored like the others."),
}
"""System -> label, in the order of tables."""

CHANCE = {
    "simulator_correlation": "Chance is 0.",
    "detection_balanced_accuracy": "Chance is 0.5.",
    "has_changed_macro_f1": "Random guessing scores about 0.5.",
}
"""Metric -> its chance level."""


def system_label(system: str) -> Label:
    return SYSTEMS.get(system) or Label(format_name(system))


def metric_label(metric: str) -> Label:
    name = format_name(metric)
    meaning = METRICS[metric].meaning if metric in METRICS else ""
    return Label(name[:1].upper() + name[1:], f"{meaning} {CHANCE.get(metric, '')}".strip())
