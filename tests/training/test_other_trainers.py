"""Trainers of transformers and TRL train with vectors, or refuse to train without them."""

from copy import deepcopy

import pytest
import torch
from datasets import Dataset
from transformers import Trainer, TrainingArguments
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from selfexplain.errors import SelfExplainError
from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM
from selfexplain.tasks import feature_description
from selfexplain.tasks.question import PLACEHOLDER
from selfexplain.training.collator import SelfExplainerCollator, SelfExplainerPreferenceCollator
from selfexplain.training.trainer import ExplainerCheckpoints

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
WITHOUT_VECTORS = r"training batch spells <activation> and has no activations.*SelfExplainerCollator"


@pytest.fixture
def explainer(target):
    return SelfExplainerForCausalLM.from_base(
        deepcopy(target.model), target.tokenizer, lora={"rank": 4, "alpha": 8}, seed=1
    )


def ground_truth(n=4, scale=1.0, **answers):
    question = feature_description.question(1)
    generator = torch.Generator().manual_seed(0)
    return Dataset.from_list([
        {
            "prompt": question.prompt,
            "placeholder_offsets": list(question.placeholder_offsets),
            "activations": [(torch.randn(32, generator=generator) * scale).tolist()],
            "activation_layers": [1],
            **answers,
        }
        for _ in range(n)
    ])  # fmt: skip


def options(tmp_path, **changes):
    return {
        "output_dir": str(tmp_path), "max_steps": 1, "per_device_train_batch_size": 2, "use_cpu": True, "report_to": [],
        "disable_tqdm": True, "save_strategy": "no", "activation_checkpointing": False, **changes,
    }  # fmt: skip


def loss_and_gradients(trainer):
    trainer.model.train()
    trainer.model.zero_grad()
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])


def test_a_plain_sft_trainer_refuses_to_train_without_vectors(explainer, tmp_path):
    trainer = SFTTrainer(
        explainer, args=SFTConfig(**options(tmp_path, bf16=False)), train_dataset=ground_truth(completion="the word"),
        processing_class=explainer.processor.tokenizer,
    )  # fmt: skip
    with pytest.raises(SelfExplainError, match=WITHOUT_VECTORS):
        trainer.train()


@pytest.mark.parametrize("as_processor", [False, True])
def test_a_plain_sft_trainer_with_the_collator_trains_with_vectors(explainer, tmp_path, as_processor):
    processor = explainer.processor
    settings = {"remove_unused_columns": False, "dataset_kwargs": {"skip_prepare_dataset": True}, "bf16": False}
    results = []
    for scale in (1.0, -1.0):
        trainer = SFTTrainer(
            explainer, args=SFTConfig(**options(tmp_path, **settings)), data_collator=SelfExplainerCollator(processor),
            train_dataset=ground_truth(scale=scale, completion="the word"),
            processing_class=processor if as_processor else processor.tokenizer,
        )  # fmt: skip
        results.append(loss_and_gradients(trainer))
    assert abs(results[0][0] - results[1][0]) > 1e-5
    assert (results[0][1] - results[1][1]).abs().max() > 1e-6


def test_the_trainer_of_transformers_trains_with_vectors_and_resumes(explainer, tmp_path):
    class MyTrainer(ExplainerCheckpoints, Trainer):
        pass

    explainer.config.base_model_name_or_path = "tiny-random"
    rows = ground_truth(completion="the word")
    start = {name: p.detach().clone() for name, p in explainer.named_parameters()}

    def run(kind, max_steps, resume=None, **changes):
        explainer.load_state_dict(start)
        changes = {"remove_unused_columns": False, "save_strategy": "steps", "save_steps": 1, **changes}
        args = TrainingArguments(**options(tmp_path, **changes, max_steps=max_steps, lr_scheduler_type="constant"))
        trainer = kind(explainer, args, SelfExplainerCollator(explainer.processor), rows)
        trainer.train(resume_from_checkpoint=resume)
        return torch.cat([p.detach().flatten() for p in explainer.parameters() if p.requires_grad])

    whole = run(MyTrainer, 2)
    resumed = run(MyTrainer, 2, str(tmp_path / "checkpoint-1"))
    torch.testing.assert_close(whole, resumed)
    with pytest.raises(SelfExplainError, match=r"columns activations, activation_layers, but .*prompt.*are missing"):
        run(Trainer, 1, remove_unused_columns=True)
    with pytest.raises(SelfExplainError, match=r"has no activation_adapter.safetensors and no lora"):
        run(MyTrainer, 2, str(tmp_path))


