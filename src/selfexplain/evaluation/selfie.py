"""SelfIE as a baseline: the target, untrained, says what a vector means (Chen et al. 2024, arXiv 2403.10949).

The vector is written where a placeholder word stood, at one of five scales; the best is chosen on the validation split.
Only feature description has this baseline: the other questions are about a text and an intervention, for which its
prompt ("What is the meaning of the word 'X'?") has no place.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from selfexplain.features.description import MAX_TOKENS, Description
from selfexplain.modeling.explanation import Answer
from selfexplain.tasks import free_question

if TYPE_CHECKING:
    from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM
    from selfexplain.target.load import Target, TargetShape

logger = logging.getLogger(__name__)

SCALES = (1.0, 5.0, 10.0, 25.0, 50.0)
MAX_NEW_TOKENS = 16

Row = Mapping[str, Any]


@dataclass(frozen=True)
class SelfIE:
    """A model as SelfIE asks it; `selfie` makes one.

    Attributes:
        in_grammar: whether its words are made into a description that the offline simulator reads.
    """

    asked: "SelfExplainerForCausalLM"
    in_grammar: bool = True

    def answer(self, rows: Sequence[Row], batch_size: int = 64, progress: str | None = None) -> list[Answer]:
        """What it says of each row's vector, as a description."""
        template = self.asked.config.injection["template"]
        questions = []
        for row in rows:
            layers, vectors = row["activation_layers"], np.asarray(row["activations"])
            put = free_question.question(None, layers, template)
            places = list(put.vectors or ())  # the template names the vector twice
            questions.append(
                {
                    "prompt": put.prompt,
                    "placeholder_offsets": put.placeholder_offsets,
                    "activations": vectors[places],
                    "activation_layers": [layers[place] for place in places],
                }
            )
        answers = self.asked.answer(questions, batch_size, progress, MAX_NEW_TOKENS)
        written = as_description if self.in_grammar else str.strip
        return [replace(answer, text=written(answer.text)) for answer in answers]


def selfie(target: "Target", scale: float, in_grammar: bool = True) -> SelfIE:
    """The target itself, with vectors written at `scale`."""
    from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM
    from selfexplain.modeling.third_party.load import FAMILIES

    contract = replace(FAMILIES["selfie"], scale=scale)
    return SelfIE(SelfExplainerForCausalLM.from_base(target.model, target.tokenizer, injection=contract), in_grammar)


def is_possible(target: "Target | TargetShape") -> bool:
    """Whether a target has the block that SelfIE writes at; False is told by a warning."""
    from selfexplain.modeling.third_party.load import FAMILIES

    block = FAMILIES["selfie"].block
    if target.n_layers <= block:
        logger.warning("SelfIE is left out: it writes at block %d, and %s has %d.", block, target.name, target.n_layers)
    return target.n_layers > block


def as_description(said: str) -> str:
    """Free words as a description that lists the first few of them.

    The offline simulator reads a small grammar, which a model that was not trained on it cannot write. Read literally
    all its answers would count for nothing; read as a list of words, it gets the benefit of the doubt.
    """
    words = list(dict.fromkeys(re.findall(r"\w+", said)))[:MAX_TOKENS]
    return str(Description(tuple(words))) if words else ""
