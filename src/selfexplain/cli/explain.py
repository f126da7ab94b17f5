"""The command `selfexplain explain`."""

from typing import TYPE_CHECKING, Annotated

import typer

from selfexplain.cli.common import Debug, report_errors, show_log
from selfexplain.errors import SelfExplainError

if TYPE_CHECKING:
    from torch import Tensor

    from selfexplain.modeling.explanation import Explanation, Verification
    from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM


def explain(
    explainer: Annotated[
        str,
        typer.Argument(metavar="RUN_OR_ID", help="A run directory, a model directory, a Hub id or a reserved name."),
    ],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The text that the target reads.")],
    layer: Annotated[
        list[int] | None, typer.Option(help="The decoder block to ask about; for a patch, repeat it per block.")
    ] = None,
    token: Annotated[int, typer.Option(help="Index of the token in the text; -1 is the last.")] = -1,
    patch_from: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT2", help="Ask how the output changes if the vector of a token of TEXT2 is patched in."
        ),
    ] = None,
    position: Annotated[
        int | None, typer.Option(help="Index of that token in TEXT2; by default the same as --token.")
    ] = None,
    remove: Annotated[
        str | None, typer.Option(metavar="SPAN", help="Ask how the output changes if this part of the text is removed.")
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Also run the intervention and show its outcome.")] = False,
    debug: Debug = False,
) -> None:
    """Explain what a target's activation at one token represents, or what an intervention would do."""
    with report_errors(debug):
        layers = layer or []
        _check_options(layers, patch_from, remove)
        from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM
        from selfexplain.runs.find_explainer import find_explainer

        show_log()
        model = SelfExplainerForCausalLM.from_pretrained(find_explainer(explainer))
        if remove is not None:
            explanation = model.explain_ablation(text, remove)
        elif patch_from is not None:
            explanation = _explain_patch(model, text, patch_from, layers, token, position)
        else:
            explanation = model.explain_feature(_at(model.capture(text, layers)[0], token), layers[0])
        typer.echo(explanation.text)
        typer.echo(_confidence(explanation))
        if verify:
            typer.echo(_outcome(model.verify(explanation, texts=[text])))


def _check_options(layers: list[int], patch_from: str | None, remove: str | None) -> None:
    if remove is None and not layers:
        raise SelfExplainError("Neither --layer nor --remove was given. Give the decoder block, or the text to remove.")
    if remove is not None and (layers or patch_from is not None):
        raise SelfExplainError(
            "--remove was given with --layer or --patch-from, but its question is about the text alone. Leave them out."
        )
    if remove is None and patch_from is None and len(layers) > 1:
        raise SelfExplainError(
            f"--layer was given {len(layers)} times, but a description is about one layer. Give one --layer, or add "
            "--patch-from."
        )


def _explain_patch(
    model: "SelfExplainerForCausalLM", text: str, source: str, layers: list[int], token: int, position: int | None
) -> "Explanation":
    vectors = model.capture(source, layers).float().mean(0)  # (T, d): the mean over layers, as in the ground truth
    vector = _at(vectors, token if position is None else position)
    return model.explain_patch(text, vector, layers, token)


def _at(vectors: "Tensor", token: int) -> "Tensor":
    """The vector `(d,)` at one token of `(T, d)`."""
    if not -len(vectors) <= token < len(vectors):
        raise SelfExplainError(
            f"Token {token} does not exist. The text has tokens 0 to {len(vectors) - 1}. Give one of them."
        )
    return vectors[token]


def _confidence(explanation: "Explanation") -> str:
    note = "" if explanation.answered else " (below the explainer's threshold, so it abstains)"
    return f"confidence {explanation.confidence:.2f}{note}"


def _outcome(verification: "Verification") -> str:
    if verification.agrees is None:
        return "verification: not possible here; a free-text description needs a chat model: verify(simulator=...)"
    verdict = "agrees" if verification.agrees else "disagrees"
    if verification.correlation is not None:
        correlation = verification.correlation
        return f"verification: {verdict}; correlation with the activations on this text {correlation:.2f}"
    change = "changes to" if verification.actual_changed else "remains"
    return f"verification: {verdict}; the output {change} <<<{verification.actual_output}>>>"
