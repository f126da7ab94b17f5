"""Input ablation: resumed runs equal full ones, chats are rendered, options are scored."""

from copy import deepcopy

import pytest
import torch
from jinja2 import TemplateError
from tokenizers import processors

from battery import ARCHITECTURES, tiny_model
from selfexplain.errors import SelfExplainError
from selfexplain.target import ablation
from selfexplain.target.ablation import (
    Variant,
    _shared_start,
    _Variants,
    _with_space,
    answers,
    continuations,
    find_span,
    importance,
    possible_answers,
    render,
    run_variants,
    without_spans,
)
from selfexplain.target.load import Target
from selfexplain.target.tokens import token_text

TEXT = "The capital of France is Paris and the language of France is"
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% if enable_thinking is not false %}<think>{% endif %}{% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + TEMPLATE


@pytest.fixture
def sensitive(target):
    """The random target with larger weights, so that ablations change its output."""
    torch.manual_seed(0)
    for parameter in target.model.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(5)
    return target


@pytest.fixture
def chat_template(tokenizer):
    """A function that sets the shared tokenizer's chat template for one test."""
    yield lambda template: setattr(tokenizer, "chat_template", template)
    tokenizer.chat_template = None


def log_probs(target, ids):
    with torch.no_grad():
        return target.model(torch.tensor([list(ids)])).logits[0].log_softmax(-1)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_resumed_variants_equal_full_forward_passes(architecture, tokenizer):
    target = Target(tiny_model(architecture), tokenizer, architecture)
    torch.manual_seed(1)
    prompts = [torch.randint(3, 500, (n,)).tolist() for n in (20, 24)]
    variants = [Variant(n, (*ids[:i], *ids[i + 1 :])) for n, ids in enumerate(prompts) for i in range(0, len(ids), 3)]
    variants += [Variant(0, (*prompts[0][:9], 5, 6, 7, *prompts[0][10:])), Variant(1, tuple(prompts[1]))]
    results = run_variants(target, prompts, variants)
    assert results.method == "resumed"
    for index, variant in enumerate(variants):
        expected = log_probs(target, variant.ids)[-1]
        assert results.ids[index] == expected.argmax()
        assert results.log_probs[index] == pytest.approx(expected.max().item(), abs=1e-4)
    assert results.kl[-1] == 0 and results.log_probs[-1] == results.clean_log_probs[1]


@pytest.mark.parametrize("unit", ["word", "token"])
@pytest.mark.parametrize("replacement", ["", " ..."])
def test_importance_measures_the_effect_of_removing_each_unit(sensitive, unit, replacement):
    effects = importance(sensitive, TEXT, unit, replacement)
    full = log_probs(sensitive, sensitive.encode(TEXT))[-1]
    assert [effect.text for effect in effects] == [TEXT[a:b] for a, b in (effect.span for effect in effects)]
    if unit == "word":
        assert [effect.text for effect in effects] == TEXT.split()
    else:
        assert "".join(effect.text for effect in effects) == TEXT
    for index, effect in enumerate(effects):
        if unit == "word":
            words = TEXT.split()
            remaining = " ".join([*words[:index], *([replacement] if replacement else []), *words[index + 1 :]])
            ids = sensitive.encode(remaining)
        else:
            ids = sensitive.encode(TEXT)
            neutral = sensitive.tokenizer(replacement, add_special_tokens=False)["input_ids"]
            ids = [*ids[: index + 1], *neutral, *ids[index + 2 :]]  # `<s>` comes first
        expected = log_probs(sensitive, ids)[-1]
        assert effect.output == token_text(sensitive.tokenizer, int(expected.argmax()))
        assert effect.changed == bool(expected.argmax() != full.argmax())
        assert effect.drop == pytest.approx((full.max() - expected[full.argmax()]).item(), abs=1e-3)
        assert effect.kl == pytest.approx((full.exp() * (full - expected)).sum().item(), abs=1e-3)
    assert max(effect.kl for effect in effects) > 0.01
    assert all(type(value) is float for effect in effects for value in (effect.drop, effect.kl))


def test_importance_covers_only_the_text_of_the_user(sensitive, chat_template):
    chat_template(TEMPLATE)
    for unit in ("word", "token"):
        effects = importance(sensitive, TEXT, unit, system="Answer with one of Paris, Tokyo.", answer_prefix="Answer:")
        assert "".join(effect.text.replace(" ", "") for effect in effects) == TEXT.replace(" ", "")


@pytest.mark.parametrize("chat", [None, False])
def test_importance_is_measured_in_the_rendered_prompt(sensitive, chat_template, chat):
    chat_template(TEMPLATE)
    text, options = "Paris or Tokyo", ("Answer briefly.", "Answer:", chat)
    full = log_probs(sensitive, sensitive.encode(render(sensitive, text, *options)))[-1]
    settings = {"system": options[0], "answer_prefix": options[1], "chat": chat}
    words = importance(sensitive, text, **settings)
    for effect, remaining in zip(words, ["or Tokyo", "Paris Tokyo", "Paris or"], strict=True):
        expected = log_probs(sensitive, sensitive.encode(render(sensitive, remaining, *options)))[-1]
        assert effect.drop == pytest.approx((full.max() - expected[full.argmax()]).item(), abs=1e-3)
    ids = sensitive.encode(render(sensitive, text, *options))
    tokens = importance(sensitive, text, "token", **settings)
    begin = next(i for i in range(len(ids)) if sensitive.tokenizer.decode(ids[i:]).startswith(text) and i > 1)
    assert "".join(effect.text for effect in tokens) == text
    for n, effect in enumerate(tokens):
        expected = log_probs(sensitive, [*ids[: begin + n], *ids[begin + n + 1 :]])[-1]
        assert effect.drop == pytest.approx((full.max() - expected[full.argmax()]).item(), abs=1e-3)


def test_a_chat_is_rendered_with_its_system_prompt_and_without_thinking(sensitive, chat_template, caplog):
    assert render(sensitive, "Hi") == "Hi"
    assert render(sensitive, "Hi", "Be brief.", "Answer:") == "Be brief.\n\nHi\nAnswer:"
    with pytest.raises(SelfExplainError, match=r"has no chat template\. Set chat=False"):
        render(sensitive, "Hi", chat=True)
    chat_template("<s>" + TEMPLATE)
    assert render(sensitive, "Hi", "Be brief.", "Answer:") == "[system]Be brief.\n[user]Hi\n[assistant]Answer:"
    assert sensitive.encode(render(sensitive, "Hi")).count(sensitive.tokenizer.bos_token_id) == 1
    assert render(sensitive, "Hi", chat=False) == "Hi"
    chat_template(NO_SYSTEM)
    assert render(sensitive, "Hi", "Be brief.") == "[user]Be brief.\n\nHi\n[assistant]"
    assert "has no system role" in caplog.text


def test_spans_are_removed_or_replaced_and_invalid_spans_raise_an_error():
    assert without_spans("one two three", [(8, 13), (0, 4)]) == "two "
    assert without_spans("one two three", [(4, 7)], "...") == "one ... three"
    assert find_span("one two three", "two") == (4, 7)
    for spans in ([(0, 4), (3, 5)], [(2, 2)], [(0, 14)]):
        with pytest.raises(SelfExplainError, match="cannot be removed"):
            without_spans("one two three", spans)
    for part in ("four", "e", ""):
        with pytest.raises(SelfExplainError, match="times in the text"):
            find_span("one two three", part)


def test_neighbouring_spans_and_whole_texts_can_be_removed():
    assert without_spans("one two three", [(4, 8), (0, 4)], "_") == "__three"
    assert without_spans("one", [(0, 3)]) == "" and without_spans("one", []) == "one"
    assert find_span("one", "one") == (0, 3)
    with pytest.raises(SelfExplainError, match="'e' occurs 3 times in the text"):
        find_span("one two three", "e")
    with pytest.raises(SelfExplainError, match="'' occurs 0 times in the text"):
        find_span("one two three", "")
    with pytest.raises(SelfExplainError, match="'' occurs 0 times in the text"):
        find_span("", "")


@pytest.mark.parametrize(
    ("text", "span", "expected"),
    [
        ("one two  three ", (0, 3), (0, 4)),  # the first word goes with the spaces after it
        ("one two  three ", (4, 7), (3, 7)),
        ("one two  three ", (9, 14), (7, 14)),
        (" one  two", (1, 4), (0, 6)),
        ("one", (0, 3), (0, 3)),
    ],
)
def test_a_word_is_removed_with_the_space_before_it(text, span, expected):
    assert _with_space(text, span) == expected


def test_the_shared_start_of_two_sequences():
    assert _shared_start([1, 2, 3], [1, 2, 4]) == 2
    assert _shared_start([1, 2, 3], [1, 2]) == 2 and _shared_start([1], [1, 2, 3]) == 1
    assert _shared_start([1, 2], [3, 2]) == 0 and _shared_start([], [1]) == 0 and _shared_start([1, 2], [1, 2]) == 2


def test_only_variants_equal_to_their_prompt_are_idle_and_each_runs_from_its_first_different_token(sensitive):
    prompts = [[5, 6, 7, 8], [9, 10]]
    variants = [Variant(0, (5, 6, 7, 8)), Variant(0, (5, 6)), Variant(1, (9, 10, 11)), Variant(1, (5, 6, 7, 8))]
    shared = [4, 2, 2, 0]
    work = _Variants(sensitive, prompts, variants, shared)
    assert work.idle(None, torch.tensor([0, 0, 1, 1]), range(4)).tolist() == [True, False, False, False]
    assert [work.place(i) for i in range(4)] == [(0, None, 3, 4), (0, None, 1, 2), (1, None, 2, 3), (1, None, 0, 4)]
    clean = work.clean([1, 0], cached=True)
    for resumed in (True, False):
        logits = work.logits(clean, torch.tensor([1, 0]), [1, 2], resumed)
        for row, index in enumerate((1, 2)):
            expected = log_probs(sensitive, variants[index].ids)[-1]
            torch.testing.assert_close(logits[row].log_softmax(-1), expected, atol=1e-4, rtol=1e-4)


def test_variants_may_fill_the_context(sensitive):
    ids = [5, 6, *[7] * 254]
    results = run_variants(sensitive, [ids], [Variant(0, (*ids[:255], 8)), Variant(0, (5,))])
    for index, variant in enumerate(([*ids[:255], 8], [5])):
        assert results.log_probs[index] == pytest.approx(log_probs(sensitive, variant)[-1].max().item(), abs=1e-3)


def test_progress_of_variants_is_shown_if_it_has_a_label(sensitive, capsys):
    run_variants(sensitive, [[5, 6]], [Variant(0, (5, 7))], progress="ablating")
    assert "ablating: 100%" in capsys.readouterr().err


def test_a_template_that_refuses_the_question_raises_its_own_error(sensitive, chat_template, caplog):
    chat_template("{{ raise_exception('no questions') }}")
    with pytest.raises(TemplateError, match="no questions"):
        render(sensitive, "Hi")
    assert not caplog.messages


@pytest.mark.parametrize(("adds", "expected"), [("<s>", "Hi:"), ("</s>", "<s>Hi:"), ("", "<s>Hi:")])
def test_the_first_token_is_removed_from_a_chat_if_the_tokenizer_adds_it(target, adds, expected):
    tokenizer = deepcopy(target.tokenizer)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{adds} $A".strip(), special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    tokenizer.chat_template = "{{ bos_token }}{{ messages[0]['content'] }}"
    chat = Target(target.model, tokenizer, "chat")
    text = render(chat, "Hi", answer_prefix=":")
    assert text == expected
    assert chat.encode(text) == tokenizer("<s>Hi:", add_special_tokens=False)["input_ids"]


def test_the_warning_about_the_system_role_is_logged_once_per_model(sensitive, chat_template, caplog):
    chat_template(NO_SYSTEM)
    for name in ("one", "one", "two"):
        render(Target(sensitive.model, sensitive.tokenizer, name), "Hi", "Be brief.")
    assert "(no system role)" in caplog.messages[0]
    assert [message.split(" has ")[0] for message in caplog.messages] == [
        "The chat template of one", "The chat template of two",
    ]  # fmt: skip


def test_a_template_without_the_first_token_of_the_tokenizer_is_kept_as_it_is(sensitive, chat_template):
    chat_template("<s>" + TEMPLATE)
    with_first = render(sensitive, "<s> Hi")
    chat_template(TEMPLATE)
    assert render(sensitive, "<s> Hi") == with_first == "[user]<s> Hi\n[assistant]"


def test_importance_of_tokens_skips_the_space_around_the_text(sensitive, chat_template):
    chat_template(TEMPLATE)
    text = "  Paris is. \n"
    effects = importance(sensitive, text, "token", system="Paris is.", answer_prefix="Paris is.")
    assert "".join(effect.text for effect in effects).strip() == "Paris is."
    assert all(text[a:b] == effect.text for effect in effects for a, b in [effect.span])


def test_near_ties_of_answers_are_recomputed_in_float32(sensitive, monkeypatch):
    texts, options = [TEXT, "Once there was a small", "The"], [("Paris", "Tokyo"), ("dog", "house"), ("yen", "dog")]
    sensitive.model.to(torch.bfloat16)
    monkeypatch.setattr(ablation, "near_ties", lambda logits, dtype: torch.arange(len(logits)) == 1)
    low = answers(sensitive, texts, options)
    monkeypatch.setattr(ablation, "near_ties", lambda logits, dtype: torch.zeros(len(logits), dtype=torch.bool))
    without = answers(sensitive, texts, options)
    sensitive.model.float()
    exact = answers(sensitive, texts, options)
    recomputed = [a != b for a, b in zip(low, without, strict=True)]
    assert sum(recomputed) == 1
    index = recomputed.index(True)
    assert low[index].output == exact[index].output
    assert low[index].log_prob == pytest.approx(exact[index].log_prob, abs=1e-4)
    assert low[index].option_log_probs == pytest.approx(exact[index].option_log_probs, abs=1e-4)


def test_options_and_texts_of_different_lengths_are_scored_together(sensitive):
    texts, options = [TEXT, "The"], [("Paris",), ("capital of France is Paris",)]
    together = answers(sensitive, texts, options, by="likelihood")
    for text, choices, answer in zip(texts, options, together, strict=True):
        (alone,) = answers(sensitive, [text], [choices], by="likelihood")
        assert answer.log_prob == pytest.approx(alone.log_prob, abs=1e-3) and type(answer.log_prob) is float


def test_near_ties_of_likelihoods_are_recomputed_in_float32(sensitive):
    """In bfloat16, the answers in a batch are those in float32 if two options are equally likely."""
    texts = ["The capital of France is"] * 3 + ["The capital of Japan and the language of Japan is"]
    options = [["Paris", "Tokyo", "Rome", "Madrid"]] * 4
    head = sensitive.model.lm_head.weight.data
    head.copy_(head[:1] + (head - head[:1]) * 1e-4)  # all tokens are nearly equally likely
    sensitive.model.bfloat16()
    found = [answer.output for answer in answers(sensitive, texts, options, by="likelihood")]
    possible = [possible_answers(sensitive, *pair) for pair in zip(texts, options, strict=True)]
    sensitive.model.float()
    expected = [answer.output for answer in answers(sensitive, texts, options, by="likelihood")]
    assert found == expected == [outputs[0] for outputs in possible]


def test_an_option_that_changes_the_tokens_of_the_text_has_no_continuation(target):
    tokenizer = deepcopy(target.tokenizer)
    tokenizer.add_tokens("is the")
    merging = Target(target.model, tokenizer, "merging")
    alone = tokenizer(" dog", add_special_tokens=False)["input_ids"]
    assert continuations(merging, "Here is", ["the", "dog"]) == [None, alone]


def test_options_that_merge_with_the_text_or_exceed_the_context_are_refused(sensitive):
    tokens = continuations(sensitive, "Tokyo is", ["Paris", "", "  ", "the yen"])
    ids = sensitive.encode("Tokyo is")
    assert tokens[1] is None and tokens[2] is None
    for option, option_ids in (("Paris", tokens[0]), ("the yen", tokens[3])):
        assert [*ids, *option_ids] == sensitive.encode(f"Tokyo is {option}")
    fitting = "Paris" + " is" * (256 - len(sensitive.encode("Paris")) - len(tokens[0]))  # " is" is one token
    assert len(sensitive.encode(f"{fitting} Paris")) == 256
    assert answers(sensitive, [fitting], [["Paris"]], by="likelihood")[0].output == "Paris"
    with pytest.raises(SelfExplainError, match="Option 'Paris' cannot follow the text"):
        answers(sensitive, [fitting + " is"], [["Paris"]])


def test_options_are_scored_by_their_first_token_and_by_their_likelihood(sensitive):
    texts, options = [TEXT, "Once there was a small"], [("Paris", "Tokyo", "the yen"), ("dog", "house")]
    by_token, by_all = (
        answers(sensitive, texts, options),
        answers(sensitive, texts, options, by="likelihood"),
    )
    for text, choices, next_token, whole in zip(texts, options, by_token, by_all, strict=True):
        ids = sensitive.encode(text)
        after = log_probs(sensitive, ids)[-1]
        assert next_token.output == token_text(sensitive.tokenizer, int(after.argmax()))
        assert next_token.log_prob == pytest.approx(after.max().item(), abs=1e-4)
        scores = []
        for option, first, likelihood in zip(choices, next_token.option_log_probs, whole.option_log_probs, strict=True):
            together = sensitive.encode(f"{text} {option}")
            steps = log_probs(sensitive, together)
            scores.append(sum(steps[i - 1, together[i]].item() for i in range(len(ids), len(together))))
            assert first == pytest.approx(after[together[len(ids)]].item(), abs=1e-4)
            assert likelihood == pytest.approx(scores[-1], abs=1e-3)
        assert whole.output == choices[scores.index(max(scores))] and whole.log_prob == max(whole.option_log_probs)
    with pytest.raises(SelfExplainError, match="cannot follow the text"):
        answers(sensitive, ["The"], [[""]])


def test_an_invalid_variant_raises_an_error(sensitive):
    for variant in (Variant(0, ()), Variant(0, (5,) * 257), Variant(1, (5,)), Variant(-1, (5,))):
        with pytest.raises(SelfExplainError, match="Variant 0 has"):
            run_variants(sensitive, [[5, 6]], [variant])
