"""Test `selfexplain dataset stats` and `selfexplain dataset check`."""

from types import SimpleNamespace

import pytest

from selfexplain.runs.run_directory import RunDirectory


def test_statistics_are_printed_one_per_line(invoke, finished):
    dataset = RunDirectory(finished).dataset("activation_patching")
    result = invoke("dataset", "stats", str(dataset.root))
    assert result.exit_code == 0, result.output
    rows = dataset.statistics().splits["test"].rows
    assert f"  test: rows {rows}, groups" in result.stdout
    assert "lookup_rule_macro_f1" in result.stdout


def test_statistics_need_the_directory_of_a_dataset(invoke, tmp_path):
    result = invoke("dataset", "stats", str(tmp_path))
    assert result.exit_code == 2
    assert "does not exist. Give the directory of one task" in result.stderr


@pytest.mark.parametrize("passed", [True, False])
def test_check_reports_rows_with_a_different_outcome(invoke, monkeypatch, tmp_path, passed):
    row = SimpleNamespace(split="test", row=3, stored="Rome", found="Oslo", rerun="Oslo")
    outcome = SimpleNamespace(target="lab/model", n_rows=9, disagreements=[row], passed=passed)
    monkeypatch.setattr("selfexplain.groundtruth.check.check_dataset", lambda directory, rows, **options: outcome)
    result = invoke("dataset", "check", str(tmp_path), "--rows", "9")
    assert result.exit_code == (0 if passed else 2)
    assert "8 of 9 rows are reproduced on lab/model" in result.stdout
    assert "test row 3: stored Rome, now Oslo" in result.stdout
    assert ("does not describe this target" in result.stderr) != passed


def test_check_covers_feature_rows_of_a_run(invoke, finished):
    result = invoke("dataset", "check", str(RunDirectory(finished).dataset("feature_description").root), "--rows", "9")
    assert result.exit_code == 0, result.output
    assert "9 of 9 rows are reproduced on selfexplain/tiny" in result.stdout


def test_export_prints_the_files_it_wrote(invoke, monkeypatch, tmp_path):
    def export(directory, out_dir, format):
        assert (directory, format) == (tmp_path, "transluce")
        return [out_dir / "train.parquet", out_dir / "test.parquet"]

    monkeypatch.setattr("selfexplain.groundtruth.export.export_dataset", export)
    result = invoke("dataset", "export", str(tmp_path), "out")
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == ["out/train.parquet", "out/test.parquet"]


def test_export_names_the_known_formats(invoke, tmp_path):
    result = invoke("dataset", "export", str(tmp_path), "out", "--format", "csv")
    assert result.exit_code == 2 and "Known: transluce" in result.stderr
