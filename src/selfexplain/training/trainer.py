"""A subclass of TRL's SFTTrainer that keeps the vectors, mixes tasks, and saves explainers as checkpoints."""

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices
from trl import SFTTrainer

from selfexplain.errors import SelfExplainError
from selfexplain.modeling.lora import load_lora_state
from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM
from selfexplain.modeling.repository import ADAPTER_FILE, LORA_WEIGHTS_FILE
from selfexplain.training.collator import IGNORED_LABEL, SelfExplainerCollator


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


class SelfExplainerTrainer(SFTTrainer):
    """Trains a `SelfExplainerForCausalLM` on rows of `collator.tokenize`.

    Args:
        model: explainer with LoRA weights.
        kwargs: arguments of `SFTTrainer`.

    Raises:
        SelfExplainError: the collator would drop the vectors, so that training would run without them.
    """

    def __init__(self, model: SelfExplainerForCausalLM, **kwargs):
        collator = kwargs.setdefault("data_collator", SelfExplainerCollator(model._processor))
        if not isinstance(collator, SelfExplainerCollator):
            raise SelfExplainError(
                f"data_collator is {type(collator).__name__}, which drops the column `activations`. Use "
                "SelfExplainerCollator or a subclass of it."
            )
        trained = {name: parameter.data for name, parameter in model.named_parameters() if parameter.requires_grad}
        model._hf_peft_config_loaded = bool(model.config.lora)  # otherwise Trainer refuses a quantised base
        super().__init__(model=model, processing_class=model._processor.tokenizer, **kwargs)
        # On a quantised base, TRL rounds trained weights to bfloat16, which is too coarse for the updates.
        for name, parameter in model.named_parameters():
            if name in trained:
                parameter.data = trained[name].to(parameter.device)

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

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        """Save a checkpoint, without golden questions, because answering them takes time."""
        explainer = self.accelerator.unwrap_model(self.model)
        explainer.save_pretrained(output_dir or self.args.output_dir, lora_dtype="float32", with_check=False)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        explainer = self.accelerator.unwrap_model(model or self.model)
        folder = Path(resume_from_checkpoint)
        explainer.model.activation_adapter.load_state_dict(load_file(folder / ADAPTER_FILE))
        weights = load_file(folder / LORA_WEIGHTS_FILE)
        load_lora_state(explainer, weights, str(folder / LORA_WEIGHTS_FILE))
