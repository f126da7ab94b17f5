"""Test `selfexplain run` and `selfexplain results`."""

from selfexplain.runs.run_directory import RunDirectory


def test_values_and_directory_reach_the_run(invoke, monkeypatch, tmp_path):
    calls = []

    def fake(recipe, output_dir, stage):
        calls.append((recipe.seed, output_dir, stage))
        (tmp_path / "manifest.json").write_text("{}")
        return tmp_path

    monkeypatch.setattr("selfexplain.pipeline.driver.run", fake)
    result = invoke("run", "quickstart", "seed=7", f"output_dir={tmp_path}", "--stage", "dataset")
    assert result.exit_code == 0, result.output
    assert calls == [(7, tmp_path, "dataset")]
    assert "Where to look next:" in result.stdout
    assert "manifest.json: the steps that ran" in result.stdout


def test_a_finished_run_shows_its_results(invoke, monkeypatch, finished):
    monkeypatch.setattr("selfexplain.pipeline.driver.run", lambda *arguments: finished)
    result = invoke("run", "quickstart")
    assert result.exit_code == 0, result.output
    assert "feature description" in result.stdout and "results.json: all scores" in result.stdout


def test_results_as_tables_and_as_markdown(invoke, finished):
    tables, markdown = invoke("results", str(finished)), invoke("results", str(finished), "--markdown")
    assert tables.exit_code == markdown.exit_code == 0
    assert "shuffled vector" in tables.stdout and "| shuffled vector |" not in tables.stdout
    assert "| shuffled vector |" in markdown.stdout


def test_results_need_a_finished_run(invoke, tmp_path):
    result = invoke("results", str(tmp_path))
    assert result.exit_code == 2
    assert "has no results.json. Give the directory of a finished run." in result.stderr
    assert not RunDirectory(tmp_path).is_run
