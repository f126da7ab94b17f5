"""Test registries and plug-ins."""

from types import SimpleNamespace

import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.utils import registry
from selfexplain.utils.registry import Registry


@pytest.fixture
def loaded(monkeypatch):
    """Plug-ins that register nothing; the list counts how often they were loaded."""
    calls = []
    monkeypatch.setattr(registry, "load_plugins", lambda: calls.append(None))
    return calls


def test_values_are_read_in_the_order_of_registration(loaded):
    letters = Registry("letter")
    assert letters.register("b", 2) == 2 and letters.register("a", 1) == 1
    assert list(letters) == ["b", "a"] and len(letters) == 2 and dict(letters) == {"b": 2, "a": 1}
    assert letters["a"] == 1 and "a" in letters and "c" not in letters and 3 not in letters


def test_a_name_can_be_registered_again_only_with_the_same_value(loaded):
    letters, value = Registry("letter"), object()
    letters.register("a", value)
    letters.register("a", value)
    with pytest.raises(SelfExplainError, match="There is already a letter 'a'"):
        letters.register("a", object())
    assert letters["a"] is value


def test_the_error_for_an_unknown_name_suggests_the_nearest_one(loaded):
    letters = Registry("letter")
    letters.register("alpha", 1)
    with pytest.raises(SelfExplainError, match=r"There is no letter 'alpa'\. Known: alpha\. Did you mean 'alpha'\?"):
        letters["alpa"]
    with pytest.raises(SelfExplainError, match=r"no letter 'omega'\. Known: alpha\.$"):
        letters["omega"]


def test_plugins_are_loaded_only_when_a_name_is_missing_or_all_are_listed(loaded):
    letters = Registry("letter")
    letters.register("a", 1)
    assert letters["a"] == 1 and "a" in letters and not loaded
    assert "b" not in letters and len(loaded) == 1
    assert list(iter(letters)) == ["a"] and len(loaded) == 2


def test_a_plugin_is_imported_once(monkeypatch):
    letters, imports = Registry("letter"), []

    def load():
        imports.append(None)
        letters.register("from a plug-in", 7)

    registry.load_plugins.cache_clear()
    monkeypatch.setattr(registry, "entry_points", lambda group: [SimpleNamespace(load=load)])
    try:
        assert letters["from a plug-in"] == 7
        assert "nothing" not in letters and list(letters) == ["from a plug-in"]
        assert len(imports) == 1
    finally:
        registry.load_plugins.cache_clear()
