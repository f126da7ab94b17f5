"""Wording of queries, refusal of invalid ones, and custom query classes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import pytest
import torch

from questions import TEXT, vector
from selfexplain import AblationQuery, Explanation, FeatureQuery, PatchQuery, Query, Verification, WordedQuery
from selfexplain.errors import SelfExplainError
from selfexplain.modeling.explanation import Claim
from selfexplain.modeling.queries import Evidence
from selfexplain.target.load import Target
from selfexplain.target.tokens import token_text
from selfexplain.tasks import TASKS, activation_patching, feature_description, input_ablation
from selfexplain.tasks.question import fill
from selfexplain.tasks.task import Task

SENTIMENT = Task(
    name="sentiment",
    asks="whether the continuation is positive",
    short_question="Is the continuation positive?",
    columns={"positive": "flag"},
    query_columns=("positive",),
    metrics=("exact_match",),
    headline="exact_match",
    correct_when="exact match",
    dataset_name="selfexplain-sentiment",
    split_unit="text",
    templates=("Is the continuation of {activation} positive?\n", "Continuation of {activation}: positive or not?\n"),
    has_vectors=True,
)


@dataclass(frozen=True, eq=False)
class SentimentQuery(Query):
    """A question of a task that the package does not know."""

    task: ClassVar[Task] = SENTIMENT

    vector: torch.Tensor = field(repr=False)
    layer: int
    template: int = 0

    def word(self, n_layers: int, load_text_target: Callable[[], Target]) -> WordedQuery:
        return WordedQuery(fill(self.templates[self.template]), [self.vector], [self.layer])

    def read(self, text: str, classes: Mapping[str, set[str]]) -> Claim | None:
        return Claim(output=text) if text in ("yes", "no") else None


@dataclass(frozen=True, eq=False)
class VerifiableQuery(SentimentQuery):
    def verify(self, explanation: Explanation, target: Target, evidence: Evidence) -> Verification:
        return Verification(agrees=explanation.text == "yes", clean_output=target.name)


def answering(explainer, monkeypatch, *texts):
    """Make an explainer answer with fixed texts."""
    tokenizer, remaining = explainer.processor.tokenizer, list(texts)

    def generate(input_ids, logits_processor, **inputs):
        answers = [tokenizer(remaining.pop(0), add_special_tokens=False)["input_ids"] for _ in input_ids]
        length = 1 + max(map(len, answers))
        for _ in range(length):
            logits_processor[0](input_ids, torch.zeros(len(input_ids), 2))  # each token has probability 1/2
        ends = torch.tensor([ids + [tokenizer.eos_token_id] * (length - len(ids)) for ids in answers])
        return torch.cat([input_ids, ends], dim=1)

    monkeypatch.setattr(explainer, "generate", generate)


def test_each_query_has_its_task():
    assert FeatureQuery.task is TASKS["feature_description"]
    assert PatchQuery.task is TASKS["activation_patching"]
    assert AblationQuery.task is TASKS["input_ablation"]


def test_a_feature_query_is_worded_by_its_task():
    worded = FeatureQuery(vector(), -1, template=2).word(4, pytest.fail)
    assert worded.question == feature_description.question(3, 2)
    assert worded.layers == [3] and torch.equal(worded.vectors[0], vector())


def test_a_patch_query_is_worded_as_its_ground_truth(target):
    worded = PatchQuery(TEXT, vector(), range(1, 3), -2).word(4, lambda: target)
    ids = target.tokenizer(TEXT)["input_ids"]
    token = token_text(target.tokenizer, ids[-2])
    assert worded.question == activation_patching.question(TEXT, [1, 2], len(ids) - 2, token)
    assert worded.layers == [1] and torch.equal(worded.vectors[0], vector())


@pytest.mark.parametrize(
    ("remove", "replacement", "question"),
    [
        (None, "", "If the hint were removed, how would the answer change?"),
        ("Hint: b.", "", "If the hint were removed, how would the answer change?"),
        ("a", "", "If <<<a>>> were removed, how would the answer change?"),
        ("a", "z", "If <<<a>>> were replaced by <<<z>>>, how would the answer change?"),
    ],
)
def test_an_ablation_query_names_the_part(target, remove, replacement, question):
    worded = AblationQuery("a\nHint: b.\nc", remove, replacement).word(4, lambda: target)
    assert worded.question.prompt == f"a\nHint: b.\nc\n{question}\n"
    assert (worded.vectors, worded.layers) == ((), ())


def test_wordings_start_with_the_chosen_template():
    assert [query.template for query in FeatureQuery(vector(), 0, template=2).wordings()] == [2, 0, 1, 3]
    assert [query.template for query in AblationQuery(TEXT, "France").wordings()] == [0]
    assert len(AblationQuery(TEXT).wordings()) == len(input_ablation.HINT_TEMPLATES)


def test_answers_are_read_by_the_grammar_of_the_task():
    patch, feature = PatchQuery(TEXT, vector(), [0], 0), FeatureQuery(vector(), 0)
    assert patch.read("The most likely output would change to <<< Rome>>>.", {}) == Claim(changed=True, output="Rome")
    assert patch.read("Rome", {}) is None
    assert str(feature.read("the word Rome", {}).description) == "the word Rome"
    assert feature.read("a country of Europe", {}) == Claim()
    assert feature.read("my words", {"my words": {"Rome"}}).description is not None


# ---------------------------------------------------------------- custom classes


def test_a_custom_query_is_explained(explainer, monkeypatch):
    answering(explainer, monkeypatch, "yes")
    explainer.config.calibration = {"sentiment": {"temperature": 1.0, "bias": 1000.0}}
    (explanation,) = explainer.explain([SentimentQuery(vector(), 1)])
    assert (explanation.text, explanation.task, explanation.output) == ("yes", "sentiment", "yes")
    assert explanation.prompt == "Is the continuation of <activation> positive?\n"
    assert explanation.parsed and explanation.answered and explanation.confidence == 1


def test_an_answer_outside_a_custom_grammar_does_not_count(explainer, monkeypatch):
    answering(explainer, monkeypatch, "perhaps")
    (explanation,) = explainer.explain([SentimentQuery(vector(), 1)])
    assert not explanation.parsed and not explanation.answered and explanation.confidence == 0


def test_a_custom_query_has_paraphrases(explainer, monkeypatch):
    answering(explainer, monkeypatch, "yes", "no")
    (explanation,) = explainer.explain([SentimentQuery(vector(), 1)], paraphrases=True)
    assert explanation.agreement == 0.5


def test_a_custom_query_at_an_untrained_layer_causes_a_warning(explainer, monkeypatch):
    answering(explainer, monkeypatch, "yes")
    explainer.config.trained_layers = {"feature_description": [1]}
    with pytest.warns(UserWarning, match="This explainer was not trained on sentiment"):
        explainer.explain([SentimentQuery(vector(), 1)])


def test_a_custom_query_is_verified_by_its_own_method(explainer, target, monkeypatch):
    answering(explainer, monkeypatch, "yes")
    (explanation,) = explainer.explain([VerifiableQuery(vector(), 1)])
    assert explainer.verify(explanation, target=target) == Verification(agrees=True, clean_output="tiny-random")
    assert explainer.verify(replace(explanation, text="no"), target=target).agrees is False


def test_a_query_without_a_verify_method_is_refused(explainer, monkeypatch):
    answering(explainer, monkeypatch, "yes")
    (explanation,) = explainer.explain([SentimentQuery(vector(), 1)])
    with pytest.raises(SelfExplainError, match="SentimentQuery has no method `verify`"):
        explainer.verify(explanation)


def test_rows_of_an_unknown_task_are_answered(explainer):
    question = fill(SENTIMENT.templates[0])
    row = {
        "prompt": question.prompt,
        "placeholder_offsets": question.placeholder_offsets,
        "activations": [vector()],
        "activation_layers": [1],
        "positive": True,
    }
    (answer,) = explainer.answer([row], max_new_tokens=3)
    (explanation,) = explainer.explain([SentimentQuery(vector(), 1)])
    assert explanation.text.startswith(answer.text) and answer.log_prob < 0


# ---------------------------------------------------------------- invalid queries


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (FeatureQuery(torch.ones(31), 1), r"shape \(31,\) was given. This explainer reads vectors of shape \(32,\)"),
        (FeatureQuery(torch.ones(2, 32), 1), r"\(2, 32\)"),
        (FeatureQuery(torch.full((32,), torch.nan), 1), "NaN or infinity"),
        (FeatureQuery(torch.zeros(32), 4), r"[Ll]ayers \[4\] .*0 to 3"),
        (FeatureQuery(torch.zeros(32), 0, template=9), r"Template 9 was given\. This question has templates 0 to 3"),
        (FeatureQuery(torch.zeros(32), 0, template=-1), r"Template -1 was given\. This question has templates 0 to 3"),
        (FeatureQuery(torch.zeros(32), 0), "The vector is zero"),
        (FeatureQuery(vector(), [0, 1]), "Give one layer"),
        (FeatureQuery(vector(), "0"), "Expected an integer"),
        (PatchQuery("a b", vector(), [0.5], 0), "Expected an integer"),
        (PatchQuery("", torch.zeros(32), [0], 0), "text is empty"),
        (PatchQuery("a b", torch.zeros(32), [], 0), r"[Ll]ayers \[\]|[Nn]o layers"),
        (PatchQuery("a b", torch.zeros(32), [0], 99), r"Position 99 was given\. The text has tokens 0 to 3"),
        (PatchQuery("a " * 250, torch.zeros(32), [0], 0), "The context holds 256 tokens, including the answer"),
        (AblationQuery("a " * 600), "holds 256"),
        (AblationQuery("a b", remove="c"), "'c' occurs 0 times"),
        (AblationQuery("a b", remove=""), "'' occurs 0 times"),
        (AblationQuery("a b a", remove="a"), "'a' occurs 2 times"),
        (AblationQuery("a b"), "No line of the text begins with 'Hint:'"),
    ],
)  # fmt: skip
def test_an_invalid_query_is_refused_by_index_before_any_is_answered(explainer, monkeypatch, query, message):
    monkeypatch.setattr(explainer, "generate", lambda **inputs: pytest.fail("a query was answered"))
    valid = FeatureQuery(vector(), 0)
    with pytest.raises(SelfExplainError, match=f"^Query 2: .*{message}"):
        explainer.explain([valid, valid, query, valid])


@pytest.mark.parametrize("layers", [1, range(1, 2), torch.tensor([1])])
def test_layers_may_be_a_number_a_range_or_a_tensor(explainer, layers):
    expected = explainer.explain_patch(TEXT, vector(), [1], 4)
    explanation = explainer.explain_patch(TEXT, vector(), layers, 4)
    assert explanation == replace(expected, query=explanation.query)
    assert explainer.verify(explanation) == explainer.verify(expected)
    assert explainer.ask("What?", [vector()], layers).text == explainer.ask("What?", [vector()], [1]).text
    torch.testing.assert_close(explainer.capture(TEXT, layers), explainer.capture(TEXT, [1]))


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"batch_size": -1}, {"batch_size": 0.5}])
def test_a_batch_size_below_one_is_refused(explainer, options):
    with pytest.raises(SelfExplainError, match=r"batch_size is .*\. Expected an integer of at least 1"):
        explainer.explain([FeatureQuery(vector(), 0)], **options)
