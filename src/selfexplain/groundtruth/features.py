"""Ground truth for feature description: SAE directions, descriptions of where they fire, and scores of those."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from selfexplain.errors import SelfExplainError
from selfexplain.features.describe import describe
from selfexplain.features.exemplars import collect_exemplars
from selfexplain.features.saes import directions, load_saes, train_saes
from selfexplain.features.simulate import score
from selfexplain.groundtruth.config import FeatureConfig
from selfexplain.target.capture import check_layers
from selfexplain.target.load import Target
from selfexplain.tasks.feature_description import TEMPLATES, question

DESCRIPTION_SOURCE = "selfexplain offline describer"
MAX_GROUP_SHARE = 0.02  # of all features; a larger group of similar features is cut into closer ones
COSINE_STEP = 0.02


def build_rows(
    config: FeatureConfig,
    target: Target,
    corpus: Sequence[str],
    work_dir: Path,
    classes: Mapping[str, set[str]],
    seed: int,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of all splits together, and what was counted on the way.

    The vector of a row is the feature's unit decoder direction.

    Args:
        work_dir: trained SAEs are written to its `saes/`.
        classes: classes of tokens that descriptions may name, name -> token texts.

    Raises:
        SelfExplainError: more rows a feature than templates, no text, no such layer, or SAEs that do not fit.
    """
    if not 1 <= config.rows_per_feature <= len(TEMPLATES):
        raise SelfExplainError(f"rows_per_feature {config.rows_per_feature} given; expected 1 to {len(TEMPLATES)}.")
    if not corpus:
        raise SelfExplainError("the corpus is empty: give at least some hundred texts.")
    layers = check_layers(range(target.n_layers) if config.layers is None else config.layers, target.n_layers)
    token_ids = tokenize(target, corpus, config.max_text_tokens)
    if config.saes is None:
        training = {name: getattr(config, name) for name in ("n_features", "k", "n_tokens", "learning_rate")}
        saes = train_saes(target, token_ids, layers, work_dir / "saes", **training, seed=seed)
    else:
        saes = load_saes(Path(config.saes).expanduser(), target, layers)
    windows = {name: getattr(config, name) for name in ("n_top", "n_sampled", "n_random", "window", "min_active")}
    features, statistics = collect_exemplars(target, token_ids, saes, **windows, seed=seed)

    described = [
        (feature, *fit)
        for feature in tqdm(features, desc="describing features", unit="feature")
        if (fit := describe(feature.exemplars, classes))[1] >= config.min_correlation
    ]
    of_layer = {layer: directions(sae) for layer, sae in saes.items()}
    vectors = torch.stack([of_layer[feature.layer][feature.feature] for feature, _, _ in described] or [torch.empty(0)])
    groups = group_similar(vectors, config.group_cosine) if described else []
    rng = np.random.default_rng(seed)
    rows = []
    for (feature, description, _), vector, group in zip(described, vectors, groups, strict=False):
        shared = {
            "completion": str(description),
            "activations": [vector.half().numpy()],
            "activation_layers": [feature.layer],
            "group": f"features-{group}",
            "target_model": target.name,
            "target_revision": target.revision,
            "layer": feature.layer,
            "feature_index": feature.feature,
            "sae_release": config.saes or f"trained on {target.name}",
            "sae_id": f"layer_{feature.layer}",
            "description": str(description),
            "description_source": DESCRIPTION_SOURCE,
            "exemplars": feature.exemplars,
            "scoring_exemplars": feature.scoring_exemplars,
            "simulator_score": score(description, feature.scoring_exemplars),
            "density": feature.density,
        }
        for template in rng.choice(len(TEMPLATES), config.rows_per_feature, replace=False).tolist():
            asked = question(feature.layer, template)
            rows.append({"prompt": asked.prompt, "placeholder_offsets": list(asked.placeholder_offsets)} | shared)
    return rows, statistics | {
        "described": len(described),
        "poorly_described": len(features) - len(described),
        "groups": len(set(groups)),
        "mean_simulator_score": float(np.mean([row["simulator_score"] for row in rows])) if rows else None,
        "layers": layers,
        "n_texts": len(token_ids),
        "n_tokens": sum(map(len, token_ids)),
        "classes": {name: sorted(members) for name, members in classes.items()},
    }


def tokenize(target: Target, corpus: Sequence[str], max_tokens: int) -> list[list[int]]:
    """Token ids of the distinct texts, special tokens included, each cut at `max_tokens`.

    A text that occurs twice would fill the strongest exemplars with copies of one window.
    """
    max_tokens = min(max_tokens, target.context_length)
    encoded = target.tokenizer(list(dict.fromkeys(corpus)), truncation=True, max_length=max_tokens)["input_ids"]
    return [list(ids) for ids in dict.fromkeys(map(tuple, encoded)) if ids]


def group_similar(vectors: Tensor, cosine: float) -> list[int]:
    """A group for each of the unit vectors `(n, d)`; those of cosine at least `cosine` share one.

    Groups are connected components. Similarity is not transitive: where it chains together more than `MAX_GROUP_SHARE`
    of all vectors, that component alone is cut again at a higher cosine.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    def components(members: NDArray[np.int64], threshold: float) -> list[NDArray[np.int64]]:
        chosen = vectors[members]
        pairs = [
            (chosen[start : start + 1024] @ chosen.T >= threshold).nonzero() + torch.tensor([start, 0])
            for start in range(0, len(chosen), 1024)
        ]
        i, j = torch.cat(pairs).T.numpy()
        _, labels = connected_components(coo_array((np.ones(len(i)), (i, j)), shape=(len(chosen),) * 2))
        found = [members[labels == label] for label in range(labels.max() + 1)]
        limit = max(2, MAX_GROUP_SHARE * len(vectors))
        return [
            part
            for group in found
            for part in (
                [group]
                if len(group) <= limit or threshold + COSINE_STEP > 1
                else components(group, threshold + COSINE_STEP)
            )
        ]

    groups = np.empty(len(vectors), np.int64)
    for number, members in enumerate(components(np.arange(len(vectors)), cosine)):
        groups[members] = number
    return groups.tolist()
