"""Prompts are tokenised as a whole, with the tokens that the chat template's own text has."""

from copy import deepcopy

import pytest

from chat_styles import STYLES, styled
from selfexplain.errors import SelfExplainError
from selfexplain.modeling.processing_selfexplainer import SelfExplainerProcessor
from selfexplain.tasks import free_question
from selfexplain.tasks.question import PLACEHOLDER, fill

TEXTS = [
    "Layer: 9 ? What is the capital?",
    "What is the capital of France?\n",
    "  The capital",
    "\n\nLayer: 9\n",
    "é日本 \u2581 ?",
    "x",
]


def rendered(tokenizer, text):
    """The token ids that the tokenizer itself gives a user turn, or a text if it has no chat template."""
    if not tokenizer.chat_template:
        return tokenizer(text)["input_ids"]
    turn = [{"role": "user", "content": text}]
    return tokenizer.apply_chat_template(
        turn, add_generation_prompt=True, tokenize=True, return_dict=True, enable_thinking=False
    )["input_ids"]


@pytest.mark.parametrize("style", STYLES)
def test_a_question_has_the_tokens_of_the_rendered_prompt(style):
    tokenizer = styled(style)
    processor = SelfExplainerProcessor(tokenizer)
    for text in TEXTS:
        assert processor.encode(text, []) == (rendered(tokenizer, text), [])


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("layers", [[9], [3, 3, 9]])
def test_a_placeholder_without_markers_is_a_token_of_the_rendered_prompt(style, layers):
    tokenizer = styled(style)
    slot = tokenizer("Layer ?", add_special_tokens=False)["input_ids"][-1]
    processor = SelfExplainerProcessor(tokenizer, placeholder=" ?", markers=False, placeholder_id=slot)
    question = free_question.question("What ? is it?", layers, "Layer: {layer}{activation} \n{question}")
    ids, positions = processor.encode(question.prompt, question.placeholder_offsets, question.template_spans)
    assert ids == rendered(tokenizer, question.prompt.replace(PLACEHOLDER, " ?"))
    occurrences = [at for at, token in enumerate(ids) if token == slot]
    assert positions == occurrences[: len(layers)] and len(occurrences) == len(layers) + 1


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("markers", [True, False])
def test_control_tokens_in_user_text_are_text(style, markers):
    tokenizer = styled(style)
    processor = SelfExplainerProcessor(tokenizer, markers=markers)
    control = {token.content for token in tokenizer.added_tokens_decoder.values()}
    spelled = " ".join([*control, "<|selfexplain:cut|>", "<<|selfexplain:slot|>>", PLACEHOLDER])
    question = fill("Read {text} and {activation} {text}.", text=spelled)
    harmless = fill("Read {text} and {activation} {text}.", text="x")
    encoded, positions = processor.encode(question.prompt, question.placeholder_offsets)
    expected, _ = processor.encode(harmless.prompt, harmless.placeholder_offsets)
    ids = set(tokenizer.convert_tokens_to_ids(list(control)))
    assert sum(token in ids for token in encoded) == sum(token in ids for token in expected)
    assert max(encoded) < len(tokenizer)
    assert encoded[positions[0]] == processor.slot_id
    before = tokenizer.decode(encoded[: positions[0]]).replace(" ", "")
    assert f"Read {spelled}".replace(" ", "") in before


@pytest.mark.parametrize("style", STYLES)
def test_an_answer_continues_the_prompt(style):
    tokenizer = styled(style)
    processor = SelfExplainerProcessor(tokenizer)
    question = fill("At layer 3, {activation} is what?\n")
    row = {"prompt": question.prompt, "placeholder_offsets": question.placeholder_offsets}
    ids, _ = processor.encode_row(row)
    for answer in ("The capital", "</s>", " is Paris"):
        completion = processor.encode_answered(row, answer).completion
        decoded = tokenizer.decode([*ids, *completion])  # some tokenizers write a space after a control token or a cut
        assert decoded.replace(" ", "").endswith(answer.replace(" ", ""))
        assert tokenizer.eos_token_id not in completion
    text = "What is the capital?"
    row = {"prompt": text, "placeholder_offsets": []}
    if tokenizer.chat_template:
        whole = rendered_text(tokenizer, text) + "Paris"
        expected = tokenizer(whole, add_special_tokens=False)["input_ids"]
        ids, _ = processor.encode_row(row)
        if expected[: len(ids)] == ids:
            assert processor.encode_answered(row, "Paris").completion == expected[len(ids) :]


def rendered_text(tokenizer, text):
    turn = [{"role": "user", "content": text}]
    return tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False, enable_thinking=False)


