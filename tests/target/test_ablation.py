"""Input ablation: resumed runs equal full ones, chats are rendered, options are scored."""

import pytest
import torch

from battery import ARCHITECTURES, tiny_model
from selfexplain.errors import SelfExplainError
from selfexplain.target.ablation import (
    Variant,
    answers,
    find_span,
    importance,
    render,
    run_variants,
    without_spans,
)
from selfexplain.target.load import Target

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
        assert effect.output == sensitive.tokenizer.decode([expected.argmax()])
        assert effect.changed == bool(expected.argmax() != full.argmax())
        assert effect.drop == pytest.approx((full.max() - expected[full.argmax()]).item(), abs=1e-3)
        assert effect.kl == pytest.approx((full.exp() * (full - expected)).sum().item(), abs=1e-3)
    assert max(effect.kl for effect in effects) > 0.01


def test_importance_covers_only_the_text_of_the_user(sensitive, chat_template):
    chat_template(TEMPLATE)
    for unit in ("word", "token"):
        effects = importance(sensitive, TEXT, unit, system="Answer with one of Paris, Tokyo.", answer_prefix="Answer:")
        assert "".join(effect.text.replace(" ", "") for effect in effects) == TEXT.replace(" ", "")


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


def test_options_are_scored_by_their_first_token_and_by_their_likelihood(sensitive):
    texts, options = [TEXT, "Once there was a small"], [("Paris", "Tokyo", "the yen"), ("dog", "house")]
    by_token, by_all = (
        answers(sensitive, texts, options),
        answers(sensitive, texts, options, by="likelihood"),
    )
    for text, choices, next_token, whole in zip(texts, options, by_token, by_all, strict=True):
        ids = sensitive.encode(text)
        after = log_probs(sensitive, ids)[-1]
        assert next_token.output == sensitive.tokenizer.decode([after.argmax()])
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
    for variant in (Variant(0, ()), Variant(0, (5,) * 257), Variant(1, (5,))):
        with pytest.raises(SelfExplainError, match="Variant 0 has"):
            run_variants(sensitive, [[5, 6]], [variant])
