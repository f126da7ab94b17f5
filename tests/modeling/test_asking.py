"""Explanations: mixed batches, paraphrases, abstention, free questions, and explainers of a different model."""

import warnings
from copy import deepcopy

import pytest
import torch
from transformers import AutoModelForCausalLM

from battery import tiny_model
from questions import HINTED, SCENE, TEXT, vector
from selfexplain import AblationQuery, FeatureQuery, PatchQuery
from selfexplain.errors import SelfExplainError
from selfexplain.modeling.contract import InjectionConfig
from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM
from selfexplain.target.load import Target
from selfexplain.target.tokens import token_text
from selfexplain.tasks import feature_description
from selfexplain.tasks.question import PLACEHOLDER


def test_a_mixed_batch_gets_the_same_answers_as_single_queries(shipped):
    v = shipped.capture(TEXT, [0])[0, 4]
    queries = [
        PatchQuery(SCENE.format("Norway"), v, (0, 1), -3),
        FeatureQuery(v, 0),
        AblationQuery(HINTED),
        FeatureQuery(-v, 4, template=2),
        PatchQuery(TEXT, -v, range(2, 4), 1),
        AblationQuery(HINTED, remove="Merry Dolphin"),
    ]
    together = shipped.explain(queries, batch_size=4)
    alone = [
        shipped.explain_patch(SCENE.format("Norway"), v, [0, 1], -3),
        shipped.explain_feature(v, 0),
        shipped.explain_ablation(HINTED),
        shipped.explain_feature(-v, 4, template=2),
        shipped.explain_patch(TEXT, -v, [2, 3], 1),
        shipped.explain_ablation(HINTED, "Merry Dolphin"),
    ]
    assert [explanation.query for explanation in together] == queries
    for one, other in zip(together, alone, strict=True):
        assert (one.text, one.prompt, one.task) == (other.text, other.prompt, other.task)
        assert one.confidence == pytest.approx(other.confidence, rel=1e-3)
    assert all(explanation.parsed for explanation in together)
    assert together[0].injection == shipped.config.injection
    assert str(together[1].description) == together[1].text


def test_confidence_is_averaged_over_paraphrases(shipped):
    v = shipped.capture(TEXT, [0])[0, 4]
    wordings = [shipped.explain_feature(v, 0, template=n) for n in range(len(feature_description.TEMPLATES))]
    (pooled,) = shipped.explain([FeatureQuery(v, 0)], paraphrases=True)
    same = [wording for wording in wordings if wording.text == wordings[0].text]
    assert pooled.text == wordings[0].text and pooled.agreement == len(same) / len(wordings)
    assert pooled.confidence == pytest.approx(sum(w.confidence for w in same) / len(wordings), rel=1e-3)
    assert wordings[0].agreement is None


def test_an_explainer_abstains_below_a_threshold(shipped):
    v = shipped.capture(TEXT, [0])[0, 4]
    confidence = shipped.explain_feature(v, 0).confidence
    assert 0 < confidence < 1
    for threshold, answered in ((confidence / 2, True), ((1 + confidence) / 2, False)):
        (explanation,) = shipped.explain([FeatureQuery(v, 0)], abstain_below=threshold)
        assert explanation.answered is answered


def test_an_unreadable_answer_does_not_count(explainer):
    explanation = explainer.explain_ablation(TEXT, remove="France")
    assert not explanation.parsed and not explanation.answered and explanation.confidence == 0


def test_a_long_question_does_not_shorten_other_answers(shipped):
    v = shipped.capture(SCENE.format("Kenya"), [0])[0, 5]
    short = PatchQuery(SCENE.format("Peru"), v, [0, 1], 5)
    alone = shipped.explain([short])[0]
    n_words = 0  # find the longest question that leaves room for an answer
    while True:
        try:
            shipped.explain([PatchQuery(short.text + " and" * (n_words + 1), v, [0, 1], 5)])
        except SelfExplainError as error:
            assert "The context holds 256 tokens" in str(error)
            break
        n_words += 1
    together = shipped.explain([short, PatchQuery(short.text + " and" * n_words, v, [0, 1], 5)])
    assert together[0].text == alone.text and alone.parsed and not together[1].parsed


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda e: e.explain([]), "No queries were given"),
        (lambda e: e.explain_feature(torch.ones(31), 1), r"^A vector of shape \(31,\) was given"),
        (lambda e: e.ask("a?", [vector()], [0, 1]), "1 vectors and 2 layers"),
        (lambda e: e.ask("a?", [], []), "0 vectors and 0 layers"),
    ],
)  # fmt: skip
def test_invalid_input_is_refused(explainer, ask, message):
    with pytest.raises(SelfExplainError, match=message):
        ask(explainer)


def test_a_layer_that_the_adapter_cannot_read_is_refused(target):
    explainer = SelfExplainerForCausalLM.from_base(
        target.model, target.tokenizer, InjectionConfig(), adapter={"kind": "linear", "layers": [1, 2]}
    )
    message = r"from layers \[0\] were given\. This explainer reads vectors from layers \[1, 2\]"
    with pytest.raises(SelfExplainError, match=message):
        explainer.explain_feature(vector(), 0)


