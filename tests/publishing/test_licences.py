"""Licences of bases, targets and sources."""

import pytest
from huggingface_hub import HfApi

from selfexplain.errors import SelfExplainError
from selfexplain.publishing.licences import base_licence, source_licences
from selfexplain.publishing.metadata import Licence
from selfexplain.runs.recipe import load_recipe

MEADOW = b"---\nlicense: other\nlicense_name: meadow\nlicense_link: https://example.org/meadow\n---\n"


def test_licence_of_the_base_is_read_from_its_card(hub):
    hub.add("model", "lab/base", {"README.md": MEADOW})
    assert base_licence(HfApi(), "lab/base", full=False) == Licence("other", "meadow", "https://example.org/meadow")
    hub.add("model", "lab/plain", {"README.md": b"---\ntags: []\n---\n"})
    assert base_licence(HfApi(), "lab/plain", full=False) is None


@pytest.mark.parametrize("base", ["selfexplain/tiny", "/data/models/mine"])
def test_reserved_and_local_bases_are_not_looked_up(hub, base):
    assert base_licence(HfApi(), base, full=False) is None
    assert hub.log == []


def test_base_that_others_cannot_load_is_refused(hub):
    with pytest.raises(SelfExplainError, match=r"The base lab/base is not on the Hub.*--base ID.*--full"):
        base_licence(HfApi(), "lab/base", full=False)


def test_gated_base_needs_access_only_for_the_full_form(hub, caplog):
    hub.add("model", "lab/base", {"README.md": MEADOW}, gated="manual")
    with caplog.at_level("INFO", "selfexplain"):
        assert base_licence(HfApi(), "lab/base", full=False) is not None
    assert "users of the explainer have to accept its conditions" in caplog.text
    with pytest.raises(SelfExplainError, match=r"lab/base is gated.*Accept its conditions"):
        base_licence(HfApi(), "lab/base", full=True)


def test_licences_of_target_and_sources(hub, caplog):
    hub.add("model", "lab/target", {"README.md": b"---\nlicense: mit\n---\n"})
    hub.add("dataset", "lab/texts", {"README.md": b"---\nlicense: [cc-by-4.0, odc-by]\n---\n"})
    recipe = load_recipe("quickstart", ["target=lab/target", "corpus=lab/texts", "tasks=[feature_description]"])
    assert source_licences(HfApi(), recipe) == {"lab/target": "mit", "lab/texts": "cc-by-4.0, odc-by"}
    recipe = load_recipe("quickstart", ["corpus=lab/absent", "tasks=[feature_description]"])
    assert source_licences(HfApi(), recipe) == {}
    assert "lab/absent is not on the Hub" in caplog.text
