"""Loading an explainer and the files that belong to it."""

import pytest

import showcase
from asking.ablation import ask_ablation
from asking.feature import ask_feature
from asking.patch import ask_patch
from examples import EXAMPLE_SOURCES
from rendering.frame import header
from rendering.results import results
from selfexplain import bundled
from selfexplain.errors import SelfExplainError
from selfexplain.tasks import BUILT_IN


def test_the_embedded_explainer_has_results_features_and_examples(show):
    assert show.name == "selfexplain/tiny-selfexplainer" and show.separate_target is None
    assert list(show.results.tasks) == [task.name for task in BUILT_IN]
    assert len(show.features) == 100 and len(show.texts) > 50
    assert {task: len(examples) for task, examples in show.examples.items()} == {
        "feature_description": 4,
        "activation_patching": 4,
        "input_ablation": 3,
    }


def test_a_run_directory_gets_held_out_rows_as_examples(run):
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = "The capital of Peru is"
    row = {"target_prompt": text, "source_prompt": "The capital of Cuba is", "layers": [2, 3], "position": 4,
           "source_position": 4, "token_type": "subject_final", "group": "Peru", "changed": True}  # fmt: skip
    directory = run / "datasets" / "activation_patching"
    directory.mkdir()
    pq.write_table(pa.Table.from_pylist([row, row, row | {"group": "x", "changed": False}]), directory / "test.parquet")
    loaded = showcase.load(str(run))
    assert loaded.name == str(run / "explainer") and loaded.results and loaded.features
    patching = loaded.examples["activation_patching"]
    assert [(example.text, example.layers, example.token) for example in patching] == [(text, (2, 3), 4)] * 2
    assert loaded.examples["input_ablation"] == EXAMPLE_SOURCES["input_ablation"].fallback
    assert ask_patch(loaded, text, row["source_prompt"], (2, 3), 4, 4).after


def test_a_bare_model_directory_is_enough():
    loaded = showcase.load(bundled.resolve("selfexplain/tiny-selfexplainer"))
    assert loaded.results is None and loaded.features == []
    assert loaded.examples == {task: source.fallback for task, source in EXAMPLE_SOURCES.items()}
    assert ask_feature(loaded, "The capital of France is", 0, 4).explanation.text
    assert "no scores to show" in results(loaded.results)


def test_a_merged_explainer_answers_like_the_original(show, tmp_path):
    path, text, hint = tmp_path / "merged", "The capital of France is", "\nHint: The answer is Oslo."
    show.explainer.merge_and_save(path)
    loaded = showcase.load(str(path))
    assert loaded.separate_target is loaded.target and loaded.target.name == "selfexplain/tiny"
    assert "Ask a model about itself" in header(loaded)
    trials = [
        [
            ask_feature(each, text, 1, 4),
            ask_patch(each, text, "The capital of Japan is", (0, 1), 4, 4),
            ask_ablation(each, f"Where is Oslo?\nNorway or Peru?{hint}\nAnswer:", hint),
        ]
        for each in (loaded, show)
    ]
    for merged, original in zip(*trials, strict=True):
        assert (merged.before, merged.after) == (original.before, original.after)
        assert merged.explanation.text == original.explanation.text


def test_the_first_model_in_the_readme_is_loaded_by_default(tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text("---\nmodels:\n- org/one\n- org/two\n---\n")
    monkeypatch.setattr(showcase, "HERE", tmp_path)
    assert showcase.listed_model() == "org/one"


def test_the_readme_has_the_metadata_that_the_hub_needs():
    from huggingface_hub import RepoCard

    card = RepoCard.load(showcase.HERE / "README.md").data.to_dict()
    assert card["sdk"] == "gradio" and card["app_file"] == "app.py" and card["python_version"] == "3.12"
    assert len(card["short_description"]) <= 60 and "models" not in card


def test_the_readme_lists_every_file():
    text = (showcase.HERE / "README.md").read_text()
    names = {path.name for path in showcase.HERE.iterdir() if not path.name.startswith((".", "__"))}
    assert {name for name in names if name not in text} == {"README.md", "requirements.txt"}


def test_a_missing_directory_is_an_error(tmp_path):
    with pytest.raises(SelfExplainError, match="gone"):
        showcase.load(str(tmp_path / "gone"))
