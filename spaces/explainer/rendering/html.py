"""HTML elements that several tabs share. Everything from visitors and models is escaped with `escaped`."""

from collections.abc import Sequence
from html import escape

from asking.text import visible
from asking.trial import Exemplar

TOKENS_AROUND_PEAK = 9


def escaped(text: object) -> str:
    """Return a text escaped for HTML."""
    return escape(str(text))


def percent(share: float) -> str:
    return f"{share:.0%}"


def number(value: float) -> str:
    """Return a number with two decimals and a typographic minus sign."""
    return f"{value:z.2f}".replace("-", "−")


def interval(bounds: tuple[float, float]) -> str:
    return f"[{number(bounds[0])}, {number(bounds[1])}]"


def error_box(message: str) -> str:
    return f'<p class="problem" role="alert">{escaped(message)}</p>'


def status(message: str) -> str:
    """Return a line that says what is going on, or why there is nothing to see."""
    return f'<p class="waiting" role="status">{escaped(message)}</p>'


def waiting() -> str:
    return status("Asking the explainer …")


def picker(
    items: Sequence[str],
    picked: int | None,
    label: str,
    kind: str = "chips",
    shades: Sequence[float] = (),
    notes: Sequence[str] = (),
) -> str:
    """Return a row of buttons, one of which is pressed. Arrow keys move the focus; a click or Enter picks.

    Args:
        items: Text of each button.
        picked: Index of the pressed button; None if none is pressed.
        label: Accessible name.
        kind: CSS class.
        shades: Background strength of each button, from 0 to 1.
        notes: Small text of each button.
    """
    buttons = []
    for index, item in enumerate(items):
        shade = f' style="--shade:{shades[index]:.2f}"' if shades else ""
        note = f"<small>{escaped(notes[index])}</small>" if notes else ""
        pressed = index == picked
        focusable = 0 if pressed or (picked is None and index == 0) else -1
        buttons.append(
            f'<button type="button" data-pick="{index}" aria-pressed="{str(pressed).lower()}" tabindex="{focusable}"'
            f"{shade}><span>{escaped(item)}</span>{note}</button>"
        )
    return f'<div class="picker {kind}" role="toolbar" aria-label="{escaped(label)}">{"".join(buttons)}</div>'


def token_picker(texts: Sequence[str], picked: int, label: str, shades: Sequence[float] = ()) -> str:
    """Return a picker of the tokens of a text."""
    names = [visible(text) for text in texts]
    return picker(names, picked, f"{label}: pick a token", "tokens", [min(max(shade, 0), 1) for shade in shades])


def exemplar_list(title: str, exemplars: Sequence[Exemplar]) -> str:
    """Return texts in which each token is shaded by its activation."""
    if not exemplars:
        return ""
    shaded = "".join(map(_shaded_text, exemplars))
    return f'<h3 class="sub">{escaped(title)}</h3><div class="exemplars">{shaded}</div>'


def _shaded_text(exemplar: Exemplar) -> str:
    """Return a text cut to the tokens around the strongest activation."""
    peak = max(range(len(exemplar.tokens)), key=exemplar.activations.__getitem__)
    first = max(0, peak - TOKENS_AROUND_PEAK)
    last = min(len(exemplar.tokens), peak + TOKENS_AROUND_PEAK)
    spans = [
        f'<span style="--shade:{min(max(activation, 0), 1):.2f}">{escaped(token.replace(chr(10), " ↵ "))}</span>'
        for token, activation in zip(exemplar.tokens[first:last], exemplar.activations[first:last], strict=True)
    ]
    return f'<p class="heat">{"… " if first else ""}{"".join(spans)}{" …" if last < len(exemplar.tokens) else ""}</p>'


def code(python: str, prompt: str | None = None) -> str:
    """Return a collapsed block of Python with a button that copies it, and the prompt of the question."""
    question = f"<p>Prompt of the explainer:</p><pre>{escaped(prompt)}</pre>" if prompt else ""
    return f"""<details class="code"><summary>Show as Python</summary>
<button type="button" data-copy>Copy</button><pre><code>{escaped(python)}</code></pre>{question}</details>"""
