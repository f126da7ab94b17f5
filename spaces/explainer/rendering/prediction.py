"""HTML of one row of a predictions file: the explainer's answer, the true answer and those of the other systems."""

from collections.abc import Sequence

from asking.trial import Answer
from rendering.html import escaped, picker
from rendering.labels import SYSTEMS, system_label
from rendering.trial import confidence_bar
from selfexplain.evaluation.predictions import Prediction

EXPLAINER = "explainer"


def prediction_list(predictions: Sequence[Prediction], picked: int) -> str:
    """Return the rows as buttons, each with the end of its question and its true answer."""
    questions = [prediction.prompt.strip().replace("\n", " ") for prediction in predictions]
    answers = [prediction.completion for prediction in predictions]
    return picker(questions, picked, "Held-out rows", "list", notes=answers)


def prediction(row: Prediction) -> str:
    """Return the question and the answers to it."""
    answer, truth = row.answers.get(EXPLAINER), row.completion.strip()
    explanation = Answer("", confidence=row.confidence)
    order = [*(system for system in SYSTEMS if system in row.answers), *(s for s in row.answers if s not in SYSTEMS)]
    others = "".join(
        f'<tr class="{escaped(system)}"><th scope="row">{escaped(system_label(system).name)}</th>'
        f"<td>{escaped(_in_words(row.answers[system]))}</td></tr>"
        for system in order
        if system != EXPLAINER
    )
    return f"""<p class="from">Question:</p><pre class="question">{escaped(row.prompt.strip())}</pre>
<section class="trial two" aria-label="Answer and ground truth">
  <article class="claim"><h3>Explainer</h3><p class="answer">{escaped(_in_words(answer))}</p>
    {confidence_bar(explanation)}</article>
  <article class="reality"><h3>Ground truth</h3><p class="answer">{escaped(truth)}</p></article>
</section>
<h3 class="sub">Answers of the other systems</h3><table class="answers"><tbody>{others}</tbody></table>"""


def _in_words(answer: bool | str | None) -> str:
    """Return an answer as text. Some systems predict only whether the output changes."""
    if isinstance(answer, bool):
        return "changed" if answer else "unchanged"
    return answer or "no answer"
