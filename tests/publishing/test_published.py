"""What was published loads with unmodified libraries, in a fresh process with an empty cache."""

import json

import pytest
from huggingface_hub import RepoCard

from hub.published import DATASETS, METRICS, MODEL, RESULTS, SPACE, TEXT
from selfexplain.groundtruth.formats import read_split
from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM
from selfexplain.tasks import TASKS


def test_model_loads_with_both_auto_class_methods_by_revision_and_in_four_bits(reader):
    assert "trust_remote_code" in reader["without either"]
    assert reader["trust_remote_code"] == "SelfExplainerForCausalLM"
    assert reader["same class"] and reader["4-bit"]
    assert reader["broken revision"]  # loading uses the requested revision instead of main


def test_loaded_model_gives_the_same_answer_as_the_saved_one(reader, finished):
    explainer = SelfExplainerForCausalLM.from_pretrained(finished / "explainer")
    vector = explainer.capture(TEXT, layers=[0])[0, 4]
    assert reader["patched"] == explainer.explain_patch(TEXT, vector, [0], 4).text


@pytest.mark.parametrize("name", DATASETS)
def test_datasets_load_completely_and_as_streams(reader, finished, name):
    task = next(task.name for task in TASKS.values() if name.endswith(task.dataset_name))
    splits = json.loads((finished / "datasets" / task / "statistics.json").read_text())["splits"]
    assert reader[name] == {"rows": {split: part["rows"] for split, part in splits.items()}, "first": True}


def test_two_revisions_and_copies_of_them_give_their_own_rows(reader, finished):
    stored = read_split(finished / "datasets" / "activation_patching" / "test.parquet", ["prompt"])[
        "prompt"
    ].to_pylist()
    assert reader["revisions"] == [[stored] * 2, [stored[::-1]] * 2]


def test_answers_load_with_all_systems(reader):
    assert {"explainer", "shuffled_vector", "untrained"} <= set(reader["answers"])


def test_snippets_on_the_cards_run_unchanged(reader):
    printed = reader["snippets"]
    assert {name.rpartition(" ")[0] for name in printed} == {MODEL, *DATASETS, RESULTS}
    assert len(printed[f"{MODEL} 0"].splitlines()) >= 3  # at least one line per task
    assert all(printed[f"{name} 0"].strip() for name in DATASETS)


def test_published_metric_loads_with_evaluate(reader):
    assert reader["metric"] == {"content_match": 0.5}


def test_metric_repositories_are_gradio_spaces_with_the_tag_of_the_package(pushed):
    for name in METRICS:
        repo = pushed.repo(f"spaces/lab/{name}")
        assert repo.sdk == "gradio"
        assert {"README.md", f"{name}.py", "app.py", "requirements.txt"} <= repo.files.keys()
        card = RepoCard(repo.files["README.md"].decode())
        assert "selfexplain" in card.data.tags and card.data.sdk == "gradio"
        assert f'evaluate.load("lab/{name}")' in card.text


def test_space_names_its_model_and_contains_the_app(pushed, space):
    files = pushed.repo(SPACE).files
    card = RepoCard(files["README.md"].decode())
    assert card.data.models == [MODEL] and card.data.sdk == "gradio"
    assert files["app.py"] == (space / "app.py").read_bytes()


def test_repositories_link_to_each_other_on_the_hub_in_use(pushed):
    cards = {name: pushed.repo(name).files["README.md"].decode() for name in (MODEL, "datasets/" + DATASETS[1])}
    assert all(f"({pushed.url}/datasets/{name})" in cards[MODEL] for name in DATASETS)
    assert f"({pushed.url}/{SPACE})" in cards[MODEL]
    assert f"({pushed.url}/{MODEL})" in cards["datasets/" + DATASETS[1]]
    assert not any("https://huggingface.co" in card for card in cards.values())
