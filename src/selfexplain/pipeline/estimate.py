"""Estimate how much accelerator memory a recipe needs, from the shapes of its models.

Nothing is measured and no weights are loaded: models are built on the meta device from their configurations.
"""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from selfexplain.features.residuals import TOKENS_PER_BATCH
from selfexplain.groundtruth.builders.dictionaries import choose_layers
from selfexplain.groundtruth.config import FeatureConfig
from selfexplain.pipeline.explainers import reads_quantized
from selfexplain.runs.recipe import Recipe
from selfexplain.target.resume import MAX_ROWS, MAX_TOKENS
from selfexplain.tasks import TASKS
from selfexplain.utils.formatting import format_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}
NF4_BYTES = 4.127 / 8
"""Bytes per weight: 4 bits, and 0.127 bits of doubly quantised constants (Dettmers et al. 2023, arXiv 2305.14314)."""
OPTIMIZER_BYTES = {"adamw": 8.0, "paged_adamw_8bit": 2.0}
CUDA_CONTEXT = 0.8e9
"""Bytes that CUDA and its libraries occupy before anything is loaded."""


@dataclass(frozen=True)
class Memory:
    """Peak memory of each step in bytes.

    Target and explainer are on the device one at a time, except during training.

    Attributes:
        ground_truth: the target, and a batch of interventions or a pass over the corpus.
        training: the base, LoRA weights and adapter with gradients and optimiser state, activations for the backward
            pass, and the target if it is a different model.
        evaluation: the larger of explainer and target, and a batch of questions.
        host: activations that SAEs are trained on, in main memory.
    """

    ground_truth: float
    training: float
    evaluation: float
    host: float

    @property
    def total(self) -> float:
        """Peak on the accelerator over all steps, in bytes."""
        return CUDA_CONTEXT + max(self.ground_truth, self.training, self.evaluation)

    def lines(self) -> list[str]:
        """One line per step."""
        return [f"{item.name.replace('_', ' ')}: {format_bytes(getattr(self, item.name))}" for item in fields(self)]


def estimate_memory(recipe: Recipe, base: "PreTrainedConfig", target: "PreTrainedConfig | None" = None) -> Memory:
    """Estimate the peak memory of each step of a run.

    Args:
        recipe: the recipe.
        base: configuration of the model that is trained.
        target: configuration of the model that is explained; None if it is the base.
    """
    training = recipe.training
    text = base.get_text_config()
    explained = (target or base).get_text_config()
    linear, other = shapes(base)
    of_base = weight_bytes(linear, other, training.dtype, training.quantization)
    of_target = of_base if reads_quantized(recipe) else weight_bytes(*shapes(target or base), recipe.dtype, None)
    answering = of_base if training.quantization else weight_bytes(linear, other, recipe.dtype, None)
    tokens = max(TASKS[task].max_tokens for task in recipe.tasks)  # T
    trained = sum(training.lora.rank * (n_in + n_out) for n_in, n_out in linear)
    trained += adapter_parameters(recipe, base, target)
    n_questions = recipe.evaluation.batch_size
    questions = _keys_and_values(text, n_questions * tokens, BYTES[recipe.dtype])
    questions += 2 * 4.0 * n_questions * text.vocab_size
    settings = [recipe.settings(task) for task in recipe.tasks]
    return Memory(
        ground_truth=of_target + max(_ground_truth(one, recipe.dtype, explained) for one in settings),
        training=of_base
        + (of_target if target else 0.0)
        + trained * (4.0 + 4.0 + OPTIMIZER_BYTES[training.optimizer])
        + _activations(text, training.batch_size * tokens, training.activation_checkpointing),
        evaluation=max(answering + 4.0 * trained, of_target) + questions,
        host=sum(_sampled(one, explained) for one in settings),
    )


