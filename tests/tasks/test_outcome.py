"""The two outcome sentences, and the characters in them that carry the claim."""

import pytest

from selfexplain.tasks.outcome import Outcome, claim_spans, parse, render

SENTENCES = {
    True: "The most likely output would change to <<< Rome>>>.",
    False: "The output would remain unchanged from <<< Rome>>>.",
}


@pytest.mark.parametrize("changed", [True, False])
def test_an_outcome_is_stated_in_a_fixed_sentence(changed):
    assert render(Outcome(changed, " Rome")) == SENTENCES[changed]
    assert parse(f"\n {SENTENCES[changed]} More text.") == Outcome(changed, "Rome")


@pytest.mark.parametrize("changed", [True, False])
@pytest.mark.parametrize("before", ["", " \n"])
def test_the_claim_is_the_first_different_character_and_the_output(changed, before):
    text = before + SENTENCES[changed] + " More text."
    (begin, end), (first, last) = claim_spans(text)
    assert text[:begin] == before + "The " and text[begin:end] == ("m" if changed else "o")
    assert text[first:last] == " Rome>" and text[last:].startswith(">>.")


def test_text_that_does_not_begin_with_an_outcome_has_no_claim():
    assert claim_spans("Paris. " + SENTENCES[True]) is None
