"""HTML of a trial: the explainer's answer, the control and the measurement, next to each other."""

from asking.trial import Answer, Exemplar, Trial
from rendering.html import code, escaped, exemplar_list, number
from sae_features import Feature

NOT_PARSED = "could not be parsed"
SCORE_MEANING = "correlation with the vector’s activations on reference texts"
TRUTH_SCORE_MEANING = "simulator correlation on texts that were not used to write it"


def description_trial(trial: Trial, python: str) -> str:
    """Return three columns about one vector: description, control, and the target's next token."""
    measured = _labelled("the target’s next token after this one", f"“{trial.after}”")
    return f"""{_columns(_description(trial.explanation), _description(trial.control), trial, measured)}
<p class="verdict">{_description_verdict(trial)}</p>
{exemplar_list("Tokens with the most similar vectors", trial.exemplars)}
{code(python, trial.prompt)}"""


def patch_trial(trial: Trial, python: str) -> str:
    """Return three columns about one patch."""
    return _outcome_trial(trial, _patch_verdict(trial), python)


def ablation_trial(trial: Trial, python: str) -> str:
    """Return three columns about one removed part."""
    return _outcome_trial(trial, _ablation_verdict(trial), python)


def feature_trial(feature: Feature, trial: Trial, python: str) -> str:
    """Return three columns about an SAE feature: description, control and ground truth, and its exemplars."""
    top = max(max(exemplar["activations"]) for exemplar in feature.exemplars)
    exemplars = [
        Exemplar(tuple(exemplar["tokens"]), tuple(activation / top for activation in exemplar["activations"]))
        for exemplar in feature.exemplars
    ]
    truth = f"""<p class="answer">{escaped(feature.description)}</p>
<p class="mark">{number(feature.simulator_score)} <span>{TRUTH_SCORE_MEANING}</span></p>"""
    columns = _columns(_description(trial.explanation), _description(trial.control), trial, truth, "Ground truth")
    return f"""{columns}
{exemplar_list(f"Strongest activations of feature {feature.index} in layer {feature.layer}", exemplars)}
{code(python, trial.prompt)}"""


def confidence_bar(answer: Answer) -> str:
    """Return the confidence as a bar, with a note if it is below the explainer's threshold."""
    share = round(100 * (answer.confidence or 0))
    note = "" if answer.answered else ", below the threshold: does not count as an answer"
    return f"""<div class="confidence">Confidence {share}%{note}
<div class="bar" role="img" aria-label="{share} of 100"><i style="width:{share}%"></i></div></div>"""


def _columns(explanation: str, control: str, trial: Trial, measured: str, measured_title: str = "Measured") -> str:
    return f"""<section class="trial" aria-label="Answer, control and {measured_title.lower()}">
  <article class="claim"><h3>Explainer</h3>{explanation}{confidence_bar(trial.explanation)}</article>
  <article class="control"><h3>Control</h3>{control}
    <p class="from">The same question about {escaped(trial.control_from)}.</p></article>
  <article class="reality"><h3>{measured_title}</h3>{measured}</article>
</section>"""


def _description(answer: Answer) -> str:
    if not answer.text:
        return _labelled("no answer", "")
    words = f'<p class="answer">{escaped(answer.text)}</p>'
    if answer.score is None:
        reason = "no score: the description applies to no token of the reference texts"
        return f'{words}<p class="mark"><span>{reason}</span></p>'
    return f'{words}<p class="mark">{number(answer.score)} <span>{SCORE_MEANING}</span></p>'


def _description_verdict(trial: Trial) -> str:
    if trial.control.text == trial.explanation.text:
        return "A different vector gets the same description, so this answer does not depend on the vector."
    return "A different vector gets a different description, so this answer depends on the vector."


def _outcome_trial(trial: Trial, verdict: str, python: str) -> str:
    changed = trial.before != trial.after
    measured = _labelled("the output changes to" if changed else "the output stays", trial.after)
    measured += f'<p class="from">Output before: “{escaped(trial.before)}”.</p>' if changed else ""
    return f"""{_columns(_outcome(trial.explanation), _outcome(trial.control), trial, measured)}
<p class="verdict">{verdict}</p>
{code(python, trial.prompt)}"""


def _outcome(answer: Answer) -> str:
    if answer.changed is None:
        return f'<p class="answer">{escaped(answer.text)}</p>{_mark(False, NOT_PARSED)}'
    label = "the output changes to" if answer.changed else "the output stays"
    return _labelled(label, answer.output) + _mark(bool(answer.correct), "correct" if answer.correct else "incorrect")


def _patch_verdict(trial: Trial) -> str:
    if trial.explanation.correct and trial.control.correct:
        return "Correct with this vector and with a different one: the text alone was enough to predict the output."
    if trial.explanation.correct:
        return "Correct with this vector and incorrect with a different one: the prediction depends on the vector."
    if trial.control.correct:
        return "Incorrect with this vector, but correct with a different one, by chance or from the text."
    return "Incorrect, both with this vector and with a different one."


def _ablation_verdict(trial: Trial) -> str:
    if not trial.explanation.correct:
        return "The explainer’s prediction is incorrect."
    if trial.before != trial.after and trial.control.correct:
        return "The prediction is correct, and so is the control: it predicts no change once the part is gone."
    return "The prediction is correct."


def _labelled(label: str, text: object) -> str:
    return f'<p class="answer"><span>{escaped(label)}</span>{escaped(text)}</p>'


def _mark(correct: bool, word: str) -> str:
    return f'<p class="mark {"correct" if correct else "incorrect"}">{word}</p>'
