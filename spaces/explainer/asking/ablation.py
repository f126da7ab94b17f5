"""Ask what removing a part of the input would change, and remove it from the target's input."""

from asking.text import check_text
from asking.trial import Answer, Trial
from selfexplain import SelfExplainError
from selfexplain.tasks import input_ablation, outcome
from selfexplain.tasks.input_ablation import TASK
from showcase import Showcase


def ask_ablation(showcase: Showcase, text: str, remove: str) -> Trial:
    """Ask how the target's answer changes when `remove` is taken out of `text`.

    This question contains no vector. The control asks the same question about the text from which the part has already
    been removed, so the correct answer is that nothing changes.

    Raises:
        SelfExplainError: The text is not valid, or does not contain the part.
    """
    check_text(showcase, text)
    shortened = text.replace(remove, "", 1)
    if not shortened.strip():
        raise SelfExplainError("The part to remove is the whole text. Pick a smaller part.")
    explanation = showcase.explainer.explain_ablation(text, remove, target=showcase.separate_target)
    measured = showcase.explainer.verify(explanation, showcase.separate_target)
    is_hint = remove.strip().startswith("Hint:")
    question = input_ablation.question(shortened, None if is_hint else remove)
    [control] = showcase.explainer.answer([vars(question) | {"activations": [], "activation_layers": []}])
    claim = outcome.parse(control.text)
    return Trial(
        task=TASK.name,
        prompt=explanation.prompt,
        explanation=Answer.of(explanation, correct=measured.agrees),
        control=Answer(
            control.text,
            claim.changed if claim else None,
            claim.output if claim else None,
            correct=claim is not None and not claim.changed and claim.output == measured.actual_output,
        ),
        control_from="a text from which the part is already gone, so the output cannot change",
        before=measured.clean_output,
        after=measured.actual_output,
    )
