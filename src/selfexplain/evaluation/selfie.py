"""SelfIE as a baseline: the untrained target describes a vector (Chen et al. 2024, arXiv 2403.10949).

The vector replaces a placeholder word, at one of five scales; the best scale is chosen on the validation split. Only
tasks about a vector alone have this baseline (`Scorer.uses_selfie`): its prompt ("What is the meaning of the word
'X'?") cannot hold a text and an intervention.
"""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from selfexplain.evaluation.answers import Explainer, answer_all
from selfexplain.evaluation.metrics import METRICS, Simulator
from selfexplain.features.description import MAX_TOKENS, Description
from selfexplain.modeling.explanation import Answer
from selfexplain.tasks import free_question
from selfexplain.tasks.task import Task

if TYPE_CHECKING:
    from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM
    from selfexplain.target.load import Target, TargetShape

logger = logging.getLogger(__name__)

SCALES = (1.0, 5.0, 10.0, 25.0, 50.0)
MAX_NEW_TOKENS = 16

Row = Mapping[str, Any]


@dataclass(frozen=True)
class SelfIE:
    """A model that answers SelfIE's prompt; built by `selfie`.

    Attributes:
        model: the model, with SelfIE's injection contract.
        in_grammar: whether its words are turned into a description that the offline simulator reads.
    """

    model: "SelfExplainerForCausalLM"
    in_grammar: bool = True

    def answer(self, rows: Sequence[Row], batch_size: int = 64, progress: str | None = None) -> list[Answer]:
        """Describe the vector of each row."""
        template = self.model.config.injection["template"]
        questions = []
        for row in rows:
            layers, vectors = row["activation_layers"], np.asarray(row["activations"])
            question = free_question.question(None, layers, template)
            order = list(question.vectors or ())  # the template names the vector twice
            questions.append(
                {
                    "prompt": question.prompt,
                    "placeholder_offsets": question.placeholder_offsets,
                    "activations": vectors[order],
                    "activation_layers": [layers[index] for index in order],
                }
            )
        answers = self.model.answer(questions, batch_size, progress, MAX_NEW_TOKENS)
        format_text = as_description if self.in_grammar else str.strip
        return [replace(answer, text=format_text(answer.text)) for answer in answers]


def selfie(target: "Target", scale: float, in_grammar: bool = True) -> SelfIE:
    """The target as a SelfIE explainer.

    Args:
        scale: factor by which vectors are multiplied before they are written.
        in_grammar: whether its words are turned into a description that the offline simulator reads.
    """
    from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM
    from selfexplain.modeling.third_party.contracts import CONTRACTS

    contract = replace(CONTRACTS["selfie"], scale=scale)
    return SelfIE(SelfExplainerForCausalLM.from_base(target.model, target.tokenizer, injection=contract), in_grammar)


def is_possible(target: "Target | TargetShape") -> bool:
    """Whether a target has the block at which SelfIE writes; logs a warning if it does not."""
    from selfexplain.modeling.third_party.contracts import CONTRACTS

    block = CONTRACTS["selfie"].block
    if target.n_layers <= block:
        logger.warning(
            "SelfIE is left out because it writes at block %d, and %s has %d blocks.",
            block,
            target.name,
            target.n_layers,
        )
    return target.n_layers > block


def best_scale(
    selfie_at: Callable[[float], Explainer],
    task: Task,
    rows: Sequence[Row],
    simulator: Simulator,
    batch_size: int,
    cache_dir: Path | None,
) -> float:
    """The scale at which the answers to some rows have the highest headline metric.

    Args:
        selfie_at: function from a scale to the baseline.
        rows: validation rows.
        cache_dir: directory for answers; None to keep none.
    """
    metric = METRICS[task.headline]
    texts = []
    for scale in SCALES:
        name = f"selfie at scale {scale:g}"
        cache = cache_dir / f"{name}.jsonl" if cache_dir else None
        answers = answer_all(selfie_at(scale), rows, batch_size, f"{task.name}: {name}", cache)
        texts += [answer.text for answer in answers]
    counted = metric.count(texts, [row[metric.reference] for row in rows] * len(SCALES), simulator)
    scores = metric.value(counted.reshape(len(SCALES), len(rows), -1).sum(axis=1))
    return SCALES[np.nanargmax(scores)]


def as_description(words: str) -> str:
    """Convert free words into a description that lists the first few of them.

    The offline simulator reads a small grammar, which a model that was not trained on it cannot write. Without this
    step none of the model's answers would score.
    """
    listed = list(dict.fromkeys(re.findall(r"\w+", words)))[:MAX_TOKENS]
    return str(Description.of_tokens(listed)) if listed else ""
