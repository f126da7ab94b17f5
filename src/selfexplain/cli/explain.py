"""`selfexplain explain`."""

from typing import TYPE_CHECKING, Annotated

import typer

from selfexplain.cli.common import Debug, errors_told, show_log
from selfexplain.errors import SelfExplainError

if TYPE_CHECKING:
    from torch import Tensor

    from selfexplain.modeling.explanation import Explanation, Verification


def explain(
    explainer: Annotated[
        str, typer.Argument(metavar="RUN_OR_MODEL", help="A run directory, a model directory or a name.")
    ],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What the target reads.")],
    layer: Annotated[
        list[int] | None, typer.Option(help="The decoder block in question; for a patch once for each of its blocks.")
    ] = None,
    token: Annotated[int, typer.Option(help="Index of the token in the text; -1 is the last.")] = -1,
    patch_from: Annotated[
        str | None,
        typer.Option(metavar="TEXT2", help="Ask what happens if the token held what a token of this text holds."),
    ] = None,
    position: Annotated[
        int | None, typer.Option(help="Index of that token in TEXT2; the same as --token by default.")
    ] = None,
    remove: Annotated[
        str | None, typer.Option(metavar="SPAN", help="Ask what happens if this part of the text were removed.")
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Also show what really happens.")] = False,
    debug: Debug = False,
) -> None:
    """Explain in words what the target holds at one token of a text, or what a change to the run would do."""
    with errors_told(debug):
        layers = layer or []
        if remove is None and not layers:
            raise SelfExplainError("give --layer, the decoder block in question, or --remove.")
        if remove is not None and (layers or patch_from is not None):
            raise SelfExplainError("--remove asks about the text alone: leave out --layer and --patch-from.")
        if remove is None and patch_from is None and len(layers) > 1:
            raise SelfExplainError("a description is of one --layer; several belong to --patch-from.")
        from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM
        from selfexplain.pipeline.driver import explainer_of

        show_log()
        model = SelfExplainerForCausalLM.from_pretrained(explainer_of(explainer))
        if remove is not None:
            explanation = model.explain_ablation(text, remove)
        elif patch_from is not None:
            source = model.capture(patch_from, layers).float().mean(0)  # (T, d), as in the ground truth
            vector = _at(source, token if position is None else position)
            explanation = model.explain_patch(text, vector, layers, token)
        else:
            explanation = model.explain_feature(_at(model.capture(text, layers)[0], token), layers[0])
        typer.echo(explanation.text)
        typer.echo(_confidence(explanation))
        if verify:
            typer.echo(_really(model.verify(explanation, texts=[text])))


def _at(vectors: "Tensor", token: int) -> "Tensor":
    """The vector `(d,)` at one token of `(T, d)`."""
    if not -len(vectors) <= token < len(vectors):
        raise SelfExplainError(f"token {token}: the text has the tokens 0 to {len(vectors) - 1}.")
    return vectors[token]


def _confidence(explanation: "Explanation") -> str:
    return f"confidence {explanation.confidence:.2f}" + ("" if explanation.answered else ": it would rather not say")


def _really(found: "Verification") -> str:
    if found.agrees is None:
        return "really: not checked; a description in free words is read by a chat model only: verify(simulator=...)"
    verdict = "agrees" if found.agrees else "disagrees"
    if found.correlation is not None:
        return f"really: {verdict}; correlation with the activations on this text {found.correlation:.2f}"
    what = "changes to" if found.actual_changed else "remains"
    return f"really: {verdict}; the output {what} <<<{found.actual_output}>>>"
