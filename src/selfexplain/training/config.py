"""Settings of training."""

from dataclasses import dataclass, field
from typing import Literal

from selfexplain.errors import SelfExplainError


@dataclass(frozen=True)
class AdapterConfig:
    """The map from the target's activations into the explainer.

    Attributes:
        kind: of `ActivationAdapter`; None is the identity where the explainer is trained from the target's own weights,
            and linear maps where it is another model.
        layers: the target's layers that get a map; None for those of the training rows.
        rank: width of the middle of low_rank and mlp.
        fit_to: what the maps start from giving, at the same places of the same texts: "layer" is what the explainer's
            base holds at the layer of the same relative depth, "embedding" its embedding of the token that is read
            there. The latter brings late layers of a target, which no longer look like embeddings, to where vectors
            are injected.
        fit_tokens: tokens of the corpus on which target and explainer are paired, and the maps fitted before training;
            0 starts from the identity or at random.
        ridge: of that fit, as a part of the mean of the Gram matrix's diagonal.
        trained: whether the maps are trained on, with the LoRA weights.
    """

    kind: Literal["identity", "scale", "linear", "low_rank", "mlp"] | None = None
    layers: tuple[int, ...] | None = None
    rank: int = 64
    fit_to: Literal["layer", "embedding"] = "layer"
    fit_tokens: int = 10_000
    ridge: float = 1e-3
    trained: bool = True


@dataclass(frozen=True)
class LoraConfig:
    """LoRA weights on the base; the rest of it stays frozen.

    Attributes:
        rank: may reach the width of a small model.
        alpha: the update is scaled by `alpha / rank`.
        dropout: on the inputs of the LoRA weights.
        target_modules: names of linear modules, "all-linear" (without the head), or "attention" (all of the attention).
            The latter learns less by heart, and shows on words that training never named.
    """

    rank: int = 32
    alpha: float = 64.0
    dropout: float = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"


@dataclass(frozen=True)
class TrainingConfig:
    """How the explainer is trained, with TRL's SFTTrainer.

    Attributes:
        lora: the trained weights.
        share: of the training rows, by group; each share holds the smaller ones of the same seed.
        epochs: passes over the training rows of all tasks together.
        batch_size: rows a step.
        gradient_accumulation: steps whose gradients are added up; rows an update = batch_size x this.
        learning_rate: peak; 3 % warm-up, then a cosine to zero.
        weight_decay: of AdamW.
        save_steps: a checkpoint every so many steps; a killed training continues from the last.
        bf16: mixed precision; on a GPU that has it.
        dtype: of the frozen base's weights.
        quantization: "nf4" keeps the frozen base in 4 bits with doubly quantised constants (QLoRA); LoRA weights and
            adapter stay in float32.
        gradient_checkpointing: compute activations twice instead of keeping them.
        optimizer: "paged_adamw_8bit" keeps AdamW's state in 8 bits, and moves it to the CPU where the GPU is full.
        save_dtype: of the LoRA weights on disk.
    """

    lora: LoraConfig = field(default_factory=LoraConfig)
    share: float = 1.0
    epochs: float = 10
    batch_size: int = 64
    gradient_accumulation: int = 1
    learning_rate: float = 3e-3
    weight_decay: float = 0.0
    save_steps: int = 100
    bf16: bool = False
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    quantization: Literal["nf4"] | None = None
    gradient_checkpointing: bool = False
    optimizer: Literal["adamw", "paged_adamw_8bit"] = "adamw"
    save_dtype: str = "float16"

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise SelfExplainError(f"training.share is {self.share:g}, expected a share above 0 and up to 1.")
