"""Train an explainer on ground-truth datasets and save it."""

import logging
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfexplain.errors import SelfExplainError
from selfexplain.modeling.contract import InjectionConfig
from selfexplain.target.load import Target
from selfexplain.training.config import AdapterConfig, TrainingConfig
from selfexplain.training.embeddings import indistinct_tokens
from selfexplain.training.pairing import paired_activations
from selfexplain.training.rows import golden_rows, layers_by_task, training_rows
from selfexplain.utils.names import local_path
from selfexplain.utils.parsing import parse_json

if TYPE_CHECKING:
    from datasets import Dataset
    from trl import SFTConfig

    from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM

logger = logging.getLogger(__name__)


def base_options(config: TrainingConfig) -> dict[str, Any]:
    """Return the options of `load_target` with which the frozen base is loaded for training."""
    import torch

    options: dict[str, Any] = {"dtype": config.dtype}
    if config.quantization == "nf4":
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, config.dtype),
        )
        if torch.cuda.is_available():
            options["device_map"] = {"": torch.cuda.current_device()}
    return options


def train(
    config: TrainingConfig,
    injection: InjectionConfig,
    adapter: AdapterConfig,
    base: Target,
    target: Target | None,
    datasets_dir: Path,
    tasks: Sequence[str],
    out_dir: Path,
    seed: int,
    texts: Iterable[str] = (),
    split_seed: int | None = None,
) -> "SelfExplainerForCausalLM":
    """Train LoRA weights and an adapter on `base` to explain `target`, and save the explainer to `out_dir`.

    If training was interrupted, calling this function again continues from the last checkpoint. Checkpoints are in
    `out_dir/checkpoints` until training is complete.

    Args:
        config: training settings.
        injection: injection contract.
        adapter: settings of the adapter.
        base: base of the explainer, loaded with `base_options(config)`.
        target: model to explain; None for the base itself, so that only one copy of the weights is in memory.
        datasets_dir: directory with one dataset directory per task.
        tasks: names of the tasks.
        out_dir: directory of the explainer.
        seed: seed of the initial weights, of the order of the rows and of `config.share`.
        texts: texts on which the adapter is fitted, unless it is the identity.
        split_seed: seed of the ground-truth splits, if it differs from `seed`; stored in the explainer's configuration.

    Raises:
        SelfExplainError: a training row is longer than the base's context, or the adapter cannot be fitted.
    """
    import torch
    from transformers.trainer_utils import get_last_checkpoint

    from selfexplain.modeling.processing_selfexplainer import SelfExplainerProcessor
    from selfexplain.training.trainer import SelfExplainerTrainer

    checkpoints = out_dir / "checkpoints"
    cache_dir = checkpoints / "rows"
    processor = SelfExplainerProcessor.for_contract(base.tokenizer, injection)
    rows = training_rows(datasets_dir, tasks, processor, base.context_length, cache_dir, config.share, seed)
    trained_layers = layers_by_task(datasets_dir, tasks, cache_dir)
    explainer = _create_explainer(injection, adapter, base, target or base, tasks, trained_layers, seed)
    explainer.config.split_seed = seed if split_seed is None else split_seed
    explainer.golden_rows = golden_rows(datasets_dir, tasks, cache_dir, config.share, seed)
    _initialise_adapter(explainer, adapter, base, target or base, texts)
    unlearned = _unlearned_tokens(explainer, base, rows)
    torch.manual_seed(seed)
    explainer.add_lora(**vars(config.lora), trainable_tokens=unlearned)
    trainer = SelfExplainerTrainer(explainer, args=_trainer_arguments(config, checkpoints, seed), train_dataset=rows)
    _delete_incomplete(checkpoints)
    last = get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None
    if last:
        logger.info("continuing training from %s", last)
    trainer.train(resume_from_checkpoint=last)
    explainer.eval()
    explainer.save_pretrained(out_dir, lora_dtype=config.save_dtype)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return explainer


