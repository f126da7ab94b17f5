"""HTML of the list of SAE features."""

from collections.abc import Sequence

from rendering.html import escaped, status
from sae_features import Feature


def feature_list(features: Sequence[tuple[int, Feature]], picked: int | None, total: int) -> str:
    """Return the features that a search found, as buttons.

    Args:
        features: Index and record of each feature.
        picked: Index of the pressed feature.
        total: Number of features before the search.
    """
    if not features:
        return status("No description contains all of these words. Try fewer words.")
    buttons = "".join(
        f'<button type="button" data-pick="{index}" aria-pressed="{str(index == picked).lower()}">'
        f"<span>{escaped(feature.description)}</span>"
        f"<small>layer {feature.layer} · feature {feature.index}</small></button>"
        for index, feature in features
    )
    count = f'<p class="count">{len(features)} of {total} held-out features, highest simulator correlation first</p>'
    return f'{count}<div class="picker list" role="toolbar" aria-label="Features">{buttons}</div>'
