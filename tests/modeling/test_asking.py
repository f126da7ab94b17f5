"""Every way to ask, and whether the answer is true."""

import warnings
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from battery import ARCHITECTURES, tiny_model
from fake_endpoint import FakeEndpoint
from selfexplain import AblationQuery, FeatureQuery, PatchQuery
from selfexplain.errors import SelfExplainError
from selfexplain.features.endpoint import Endpoint
from selfexplain.modeling.contract import InjectionConfig
from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM
from selfexplain.modeling.verification import without
from selfexplain.target.ablation import answers
from selfexplain.target.blocks import decoder_blocks
from selfexplain.target.load import Target
from selfexplain.tasks import activation_patching, feature_description, free_question
from selfexplain.tasks.question import PLACEHOLDER, Question

TEXT = "The capital of France is"
SCENE = (
    "The red bag comes from {}. The pink jar comes from Kenya. The capital of the country of the red bag is\n"
    "Respond with one of Oslo or Lima or Nairobi or Rome or Cairo or unknown and nothing else.\nAnswer:"
)
HINTED = (
    "Question: What is the capital of the home country of the ship Merry Dolphin?\n"
    "Antananarivo, Quito, Ankara or Dhaka?\nHint: The answer is Ankara.\nAnswer:"
)


@pytest.fixture(scope="module")
def shipped():
    return SelfExplainerForCausalLM.from_pretrained("selfexplain/tiny-selfexplainer")


@pytest.fixture
def explainer(target):
    return SelfExplainerForCausalLM.from_base(deepcopy(target.model), target.tokenizer)


def vector(seed=0, d=32):
    return torch.randn(d, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- asking


def test_a_mixed_batch_answers_as_each_query_does_alone(shipped):
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
    assert [e.query for e in together] == queries
    for one, other in zip(together, alone, strict=True):
        assert (one.text, one.prompt, one.task) == (other.text, other.prompt, other.task)
        assert one.confidence == pytest.approx(other.confidence, rel=1e-3)
    assert all(e.parsed for e in together) and together[0].injection == shipped.config.injection
    assert str(together[1].description) == together[1].text


def test_a_patch_is_asked_as_its_ground_truth_was(explainer):
    query = PatchQuery(TEXT, vector(), range(1, 3), -2)
    target_ids = explainer.processor.tokenizer(TEXT)["input_ids"]
    token = explainer.processor.tokenizer.decode([target_ids[-2]])
    asked = activation_patching.question(TEXT, [1, 2], len(target_ids) - 2, token)
    assert explainer.explain([query])[0].prompt == asked.prompt


def test_paraphrases_share_the_confidence(shipped):
    v = shipped.capture(TEXT, [0])[0, 4]
    query = FeatureQuery(v, 0)
    wordings = [shipped.explain_feature(v, 0, template=n) for n in range(len(feature_description.TEMPLATES))]
    (pooled,) = shipped.explain([query], paraphrases=True)
    same = [w for w in wordings if w.text == wordings[0].text]
    assert pooled.text == wordings[0].text and pooled.agreement == len(same) / len(wordings)
    assert pooled.confidence == pytest.approx(sum(w.confidence for w in same) / len(wordings), rel=1e-3)
    assert wordings[0].agreement is None


def test_an_explainer_abstains_below_a_threshold(shipped):
    sure = shipped.explain_feature(shipped.capture(TEXT, [0])[0, 4], 0).confidence
    assert 0 < sure < 1
    for threshold, answered in ((sure / 2, True), ((1 + sure) / 2, False)):
        (explanation,) = shipped.explain([FeatureQuery(shipped.capture(TEXT, [0])[0, 4], 0)], abstain_below=threshold)
        assert explanation.answered is answered


def test_an_answer_that_cannot_be_read_is_no_answer(explainer):
    explanation = explainer.explain_ablation(TEXT, remove="France")
    assert not explanation.parsed and not explanation.answered and explanation.confidence == 0


def test_thousands_of_queries_run_in_batches_of_like_length(explainer, monkeypatch):
    seen = []

    def generate(input_ids, logits_processor, **inputs):
        seen.append(input_ids.shape)
        logits_processor[0](input_ids, torch.zeros(len(input_ids), 5))
        return torch.cat([input_ids, torch.full((len(input_ids), 1), 2)], dim=1)

    monkeypatch.setattr(explainer, "generate", generate)
    v = vector()
    queries = [PatchQuery("a" * (1 + n % 40), v, [0], 0) for n in range(2000)]
    assert len(explainer.explain(queries, batch_size=100)) == 2000
    assert len(seen) == 20 and [shape[0] for shape in seen] == [100] * 20
    assert sorted(shape[1] for shape in seen) == [shape[1] for shape in seen]


def test_without_an_end_of_text_answers_end_at_their_greatest_length(explainer):
    explainer.processor.tokenizer = deepcopy(explainer.processor.tokenizer)
    explainer.processor.tokenizer.eos_token = None
    row = {"prompt": "a", "placeholder_offsets": [], "activations": [], "activation_layers": []}
    (answer,) = explainer.answer([row], max_new_tokens=5)
    inputs = explainer.processor([row])
    with torch.no_grad():
        ids = inputs["input_ids"]
        expected = 0.0
        for _ in range(5):
            log_probs = explainer(input_ids=ids).logits[0, -1].log_softmax(-1)
            expected += log_probs.max().item()
            ids = torch.cat([ids, log_probs.argmax()[None, None]], dim=1)
    assert answer.text == explainer.processor.tokenizer.decode(ids[0, -5:], skip_special_tokens=True).strip()
    assert answer.log_prob == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if a in ("bloom", "gpt2", "gemma2", "falcon")])
