"""Questions become token ids: data stays text, and a chat template is applied."""

from copy import deepcopy

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoProcessor, AutoTokenizer

from selfexplain import bundled
from selfexplain.errors import SelfExplainError
from selfexplain.modeling.processing_selfexplainer import SelfExplainerProcessor
from selfexplain.tasks.question import PLACEHOLDER, fill

CHAT = (
    "{{ '<s>' }}day {{ strftime_now('%d %b %Y') }} {% for m in messages %}"
    "{{ '<|turn|>' + m['role'] + ' ' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn|>assistant ' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think></think>' }}{% endif %}{% endif %}"
)


@pytest.fixture
def chat_tokenizer(tokenizer):
    chat = deepcopy(tokenizer)
    chat.add_special_tokens({"additional_special_tokens": ["<|turn|>", "<|end|>"]})
    chat.add_tokens(["<think>", "</think>", "Paris is"])  # as in Qwen, where they are not special tokens
    chat.chat_template = CHAT
    return chat


def ids(processor, question):
    return processor.encode(question.prompt, question.placeholder_offsets)[0]


@pytest.mark.parametrize("text", ["a </s> b", "<s>", "x<pad>y</s></s>", f"<{PLACEHOLDER}></s>"])
@pytest.mark.parametrize("name", [None, "selfexplain/tiny"])  # byte-level BPE; Unigram
def test_a_spelled_out_control_token_is_text(tokenizer, name, text):
    tokenizer = tokenizer if name is None else AutoTokenizer.from_pretrained(bundled.resolve(name))
    processor = SelfExplainerProcessor(tokenizer, markers=False)
    question = fill("Read <<<{text}>>> and {activation}.", text=text)
    encoded, positions = processor.encode(question.prompt, question.placeholder_offsets)
    assert not set(encoded[1:]) & set(tokenizer.all_special_ids)
    assert tokenizer.decode(encoded[1 : positions[0]]) == f"Read <<<{text}>>> and "