@pytest.mark.parametrize("precompute", [False, True])
def test_dpo_trains_with_vectors(explainer, tmp_path, precompute):
    reference = deepcopy(explainer)
    settings = {"remove_unused_columns": False, "precompute_ref_log_probs": precompute, "bf16": False}
    results = []
    for scale in (1.0, -1.0):
        trainer = DPOTrainer(
            explainer, ref_model=reference, args=DPOConfig(**options(tmp_path, **settings)),
            train_dataset=ground_truth(scale=scale, chosen="the word dog", rejected="the word river"),
            data_collator=SelfExplainerPreferenceCollator(explainer.processor),
            processing_class=explainer.processor.tokenizer,
        )  # fmt: skip
        loss, gradients = loss_and_gradients(trainer)
        assert loss == pytest.approx(torch.tensor(2.0).log().item(), abs=1e-5)  # the explainer is its own reference
        results.append(gradients)
    assert (results[0] - results[1]).abs().max() > 1e-6


def test_the_margin_of_dpo_is_that_of_the_answers(explainer, tmp_path):
    rows = ground_truth(2, chosen="the word dog", rejected="the word river")
    batch = SelfExplainerPreferenceCollator(explainer.processor)(list(rows))
    assert batch["input_ids"].shape[0] == 4
    single = SelfExplainerCollator(explainer.processor)
    with torch.no_grad():
        log_probs = explainer(
            **{name: value for name, value in batch.items() if name != "completion_mask"}
        ).logits[:, :-1].log_softmax(-1)  # fmt: skip
        log_probs = log_probs.gather(-1, batch["input_ids"][:, 1:, None])[..., 0] * batch["completion_mask"][:, 1:]
        for index, name in enumerate(("chosen", "rejected")):
            alone = single([rows[0] | {"completion": rows[0][name]}])
            n = (alone["labels"] != -100).sum()
            expected = -explainer(**alone).loss * n
            assert log_probs[2 * index].sum().item() == pytest.approx(expected.item(), abs=1e-3)


def test_a_plain_dpo_trainer_refuses_to_train_without_vectors(explainer, tmp_path):
    trainer = DPOTrainer(
        explainer, ref_model=deepcopy(explainer), args=DPOConfig(**options(tmp_path, bf16=False)),
        train_dataset=ground_truth(chosen="the word dog", rejected="the word river"),
        processing_class=explainer.processor.tokenizer,
    )  # fmt: skip
    with pytest.raises(SelfExplainError, match=WITHOUT_VECTORS):
        trainer.train()


def test_grpo_refuses_to_train_without_vectors(explainer, tmp_path):
    trainer = GRPOTrainer(
        explainer, reward_funcs=lambda completions, **kwargs: [float(len(text)) for text in completions],
        args=GRPOConfig(**options(tmp_path, bf16=False, num_generations=2, max_completion_length=2)),
        train_dataset=ground_truth(), processing_class=explainer.processor.tokenizer,
    )  # fmt: skip
    with pytest.raises(SelfExplainError, match=WITHOUT_VECTORS):
        trainer.train()


def grpo_trainer(explainer, rows, reward, tmp_path, **changes):
    from selfexplain.training.grpo import SelfExplainerGRPOTrainer

    settings = {
        "num_generations": 2, "max_completion_length": 3, "per_device_train_batch_size": 4, "beta": 0.0, "bf16": False,
    }  # fmt: skip
    args = GRPOConfig(**options(tmp_path, **settings | changes))
    return SelfExplainerGRPOTrainer(explainer, reward, args, train_dataset=rows)