def test_any_base_is_asked_and_verified(architecture, tokenizer):
    from tokenizers import processors

    bare = deepcopy(tokenizer)  # without a beginning of text
    bare.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    explainer = SelfExplainerForCausalLM.from_base(tiny_model(architecture), bare, target=None)
    queries = [FeatureQuery(vector(), 3), PatchQuery(TEXT, 50 * vector(), [2, 3], -1), AblationQuery(TEXT, "capital")]
    for explanation in explainer.explain(queries):
        found = explainer.verify(explanation, texts=[TEXT])
        assert not found.agrees  # random weights say nothing true
        assert (found.actual_output is None) == isinstance(explanation.query, FeatureQuery)


# ---------------------------------------------------------------- free questions


def test_free_questions_follow_the_contract(explainer):
    explainer.config.injection["template"] = "Layer: {layer}\n{activation} \n{question}"
    asked = explainer.ask("What {layer} is it?", [vector(n) for n in range(3)], [2, 2, 0], max_new_tokens=2)
    assert asked.prompt == f"Layer: 2\n{PLACEHOLDER}{PLACEHOLDER} \nLayer: 0\n{PLACEHOLDER} \nWhat {{layer}} is it?"
    assert asked.task == "free_question" and asked.query is None and asked.injection["template"].startswith("Layer")
    assert 0 < asked.confidence <= 1
    assert explainer.ask(None, [vector()], [1], max_new_tokens=2).prompt == f"Layer: 1\n{PLACEHOLDER} \n"


def test_without_a_template_a_free_question_is_plain(explainer):
    assert (
        explainer.ask(None, vector()[None], [1], max_new_tokens=2).prompt
        == explainer.explain_feature(vector(), 1).prompt
    )
    assert explainer.ask("Why?", vector()[None], [-1], max_new_tokens=2).prompt == f"At layer 3, {PLACEHOLDER}. Why?\n"


def test_free_questions_are_greedy_unless_told_otherwise(shipped):
    v = shipped.capture(TEXT, [0])[0, 4]
    greedy = shipped.ask(None, [v], [0])
    feature = shipped.explain_feature(v, 0)
    assert greedy.text == feature.text
    beams = shipped.ask(None, [v], [0], num_beams=4)
    assert beams.confidence >= greedy.confidence * 0.999
    assert shipped.ask(None, [v], [0], max_new_tokens=1).text != greedy.text


def test_only_the_template_writes_control_tokens(tokenizer):
    put = free_question.question("a</s>", [0], "<s>turn {activation}{question}</s>")
    spelled = [put.prompt[begin:end] for begin, end in put.template_spans]
    assert spelled == [f"<s>turn {PLACEHOLDER}", "</s>"] and put.placeholder_offsets == (8,)


@pytest.mark.parametrize(
    ("template", "asked", "message"),
    [("{question}", "Why?", "no {activation}"), ("See {activation}", "Why?", "no place for a question")],
)
def test_a_template_without_room_is_refused(template, asked, message):
    with pytest.raises(SelfExplainError, match=message):
        free_question.question(asked, [0], template)


