import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfexplain.tasks import activation_patching, feature_description, input_ablation, outcome
from selfexplain.tasks.outcome import Outcome
from selfexplain.tasks.question import PLACEHOLDER, fill

outputs = st.text(st.sampled_from("a <>\n") | st.characters(), min_size=1)


@given(st.booleans(), outputs)
def test_a_rendered_outcome_is_parsed_back(changed, output):
    assert outcome.is_statable(output) == ("<<<" not in output and not output.endswith(">") and ">>>" not in output)
    if outcome.is_statable(output):
        assert outcome.parse(outcome.render(Outcome(changed, output))) == Outcome(changed, output.strip())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The output would change.",
        "The most likely output would change to Paris.",
        "<<<Paris>>>",
        "It would remain unchanged from <<<B>>>.",
        "The output would remain unchanged from <<<The output would remain unchanged from <<<B>>>.",
    ],
)
def test_other_text_is_not_parsed(text):
    assert outcome.parse(text) is None


def test_only_the_first_sentence_is_parsed():
    text = outcome.render(Outcome(True, " Rome")) + outcome.render(Outcome(False, " Oslo"))
    assert outcome.parse(text) == Outcome(True, "Rome")


@given(st.text())
def test_offsets_point_at_the_placeholders_even_if_the_text_contains_one(text):
    question = fill("a {activation} b {text} c {activation}", text=text + PLACEHOLDER)
    assert len(question.placeholder_offsets) == 2
    assert all(question.prompt.startswith(PLACEHOLDER, offset) for offset in question.placeholder_offsets)
    assert question.placeholder_offsets == (2, len(question.prompt) - len(PLACEHOLDER))


@pytest.mark.parametrize("template", range(len(feature_description.TEMPLATES)))
def test_feature_questions_name_the_layer(template):
    question = feature_description.question(5, template)
    assert "layer 5" in question.prompt and len(question.placeholder_offsets) == 1


@pytest.mark.parametrize("template", range(len(activation_patching.TEMPLATES)))
def test_patching_questions_name_text_layers_and_token(template):
    prompt = activation_patching.question("The {braces} stay", [2, 3], 1, " cat", template).prompt
    assert all(part in prompt for part in ("<<<The {braces} stay>>>", "layers 2, 3", "token 1, cat"))


def test_ablation_questions_quote_the_removed_part():
    assert "<<<{x}>>> were removed" in input_ablation.question("a {x}", removed="{x}").prompt
    assert input_ablation.question("a").prompt.startswith("a\nIf the hint were removed")
    replaced = input_ablation.question("a {x}", "{replacement}", replacement="{y}").prompt
    assert replaced == "a {x}\nIf <<<{replacement}>>> were replaced by <<<{y}>>>, how would the answer change?\n"


def test_braces_that_are_no_field_of_a_template_are_kept():
    question = fill('{"a": {0}, {layer}} {} {activation}', layer="{x}")
    assert question.prompt == '{"a": {0}, {x}} {} <activation>'
