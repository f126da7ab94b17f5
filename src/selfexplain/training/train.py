"""From ground-truth datasets to a published explainer."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.splits import share_of
from selfexplain.modeling.contract import InjectionConfig
from selfexplain.target.load import Target
from selfexplain.training.config import AdapterConfig, TrainingConfig

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor

    from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM
    from selfexplain.modeling.processing_selfexplainer import SelfExplainerProcessor

logger = logging.getLogger(__name__)

COLUMNS = ["prompt", "completion", "placeholder_offsets", "activations", "activation_layers"]


def base_options(config: TrainingConfig) -> dict[str, Any]:
    """How the frozen base is loaded: options of `load_target`."""
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


def training_rows(
    datasets_dir: Path,
    tasks: Sequence[str],
    processor: "SelfExplainerProcessor",
    limit: int,
    cache_dir: Path,
    share: float = 1.0,
    seed: int = 0,
) -> "Dataset":
    """Training rows of all tasks together, tokenised to at most `limit` tokens; vectors as float16 lists.

    Args:
        share: of each task's rows, by group, drawn by `seed`.
    """
    from datasets import concatenate_datasets

    from selfexplain.training.collator import tokenize

    parts = []
    for task in tasks:
        rows = _read(datasets_dir, task, cache_dir, share, seed)
        parts.append(rows.map(lambda row: tokenize(row, processor, limit), desc=f"tokenising {task}"))
    features = next((part.features for part in parts if len(part) and part[0]["activations"]), parts[0].features)
    return concatenate_datasets([part.cast(features) for part in parts]).remove_columns(
        ["prompt", "completion", "placeholder_offsets"]
    )


def golden_rows(
    datasets_dir: Path, tasks: Sequence[str], cache_dir: Path, share: float = 1.0, seed: int = 0
) -> list[dict]:
    """A few training rows, of the tasks that take vectors where there are any, for the check on loading."""
    tables = [_read(datasets_dir, task, cache_dir, share, seed) for task in tasks]
    rows = [row for table in tables for row in table.take(min(2, len(table)))]
    return [row for row in rows if row["activations"]] or rows


def asked_layers(datasets_dir: Path, tasks: Sequence[str], cache_dir: Path) -> dict[str, list[int]]:
    """Task -> layers of the vectors of its training rows, whatever share is trained on."""
    tables = {task: _read(datasets_dir, task, cache_dir, 1.0, 0) for task in tasks}
    return {
        task: sorted({layer for layers in table["activation_layers"] for layer in layers})
        for task, table in tables.items()
    }


def _read(datasets_dir: Path, task: str, cache_dir: Path, share: float, seed: int) -> "Dataset":
    from selfexplain.groundtruth.formats import read_dataset

    path = datasets_dir / task / "train.parquet"
    if share == 1:
        return read_dataset(path, COLUMNS, cache_dir)
    rows = read_dataset(path, [*COLUMNS, "group"], cache_dir)
    return rows.select(share_of(rows["group"], share, seed)).remove_columns("group")


def paired_activations(
    target: Target,
    base: Target,
    texts: Iterable[str],
    layers: Sequence[int],
    n_tokens: int,
    fit_to: Literal["layer", "embedding"] = "layer",
) -> tuple["Tensor", "Tensor"]:
    """What target and base hold at the same places of the same texts.

    A place is a character where a token of both ends, so the tokenizers may differ. Layer i of the target is paired
    with the base's layer of the same relative depth, or with the base's embedding of the token.

    Returns:
        `(n_layers, N, d_target)` and `(n_layers, N, d_base)`, on the CPU.

    Raises:
        SelfExplainError: no place in common.
    """
    import torch

    from selfexplain.target.capture import capture

    depth = (base.n_layers - 1) / max(target.n_layers - 1, 1)
    theirs = [round(layer * depth) for layer in layers]

    def held_by_base(ids: "Tensor") -> "Tensor":  # (1, T) -> (n_layers, T, d_base)
        if fit_to == "embedding":
            return base.model.get_input_embeddings()(ids).detach().expand(len(layers), -1, -1)
        return capture(base.model, ids, theirs)[:, 0]

    limit = min(target.context_length, base.context_length)
    pairs: list[tuple[Tensor, Tensor]] = []
    found = 0
    for text in texts:
        ends = []
        ids = []
        for model in (target, base):
            encoded = model.tokenizer(text, return_offsets_mapping=True, truncation=True, max_length=limit)
            ids.append(torch.tensor([encoded["input_ids"]], device=model.model.device))
            ends.append({end: place for place, (start, end) in enumerate(encoded["offset_mapping"]) if end > start})
        common = sorted(set(ends[0]) & set(ends[1]))
        if common:
            acts = [capture(target.model, ids[0], layers)[:, 0], held_by_base(ids[1])]
            here, there = (a[:, [at[end] for end in common]].float().cpu() for a, at in zip(acts, ends, strict=True))
            pairs.append((here, there))
            found += len(common)
        if found >= n_tokens:
            break
    if not pairs:
        raise SelfExplainError(
            f"the corpus has no text in which tokens of {target.name} and {base.name} end together: give texts, or set "
            "adapter.fit_tokens=0."
        )
    of_target, of_base = (torch.cat(parts, dim=1) for parts in zip(*pairs, strict=True))
    return of_target, of_base


def _located(name: str) -> str:
    """A model's name; of a directory the whole path, so that the explainer finds it from anywhere."""
    path = Path(name).expanduser()
    return str(path.resolve()) if path.is_dir() else name