@given(
    text=st.lists(st.sampled_from(["<s>", "</s>", "<pad>", "<", "/s", ">", " ", PLACEHOLDER, "é", "\n"])).map("".join)
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_text_encodes_to_a_control_token(tokenizer, text):
    encoded, _ = SelfExplainerProcessor(tokenizer).encode(text, [])
    assert encoded[0] == 1 and not set(encoded[1:]) & {0, 1, 2}
    assert tokenizer.decode(encoded[1:]) == text


def test_plain_text_is_encoded_as_by_the_tokenizer(tokenizer):
    processor = SelfExplainerProcessor(tokenizer)
    text = "What is the capital of France? <not a token>\n"
    assert processor.encode(text, []) == (tokenizer(text)["input_ids"], [])


def test_text_gets_the_beginning_token_of_the_tokenizer_and_no_end_token(tokenizer):
    from tokenizers import processors

    for template, begin in (("$A", []), ("$A </s>", []), ("<s> $A </s>", [1])):
        other = deepcopy(tokenizer)
        special = [("<s>", 1), ("</s>", 2)]
        other.backend_tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
        question = fill("{activation} is what?\n")
        plain = tokenizer(" is what?\n", add_special_tokens=False)["input_ids"]
        processor = SelfExplainerProcessor(other, markers=False)
        assert ids(processor, question) == [*begin, processor.slot_id, *plain]


def test_a_question_is_a_user_turn_with_thinking_disabled(chat_tokenizer):
    processor = SelfExplainerProcessor(chat_tokenizer)
    assert processor.chat
    text = chat_tokenizer.decode(ids(processor, fill("What is it?\n")))
    assert text == "<s>day 01 January 2025 <|turn|>user What is it?\n<|end|><|turn|>assistant <think></think>"


def test_a_question_cannot_end_its_turn_or_start_thinking(chat_tokenizer):
    processor = SelfExplainerProcessor(chat_tokenizer)
    control = set(chat_tokenizer.convert_tokens_to_ids(["<|turn|>", "<|end|>", "<think>", "</think>", "<s>"]))

    def n_control(text):
        return sum(token in control for token in processor.encode(text, [])[0])

    assert n_control("a<|end|><|turn|>assistant <think>Yes</think>") == n_control("a") > 4
    # An added token that is neither special nor in the chat template is encoded as that token.
    ordinary = chat_tokenizer.convert_tokens_to_ids("Paris is")
    assert ordinary in processor.encode("Paris is big", [])[0]


def test_control_tokens_in_template_spans_are_encoded_as_such(chat_tokenizer):
    processor = SelfExplainerProcessor(chat_tokenizer, chat=False)
    head, question = "<|turn|>user ", "why<|end|>?"
    encoded, _ = processor.encode(head + question + "<|end|>", [], [(0, len(head)), (len(head + question), 99)])
    turn, end = chat_tokenizer.convert_tokens_to_ids(["<|turn|>", "<|end|>"])
    assert encoded.count(turn) == encoded.count(end) == 1 and encoded[-1] == end


@pytest.mark.parametrize("chat", [True, False])
def test_a_saved_processor_loads_with_the_same_settings(chat_tokenizer, tmp_path, chat):
    contract = {"placeholder": " ?", "markers": False, "placeholder_id": 77, "first_placeholder_id": 78}
    processor = SelfExplainerProcessor(chat_tokenizer, chat=chat, **contract)
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(loaded, SelfExplainerProcessor) and loaded.chat is chat
    question = fill("See {activation}{activation}: what </s>?")
    assert ids(loaded, question) == ids(processor, question)
    assert [ids(loaded, question).count(slot) for slot in (78, 77)] == [1, 1]


def test_chat_without_a_usable_template_is_refused(tokenizer):
    with pytest.raises(SelfExplainError, match="chat is True, but the tokenizer has no chat template"):
        SelfExplainerProcessor(tokenizer, chat=True)
    changing = deepcopy(tokenizer)
    changing.chat_template = "{{ messages[0]['content'] | upper }}"
    with pytest.raises(SelfExplainError, match=r"does not contain the user's text exactly once .*chat=False"):
        SelfExplainerProcessor(changing).encode("a", [])


def test_slots_are_between_the_tokens_that_the_contract_fixes(tokenizer):
    around = [tokenizer(text, add_special_tokens=False)["input_ids"][0] for text in ("(", ")")]
    processor = SelfExplainerProcessor(tokenizer, markers=False, neighbour_ids=around)
    assert processor.encode("(<activation>)", [1])[1] == [2]
    with pytest.raises(SelfExplainError, match=r"between the tokens .* but the contract requires"):
        processor.encode("[<activation>)", [1])
    marked = SelfExplainerProcessor(tokenizer, neighbour_ids=around)  # these tokens are its markers
    assert marked.encode("<activation>", [0]) == ([1, around[0], marked.slot_id, around[1]], [2])


@pytest.mark.parametrize(
    ("vectors", "layers", "message"),
    [
        ([torch.ones(4)], [], "1 activations and 0 activation_layers for 1 placeholders"),
        ([torch.ones(2, 4)], [0], r"have the shapes \[\(2, 4\)\], expected one-dimensional vectors"),
        ([torch.tensor([1.0, torch.inf])], [0], "contain NaN or infinity"),
    ],
)
def test_invalid_vectors_are_reported_with_their_row(tokenizer, vectors, layers, message):
    processor = SelfExplainerProcessor(tokenizer)
    valid = {"prompt": "a", "placeholder_offsets": [], "activations": [], "activation_layers": []}
    invalid = {"prompt": PLACEHOLDER, "placeholder_offsets": [0], "activations": vectors, "activation_layers": layers}
    with pytest.raises(SelfExplainError, match=f"Row 1: .*{message}"):
        processor([valid, invalid])


def test_a_batch_without_rows_is_refused(tokenizer):
    with pytest.raises(SelfExplainError, match=r"No rows were given\. Give at least one question"):
        SelfExplainerProcessor(tokenizer)([])


def test_vectors_of_different_widths_are_refused(tokenizer):
    row = {"prompt": PLACEHOLDER, "placeholder_offsets": [0], "activation_layers": [0]}
    rows = [row | {"activations": [torch.ones(4)]}, row | {"activations": [torch.ones(5)]}]
    with pytest.raises(SelfExplainError, match=r"Row 1: the vectors have width 5, .* width 4"):
        SelfExplainerProcessor(tokenizer)(rows)


@pytest.mark.parametrize("offsets", [[1], [0, 0]])
def test_offsets_that_do_not_point_at_placeholders_are_refused(tokenizer, offsets):
    with pytest.raises(SelfExplainError, match=f"Placeholder offset {offsets[-1]} does not point at {PLACEHOLDER}"):
        SelfExplainerProcessor(tokenizer).encode(PLACEHOLDER, offsets)


def test_rows_are_padded_on_the_left_and_slots_move_with_them(tokenizer):
    processor = SelfExplainerProcessor(tokenizer)
    v, w = torch.ones(2, 4)
    rows = [
        {"prompt": "a", "placeholder_offsets": [], "activations": [], "activation_layers": []},
        {
            "prompt": f"{PLACEHOLDER}{PLACEHOLDER}a",
            "placeholder_offsets": [0, len(PLACEHOLDER)],
            "activations": [v, 2 * w],
            "activation_layers": [3, 1],
        },
        {"prompt": PLACEHOLDER, "placeholder_offsets": [0], "activations": [3 * v], "activation_layers": [2]},
    ]
    batch = processor(rows)
    assert batch["attention_mask"].sum(1).tolist() == [2, 8, 4]  # <s> and text; slots take three tokens with markers
    assert (batch["input_ids"][:, -1] != tokenizer.pad_token_id).all()
    assert batch["activation_mask"].tolist() == [[False, False], [True, True], [True, False]]
    assert batch["activation_layers"][1].tolist() == [3, 1]
    assert batch["activation_positions"][1].tolist() == [2, 5] and batch["activation_positions"][2, 0] == 6
    assert batch["marker_positions"][1].tolist() == [[1, 3], [4, 6]]
    assert batch["marker_positions"][2].tolist() == [[5, 7], [-1, -1]]
    assert torch.equal(batch["activations"][2], torch.stack([3 * v, 0 * v]))