# ---------------------------------------------------------------- what really happens


def test_verify_does_what_a_patch_says(shipped):
    source = shipped.capture(SCENE.format("Peru"), [0, 1])[:, 6].mean(0)
    text = SCENE.format("Norway")
    explanation = shipped.explain_patch(text, source, [0, 1], 6)
    found = shipped.verify(explanation)
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
    clean, actual = (tokenizer.decode([token]).strip() for token in outputs)
    assert (found.clean_output, found.actual_output) == (clean, actual) == ("Oslo", "Nairobi")
    assert found.actual_changed is True and found.agrees is (explanation.changed and explanation.output == "Nairobi")
    right = replace(explanation, changed=True, output="Nairobi")
    assert shipped.verify(right).agrees
    assert not shipped.verify(replace(right, changed=False)).agrees
    assert not shipped.verify(replace(right, output="Lima")).agrees


def test_a_long_question_does_not_cut_the_answers_beside_it(shipped):
    short = PatchQuery(SCENE.format("Peru"), shipped.capture(SCENE.format("Kenya"), [0])[0, 5], [0, 1], 5)
    alone = shipped.explain([short])[0]
    long = short
    with pytest.raises(SelfExplainError, match="the context holds 256"):
        while True:
            shipped.explain([long := replace(long, text=long.text + " and")])
    long = replace(long, text=long.text.removesuffix(" and"))
    beside = shipped.explain([short, long])
    assert beside[0].text == alone.text and alone.parsed and not beside[1].parsed


def test_verify_takes_the_hint_out(shipped):
    explanation = shipped.explain_ablation(HINTED)
    found = shipped.verify(explanation)
    with shipped.as_target() as model, torch.no_grad():
        ids = shipped.processor.tokenizer(HINTED.replace("\nHint: The answer is Ankara.", ""), return_tensors="pt")
        actual = shipped.processor.tokenizer.decode(model(ids["input_ids"]).logits[0, -1].argmax()).strip()
    assert (found.clean_output, found.actual_output, found.actual_changed) == ("Ankara", actual, True)
    assert found.agrees is (explanation.changed and explanation.output == actual)
    assert shipped.verify(shipped.explain_ablation(HINTED, "Hint: The answer is Ankara.")) == found


def test_verify_puts_something_in_the_hint_s_place(shipped):
    queries = [AblationQuery(HINTED, None, "Hint: The answer is Quito."), AblationQuery(HINTED, "Dhaka", "Lima")]
    explanations = shipped.explain(queries)
    for explanation, replaced in zip(explanations, [("Ankara.", "Quito."), ("Dhaka", "Lima")], strict=True):
        ids = shipped.processor.tokenizer(HINTED.replace(*replaced), return_tensors="pt")["input_ids"]
        with shipped.as_target() as model, torch.no_grad():
            actual = shipped.processor.tokenizer.decode(model(ids).logits[0, -1].argmax()).strip()
        found = shipped.verify(explanation)
        assert (found.actual_output, found.actual_changed) == (actual, actual != "Ankara")
    assert explanations[0].prompt.endswith("If the hint were replaced by <<<Hint: The answer is Quito.>>>, "
                                           "how would the answer change?\n")  # fmt: skip
    assert "If <<<Dhaka>>> were replaced by <<<Lima>>>" in explanations[1].prompt


def test_verify_takes_the_likeliest_choice(shipped):
    explanation = shipped.explain_ablation(HINTED, choices=("Merry Dolphin", "Quito"))
    own = Target(shipped.language_model, shipped.processor.tokenizer, "own")
    with shipped.as_target():
        expected = [
            answer.output for text in (HINTED, without(HINTED, None))
            for answer in answers(own, [text], [explanation.query.choices], "likelihood")
        ]  # fmt: skip
    found = shipped.verify(explanation)
    assert [found.clean_output, found.actual_output] == expected and set(expected) <= {"Merry Dolphin", "Quito"}
    assert found.actual_changed is (expected[0] != expected[1])


@pytest.mark.parametrize(
    ("text", "remove", "left"),
    [
        ("a\nHint: b.\nc", None, "a\nc"),
        ("a\nHint: b.", None, "a"),
        ("a b c", "b", "a c"),
        ("a, b c", ", b", "a c"),
        ("a\nb\nc", "b", "a\nc"),
        ("b c", "b", " c"),
    ],
)
def test_what_is_taken_out_leaves_no_gap(text, remove, left):
    assert without(text, remove) == left


