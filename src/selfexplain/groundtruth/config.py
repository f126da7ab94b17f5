"""Settings of the ground truth, one dataclass a task."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FeatureConfig:
    """Which directions are described, and from what.

    Attributes:
        layers: the layers whose outputs are read; None for all.
        saes: a directory of SAEs, one `layer_<i>/` each as sae-lens saves them; None to train them.
        n_features: features of an SAE trained here.
        k: how many of them are active per token.
        n_tokens: tokens each SAE is trained on.
        learning_rate: of that training.
        max_text_tokens: texts of the corpus are cut here.
        n_top: windows of the strongest activations, in each of the two sets of exemplars.
        n_sampled: windows from across the range of activations, in each set.
        n_random: windows drawn blindly, mostly inactive, in each set.
        window: tokens of a window.
        min_active: a feature that fires in fewer sequences of either set is left out.
        min_correlation: a feature whose description fits the exemplars it was written from less than this is left out.
        group_cosine: features at least this similar share a group, so that they never cross splits.
        rows_per_feature: rows of each feature, each asked with another template.
    """

    layers: tuple[int, ...] | None = None
    saes: str | None = None
    n_features: int = 512
    k: int = 8
    n_tokens: int = 150_000
    learning_rate: float = 5e-3
    max_text_tokens: int = 256
    n_top: int = 10
    n_sampled: int = 10
    n_random: int = 10
    window: int = 24
    min_active: int = 5
    min_correlation: float = 0.3
    group_cosine: float = 0.6
    rows_per_feature: int = 1


@dataclass(frozen=True)
class PatchingConfig:
    """Which patches are run, and how many rows are kept.

    Attributes:
        n_pairs: counterfactual pairs; every block of layers and every token of each is patched.
        n_blocks: contiguous blocks that the layers are cut into.
        n_rows: rows kept, half of them changed in every (token type, block).
        max_text_tokens: longest prompt taken from running text.
    """

    n_pairs: int = 1500
    n_blocks: int = 4
    n_rows: int = 6000
    max_text_tokens: int = 64


@dataclass(frozen=True)
class AblationConfig:
    """Which hints are removed.

    Attributes:
        n_questions: hinted questions asked, with and without their hint.
        n_rows: rows kept, half of them changed.
    """

    n_questions: int = 8000
    n_rows: int = 4000
