"""Names of repositories and configurations."""

from selfexplain.publishing.names import Names, configuration


def test_repository_ids_have_the_organisation_in_front():
    names = Names("lab")
    assert names.model("quickstart") == "lab/quickstart-selfexplainer"
    assert names.space("quickstart") == "lab/quickstart-explainer"
    assert names.results == "lab/selfexplain-results"
    assert names.metric("exact_match") == "lab/exact_match"
    assert names.dataset("feature_description") == "lab/selfexplain-features"


def test_title_of_a_collection_fits_the_limit_of_the_hub():
    assert Names("lab").collection("quickstart") == "quickstart self-explainer"
    assert len(Names("lab").collection("x" * 100)) == 60


def test_configuration_keeps_the_organisation_of_the_target():
    assert configuration("meta-llama/Llama-3.1-8B") == "meta-llama--Llama-3.1-8B"