def shapes(config: "PreTrainedConfig") -> tuple[list[tuple[int, int]], int]:
    """Inputs and outputs of every linear module except the head, which NF4 quantises and LoRA extends; and the number
    of all other parameters: embeddings, head, norms."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    head = model.get_output_embeddings()
    linear = [
        (module.in_features, module.out_features)
        for module in model.modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    ]
    inside = sum(n_in * n_out for n_in, n_out in linear)
    return linear, sum(parameter.numel() for parameter in model.parameters()) - inside


def weight_bytes(linear: list[tuple[int, int]], other: int, dtype: str, quantization: str | None) -> float:
    """Size in bytes of a model with these shapes."""
    inside = sum(n_in * n_out for n_in, n_out in linear)
    return inside * (NF4_BYTES if quantization == "nf4" else BYTES[dtype]) + other * BYTES[dtype]


def adapter_parameters(recipe: Recipe, base: "PreTrainedConfig", target: "PreTrainedConfig | None") -> int:
    """Number of parameters of the maps from the target's layers into the explainer, and of the two marker vectors."""
    d_explainer = base.get_text_config().hidden_size
    text = (target or base).get_text_config()
    kind = recipe.adapter.kind or ("linear" if target else "identity")
    n_layers = len(recipe.adapter.layers or range(text.num_hidden_layers))
    per_layer = {
        "identity": 0,
        "scale": 1,
        "linear": text.hidden_size * d_explainer,
        "low_rank": recipe.adapter.rank * (text.hidden_size + d_explainer),
        "mlp": text.hidden_size * d_explainer + recipe.adapter.rank * (text.hidden_size + d_explainer),
    }
    return n_layers * per_layer[kind] + 2 * d_explainer


def _activations(text: "PreTrainedConfig", tokens: int, checkpointing: bool) -> float:
    """Bytes that the backward pass needs.

    In 16 bits, about 34 d + 5 d_ff values per token and block (Korthikanti et al. 2022, arXiv 2205.05198, without
    attention maps). With checkpointing, the values of one block and the residual stream between blocks. Logits in 32
    bits, with their gradient.
    """
    block = tokens * (17 * text.hidden_size + 5 * text.intermediate_size) * 2.0
    between = tokens * text.hidden_size * 2.0
    blocks = block + text.num_hidden_layers * between if checkpointing else text.num_hidden_layers * block
    return blocks + 2 * 4.0 * tokens * text.vocab_size


def _ground_truth(settings: Any, dtype: str, text: "PreTrainedConfig") -> float:
    """Peak bytes, in addition to the target, while the ground truth of a task is computed."""
    return _pass(settings, dtype, text) if isinstance(settings, FeatureConfig) else _sweep(text, dtype)


def _sweep(text: "PreTrainedConfig", dtype: str) -> float:
    """A batch of interventions while near-ties are resolved in float32: keys and values of the clean prompts and of the
    batch, the MLP of one block, four times the logits, and the head in float32."""
    head = 4.0 * text.vocab_size * text.hidden_size if dtype != "float32" else 0.0
    mlp = 3 * 4.0 * MAX_TOKENS * text.intermediate_size
    logits = 4 * 4.0 * MAX_ROWS * text.vocab_size
    return 2 * _keys_and_values(text, MAX_TOKENS, 4.0) + mlp + logits + head


def _pass(config: FeatureConfig, dtype: str, text: "PreTrainedConfig") -> float:
    """A batch of the corpus: block outputs, as computed and in float32; encoders and decoders of all layers, or of one
    SAE in training; three copies of one dictionary's activations; and the directions while they are grouped."""
    n_layers = len(choose_layers(config.layers, text.num_hidden_layers))
    n_features = config.max_features or config.n_features
    sae = 2 * 4.0 * n_features * text.hidden_size
    outputs = n_layers * TOKENS_PER_BATCH * text.hidden_size * (4.0 + BYTES[dtype])
    encoded = 3 * 4.0 * TOKENS_PER_BATCH * n_features
    dictionaries = config.n_saes * n_layers * sae
    return max(dictionaries + outputs + encoded, dictionaries * 1.5, 4 * sae if config.saes is None else 0.0)


def _sampled(settings: Any, text: "PreTrainedConfig") -> float:
    """Bytes of main memory for the activations that SAEs are trained on."""
    if not isinstance(settings, FeatureConfig) or settings.saes is not None:
        return 0.0
    n_layers = len(choose_layers(settings.layers, text.num_hidden_layers))
    return 4.0 * n_layers * settings.n_tokens * text.hidden_size


def _keys_and_values(text: "PreTrainedConfig", tokens: int, size: float) -> float:
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * size * tokens * text.num_hidden_layers * heads * head