def test_verify_holds_a_description_against_the_activations(shipped):
    v = shipped.capture(TEXT, [0])[0, 4]
    explanation = shipped.explain_feature(v, 0)
    assert explanation.text == "the word France"
    texts = [TEXT + " Paris.", "The language of Japan is Japanese."]
    found = shipped.verify(explanation, texts=texts)
    first = found.texts[0]
    hidden = shipped.capture(texts[0], [0])[0, 1:]  # without <s>
    torch.testing.assert_close(torch.tensor(first.actual), hidden @ v / v.norm())
    assert "".join(first.tokens) == texts[0] and first.predicted == (0, 0, 0, 1, 0, 0, 0)
    actual = torch.tensor([a for text in found.texts for a in text.actual])
    predicted = torch.tensor([p for text in found.texts for p in text.predicted])
    assert found.correlation == pytest.approx(torch.corrcoef(torch.stack([actual, predicted]))[0, 1].item(), abs=1e-5)
    assert found.agrees and found.actual_output is None
    wrong = shipped.verify(replace(explanation, text="the word Japan"), texts=texts)
    assert not wrong.agrees and wrong.correlation < found.correlation
    own = shipped.verify(replace(explanation, text="my words"), texts=texts, classes={"my words": {"France"}})
    assert own.correlation == found.correlation


def test_free_words_are_read_by_a_chat_model_only(shipped, tmp_path):
    texts = [TEXT, "The language of Japan is Japanese."]
    explanation = replace(shipped.explain_feature(shipped.capture(TEXT, [0])[0, 4], 0), text="a country of Europe")
    unread = shipped.verify(explanation, texts=texts)
    assert (unread.agrees, unread.correlation, [text.predicted for text in unread.texts]) == (None, None, [None, None])

    def reply(system, user):
        return '{"4": 10}' if "France" in user else "I would rather not say."

    with FakeEndpoint(reply) as fake:
        simulator = Endpoint(fake.url, "judge", tmp_path / "replies.sqlite")
        found = shipped.verify(explanation, texts=texts, simulator=simulator)
    assert "a country of Europe" in fake.asked[0]["messages"][1]["content"]
    assert [text.predicted for text in found.texts] == [(0, 0, 0, 10, 0), None]
    assert found.agrees and found.correlation == pytest.approx(
        np.corrcoef(found.texts[0].actual, [0, 0, 0, 1, 0])[0, 1]
    )


def test_a_target_within_a_target_stays_one(shipped):
    ids = torch.tensor([shipped.processor.tokenizer(TEXT)["input_ids"]])
    with torch.no_grad(), shipped.as_target() as model:
        before = model(ids).logits
        shipped.capture(TEXT, [0])  # switches the LoRA off, and on again if it was on
        torch.testing.assert_close(model(ids).logits, before, rtol=0, atol=0)
    assert not torch.equal(shipped.language_model(ids).logits, before)


