"""Strategies for hostile and ordinary values: text, numbers, JSON values, and values with one place changed."""

import copy

from hypothesis import strategies as st

TEXTS = [
    "", " ", "null", "~", "None", "nan", "1e999", "-1", "0", "true", "yes", "[]", "{}", "[", "{", "a: b", "a #b", "*a",
    "&a", "!!x y", "<activation>", "<|im_end|>", "</s>", "<<<", ">>>", "the word ", "the words a, b", "Hint: x", "%s",
    "../../x", "/etc/passwd", "C:\\x", "\0", "\ud800", "\udfff", "\u202e", "é", "日本", "😀", "e\u0301", "\r\n", "\t",
    "{split}", "{x!r}", "A" * 300, "9" * 400,
]  # fmt: skip
"""Texts that parsers treat specially."""

texts = st.sampled_from(TEXTS) | st.text(max_size=30) | st.text(st.characters(), max_size=12)
numbers = (
    st.integers()
    | st.integers(-3, 12)
    | st.sampled_from([0, -1, 2**31, 2**63, -(2**63) - 1, 10**400])
    | st.floats()
    | st.sampled_from([0.0, -0.0, 1e308, 5e-324])
)
scalars = st.none() | st.booleans() | numbers | texts
json_values = st.recursive(
    scalars, lambda child: st.lists(child, max_size=4) | st.dictionaries(texts, child, max_size=4), max_leaves=8
)
anything = json_values | st.binary(max_size=8) | st.tuples(scalars, scalars)


def places(value, path=()):
    """The path of every value in nested mappings and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, child in items for place in places(child, (*path, key)))]


@st.composite
def changed(draw, value, replacements=json_values):
    """A copy of a JSON value in which one or two places are replaced, removed or added."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 2))):
        *parents, last = draw(st.sampled_from(places(value)[1:] or [("x",)]))
        parent = value
        for key in parents:
            parent = parent[key]
        action = draw(st.sampled_from(("replace", "replace", "replace", "remove", "add")))
        if action == "replace":
            parent[last] = draw(replacements)
        elif action == "remove":
            del parent[last]
        elif isinstance(parent, dict):
            parent[draw(texts)] = draw(replacements)
        else:
            parent.append(draw(replacements))
    return value
