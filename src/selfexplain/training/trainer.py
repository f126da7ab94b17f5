"""A subclass of TRL's SFTTrainer that keeps the vectors, mixes tasks, and saves explainers as checkpoints."""

from collections.abc import Iterator, Mapping, Sequence
from inspect import signature
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices
from trl import SFTTrainer

from selfexplain.errors import SelfExplainError
from selfexplain.modeling.base_weights import load_weights
from selfexplain.modeling.lora import load_lora_state
from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM
from selfexplain.modeling.processing_selfexplainer import SelfExplainerProcessor
from selfexplain.modeling.repository import ADAPTER_FILE, LORA_WEIGHTS_FILE, MERGED_DIRECTORY
from selfexplain.target.blocks import context_length
from selfexplain.training.collator import IGNORED_LABEL, SelfExplainerCollator, tokenize


class MixedLengthGroups(Sampler[int]):
    """Samples batches of rows of similar length, as transformers does, but in random order.

    transformers sorts batches from long to short within a megabatch. Rows of different tasks differ in length, so the
    tasks would follow each other in long runs, and the last steps would see only the shortest rows. The longest batch
    still comes first, so that a lack of memory shows at once.

    Args:
        lengths: number of tokens of each row.
        batch_size: rows per batch.
        seed: seed of the order; it is added to the epoch.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int):
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch, counted from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        grouped = get_length_grouped_indices(self.lengths, self.batch_size, generator=generator)
        batches = [grouped[i : i + self.batch_size] for i in range(0, len(grouped), self.batch_size)]
        last = len(batches) - 1  # possibly incomplete, so it stays last
        order = (1 + torch.randperm(max(last - 1, 0), generator=generator)).tolist()
        return chain.from_iterable(batches[i] for i in dict.fromkeys([0, *order, last]))


class ExplainerCheckpoints:
    """Saves and loads explainers as the checkpoints of a trainer.

    A trainer of transformers or TRL looks for the weights of the whole model in a checkpoint, which a saved explainer
    does not contain. With this class in front of it, `resume_from_checkpoint` and `load_best_model_at_end` work:
    `class MyTrainer(ExplainerCheckpoints, Trainer): ...`.
    """

    if TYPE_CHECKING:
        accelerator: Any
        args: Any
        model: Any
        state: Any

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        """Save a checkpoint, without golden questions, because answering them takes time."""
        explainer = self.accelerator.unwrap_model(self.model)
        directory = output_dir or self.args.output_dir
        explainer.save_pretrained(directory, lora_dtype="float32", with_check=False, state_dict=state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        """Load the adapter, the LoRA weights and, if the base is trained, the base of a checkpoint.

        Raises:
            SelfExplainError: the directory does not contain them, or they do not fit the explainer.
        """
        explainer = self.accelerator.unwrap_model(model or self.model)
        folder = Path(resume_from_checkpoint)
        files = [ADAPTER_FILE, *([LORA_WEIGHTS_FILE] if explainer.config.lora else [])]
        missing = [name for name in files if not (folder / name).is_file()]
        if missing:
            raise SelfExplainError(
                f"The checkpoint {folder} has no {' and no '.join(missing)}, so training cannot continue from it. Give "
                "a checkpoint that SelfExplainerTrainer saved."
            )
        explainer.model.activation_adapter.load_state_dict(load_file(folder / ADAPTER_FILE))
        if explainer.config.lora:
            weights = load_file(folder / LORA_WEIGHTS_FILE)
            load_lora_state(explainer, weights, str(folder / LORA_WEIGHTS_FILE))
        if (folder / MERGED_DIRECTORY).is_dir():
            load_weights(explainer.language_model, folder / MERGED_DIRECTORY)

    def _load_best_model(self) -> None:
        """Load the checkpoint with the best evaluation at the end of training."""
        self._load_from_checkpoint(self.state.best_model_checkpoint)


class SelfExplainerTrainer(ExplainerCheckpoints, SFTTrainer):
    """Trains a `SelfExplainerForCausalLM` on ground-truth rows.

    Args:
        model: explainer with LoRA weights.
        train_dataset: ground-truth rows, or rows that `collator.tokenize` has tokenised.
        eval_dataset: rows for evaluation, or several sets of them by name.
        processing_class: processor of the explainer, or its tokenizer; None takes the explainer's.
        kwargs: further arguments of `SFTTrainer`.

    Raises:
        SelfExplainError: the collator would drop the vectors, so that training would run without them; the processor
            is not the explainer's; or the settings pack several rows into one sequence.
    """

    def __init__(
        self,
        model: SelfExplainerForCausalLM,
        args: Any = None,
        *,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        **kwargs,
    ):
        self._explainer_processor = check_processing_class(processing_class, model)
        self._max_row_length = context_length(model.config)
        collator = kwargs.setdefault(
            "data_collator", SelfExplainerCollator(self._explainer_processor, self._max_row_length)
        )
        if not isinstance(collator, SelfExplainerCollator):
            raise SelfExplainError(
                f"data_collator is {type(collator).__name__}, which drops the column `activations`. Use "
                "SelfExplainerCollator or a subclass of it."
            )
        if args is not None and (getattr(args, "packing", False) or getattr(args, "padding_free", False)):
            raise SelfExplainError(
                "packing or padding_free is set, but vectors are written at positions of separate rows. Set both to "
                "False."
            )
        if isinstance(eval_dataset, Mapping):
            eval_dataset = {name: self._tokenized(dataset) for name, dataset in eval_dataset.items()}
        datasets = {"train_dataset": self._tokenized(train_dataset), "eval_dataset": self._tokenized(eval_dataset)}
        trained = {name: parameter.data for name, parameter in model.named_parameters() if parameter.requires_grad}
        model._hf_peft_config_loaded = bool(model.config.lora)  # otherwise Trainer refuses a quantised base
        super().__init__(
            model=model, args=args, processing_class=self._explainer_processor.tokenizer, **datasets, **kwargs
        )
        # On a quantised base, TRL rounds trained weights to bfloat16, which is too coarse for the updates.
        for name, parameter in model.named_parameters():
            if name in trained:
                parameter.data = trained[name].to(parameter.device)

    def _tokenized(self, dataset: Any) -> Any:
        """A dataset with tokenised rows; unchanged if they are tokenised, or if there is no dataset."""
        columns = getattr(dataset, "column_names", None)
        if columns is None or "positions" in columns or "prompt" not in columns:
            return dataset
        return dataset.map(lambda row: tokenize(row, self._explainer_processor, self._max_row_length))

    def _prepare_dataset(self, dataset, *args, **kwargs):
        """Tokenise ground-truth rows with their slots. TRL's own preparation would encode placeholders as text."""
        return self._tokenized(dataset)

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["input_ids", "labels", "positions", "activations", "activation_layers", "length"]

    def _get_train_sampler(self, train_dataset=None) -> Sampler | None:
        rows = self.train_dataset if train_dataset is None else train_dataset
        column = self.args.length_column_name
        if self.args.train_sampling_strategy != "group_by_length" or column not in (rows.column_names or ()):
            return super()._get_train_sampler(train_dataset)
        return MixedLengthGroups(rows[column], self.args.train_batch_size, self.args.seed)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Compute the loss with TRL's fused kernel on a GPU, and from the logits of the completions on the CPU.

        On the CPU, TRL also computes the logits of the prompts, which takes a third of the time of a step for a small
        model. If token embeddings are trained, TRL's kernel is not used on a GPU either, because it reads the weight of
        the head without the trained differences.
        """
        labels = inputs["labels"]
        explainer = self.accelerator.unwrap_model(model)
        trains_tokens = (explainer.config.lora or {}).get("trainable_tokens")
        other_loss = self.args.loss_type != "nll" or self.label_smoother or self.compute_loss_func
        if return_outputs or other_loss or self.aux_loss_enabled or (labels.is_cuda and not trains_tokens):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        # The first token is left out, because no position predicts it.
        columns = 1 + (labels[:, 1:] != IGNORED_LABEL).any(dim=0).nonzero()[:, 0].cpu()
        rest = {name: value for name, value in inputs.items() if name != "labels"}
        logits = model(**rest, use_cache=False, logits_to_keep=columns - 1).logits  # (B, n_columns, vocabulary)
        expected = labels[:, columns].to(logits.device)
        loss = cross_entropy(
            logits.flatten(0, 1).float(), expected.flatten(), ignore_index=IGNORED_LABEL, reduction="sum"
        )
        if num_items_in_batch is None:
            return loss / (expected != IGNORED_LABEL).sum().clamp(min=1)
        n_processes = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        return loss / num_items_in_batch * n_processes


def check_processing_class(processing_class: Any, model: SelfExplainerForCausalLM) -> SelfExplainerProcessor:
    """Return the processor of an explainer, after comparing it with what was passed to its trainer.

    An explainer without a processor gets the one that was passed.

    Args:
        processing_class: processor or tokenizer that was passed to the trainer; None for none.
        model: explainer.

    Raises:
        SelfExplainError: the settings or the vocabulary differ, or there is no processor.
    """
    if model.processor is None and isinstance(processing_class, SelfExplainerProcessor):
        model.processor = processing_class
    processor = model._processor
    settings = [name for name in signature(SelfExplainerProcessor.__init__).parameters if hasattr(processor, name)]
    settings.remove("tokenizer")
    same = True
    if isinstance(processing_class, SelfExplainerProcessor):
        same = all(getattr(processing_class, name) == getattr(processor, name) for name in settings)
        processing_class = processing_class.tokenizer
    if processing_class is not None and processing_class is not processor.tokenizer:
        same = same and processing_class.get_vocab() == processor.tokenizer.get_vocab()
    if not same:
        raise SelfExplainError(
            "processing_class has other settings or another vocabulary than the explainer's processor, so questions "
            "would be tokenised differently in training than when the explainer is asked. Omit processing_class, or "
            "set explainer.processor."
        )
    return processor
