"""How much accelerator memory a recipe needs, from the shapes of its models: arithmetic, not a measurement.

Nothing is loaded: models are built on the meta device from their configurations.
"""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from selfexplain.features.residuals import TOKENS_PER_BATCH
from selfexplain.groundtruth.builders.features import choose_layers
from selfexplain.pipeline.explainers import reads_quantized
from selfexplain.runs.recipe import Recipe
from selfexplain.target.resume import MAX_ROWS, MAX_TOKENS

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}
NF4_BYTES = 4.127 / 8
"""4 bits a weight and, doubly quantised, 0.127 bits of constants (Dettmers et al. 2023, arXiv 2305.14314)."""
OPTIMIZER_BYTES = {"adamw": 8.0, "paged_adamw_8bit": 2.0}
TASK_TOKENS = {"feature_description": 40, "activation_patching": 192, "input_ablation": 384}
"""Tokens of a training row: the question, what it quotes, and the answer. Longest rows, rounded up."""
CUDA_CONTEXT = 0.8e9


@dataclass(frozen=True)
class Memory:
    """Bytes on the accelerator in each step of a run. Of target and explainers one is there at a time, but in training.

    Attributes:
        ground_truth: the target, and what a batch of interventions or a pass over the corpus holds beside it.
        training: the base, LoRA weights and adapter with gradients and optimiser state, activations for the backward
            pass; and the target where it is another model.
        evaluation: the larger of explainer and target, and a batch of questions.
        host: activations that SAEs are trained on, in the memory of the machine.
    """

    ground_truth: float
    training: float
    evaluation: float
    host: float

    @property
    def total(self) -> float:
        return CUDA_CONTEXT + max(self.ground_truth, self.training, self.evaluation)

    def lines(self) -> list[str]:
        return [f"{field.name}: {getattr(self, field.name) / 1e9:.2f} GB" for field in fields(self)]


def estimate_memory(recipe: Recipe, base: "PreTrainedConfig", target: "PreTrainedConfig | None" = None) -> Memory:
    """Estimate the peak of each step of a run.

    Args:
        base: configuration of the model that is trained.
        target: configuration of the model that is explained, where it is another one.
    """
    training = recipe.training
    text = base.get_text_config()
    explained = (target or base).get_text_config()
    linear, other = shapes(base)
    of_base = weight_bytes(linear, other, training.dtype, training.quantization)
    of_target = of_base if reads_quantized(recipe) else weight_bytes(*shapes(target or base), recipe.dtype, None)
    answering = of_base if training.quantization else weight_bytes(linear, other, recipe.dtype, None)
    tokens = max(TASK_TOKENS[task] for task in recipe.tasks)  # T
    trained = sum(training.lora.rank * (n_in + n_out) for n_in, n_out in linear)
    trained += adapter_parameters(recipe, base, target)
    n_asked = recipe.evaluation.batch_size
    questions = _keys_and_values(text, n_asked * tokens, BYTES[recipe.dtype]) + 2 * 4.0 * n_asked * text.vocab_size
    return Memory(
        ground_truth=of_target + max(_beside_target(recipe, task, explained) for task in recipe.tasks),
        training=of_base
        + (of_target if target else 0.0)
        + trained * (4.0 + 4.0 + OPTIMIZER_BYTES[training.optimizer])
        + _activations(text, training.batch_size * tokens, training.gradient_checkpointing),
        evaluation=max(answering + 4.0 * trained, of_target) + questions,
        host=_sampled(recipe, explained),
    )


def shapes(config: "PreTrainedConfig") -> tuple[list[tuple[int, int]], int]:
    """Inputs and outputs of every linear module but the head, which NF4 quantises and LoRA extends; and how many
    parameters there are besides: embeddings, head, norms."""
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
    inside = sum(n_in * n_out for n_in, n_out in linear)
    return inside * (NF4_BYTES if quantization == "nf4" else BYTES[dtype]) + other * BYTES[dtype]


def adapter_parameters(recipe: Recipe, base: "PreTrainedConfig", target: "PreTrainedConfig | None") -> int:
    """Maps from the target's layers into the explainer, and the two marker vectors."""
    d_explainer = base.get_text_config().hidden_size
    text = (target or base).get_text_config()
    kind = recipe.adapter.kind or ("linear" if target else "identity")
    n_layers = len(recipe.adapter.layers or range(text.num_hidden_layers))
    a_layer = {
        "identity": 0,
        "scale": 1,
        "linear": text.hidden_size * d_explainer,
        "low_rank": recipe.adapter.rank * (text.hidden_size + d_explainer),
        "mlp": text.hidden_size * d_explainer + recipe.adapter.rank * (text.hidden_size + d_explainer),
    }
    return n_layers * a_layer[kind] + 2 * d_explainer


def _activations(text: "PreTrainedConfig", tokens: int, checkpointing: bool) -> float:
    """In 16 bits: about 34 d + 5 d_ff values a token and block (Korthikanti et al. 2022, arXiv 2205.05198, without
    attention maps); with checkpointing one block's, and the residual stream between blocks. Logits in 32 bits, with
    their gradient."""
    block = tokens * (17 * text.hidden_size + 5 * text.intermediate_size) * 2.0
    between = tokens * text.hidden_size * 2.0
    blocks = block + text.num_hidden_layers * between if checkpointing else text.num_hidden_layers * block
    return blocks + 2 * 4.0 * tokens * text.vocab_size


def _beside_target(recipe: Recipe, task: str, text: "PreTrainedConfig") -> float:
    """What making the ground truth of a task holds at most besides the target."""
    if task == "feature_description":
        return _pass(recipe, text)
    return _sweep(text, recipe.dtype)


def _sweep(text: "PreTrainedConfig", dtype: str) -> float:
    """A batch of interventions while near-ties are decided in float32: keys and values of the clean prompts and of the
    batch, one block's MLP, four times the logits, and the head widened."""
    head = 4.0 * text.vocab_size * text.hidden_size if dtype != "float32" else 0.0
    mlp = 3 * 4.0 * MAX_TOKENS * text.intermediate_size
    logits = 4 * 4.0 * MAX_ROWS * text.vocab_size
    return 2 * _keys_and_values(text, MAX_TOKENS, 4.0) + mlp + logits + head


def _pass(recipe: Recipe, text: "PreTrainedConfig") -> float:
    """A batch of the corpus: block outputs, as computed and in float32; encoders and decoders of all layers, or one
    that is trained; activations of one dictionary, three times; and the directions, when they are grouped."""
    config = recipe.feature_description
    n_layers = len(choose_layers(config.layers, text.num_hidden_layers))
    n_features = config.max_features or config.n_features
    sae = 2 * 4.0 * n_features * text.hidden_size
    outputs = n_layers * TOKENS_PER_BATCH * text.hidden_size * (4.0 + BYTES[recipe.dtype])
    encoded = 3 * 4.0 * TOKENS_PER_BATCH * n_features
    dictionaries = config.n_saes * n_layers * sae
    return max(dictionaries + outputs + encoded, dictionaries * 1.5, 4 * sae if config.saes is None else 0.0)


def _sampled(recipe: Recipe, text: "PreTrainedConfig") -> float:
    config = recipe.feature_description
    if "feature_description" not in recipe.tasks or config.saes is not None:
        return 0.0
    return 4.0 * len(choose_layers(config.layers, text.num_hidden_layers)) * config.n_tokens * text.hidden_size


def _keys_and_values(text: "PreTrainedConfig", tokens: int, size: float) -> float:
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * size * tokens * text.num_hidden_layers * heads * head
