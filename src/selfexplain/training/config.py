"""Settings of training: the adapter, the LoRA weights, and the optimisation."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from selfexplain.errors import SelfExplainError
from selfexplain.utils.bounds import ONE_OR_MORE, Amount, Count, Fraction, NonNegative, Positive


@dataclass(frozen=True)
class AdapterConfig:
    """The map from the target's activations to the explainer's residual stream.

    Attributes:
        kind: kind of `ActivationAdapter`. None chooses "identity" if the explainer is trained from the target's own
            weights, and "linear" if it is trained from a different model.
        layers: target layers that get a map; None for all layers of the training rows.
        rank: width of the hidden layer of the kinds "low_rank" and "mlp".
        fit_to: explainer activations to which the maps are fitted before training. "layer": the activations of the
            explainer's base at the layer of the same relative depth. "embedding": the base's embedding of the same
            token, which helps if the target's late layers no longer resemble embeddings but vectors are injected at
            the embedding.
        fit_tokens: number of corpus tokens on which the maps are fitted; 0 starts from the identity or a random map.
        ridge: regularisation of the fit, as a fraction of the mean diagonal of the Gram matrix.
        trained: whether training continues to update the maps.
    """

    kind: Literal["identity", "scale", "linear", "low_rank", "mlp"] | None = None
    layers: Annotated[tuple[int, ...] | None, ONE_OR_MORE] = None
    rank: Count = 64
    fit_to: Literal["layer", "embedding"] = "layer"
    fit_tokens: Amount = 10_000
    ridge: NonNegative = 1e-3
    trained: bool = True


@dataclass(frozen=True)
class LoraConfig:
    """The LoRA weights on the base. All other weights of the base are frozen.

    Attributes:
        rank: rank of the updates; on a small model it may be as large as the width.
        alpha: scale of the updates: they are multiplied by `alpha / rank`.
        dropout: dropout probability at the inputs of the LoRA weights.
        target_modules: names of linear modules, "all-linear" (all except the head) or "attention" (the linear modules
            of the attention). "attention" memorises less and generalises better to words outside the training rows.
    """

    rank: Count = 32
    alpha: Positive = 64.0
    dropout: Fraction = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"


@dataclass(frozen=True)
class TrainingConfig:
    """Supervised training with TRL's SFTTrainer.

    Attributes:
        lora: LoRA weights.
        share: fraction of the training rows to use, chosen by group. Subsets are nested for the same seed.
        epochs: number of passes over the training rows of all tasks.
        batch_size: rows per step.
        gradient_accumulation: steps per update; an update sees `batch_size * gradient_accumulation` rows.
        learning_rate: peak learning rate, after 3 % warm-up and before cosine decay to zero.
        weight_decay: AdamW weight decay.
        save_steps: steps between checkpoints. An interrupted training continues from the last checkpoint.
        bf16: whether to train in bfloat16 mixed precision.
        dtype: dtype of the frozen base.
        quantization: quantisation of the frozen base. "nf4" keeps it in 4 bits with double quantisation (QLoRA); the
            LoRA weights and the adapter stay in float32.
        activation_checkpointing: whether to recompute activations in the backward pass to save memory.
        optimizer: name of the optimiser. "paged_adamw_8bit" keeps the state of AdamW in 8 bits and moves it to CPU
            memory when the GPU is full.
        save_dtype: dtype of the LoRA weights on disk.
    """

    lora: LoraConfig = field(default_factory=LoraConfig)
    share: float = 1.0
    epochs: Positive = 10
    batch_size: Count = 64
    gradient_accumulation: Count = 1
    learning_rate: Positive = 3e-3
    weight_decay: NonNegative = 0.0
    save_steps: Count = 100
    bf16: bool = False
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    quantization: Literal["nf4"] | None = None
    activation_checkpointing: bool = False
    optimizer: Literal["adamw", "paged_adamw_8bit"] = "adamw"
    save_dtype: Literal["float32", "float16", "bfloat16"] = "float16"

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise SelfExplainError(f"training.share is {self.share:g}. Give a fraction greater than 0 and at most 1.")
