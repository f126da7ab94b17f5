"""HTML of the map: predicted and measured changes for every token and block of layers."""

from typing import Literal

from asking.text import visible
from asking.trial import PatchMap
from rendering.html import escaped, percent

Kind = Literal["predicted", "measured"]


def patch_map(result: PatchMap) -> str:
    """Return two grids of tokens by blocks of layers, with a sentence that compares them."""
    n_blocks = len(result.blocks)
    probabilities = [probability for row in result.predicted for probability in row]
    low, high = min(probabilities), max(probabilities)
    heads = "".join(f'<th scope="col">{block[0]}–{block[-1]}</th>' for block in result.blocks)
    rows = []
    for token, text in enumerate(result.tokens):
        predicted, measured = (
            "".join(_cell(result, token, block, kind, (low, high)) for block in range(n_blocks))
            for kind in ("predicted", "measured")
        )
        name = escaped(visible(text))
        rows.append(f'<tr><th scope="row">{name}</th>{predicted}<td class="gap"></td>{measured}</tr>')
    return f"""<p class="verdict">{_agreement(result)}</p>
<p class="legend">Left: predicted probability of a change, from {percent(low)} (faintest) to {percent(high)}
(strongest). Right: filled if the output changes. Pick a cell to open it in the <em>Patch</em> tab.</p>
<div class="mapbox"><table class="map" aria-label="Predicted and measured changes">
<thead><tr><td></td><th scope="colgroup" colspan="{n_blocks}">Predicted</th><td class="gap"></td>
<th scope="colgroup" colspan="{n_blocks}">Measured</th></tr>
<tr><th scope="col">layers</th>{heads}<td class="gap"></td>{heads}</tr></thead>
<tbody>{"".join(rows)}</tbody></table></div>"""


def _agreement(result: PatchMap) -> str:
    """Return how well the probabilities rank changed cells above unchanged ones (the area under the ROC curve)."""
    cells = [pair for rows in zip(result.predicted, result.actual, strict=True) for pair in zip(*rows, strict=True)]
    changed, unchanged = [p for p, actual in cells if actual], [p for p, actual in cells if not actual]
    counts = f"The output changes in {len(changed)} of {len(cells)} cells. "
    if not changed or not unchanged:
        mean = sum(probability for probability, _ in cells) / len(cells)
        return f"{counts}The mean predicted probability of a change is {percent(mean)}."
    pairs = [(p > q) + (p == q) / 2 for p in changed for q in unchanged]
    return (
        f"{counts}In {percent(sum(pairs) / len(pairs))} of all pairs of a changed and an unchanged cell, the explainer "
        "gives the changed cell the higher probability (AUROC). Chance is 50%."
    )


def _cell(result: PatchMap, token: int, block: int, kind: Kind, limits: tuple[float, float]) -> str:
    probability, changed = result.predicted[token][block], result.actual[token][block]
    low, high = limits
    first, last = result.blocks[block][0], result.blocks[block][-1]
    if kind == "predicted":
        shade, outcome = (probability - low) / (high - low or 1), f"{percent(probability)} probability of a change"
    else:
        shade, outcome = float(changed), "changes" if changed else "unchanged"
    label = escaped(f"{visible(result.tokens[token])}, layers {first} to {last}: {outcome}")
    index = token * len(result.blocks) + block
    focusable = -1 if index or kind == "measured" else 0
    return (
        f'<td><button type="button" data-pick="{index}" class="{kind}" style="--shade:{shade:.2f}" '
        f'title="{label}" aria-label="{label}" tabindex="{focusable}"></button></td>'
    )