@pytest.mark.parametrize("pad_to", [None, 16])
def test_grpo_generates_and_scores_with_vectors(explainer, tmp_path, pad_to):
    """The log-probabilities of answers are those that the explainer gives them after the row's own vectors."""
    short, long = (feature_description.question(1, template) for template in (0, 2))
    rows = list(ground_truth(4))
    for row, question in zip(rows, (short, long, short, long), strict=True):
        row.update(prompt=question.prompt, placeholder_offsets=list(question.placeholder_offsets))
    seen = []

    def reward(completions, activations, **columns):
        seen.extend(activations)
        return [float(len(text)) for text in completions]

    trainer = grpo_trainer(
        explainer, Dataset.from_list(rows), reward, tmp_path, steps_per_generation=2, temperature=0.7,
        pad_to_multiple_of=pad_to,
    )  # fmt: skip
    calls = []
    compute = trainer._get_per_token_logps_and_entropies

    def recording(model, input_ids, attention_mask, logits_to_keep, *args, **kwargs):
        result = compute(model, input_ids, attention_mask, logits_to_keep, *args, **kwargs)
        calls.append((trainer._vectors["activations"], input_ids, attention_mask, logits_to_keep, result[0]))
        return result

    trainer._get_per_token_logps_and_entropies = recording
    start = {name: p.detach().clone() for name, p in explainer.named_parameters()}
    trainer.train()
    assert any(not torch.equal(p, start[name]) for name, p in explainer.named_parameters())
    assert len({tuple(vector[0]) for vector in seen}) == 4
    vectors, input_ids, attention_mask, n, log_probs = calls[0]
    explainer.load_state_dict(start)
    explainer.eval()
    for row in range(len(input_ids)):
        kept = attention_mask[row].bool()
        n_answer = int(kept[-n:].sum())
        prompt = input_ids[row, :-n][kept[:-n]].tolist()
        for question in (short, long):
            ids, positions = explainer.processor.encode(question.prompt, question.placeholder_offsets)
            if ids == prompt:
                break
        else:
            raise AssertionError("the prompt is none of the questions")
        answer = input_ids[row, -n:][kept[-n:]].tolist()
        vector = {"activations": list(vectors[row]), "activation_layers": [1]}
        batch = explainer.processor.collate([ids + answer], [positions], [vector], left=False)
        with torch.no_grad():
            logits = explainer(**batch).logits[0, len(ids) - 1 : -1] / 0.7
        expected = logits.log_softmax(-1).gather(-1, torch.tensor(answer)[:, None])[:, 0]
        torch.testing.assert_close(log_probs[row, :n_answer], expected, atol=1e-4, rtol=1e-4)


def test_grpo_refuses_generators_that_would_drop_the_vectors(explainer, tmp_path):
    with pytest.raises(SelfExplainError, match="use_liger_kernel is set"):
        grpo_trainer(explainer, ground_truth(), len, tmp_path, use_liger_kernel=True)


def test_vectors_that_are_given_in_part_are_refused(explainer):
    batch = explainer.processor(ground_truth(1))
    del batch["activations"]
    with pytest.raises(SelfExplainError, match=r"activation_mask, .*marker_positions were given without activations"):
        explainer(**batch)


def test_text_that_spells_a_placeholder_can_be_trained_on(explainer):
    """The guard does not concern rows without vectors that the package collates, nor any text outside of training."""
    row = {"prompt": f"Read {PLACEHOLDER}.", "placeholder_offsets": [], "activations": [], "activation_layers": []}
    batch = SelfExplainerCollator(explainer.processor)([row | {"completion": "the word"}])
    assert batch["activation_mask"].shape == (1, 0)
    explainer.train()
    explainer(**batch).loss.backward()
    with pytest.raises(SelfExplainError, match=WITHOUT_VECTORS):
        explainer(input_ids=batch["input_ids"])
    explainer.eval()
    explainer(input_ids=batch["input_ids"])
