"""`selfexplain dataset`: what a dataset says of itself, and whether the target still does it."""

import pyarrow.parquet as parquet
import pytest
from typer.testing import CliRunner

from selfexplain.cli import app
from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth import check
from selfexplain.groundtruth.build import build
from selfexplain.groundtruth.check import check_dataset
from selfexplain.groundtruth.config import AblationConfig


def run(*arguments):
    return CliRunner().invoke(app, ["dataset", *map(str, arguments)])


def test_rows_are_confirmed_and_what_does_not_fit_is_told(lively, world, pairs_config, tmp_path, monkeypatch):
    import torch

    build("activation_patching", pairs_config, lively, world, tmp_path / "patching", seed=0)
    build("input_ablation", AblationConfig(n_questions=200, n_rows=60), lively, world, tmp_path / "ablation", seed=0)
    monkeypatch.setattr(check, "load_target", lambda name, revision, dtype: lively)
    for task in ("patching", "ablation"):
        checked = run("check", tmp_path / task, "--rows", 30)
        assert checked.exit_code == 0 and "30 of 30 rows come out again" in checked.output
        told = run("stats", tmp_path / task)
        assert told.exit_code == 0 and "balance:" in told.output and "lookup_rule_macro_f1" in told.output
    for path in (tmp_path / "ablation").glob("*.parquet"):  # as they were before these columns
        parquet.write_table(parquet.read_table(path).drop_columns(["replacement", "answered_by"]), path)
    (tmp_path / "ablation" / "manifest.json").unlink()
    assert check_dataset(tmp_path / "ablation", 3).passed
    assert "nothing wrong" not in run("stats", tmp_path).output and run("stats", tmp_path).exit_code == 2

    torch.nn.init.normal_(lively.model.lm_head.weight)  # another model
    checked = run("check", tmp_path / "patching", "--rows", 30)
    assert checked.exit_code == 2 and "stored" in checked.output and "not about this target" in checked.output
    path = tmp_path / "patching" / "test.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(SelfExplainError, match="SHA-256 differs"):
        check_dataset(tmp_path / "patching", 3, target=lively)
