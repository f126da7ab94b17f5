"""HTML around the tabs: header, footer, introductions of tabs, and the error page."""

from rendering.html import error_box, escaped
from selfexplain.tasks import TASKS
from selfexplain.utils.formatting import format_name
from showcase import Showcase


def task_title(task: str) -> str:
    """Return the question of a task in one short sentence, or its name if the task is not installed."""
    return TASKS[task].short_question if task in TASKS else format_name(task).capitalize()


def introduction(text: str, title: str = "") -> str:
    """Return the first lines of a tab; `text` is HTML."""
    heading = f"<h2>{escaped(title)}</h2>" if title else ""
    return f'<div class="intro">{heading}<p class="lead">{text}</p></div>'


def legend(text: str) -> str:
    return f'<p class="legend">{escaped(text)}</p>'


def header(show: Showcase) -> str:
    target, base = show.target, show.explainer.config.base_model_name_or_path
    explains_other = show.separate_target is not None and target.name != base  # False for a merged self-explainer
    facts = [
        f"explainer <b>{escaped(show.name)}</b>",
        *([f"base model <b>{escaped(base)}</b>"] if explains_other else []),
        f"target <b>{escaped(target.name)}</b>",
        f"{target.n_layers} layers, width {target.d_model}",
    ]
    if explains_other:
        title, claim = "Ask one model about another", "the computations of a different model, the target"
    else:
        title, claim = "Ask a model about itself", "its own computations"
    return f"""<header class="top"><h1>{title}</h1>
<p>This language model was trained to explain {claim}. For each question, the demo shows the explainer's answer, the
answer to a control question without the evidence, and what the target does when the experiment is run.</p>
<p class="facts">{" · ".join(facts)}</p></header>"""


def footer(show: Showcase) -> str:
    return f"""<footer class="bottom"><p>{_confidence_note(show)} <b>Layer</b> i is the output of decoder block i.
<b>Token</b> positions include the begin-of-text token. Results about {escaped(show.target.name)} do not carry over to
other models.</p></footer>"""


def _confidence_note(show: Showcase) -> str:
    tasks, calibration = show.explainer.config.tasks, show.explainer.config.calibration or {}
    calibrated = [format_name(task) for task in tasks if task in calibration]
    others = [format_name(task) for task in tasks if task not in calibration]
    measured = "the estimated probability that the answer is correct, calibrated on held-out questions"
    raw = "the uncalibrated probability that the explainer assigns to its claim, so use it only for comparison"
    if not calibrated:
        return f"<b>Confidence</b> is {raw}."
    if not others:
        return f"<b>Confidence</b> is {measured}."
    return (
        f"<b>Confidence</b> is {measured}, for {escaped(' and '.join(calibrated))}. For "
        f"{escaped(' and '.join(others))}, it is {raw}."
    )


def load_failure(message: str) -> str:
    """Return the page that replaces the demo if it cannot be built."""
    return f"""<header class="top"><h1>The model could not be loaded</h1>{error_box(message)}
<p>If you own this Space, check that the model exists and can be read. A private or gated model needs the secret
HF_TOKEN. To show a different model, name it under <code>models:</code> in README.md or in the variable
SELFEXPLAIN_EXPLAINER. Then restart the Space.</p></header>"""
