"""Settings of training."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class LoraConfig:
    """LoRA weights on the base; the rest of it stays frozen.

    Attributes:
        rank: may reach the width of a small model.
        alpha: the update is scaled by `alpha / rank`.
        dropout: on the inputs of the LoRA weights.
        target_modules: names of linear modules, or "all-linear" (without the head).
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
        epochs: passes over the training rows of all tasks together.
        batch_size: rows a step.
        gradient_accumulation: steps whose gradients are added up; rows an update = batch_size x this.
        learning_rate: peak; 3 % warm-up, then a cosine to zero.
        weight_decay: of AdamW.
        save_steps: a checkpoint every so many steps; a killed training continues from the last.
        bf16: mixed precision; on a GPU that has it.
        save_dtype: of the LoRA weights on disk.
    """

    lora: LoraConfig = field(default_factory=LoraConfig)
    epochs: float = 10
    batch_size: int = 64
    gradient_accumulation: int = 1
    learning_rate: float = 3e-3
    weight_decay: float = 0.0
    save_steps: int = 100
    bf16: bool = False
    save_dtype: str = "float16"
