"""Settings of the embedded models."""

from dataclasses import dataclass

from selfexplain.utils.bounds import Count, Fraction, Positive


@dataclass(frozen=True)
class TinyTargetConfig:
    """Sizes and training of the embedded target and its sibling.

    Attributes:
        d_model: width of the residual stream.
        n_layers: number of decoder blocks.
        n_heads: number of attention heads.
        d_mlp: width of the MLPs.
        steps: training steps of each model.
        plain_share: fraction of the steps, at the start, that train on sentences only.
        tokens_per_batch: tokens per step, padding included.
        learning_rate: peak learning rate of AdamW, which trains embedding and norms. It rises over the first fiftieth
            of the steps and falls to a tenth over the last 40 %.
        muon_learning_rate: peak learning rate of Muon, which trains the matrices; the same schedule.
    """

    d_model: Count = 96
    n_layers: Count = 8
    n_heads: Count = 3
    d_mlp: Count = 256
    steps: Count = 900
    plain_share: Fraction = 0.2
    tokens_per_batch: Count = 4096
    learning_rate: Positive = 3e-3
    muon_learning_rate: Positive = 0.006