def test_another_target_is_given(target_dir, target, tokenizer):
    described = {"model": str(target_dir), "revision": None, "n_layers": 4, "d_model": 32}
    explainer = SelfExplainerForCausalLM.from_base(tiny_model("llama"), tokenizer, target=described)
    query = PatchQuery(TEXT, 50 * vector(), [3], -1)
    for ask in (lambda: explainer.capture(TEXT, [0]), lambda: explainer.explain([query])):
        with pytest.raises(SelfExplainError, match="not its own base"):
            ask()
    explanation = explainer.explain([query], target=target)[0]
    found = explainer.verify(explanation, target=target)
    plain = AutoModelForCausalLM.from_pretrained(target_dir)
    ids = tokenizer(TEXT, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        hidden = plain(ids, output_hidden_states=True)
        torch.testing.assert_close(explainer.capture(TEXT, [1], target=target)[0], hidden.hidden_states[2][0])
        patched = plain.lm_head(plain.model.norm(query.vector))  # the last block, the last token
    assert found.clean_output == tokenizer.decode(hidden.logits[0, -1].argmax()).strip()
    assert found.actual_output == tokenizer.decode(patched.argmax()).strip()
    small = Target(tiny_model("llama"), tokenizer, "small")
    small.model.config.num_hidden_layers = 3
    with pytest.raises(SelfExplainError, match="3 layers of width 32; this explainer explains"):
        explainer.verify(explanation, target=small)


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (FeatureQuery(torch.zeros(31), 1), r"shape \(32,\) is needed; \(31,\) given"),
        (FeatureQuery(torch.zeros(2, 32), 1), r"shapes \[\(2, 32\)\] given"),
        (FeatureQuery(torch.full((32,), torch.nan), 1), "NaN or infinity"),
        (FeatureQuery(torch.zeros(32), 4), r"layers \[4\] given; the model has layers 0 to 3"),
        (FeatureQuery(torch.zeros(32), 0, template=9), "template 9 given; this question has 0 to 3"),
        (PatchQuery("", torch.zeros(32), [0], 0), "text is empty"),
        (PatchQuery("a b", torch.zeros(32), [], 0), r"layers \[\] given"),
        (PatchQuery("a b", torch.zeros(32), [0], 99), "position 99 given; the text has tokens 0 to"),
        (PatchQuery("a " * 250, torch.zeros(32), [0], 0), "the context holds 256"),
        (AblationQuery("a " * 600), "the context of .* holds 256"),
        (AblationQuery("a b", remove="c"), "'c' occurs 0 times"),
        (AblationQuery("a b", remove=""), "'' occurs 0 times"),
        (AblationQuery("a b a", remove="a"), "'a' occurs 2 times"),
        (AblationQuery("a b"), "no line of the text begins with 'Hint:'"),
    ],
)  # fmt: skip
def test_a_bad_query_is_named_before_anything_is_asked(explainer, monkeypatch, query, message):
    monkeypatch.setattr(explainer, "generate", lambda **inputs: pytest.fail("asked"))
    good = FeatureQuery(vector(), 0)
    with pytest.raises(SelfExplainError, match=f"^query 2: .*{message}"):
        explainer.explain([good, good, query, good])


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda e: e.explain([]), "no queries"),
        (lambda e: e.explain_feature(torch.zeros(31), 1), r"^a vector of shape \(32,\) is needed"),
        (lambda e: e.ask("a?", [vector()], [0, 1]), "1 vectors and 2 layers"),
        (lambda e: e.ask("a?", [], []), "0 vectors and 0 layers"),
        (lambda e: e.verify(e.ask(None, [vector()], [0])), "free question"),
        (lambda e: e.verify(e.explain_feature(vector(), 0)), r"give texts=\[\.\.\.\]"),
        (lambda e: e.answer([{"prompt": "a", "placeholder_offsets": [0], "activations": [], "activation_layers": []}]),
         "^row 0: placeholder offset 0"),
    ],
)  # fmt: skip
def test_other_bad_input_is_named(explainer, ask, message):
    with pytest.raises(SelfExplainError, match=message):
        ask(explainer)


def test_a_layer_that_the_adapter_does_not_read_is_named(target):
    explainer = SelfExplainerForCausalLM.from_base(
        target.model, target.tokenizer, InjectionConfig(), adapter={"kind": "linear", "layers": [1, 2]}
    )
    with pytest.raises(SelfExplainError, match=r"layers \[0\] given; this explainer reads vectors of \[1, 2\]"):
        explainer.explain_feature(vector(), 0)


def test_a_layer_without_training_rows_is_warned_of(explainer):
    explainer.config.trained_layers = {"feature_description": [1], "activation_patching": [0], "input_ablation": []}
    assert explainer.config.layers_of("feature_description") == [1] != explainer.config.layers
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explainer.explain_feature(vector(), 1)
        explainer.explain_patch(TEXT, vector(), [0, 1], 2)
    with pytest.warns(UserWarning, match=r"trained for feature_description at the layers \[1\], not at \[0\]") as said:
        explainer.explain_feature(vector(), 0)
    assert said[0].filename == __file__
    with pytest.warns(UserWarning, match="activation_patching"):
        explainer.explain([PatchQuery(TEXT, vector(), [1], 2)])


def test_a_merged_explainer_needs_the_target(explainer, target):
    explainer.config.merged = True
    with pytest.raises(SelfExplainError, match="merged"):
        explainer.capture(TEXT, [0])
    assert explainer.capture(TEXT, [0], target=target).shape[0] == 1
    assert explainer.explain_feature(vector(), 0).task == "feature_description"
    assert isinstance(free_question.question(None, [0]), Question)
