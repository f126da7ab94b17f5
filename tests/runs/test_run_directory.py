"""Test the paths of a run and the search for its explainer."""

import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.runs.find_explainer import find_explainer
from selfexplain.runs.run_directory import RunDirectory


def test_contents_lists_only_what_exists(tmp_path):
    run = RunDirectory(tmp_path)
    assert run.contents() == {}
    run.results_path.write_text("{}")
    run.cards.mkdir()
    assert [path.name for path in run.contents()] == ["results.json", "cards"]


def test_paths_of_the_comparison_are_below_its_directory(tmp_path):
    run = RunDirectory(tmp_path)
    assert run.relative(run.other_model("b").dataset("input_ablation").rows("test")) == (
        "comparison/b/datasets/input_ablation/test.parquet"
    )
    assert run.relative(run.compared_answers("a/by-b/share-1-seed-0")) == "comparison/a/by-b/share-1-seed-0/answers"


def test_a_missing_file_is_reported_with_its_path(tmp_path):
    with pytest.raises(SelfExplainError, match=r"results\.json does not exist\. Run the recipe again"):
        RunDirectory(tmp_path).read_results()
    with pytest.raises(SelfExplainError, match=r"recipe\.yaml does not exist"):
        RunDirectory(tmp_path).read_recipe()


def test_the_explainer_of_a_run_is_found(tmp_path):
    run = RunDirectory(tmp_path)
    run.manifest_path.write_text("{}")
    with pytest.raises(SelfExplainError, match="has no trained explainer"):
        find_explainer(str(tmp_path))
    run.explainer.mkdir()
    (run.explainer / "config.json").write_text("{}")
    assert find_explainer(str(tmp_path)) == str(run.explainer)


def test_models_are_returned_unchanged(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert find_explainer(str(tmp_path)) == str(tmp_path)
    assert find_explainer("somebody/explainer") == "somebody/explainer"
    assert find_explainer("selfexplain/tiny-selfexplainer").endswith("tiny-selfexplainer")


def test_a_directory_with_neither_a_run_nor_a_model_is_refused(tmp_path):
    with pytest.raises(SelfExplainError, match=r"neither a run .* nor a model"):
        find_explainer(str(tmp_path))
    with pytest.raises(SelfExplainError, match=r"does not exist\. Give a run directory"):
        find_explainer(str(tmp_path / "none"))


def test_files_are_inside_the_run_directory(tmp_path):
    (tmp_path / "run" / "datasets").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "run")
    run = RunDirectory(tmp_path / "link")  # the run directory itself may be a link
    assert run.file("datasets/x.json") == tmp_path / "link" / "datasets" / "x.json"
    for name in ("/etc/passwd", "../run/x", "a/../../x"):
        with pytest.raises(SelfExplainError, match="is not a relative path inside"):
            run.file(name)
    run.check_links()
    (run.datasets / "own").symlink_to(run.datasets)
    run.check_links()
    for name in ("datasets/own", "datasets/own/x.json"):
        with pytest.raises(SelfExplainError, match="is a symbolic link or is reached through one"):
            run.file(name)


@pytest.mark.parametrize("place", ["explainer", "explainer.txt", "a/b/c"])
def test_links_that_leave_the_run_directory_are_refused(tmp_path, place):
    run = RunDirectory(tmp_path / "run")
    link = run.root / place
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path)
    with pytest.raises(SelfExplainError, match=f"{place} is a symbolic link to .*outside of the run directory"):
        run.check_links()
