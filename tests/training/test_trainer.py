"""The trainer: vectors reach the model, the loss equals that of TRL, batches are mixed, and checkpoints resume."""

from copy import deepcopy
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from selfexplain.errors import SelfExplainError
from selfexplain.modeling.contract import InjectionConfig
from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM
from selfexplain.modeling.processing_selfexplainer import SelfExplainerProcessor
from selfexplain.tasks import feature_description
from selfexplain.training.collator import SelfExplainerCollator, tokenize
from selfexplain.training.embeddings import indistinct_tokens
from selfexplain.training.trainer import MixedLengthGroups, SelfExplainerTrainer

SITES = [
    InjectionConfig(),
    InjectionConfig(site="block_output", block=1, operation="add"),
]


def explainer_on(target, injection, lora=True):
    return SelfExplainerForCausalLM.from_base(
        deepcopy(target.model), target.tokenizer, injection, lora={"rank": 4, "alpha": 8} if lora else None
    )


def rows_with(explainer, scale, n=4):
    question = feature_description.question(1)
    generator = torch.Generator().manual_seed(0)
    d_model = explainer.config.adapter["d_target"]
    rows = [
        {
            "prompt": question.prompt,
            "placeholder_offsets": question.placeholder_offsets,
            "completion": "the word" + " and that" * (index % 3),
            "activations": [(torch.randn(d_model, generator=generator) * scale).tolist()],
            "activation_layers": [1],
        }
        for index in range(n)
    ]
    return Dataset.from_list([row | tokenize(row, explainer.processor, 128) for row in rows])


def arguments(tmp_path, **changes):
    return SFTConfig(
        output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=4, use_cpu=True, bf16=False, report_to=[],
        disable_tqdm=True, activation_checkpointing=False, save_strategy="no", max_length=None,
        remove_unused_columns=False, dataset_kwargs={"skip_prepare_dataset": True}, **changes,
    )  # fmt: skip


def first_step(trainer):
    """Loss and gradients of the first batch, as the trainer computes them."""
    trainer.model.train()
    batch = next(iter(trainer.get_train_dataloader()))
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])


@pytest.mark.parametrize("injection", SITES, ids=lambda injection: injection.site)
def test_loss_and_gradients_depend_on_the_vector(target, tmp_path, injection):
    results = []
    for scale in (1.0, -1.0):
        explainer = explainer_on(target, injection)
        trainer = SelfExplainerTrainer(explainer, args=arguments(tmp_path), train_dataset=rows_with(explainer, scale))
        results.append(first_step(trainer))
    (loss, gradients), (other_loss, other_gradients) = results
    assert abs(loss - other_loss) > 1e-5
    assert (gradients - other_gradients).abs().max() > 1e-6


@pytest.mark.parametrize("num_items", [None, 7])
def test_the_loss_on_the_cpu_equals_that_of_trl(target, tmp_path, num_items):
    explainer = explainer_on(target, InjectionConfig())
    rows = rows_with(explainer, 1.0, n=3)
    longer = tokenize({**rows[0], "completion": "the word and a good deal more"}, explainer.processor, 128)
    rows = Dataset.from_list([*rows, {**rows[0], **longer}])
    trainer = SelfExplainerTrainer(explainer, args=arguments(tmp_path), train_dataset=rows)
    batch = next(iter(trainer.get_train_dataloader()))
    results = []
    for compute_loss in (trainer.compute_loss, partial(SFTTrainer.compute_loss, trainer)):
        explainer.zero_grad()
        loss = compute_loss(trainer.model, dict(batch), num_items_in_batch=num_items)
        loss.backward()
        gradients = [p.grad.flatten() for p in explainer.parameters() if p.grad is not None]
        results.append(torch.cat([loss[None], *gradients]))
    assert results[0].abs().max() > 0.1
    torch.testing.assert_close(*results)
    without_labels = batch | {"labels": torch.full_like(batch["labels"], -100)}
    assert trainer.compute_loss(trainer.model, without_labels) == 0


# peft still reads the deprecated name.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_the_loss_of_a_plain_sft_trainer_depends_on_the_vector(target, tmp_path):
    from peft import LoraConfig

    losses = []
    for scale in (1.0, -1.0):
        explainer = explainer_on(target, InjectionConfig(), lora=False)
        trainer = SFTTrainer(
            explainer, args=arguments(tmp_path), train_dataset=rows_with(explainer, scale),
            data_collator=SelfExplainerCollator(explainer.processor), processing_class=explainer.processor.tokenizer,
            peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"]),
        )  # fmt: skip
        losses.append(first_step(trainer)[0])
    assert abs(losses[0] - losses[1]) > 1e-5