def test_a_space_before_the_question_is_part_of_its_first_token():
    tokenizer = styled("byte-level with a space")
    ids, _ = SelfExplainerProcessor(tokenizer).encode("Layer: 9", [])
    layer = tokenizer.convert_ids_to_tokens(ids)
    assert "\u0120Layer" in layer or "\u0120L" in layer
    pieces = SelfExplainerProcessor(tokenizer, whole_prompt=False)
    assert "\u0120" in tokenizer.convert_ids_to_tokens(pieces.encode("Layer: 9", [])[0])


def test_a_placeholder_that_would_merge_with_its_neighbours_has_its_own_token():
    tokenizer = styled("gpt-2")
    processor = SelfExplainerProcessor(tokenizer, placeholder="a", markers=False)
    question = fill("The c{activation}pital of {activation}{activation}.")
    ids, positions = processor.encode(question.prompt, question.placeholder_offsets)
    assert [ids[at] for at in positions] == [processor.slot_id] * 3
    assert tokenizer.decode(ids) == "The capital of aa."


def test_text_that_a_tokenizer_normalises_to_a_control_token_stays_text():
    from tokenizers import AddedToken, normalizers

    backend = deepcopy(styled("gpt-2 with a beginning").backend_tokenizer)
    backend.normalizer = normalizers.NFKC()
    backend.add_special_tokens([AddedToken("<|end|>", special=True, normalized=True)])
    tokenizer = type(styled("gpt-2"))(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken("<|end|>", normalized=True)]})
    text = "see \uff1c|end|\uff1e here"
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    assert end in tokenizer(text)["input_ids"]
    processor = SelfExplainerProcessor(tokenizer)
    assert end not in processor.encode(text, [])[0]
    assert end not in processor.encode_answered({"prompt": "x", "placeholder_offsets": []}, text).completion


def test_the_default_of_several_chat_templates_is_used():
    single = styled("chatml")
    tokenizer = deepcopy(single)
    tokenizer.chat_template = {"default": single.chat_template, "tool_use": "{{ 'tools' }}"}
    assert SelfExplainerProcessor(tokenizer).encode("a", []) == SelfExplainerProcessor(single).encode("a", [])
    tokenizer.chat_template = [{"name": "default", "template": single.chat_template}]
    assert SelfExplainerProcessor(tokenizer).encode("a", []) == SelfExplainerProcessor(single).encode("a", [])
    tokenizer.chat_template = {"rag": "{{ 'x' }}", "tool_use": "{{ 'tools' }}"}
    with pytest.raises(SelfExplainError, match=r"chat templates rag, tool_use, and none is named 'default'"):
        SelfExplainerProcessor(tokenizer)
    assert SelfExplainerProcessor(tokenizer, chat=False).encode("a", [])[0]


@pytest.mark.parametrize("whole_prompt", [True, False])
def test_a_template_that_is_set_later_is_used(whole_prompt):
    tokenizer = deepcopy(styled("chatml"))
    processor = SelfExplainerProcessor(tokenizer, whole_prompt=whole_prompt)
    before = processor.encode("a", [])[0]
    tokenizer.chat_template = styled("zephyr").chat_template
    expected = SelfExplainerProcessor(tokenizer, whole_prompt=whole_prompt).encode("a", [])[0]
    assert processor.encode("a", [])[0] == expected != before


def test_a_processor_saved_without_the_setting_tokenises_in_pieces(tmp_path):
    import json

    from transformers import AutoProcessor

    tokenizer = styled("unigram, first")
    SelfExplainerProcessor(tokenizer).save_pretrained(tmp_path)
    question = fill("\nLayer: 9 {activation} what?\n")
    new = AutoProcessor.from_pretrained(tmp_path)
    assert new.whole_prompt
    path = tmp_path / "processor_config.json"
    settings = json.loads(path.read_text())
    del settings["whole_prompt"]
    path.write_text(json.dumps(settings))
    old = AutoProcessor.from_pretrained(tmp_path)
    assert not old.whole_prompt
    before, after = rendered_text(tokenizer, "<<>>").split("<<>>")
    slot = [new.slot_id] * 3
    parts = [
        tokenizer(part, add_special_tokens=False)["input_ids"] for part in (before, "\nLayer: 9 ", " what?\n", after)
    ]
    ids, positions = old.encode(question.prompt, question.placeholder_offsets)
    assert ids == [*parts[0], *parts[1], *slot, *parts[2], *parts[3]]
    assert positions == [len(parts[0]) + len(parts[1]) + 1]
    assert new.encode(question.prompt, question.placeholder_offsets)[0] != ids
