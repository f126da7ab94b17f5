"""Shared HTML elements."""

import re

from asking.trial import Exemplar
from rendering.html import code, error_box, exemplar_list, interval, number, picker, token_picker

HOSTILE = "<script>alert(1)</script>${alert(2)}{{x}}"


def test_texts_of_visitors_and_models_are_escaped():
    html = "".join(
        (
            token_picker([HOSTILE], 0, "Text"),
            error_box(HOSTILE),
            picker([HOSTILE], None, HOSTILE, notes=[HOSTILE]),
            code(HOSTILE, HOSTILE),
            exemplar_list(HOSTILE, [Exemplar((HOSTILE,), (1.0,))]),
        )
    )
    assert "<script" not in html and html.count("&lt;script&gt;") == 9


def test_tokens_are_buttons_of_which_only_the_pressed_one_is_in_the_tab_order():
    html = token_picker(["a", " b", "\n"], 1, "Text", [0.1, 1, 0])
    assert re.findall(r'aria-pressed="(\w+)" tabindex="(-?\d)"', html) == [
        ("false", "-1"),
        ("true", "0"),
        ("false", "-1"),
    ]
    assert 'role="toolbar" aria-label="Text: pick a token"' in html and "↵" in html


def test_without_a_pressed_button_the_first_one_is_in_the_tab_order():
    assert re.findall(r'tabindex="(-?\d)"', picker(["a", "b"], None, "Letters")) == ["0", "-1"]


def test_an_exemplar_is_cut_to_the_tokens_around_its_peak():
    tokens = tuple(f" t{n}" for n in range(40))
    html = exemplar_list("Title", [Exemplar(tokens, tuple(float(n == 20) for n in range(40)))])
    assert re.findall(r"t(\d+)</span>", html) == [str(n) for n in range(11, 29)]
    assert html.count("…") == 2 and "--shade:1.00" in html


def test_numbers_have_a_minus_sign_and_no_negative_zero():
    assert [number(-0.5), number(-0.001), interval((-0.25, 1.0))] == [
        "\N{MINUS SIGN}0.50",
        "0.00",
        "[\N{MINUS SIGN}0.25, 1.00]",
    ]