@pytest.mark.parametrize("injection", SITES, ids=lambda injection: injection.site)
def test_activation_checkpointing_does_not_change_loss_or_gradients(target, tmp_path, injection):
    results = []
    for checkpointing in (False, True):
        explainer = explainer_on(target, injection)
        trainer = SelfExplainerTrainer(explainer, args=arguments(tmp_path), train_dataset=rows_with(explainer, 1.0))
        if checkpointing:
            explainer.activation_checkpointing_enable({"use_reentrant": False})
        results.append(first_step(trainer))
    assert results[0][0] == pytest.approx(results[1][0], abs=1e-6)
    torch.testing.assert_close(results[0][1], results[1][1])


def test_a_collator_that_drops_the_vectors_is_refused(target, tmp_path):
    from transformers import DefaultDataCollator

    explainer = explainer_on(target, InjectionConfig())
    with pytest.raises(SelfExplainError, match=r"DefaultDataCollator.*drops"):
        SelfExplainerTrainer(
            explainer,
            args=arguments(tmp_path),
            train_dataset=rows_with(explainer, 1.0),
            data_collator=DefaultDataCollator(),
        )


def test_batches_of_long_and_short_rows_are_mixed():
    lengths = [10] * 640 + [100] * 170  # two tasks
    sampler = MixedLengthGroups(lengths, batch_size=8, seed=0)
    epochs = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        epochs.append(list(sampler))
        assert sorted(epochs[-1]) == list(range(len(sampler)))
        batches = [{lengths[i] for i in epochs[-1][start : start + 8]} for start in range(0, len(lengths), 8)]
        mixed = sum(len(batch) > 1 for batch in batches)
        assert mixed < 8  # the rows of a batch have similar lengths
        long = [index for index, batch in enumerate(batches) if 100 in batch]
        assert long[0] == 0 and long[-1] > 0.7 * len(batches)
        assert max(b - a for a, b in pairwise(long)) < 30
    assert epochs[0] != epochs[1] and list(sampler) == epochs[1]


@pytest.mark.parametrize("lora", [True, False])
def test_training_continues_from_a_checkpoint(target, tmp_path, lora):
    def train(directory, max_steps, resume=None):
        explainer = explainer_on(target, InjectionConfig(), lora)
        explainer.config.base_model_name_or_path = target.name
        options = {
            "save_strategy": "steps",
            "save_steps": 2,
            "logging_steps": 2,
            "max_steps": max_steps,
            "lr_scheduler_type": "constant",
        }
        config = arguments(directory, train_sampling_strategy="group_by_length")
        for name, value in options.items():
            setattr(config, name, value)
        trainer = SelfExplainerTrainer(explainer, args=config, train_dataset=rows_with(explainer, 1.0, n=20))
        trainer.train(resume_from_checkpoint=resume)
        losses = {entry["step"]: entry["loss"] for entry in trainer.state.log_history if "loss" in entry}
        return parameters(explainer), losses

    whole, losses = train(tmp_path / "whole", 9)  # an epoch has 5 batches
    train(tmp_path / "parts", 6)
    resumed, resumed_losses = train(tmp_path / "parts", 9, resume=str(tmp_path / "parts" / "checkpoint-6"))
    assert list(losses) == [2, 4, 6, 8] and resumed_losses == pytest.approx(losses, rel=1e-6)
    torch.testing.assert_close(whole, resumed, atol=1e-5, rtol=1e-4)
    saved = tmp_path / "whole" / "checkpoint-8"
    assert (saved / "merged").is_dir() is not lora
    if not lora:  # the whole base is trained and saved
        loaded = SelfExplainerForCausalLM.from_pretrained(saved, check_injection=False)
        torch.testing.assert_close(parameters(loaded), whole, atol=5e-5, rtol=0)
        assert not torch.allclose(parameters(explainer_on(target, InjectionConfig(), lora)), whole, atol=5e-5)


def parameters(explainer):
    return torch.cat([p.detach().flatten() for p in explainer.parameters() if p.requires_grad])


TOKENIZED = ["input_ids", "labels", "positions", "length"]


@pytest.mark.parametrize("skip", [True, False])
def test_rows_that_are_not_tokenised_train_as_tokenised_rows_do(target, tmp_path, skip):
    results = []
    for raw in (False, True):
        explainer = explainer_on(target, InjectionConfig())
        rows = rows_with(explainer, 1.0)
        config = arguments(tmp_path)
        if raw:
            rows = rows.remove_columns(TOKENIZED)
            config.remove_unused_columns = True
            config.dataset_kwargs = {"skip_prepare_dataset": skip}
        trainer = SelfExplainerTrainer(explainer, args=config, train_dataset=rows, eval_dataset={"held_out": rows})
        results.append((*first_step(trainer), trainer.evaluate()["eval_held_out_loss"]))
    assert results[0][0] == pytest.approx(results[1][0], abs=1e-6)
    torch.testing.assert_close(results[0][1], results[1][1])
    assert results[0][2] == pytest.approx(results[1][2], abs=1e-6)