def test_an_untrained_layer_causes_a_warning_at_the_caller(explainer):
    explainer.config.trained_layers = {"feature_description": [1], "activation_patching": [0], "input_ablation": []}
    assert explainer.config.layers_of("feature_description") == [1] != explainer.config.layers
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explainer.explain_feature(vector(), 1)
        explainer.explain_patch(TEXT, vector(), [0, 1], 2)
    message = r"trained on feature_description at layers \[1\] and not at layers \[0\]"
    with pytest.warns(UserWarning, match=message) as caught:
        explainer.explain_feature(vector(), 0)
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="activation_patching"):
        explainer.explain([PatchQuery(TEXT, vector(), [1], 2)])


# ---------------------------------------------------------------- free questions


def test_a_free_question_follows_the_template_of_the_contract(explainer):
    explainer.config.injection["template"] = "Layer: {layer}\n{activation} \n{question}"
    answer = explainer.ask("What {layer} is it?", [vector(n) for n in range(3)], [2, 2, 0], max_new_tokens=2)
    assert answer.prompt == f"Layer: 2\n{PLACEHOLDER}{PLACEHOLDER} \nLayer: 0\n{PLACEHOLDER} \nWhat {{layer}} is it?"
    assert answer.task == "free_question" and answer.query is None and answer.injection["template"].startswith("Layer")
    assert 0 < answer.confidence <= 1
    assert explainer.ask(None, [vector()], [1], max_new_tokens=2).prompt == f"Layer: 1\n{PLACEHOLDER} \n"


def test_a_free_question_without_a_template_is_worded_plainly(explainer):
    plain = explainer.ask(None, vector()[None], [1], max_new_tokens=2).prompt
    assert plain == explainer.explain_feature(vector(), 1).prompt
    assert explainer.ask("Why?", vector()[None], [-1], max_new_tokens=2).prompt == f"At layer 3, {PLACEHOLDER}. Why?\n"


def test_free_questions_are_decoded_greedily_by_default(shipped):
    v = shipped.capture(TEXT, [0])[0, 4]
    greedy = shipped.ask(None, [v], [0])
    assert greedy.text == shipped.explain_feature(v, 0).text
    beams = shipped.ask(None, [v], [0], num_beams=4)
    assert beams.confidence >= greedy.confidence * 0.999
    assert shipped.ask(None, [v], [0], max_new_tokens=1).text != greedy.text


# ---------------------------------------------------------------- target


def test_as_target_blocks_can_be_nested(shipped):
    ids = torch.tensor([shipped.processor.tokenizer(TEXT)["input_ids"]])
    with torch.no_grad(), shipped.as_target() as model:
        before = model(ids).logits
        shipped.capture(TEXT, [0])  # has its own `as_target` block
        torch.testing.assert_close(model(ids).logits, before, rtol=0, atol=0)
    assert not torch.equal(shipped.language_model(ids).logits, before)


def test_an_explainer_of_a_different_model_needs_its_target(target_dir, target, tokenizer):
    settings = {"model": str(target_dir), "revision": None, "n_layers": 4, "d_model": 32}
    explainer = SelfExplainerForCausalLM.from_base(tiny_model("llama"), tokenizer, target=settings)
    query = PatchQuery(TEXT, 50 * vector(), [3], -1)
    for ask in (lambda: explainer.capture(TEXT, [0]), lambda: explainer.explain([query])):
        with pytest.raises(SelfExplainError, match="not its own base"):
            ask()
    explanation = explainer.explain([query], target=target)[0]
    result = explainer.verify(explanation, target=target)
    plain = AutoModelForCausalLM.from_pretrained(target_dir)
    ids = tokenizer(TEXT, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        outputs = plain(ids, output_hidden_states=True)
        torch.testing.assert_close(explainer.capture(TEXT, [1], target=target)[0], outputs.hidden_states[2][0])
        patched = plain.lm_head(plain.model.norm(query.vector))  # the last block, the last token
    assert result.clean_output == token_text(tokenizer, int(outputs.logits[0, -1].argmax())).strip()
    assert result.actual_output == token_text(tokenizer, int(patched.argmax())).strip()
    small = Target(tiny_model("llama"), tokenizer, "small")
    small.model.config.num_hidden_layers = 3
    with pytest.raises(SelfExplainError, match=r"small has 3 layers of width 32\. This explainer explains"):
        explainer.verify(explanation, target=small)


def test_a_merged_explainer_needs_its_target(explainer, target):
    explainer.config.merged = True
    with pytest.raises(SelfExplainError, match="merged"):
        explainer.capture(TEXT, [0])
    expected = SelfExplainerForCausalLM.from_base(deepcopy(target.model), target.tokenizer).capture(TEXT, [0])
    torch.testing.assert_close(explainer.capture(TEXT, [0], target=target), expected)
    assert explainer.explain_feature(vector(), 0).task == "feature_description"