def _create_explainer(
    injection: InjectionConfig,
    adapter: AdapterConfig,
    base: Target,
    target: Target,
    tasks: Sequence[str],
    trained_layers: Mapping[str, Sequence[int]],
    seed: int,
) -> "SelfExplainerForCausalLM":
    """An explainer on `base` without LoRA weights, with all settings of the training in its configuration."""
    from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM

    kind = adapter.kind or ("identity" if target.name == base.name else "linear")
    all_layers = sorted({layer for layers in trained_layers.values() for layer in layers})
    layers = list(adapter.layers or all_layers or [0])
    explainer = SelfExplainerForCausalLM.from_base(
        base.model,
        base.tokenizer,
        injection=injection,
        adapter={"kind": "identity"} if kind == "identity" else {"kind": kind, "layers": layers, "rank": adapter.rank},
        target={
            "model": _absolute(target.name),
            "revision": target.revision,
            "n_layers": target.n_layers,
            "d_model": target.d_model,
        },
        tasks=tasks,
        seed=seed,
    )
    explainer.config.base_model_name_or_path = _absolute(base.name)
    explainer.config.base_model_revision = base.revision
    explainer.base_weights.as_named = True  # `base` was loaded from there and is unchanged
    explainer.config.trained_layers = dict(trained_layers)
    return explainer


def _absolute(name: str) -> str:
    """The name of a model. A directory becomes an absolute path, so that it can be found from any working directory."""
    path = local_path(name)
    return str(path.resolve()) if path.is_dir() else name


def _initialise_adapter(
    explainer: "SelfExplainerForCausalLM", adapter: AdapterConfig, base: Target, target: Target, texts: Iterable[str]
) -> None:
    """Fit the adapter's maps, and freeze them if they are not to be trained."""
    module = explainer.model.activation_adapter
    if module.kind != "identity" and adapter.fit_tokens:
        pairs = paired_activations(target, base, texts, module.layers, adapter.fit_tokens, adapter.fit_to)
        module.cpu().fit(*pairs, ridge=adapter.ridge)
        module.to(explainer.device)
        logger.info("fitted the %s adapter for layers %s on %d tokens", module.kind, module.layers, pairs[0].shape[1])
    if not adapter.trained:
        for name, weight in module.named_parameters():
            weight.requires_grad_(name == "markers")


def _unlearned_tokens(explainer: "SelfExplainerForCausalLM", base: Target, rows: "Dataset") -> list[int]:
    """Token ids of the training rows whose embeddings must be trained; see `indistinct_tokens`."""
    used = sorted({token for ids in rows["input_ids"] for token in ids})
    unlearned = indistinct_tokens(explainer.get_input_embeddings().weight, used)
    if unlearned:
        names = ", ".join(map(repr, base.tokenizer.convert_ids_to_tokens(unlearned)))
        logger.info("%s has equal embeddings for these tokens, so their embeddings are trained: %s", base.name, names)
    return unlearned


def _trainer_arguments(config: TrainingConfig, checkpoints: Path, seed: int) -> "SFTConfig":
    import torch
    from trl import SFTConfig

    on_gpu = torch.cuda.is_available()
    return SFTConfig(
        output_dir=str(checkpoints),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        warmup_steps=0.03,
        lr_scheduler_type="cosine",
        adam_beta2=0.98,
        max_length=None,
        bf16=config.bf16,
        use_cpu=not on_gpu,
        activation_checkpointing=config.activation_checkpointing,
        optim=_optimizer_name(config, on_gpu),
        train_sampling_strategy="group_by_length",
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        save_steps=config.save_steps,
        save_total_limit=1,
        logging_steps=math.gcd(50, config.save_steps),  # a logged loss never spans a checkpoint
        report_to=[],
        seed=seed,
        data_seed=seed,
    )


def _optimizer_name(config: TrainingConfig, on_gpu: bool) -> str:
    """The optimiser's name in transformers. Paging needs a GPU; without one, bitsandbytes would warn and not page."""
    if config.optimizer == "adamw":
        return "adamw_torch_fused"
    return config.optimizer if on_gpu else config.optimizer.removeprefix("paged_")


def _delete_incomplete(checkpoints: Path) -> None:
    """Delete checkpoints whose writing was interrupted. Their `trainer_state.json` is written last."""
    for checkpoint in checkpoints.glob("checkpoint-*"):
        state = checkpoint / "trainer_state.json"
        try:
            parse_json(state.read_bytes(), str(state))
        except (OSError, SelfExplainError):
            shutil.rmtree(checkpoint)
