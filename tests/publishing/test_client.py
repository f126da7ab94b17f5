"""What was published, read back by the unmodified libraries in a fresh process with an empty cache."""

import json

import pytest

from hub.published import DATASETS, MODEL, RESULTS, TEXT
from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM


def test_the_model_loads_by_both_routes_by_revision_and_in_four_bits(seen):
    assert "trust_remote_code" in seen["without either"]
    assert seen["trust_remote_code"] == "SelfExplainerForCausalLM"
    assert seen["same class"] and seen["4-bit"]
    assert seen["broken revision"]  # the one that was asked for, not the newest on main


def test_what_is_loaded_answers_as_what_was_saved(seen, finished):
    explainer = SelfExplainerForCausalLM.from_pretrained(finished / "explainer")
    vector = explainer.capture(TEXT, layers=[1])[0, 4]
    assert seen["patched"] == explainer.explain_patch(TEXT, vector, [1], 4).text


@pytest.mark.parametrize("name", DATASETS)
def test_datasets_load_whole_and_streamed(seen, finished, name):
    from selfexplain.publishing.names import DATASET_NAMES

    task = next(task for task, own in DATASET_NAMES.items() if name.endswith(own))
    splits = json.loads((finished / "datasets" / task / "statistics.json").read_text())["splits"]
    assert seen[name] == {"rows": {split: part["rows"] for split, part in splits.items()}, "first": True}


def test_results_load_as_a_table_and_answers_row_by_row(seen):
    assert {"explainer", "shuffled_vector", "untrained"} <= set(seen["answers"])


def test_the_lines_on_the_cards_run_as_they_stand(seen):
    said = seen["snippets"]
    assert {name.rpartition(" ")[0] for name in said} == {MODEL, *DATASETS, RESULTS}
    assert len(said[f"{MODEL} 0"].splitlines()) >= 3  # one line a task
    assert all(said[f"{name} 0"].strip() for name in DATASETS)


def test_the_space_lists_the_model_and_holds_every_file(pushed, space):
    from huggingface_hub import RepoCard

    files = pushed.repo("spaces/lab/quickstart-explainer").files
    card = RepoCard(files["README.md"].decode())
    assert card.data.models == [MODEL] and card.data.sdk == "gradio"
    assert files["app.py"] == (space / "app.py").read_bytes()


def test_every_repository_links_to_the_others(pushed):
    linked = {name: pushed.repo(name).files["README.md"].decode() for name in (MODEL, "datasets/" + DATASETS[1])}
    hub = pushed.url  # of HF_ENDPOINT
    assert all(f"({hub}/datasets/{name})" in linked[MODEL] for name in DATASETS)
    assert f"({hub}/spaces/lab/quickstart-explainer)" in linked[MODEL]
    assert f"({hub}/{MODEL})" in linked["datasets/" + DATASETS[1]]
    assert not any("https://huggingface.co" in card for card in linked.values())