def indistinct_tokens(embeddings: "Tensor", used: Sequence[int]) -> list[int]:
    """Those of the token ids `used` whose embedding has the direction of another token's, in a matrix `(V, d)`.

    Tokens that a model never saw in training end up with one common embedding. Frozen, they can neither be told apart
    when read nor be said: all of them have the same logit.
    """
    import torch

    unit = torch.nn.functional.normalize(embeddings.detach().float(), dim=-1)
    found = []
    for start in range(0, len(used), 1024):
        ids = torch.tensor(used[start : start + 1024], device=unit.device)
        alike = (unit[ids] @ unit.T > 0.999).sum(dim=-1)  # each is like itself
        found += ids[alike > 1].tolist()
    return found


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
    """Train LoRA weights and an adapter on `base` to explain `target`, and write the explainer to `out_dir`.

    Killed and called again it continues from its last checkpoint, kept in `out_dir/checkpoints` until the end.

    Args:
        base: loaded with `base_options(config)`.
        target: None where it is the base itself: one copy of the weights serves as both.
        texts: on which an adapter is fitted, other than the identity.
        split_seed: of the splits of the ground truth, where it is not `seed`; kept in the explainer's configuration.
    """
    import shutil

    import torch
    from transformers.trainer_utils import get_last_checkpoint
    from trl import SFTConfig

    from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM
    from selfexplain.modeling.processing_selfexplainer import SelfExplainerProcessor
    from selfexplain.training.trainer import SelfExplainerTrainer

    checkpoints = out_dir / "checkpoints"
    processor = SelfExplainerProcessor.for_contract(base.tokenizer, injection)
    rows = training_rows(datasets_dir, tasks, processor, base.context_length, checkpoints / "rows", config.share, seed)
    explained = target or base
    kind = adapter.kind or ("identity" if explained.name == base.name else "linear")
    asked = asked_layers(datasets_dir, tasks, checkpoints / "rows")
    layers = list(adapter.layers or sorted({layer for own in asked.values() for layer in own}) or [0])
    explainer = SelfExplainerForCausalLM.from_base(
        base.model,
        base.tokenizer,
        injection=injection,
        adapter={"kind": "identity"} if kind == "identity" else {"kind": kind, "layers": layers, "rank": adapter.rank},
        target={
            "model": _located(explained.name),
            "revision": explained.revision,
            "n_layers": explained.n_layers,
            "d_model": explained.d_model,
        },
        tasks=tasks,
        seed=seed,
    )
    explainer.config.base_model_name_or_path, explainer.config.base_model_revision = _located(base.name), base.revision
    explainer.config.trained_layers = asked
    explainer.config.split_seed = seed if split_seed is None else split_seed
    explainer.golden_rows = golden_rows(datasets_dir, tasks, checkpoints / "rows", config.share, seed)
    if kind != "identity" and adapter.fit_tokens:
        pairs = paired_activations(explained, base, texts, layers, adapter.fit_tokens, adapter.fit_to)
        explainer.model.activation_adapter.cpu().fit(*pairs, ridge=adapter.ridge)
        explainer.model.activation_adapter.to(explainer.device)
        logger.info("%s adapter of layers %s fitted on %d tokens", kind, layers, pairs[0].shape[1])
    if not adapter.trained:
        for name, weight in explainer.model.activation_adapter.named_parameters():
            weight.requires_grad_(name == "markers")
    used = sorted({token for ids in rows["input_ids"] for token in ids})
    unlearned = indistinct_tokens(explainer.get_input_embeddings().weight, used)
    if unlearned:
        names = ", ".join(map(repr, base.tokenizer.convert_ids_to_tokens(unlearned)))
        logger.info("%s never learned to tell these tokens apart; their embeddings are trained: %s", base.name, names)
    torch.manual_seed(seed)
    explainer.add_lora(**vars(config.lora), trainable_tokens=unlearned)
    arguments = SFTConfig(
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
        use_cpu=not torch.cuda.is_available(),
        gradient_checkpointing=config.gradient_checkpointing,
        optim={"adamw": "adamw_torch_fused"}.get(config.optimizer, config.optimizer),
        train_sampling_strategy="group_by_length",
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        save_steps=config.save_steps,
        save_total_limit=1,
        logging_steps=50,
        report_to=[],
        seed=seed,
        data_seed=seed,
    )
    trainer = SelfExplainerTrainer(explainer, args=arguments, train_dataset=rows)
    for begun in checkpoints.glob("checkpoint-*"):  # a kill may leave one half written; its state comes last
        if not (begun / "trainer_state.json").is_file():
            shutil.rmtree(begun)
    last = get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None
    if last:
        logger.info("continuing training from %s", last)
    trainer.train(resume_from_checkpoint=last)
    explainer.eval()
    explainer.save_pretrained(out_dir, lora_dtype=config.save_dtype)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return explainer
