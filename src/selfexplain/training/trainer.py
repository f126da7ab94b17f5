"""TRL's SFTTrainer, made to keep the vectors and to save what is published."""

from pathlib import Path

from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from trl import SFTTrainer

from selfexplain.errors import SelfExplainError
from selfexplain.modeling.loading import ADAPTER_FILE, LORA_FILES, load_lora_state
from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM
from selfexplain.training.collator import SelfExplainerCollator


class SelfExplainerTrainer(SFTTrainer):
    """Trains a `SelfExplainerForCausalLM` on tokenised ground-truth rows.

    Raises:
        SelfExplainError: the collator in use would drop the vectors, so that training would run without them.
    """

    def __init__(self, model: SelfExplainerForCausalLM, **kwargs):
        collator = kwargs.setdefault("data_collator", SelfExplainerCollator(model._processor))
        if not isinstance(collator, SelfExplainerCollator):
            raise SelfExplainError(
                f"data_collator is {type(collator).__name__}, which drops `activations` without a word: "
                "use SelfExplainerCollator."
            )
        trained = {name: parameter.data for name, parameter in model.named_parameters() if parameter.requires_grad}
        model._hf_peft_config_loaded = bool(model.config.lora)  # else a quantised base counts as one that cannot learn
        super().__init__(model=model, processing_class=model._processor.tokenizer, **kwargs)
        # On a quantised base TRL rounds what is trained to bfloat16, whose steps are coarser than the updates.
        for name, parameter in model.named_parameters():
            if name in trained:
                parameter.data = trained[name].to(parameter.device)

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["input_ids", "labels", "positions", "activations", "activation_layers", "length"]

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """TRL's fused loss where it fits; otherwise logits of the columns that hold answers, from the base's own head.

        Off the GPU TRL scores the tokens of the prompts too, a third of the time of a small model; and it reads the
        head's weight past trained token embeddings.
        """
        explainer = self.accelerator.unwrap_model(model)
        trains_tokens = (explainer.config.lora or {}).get("trainable_tokens")
        if return_outputs or (inputs["labels"].is_cuda and not trains_tokens):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs["labels"]
        columns = 1 + (labels[:, 1:] != -100).any(dim=0).nonzero()[:, 0]  # the first token is foretold by none
        rest = {name: value for name, value in inputs.items() if name != "labels"}
        logits = model(**rest, use_cache=False, logits_to_keep=columns - 1).logits  # (B, n_columns, vocabulary)
        wanted = labels[:, columns].to(logits.device)
        loss = cross_entropy(logits.flatten(0, 1).float(), wanted.flatten(), ignore_index=-100, reduction="sum")
        if num_items_in_batch is None:
            return loss / (wanted != -100).sum()
        averaged = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        return loss / num_items_in_batch * averaged

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        """Checkpoints go without golden vectors, which would be answered anew each time."""
        explainer = self.accelerator.unwrap_model(self.model)
        explainer.save_pretrained(output_dir or self.args.output_dir, lora_dtype="float32", with_check=False)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        explainer = self.accelerator.unwrap_model(model or self.model)
        folder = Path(resume_from_checkpoint)
        explainer.model.activation_adapter.load_state_dict(load_file(folder / ADAPTER_FILE))
        weights = load_file(folder / LORA_FILES[1])
        load_lora_state(explainer, weights, str(folder / LORA_FILES[1]))
