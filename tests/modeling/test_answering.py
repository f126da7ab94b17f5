"""Answers to rows and batches of questions, with their log-probabilities."""

from copy import deepcopy

import pytest
import torch

from questions import vector
from selfexplain import PatchQuery
from selfexplain.errors import SelfExplainError

ROW = {"prompt": "a", "placeholder_offsets": [], "activations": [], "activation_layers": []}


def test_questions_are_sorted_by_length_and_batched(explainer, monkeypatch):
    shapes = []

    def generate(input_ids, logits_processor, **inputs):
        shapes.append(input_ids.shape)
        logits_processor[0](input_ids, torch.zeros(len(input_ids), 5))
        return torch.cat([input_ids, torch.full((len(input_ids), 1), 2)], dim=1)

    monkeypatch.setattr(explainer, "generate", generate)
    v = vector()
    queries = [PatchQuery("a" * (1 + n % 40), v, [0], 0) for n in range(2000)]
    assert len(explainer.explain(queries, batch_size=100)) == 2000
    assert [shape[0] for shape in shapes] == [100] * 20
    assert sorted(shape[1] for shape in shapes) == [shape[1] for shape in shapes]


def test_answers_keep_the_order_of_the_rows(explainer):
    rows = [ROW | {"prompt": prompt} for prompt in ("The capital of Japan is", "a", "The yen")]
    together = explainer.answer(rows, batch_size=2, max_new_tokens=4)
    alone = [explainer.answer([row], max_new_tokens=4)[0] for row in rows]
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    assert [answer.log_prob for answer in together] == pytest.approx([answer.log_prob for answer in alone], abs=1e-4)


def test_answers_do_not_depend_on_the_generation_config(explainer):
    explainer.processor.tokenizer = deepcopy(explainer.processor.tokenizer)
    text, question = "The capital of Japan is", {"vectors": [vector()], "layers": [0], "max_new_tokens": 8}
    (usual,) = explainer.answer([ROW | {"prompt": text}], max_new_tokens=8)
    asked = explainer.ask("What is this?", **question).text
    settings = {
        "do_sample": True, "num_return_sequences": 2, "return_dict_in_generate": True, "stop_strings": ["a"],
        "token_healing": True, "watermarking_config": {"bias": 9.0}, "repetition_penalty": 3.0, "min_new_tokens": 8,
        "suppress_tokens": list(range(3, 200)),
    }  # fmt: skip
    for name, value in settings.items():
        setattr(explainer.generation_config, name, value)
    (answer,) = explainer.answer([ROW | {"prompt": text}], max_new_tokens=8)
    assert (answer.text, answer.log_prob) == (usual.text, usual.log_prob)
    assert explainer.ask("What is this?", **question).text == asked
    explainer.check_injection()


def test_log_prob_is_the_sum_over_greedy_tokens(explainer):
    explainer.processor.tokenizer = deepcopy(explainer.processor.tokenizer)
    explainer.processor.tokenizer.eos_token = None  # so that the answer has the maximum length
    (answer,) = explainer.answer([ROW], max_new_tokens=5)
    ids, expected = explainer.processor([ROW])["input_ids"], 0.0
    with torch.no_grad():
        for _ in range(5):
            log_probs = explainer(input_ids=ids).logits[0, -1].log_softmax(-1)
            expected += log_probs.max().item()
            ids = torch.cat([ids, log_probs.argmax()[None, None]], dim=1)
    assert answer.text == explainer.processor.tokenizer.decode(ids[0, -5:], skip_special_tokens=True).strip()
    assert answer.log_prob == pytest.approx(expected, abs=1e-4)


def test_tokens_after_the_end_of_text_do_not_count(explainer):
    tokenizer = explainer.processor.tokenizer
    ids = tokenizer(" yen", add_special_tokens=False)["input_ids"]
    answer = explainer._read_tokens([*ids, tokenizer.eos_token_id, 40, 50], [-1.0] * (len(ids) + 1) + [-9.0, -9.0])
    assert answer.text == "yen"
    assert answer.log_prob == -(len(ids) + 1)  # the end of text counts


def test_rows_with_invalid_fields_are_refused_by_index(explainer):
    with pytest.raises(SelfExplainError, match=r"^Row 1: Placeholder offset 0 does not point at <activation> in 'a'"):
        explainer.answer([ROW, ROW | {"placeholder_offsets": [0]}])


def test_an_explainer_without_a_processor_is_refused(explainer):
    explainer.processor = None
    with pytest.raises(SelfExplainError, match="This explainer has no processor"):
        explainer.answer([ROW])


@pytest.mark.parametrize("kind", [None, "torch", "numpy"])
def test_rows_may_have_any_format_of_datasets(explainer, kind):
    from datasets import Dataset

    vectors = torch.randn(2, 32, generator=torch.Generator().manual_seed(0)).half().float().tolist()
    prompts = ["The <activation> and <activation>", "The yen"]
    rows = Dataset.from_dict(
        {
            "prompt": prompts,
            "placeholder_offsets": [[4, 21], []],
            "activations": [vectors, []],
            "activation_layers": [[1, 2], []],
        }
    )
    expected = explainer.answer(rows.to_list(), max_new_tokens=3)
    assert explainer.answer(rows.with_format(kind), max_new_tokens=3) == expected
