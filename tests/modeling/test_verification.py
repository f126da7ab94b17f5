"""Verification: interventions that are run on the target, and their agreement with explanations."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import processors

from battery import ARCHITECTURES, tiny_model
from fake_endpoint import FakeEndpoint
from questions import HINTED, SCENE, TEXT, vector
from selfexplain import AblationQuery, FeatureQuery, PatchQuery
from selfexplain.errors import SelfExplainError
from selfexplain.features.endpoint import Endpoint
from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM
from selfexplain.modeling.verification import without
from selfexplain.target.ablation import answers
from selfexplain.target.blocks import decoder_blocks
from selfexplain.target.load import Target
from selfexplain.target.tokens import token_text


@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if a in ("bloom", "gpt2", "gemma2", "falcon")])
def test_explanations_of_any_base_can_be_verified(architecture, tokenizer):
    bare = deepcopy(tokenizer)  # without a beginning-of-text token
    bare.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    explainer = SelfExplainerForCausalLM.from_base(tiny_model(architecture), bare, target=None)
    feature, patch, ablation = (
        explainer.verify(explanation, texts=[TEXT])
        for explanation in explainer.explain(
            [FeatureQuery(vector(), 3), PatchQuery(TEXT, 50 * vector(), [2, 3], -1), AblationQuery(TEXT, "capital")]
        )
    )
    assert feature.actual_output is None and len(feature.texts[0].tokens) == len(feature.texts[0].actual) > 0
    plain = explainer.language_model
    with torch.no_grad():
        clean, ablated = (
            bare.decode(plain(**bare(text, return_tensors="pt")).logits[0, -1].argmax()).strip()
            for text in (TEXT, "The of France is")
        )
    assert (patch.clean_output, ablation.clean_output, ablation.actual_output) == (clean, clean, ablated)
    # Answers of random weights cannot be parsed, so they agree with no outcome.
    assert patch.agrees is False and ablation.agrees is False


def test_a_patch_is_run_on_the_target(shipped):
    source = shipped.capture(SCENE.format("Peru"), [0, 1])[:, 6].mean(0)
    text = SCENE.format("Norway")
    explanation = shipped.explain_patch(text, source, [0, 1], 6)
    result = shipped.verify(explanation)
    tokenizer, outputs = shipped.processor.tokenizer, []
    ids = torch.tensor([tokenizer(text)["input_ids"]])

    def write(module, args, output):
        output = output.clone()
        output[:, 6] = source
        return output

    with shipped.as_target() as model, torch.no_grad():
        outputs.append(model(ids).logits[0, -1].argmax().item())
        handles = [decoder_blocks(model)[layer].register_forward_hook(write) for layer in (0, 1)]
        outputs.append(model(ids).logits[0, -1].argmax().item())
        for handle in handles:
            handle.remove()
    clean, actual = (token_text(tokenizer, token).strip() for token in outputs)
    assert (result.clean_output, result.actual_output) == (clean, actual) == ("Oslo", "Nairobi")
    assert result.actual_changed is True
    assert result.agrees is (explanation.changed and explanation.output == "Nairobi")
    correct = replace(explanation, changed=True, output="Nairobi")
    assert shipped.verify(correct).agrees
    assert not shipped.verify(replace(correct, changed=False)).agrees
    assert not shipped.verify(replace(correct, output="Lima")).agrees


def test_an_ablation_removes_the_hint(shipped):
    explanation = shipped.explain_ablation(HINTED)
    result = shipped.verify(explanation)
    with shipped.as_target() as model, torch.no_grad():
        ids = shipped.processor.tokenizer(HINTED.replace("\nHint: The answer is Ankara.", ""), return_tensors="pt")
        actual = shipped.processor.tokenizer.decode(model(ids["input_ids"]).logits[0, -1].argmax()).strip()
    assert (result.clean_output, result.actual_output, result.actual_changed) == ("Ankara", actual, True)
    assert result.agrees is (explanation.changed and explanation.output == actual)
    assert shipped.verify(shipped.explain_ablation(HINTED, "Hint: The answer is Ankara.")) == result


def test_an_ablation_replaces_a_part(shipped):
    queries = [AblationQuery(HINTED, None, "Hint: The answer is Quito."), AblationQuery(HINTED, "Dhaka", "Lima")]
    for explanation, replaced in zip(shipped.explain(queries), [("Ankara.", "Quito."), ("Dhaka", "Lima")], strict=True):
        ids = shipped.processor.tokenizer(HINTED.replace(*replaced), return_tensors="pt")["input_ids"]
        with shipped.as_target() as model, torch.no_grad():
            actual = shipped.processor.tokenizer.decode(model(ids).logits[0, -1].argmax()).strip()
        result = shipped.verify(explanation)
        assert (result.actual_output, result.actual_changed) == (actual, actual != "Ankara")


def test_an_ablation_with_choices_takes_the_most_likely_one(shipped):
    explanation = shipped.explain_ablation(HINTED, choices=("Merry Dolphin", "Quito"))
    base = Target(shipped.language_model, shipped.processor.tokenizer, "base")
    with shipped.as_target():
        expected = [
            answer.output for text in (HINTED, without(HINTED, None))
            for answer in answers(base, [text], [explanation.query.choices], "likelihood")
        ]  # fmt: skip
    result = shipped.verify(explanation)
    assert [result.clean_output, result.actual_output] == expected and set(expected) <= {"Merry Dolphin", "Quito"}
    assert result.actual_changed is (expected[0] != expected[1])


@pytest.mark.parametrize(
    ("text", "remove", "expected"),
    [
        ("a\nHint: b.\nc", None, "a\nc"),
        ("a\nHint: b.", None, "a"),
        ("a b c", "b", "a c"),
        ("a, b c", ", b", "a c"),
        ("a\nb\nc", "b", "a\nc"),
        ("b c", "b", " c"),
    ],
)
def test_removing_a_part_leaves_no_gap(text, remove, expected):
    assert without(text, remove) == expected


def test_replacing_a_part_keeps_the_spaces_around_it():
    assert without("a b c", "b", "x") == "a x c"


# ---------------------------------------------------------------- descriptions of features


def test_a_description_is_compared_with_the_activations(shipped):
    v = shipped.capture(TEXT, [0])[0, 4]
    explanation = shipped.explain_feature(v, 0)
    assert explanation.text == "the word France"
    texts = [TEXT + " Paris.", "The language of Japan is Japanese."]
    result = shipped.verify(explanation, texts=texts)
    first = result.texts[0]
    hidden = shipped.capture(texts[0], [0])[0, 1:]  # without <s>
    torch.testing.assert_close(torch.tensor(first.actual), hidden @ v / v.norm())
    assert "".join(first.tokens) == texts[0] and first.predicted == (0, 0, 0, 1, 0, 0, 0)
    actual = torch.tensor([value for text in result.texts for value in text.actual])
    predicted = torch.tensor([value for text in result.texts for value in text.predicted])
    assert result.correlation == pytest.approx(torch.corrcoef(torch.stack([actual, predicted]))[0, 1].item(), abs=1e-5)
    assert result.agrees and result.actual_output is None
    incorrect = shipped.verify(replace(explanation, text="the word Japan"), texts=texts)
    assert not incorrect.agrees and incorrect.correlation < result.correlation
    custom = shipped.verify(replace(explanation, text="my words"), texts=texts, classes={"my words": {"France"}})
    assert custom.correlation == result.correlation


def test_a_description_in_free_text_needs_a_chat_model(shipped, tmp_path):
    texts = [TEXT, "The language of Japan is Japanese."]
    explanation = replace(shipped.explain_feature(shipped.capture(TEXT, [0])[0, 4], 0), text="a country of Europe")
    offline = shipped.verify(explanation, texts=texts)
    assert (offline.agrees, offline.correlation) == (None, None)
    assert [text.predicted for text in offline.texts] == [None, None]

    def reply(system, user):
        return '{"4": 10}' if "France" in user else "I would rather not say."

    with FakeEndpoint(reply) as fake:
        simulator = Endpoint(fake.url, "judge", tmp_path / "replies.sqlite")
        result = shipped.verify(explanation, texts=texts, simulator=simulator)
    assert "a country of Europe" in fake.requests[0]["messages"][1]["content"]
    assert [text.predicted for text in result.texts] == [(0, 0, 0, 10, 0), None]
    expected = np.corrcoef(result.texts[0].actual, [0, 0, 0, 1, 0])[0, 1]
    assert result.agrees and result.correlation == pytest.approx(expected)


def test_a_feature_without_texts_is_refused(explainer):
    with pytest.raises(SelfExplainError, match=r"No texts were given.* Pass texts=\[\.\.\.\]"):
        explainer.verify(explainer.explain_feature(vector(), 0))


def test_a_free_question_is_refused(explainer):
    with pytest.raises(SelfExplainError, match="answers a free question"):
        explainer.verify(explainer.ask(None, [vector()], [0], max_new_tokens=1))