def test_the_best_checkpoint_is_loaded_at_the_end(target, tmp_path):
    explainer = explainer_on(target, InjectionConfig())
    explainer.config.base_model_name_or_path = target.name
    rows = rows_with(explainer, 1.0, n=8)
    config = arguments(tmp_path, eval_strategy="steps", eval_steps=2, learning_rate=0.01, save_steps=2)
    for name, value in {"save_strategy": "steps", "max_steps": 8, "load_best_model_at_end": True}.items():
        setattr(config, name, value)
    config.metric_for_best_model, config.greater_is_better = "loss", True  # so the last checkpoint is not the best
    trainer = SelfExplainerTrainer(explainer, args=config, train_dataset=rows, eval_dataset=rows)
    trainer.train()
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert max(losses) > losses[-1] + 1e-3
    assert trainer.evaluate()["eval_loss"] == pytest.approx(max(losses), abs=1e-5)


def test_the_processor_of_the_explainer_may_be_passed(target, tmp_path):
    explainer = explainer_on(target, InjectionConfig())
    rows, config = rows_with(explainer, 1.0), arguments(tmp_path)
    processor, explainer.processor = explainer.processor, None
    with pytest.raises(SelfExplainError, match="has no processor"):
        SelfExplainerTrainer(explainer, args=config, train_dataset=rows)
    trainer = SelfExplainerTrainer(explainer, args=config, train_dataset=rows, processing_class=processor)
    assert explainer.processor is processor and trainer.processing_class is processor.tokenizer
    for same in (processor, processor.tokenizer, deepcopy(processor)):
        SelfExplainerTrainer(explainer, args=config, train_dataset=rows, processing_class=same)
    other = deepcopy(processor.tokenizer)
    other.add_tokens("Paris is")
    for different in (SelfExplainerProcessor(processor.tokenizer, markers=False), other):
        with pytest.raises(SelfExplainError, match="processing_class has other settings or another vocabulary"):
            SelfExplainerTrainer(explainer, args=config, train_dataset=rows, processing_class=different)


def test_rows_are_not_packed(target, tmp_path):
    explainer = explainer_on(target, InjectionConfig())
    config = arguments(tmp_path)
    config.packing = True
    with pytest.raises(SelfExplainError, match="packing or padding_free is set"):
        SelfExplainerTrainer(explainer, args=config, train_dataset=rows_with(explainer, 1.0))


def test_indistinct_tokens_are_trained(target, tmp_path):
    config = deepcopy(target.model.config)
    config.tie_word_embeddings = True
    target = replace(target, model=type(target.model)(config))
    embeddings = target.model.get_input_embeddings().weight
    embeddings.data[2] = embeddings.data[7] = embeddings.data[9]  # token 2 is the end of text
    assert indistinct_tokens(embeddings, [1, 2, 5, 9]) == [2, 9]
    explainer = explainer_on(target, InjectionConfig(), lora=False)
    explainer.add_lora(rank=4, alpha=8, trainable_tokens=[2, 9])
    rows = rows_with(explainer, 1.0)
    trainer = SelfExplainerTrainer(explainer, args=arguments(tmp_path), train_dataset=rows)
    first_step(trainer)
    gradients = [p.grad for name, p in explainer.named_parameters() if "trainable_tokens" in name]
    assert any(gradient is not None and gradient.abs().max() > 0 for gradient in gradients)
    for parameter in explainer.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    batch = explainer.processor([row_of(rows[0])])
    with torch.no_grad():
        logits = explainer(**batch).logits[0, -1]
        assert (logits[2] - logits[7]).abs() > 1e-3  # the tokens can be distinguished now
        with explainer.as_target() as base:
            plain = base(input_ids=batch["input_ids"]).logits[0, -1]
    assert (plain[2] - plain[7]).abs() < 1e-5
    for part in (target.model, target.tokenizer):
        part.save_pretrained(tmp_path / "base")
    explainer.config.base_model_name_or_path = str(tmp_path / "base")
    explainer.save_pretrained(tmp_path / "saved")
    loaded = SelfExplainerForCausalLM.from_pretrained(tmp_path / "saved")
    with torch.no_grad():
        torch.testing.assert_close(loaded(**batch).logits[0, -1], logits)


def row_of(row):
    return {name: row[name] for name in ("prompt", "placeholder_offsets", "activations", "activation_layers")}
