"""Datasets are exported in the published form of Transluce, and can be read back from it."""

from dataclasses import replace

import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.build import build
from selfexplain.groundtruth.builders.transluce import from_transluce, read_patching
from selfexplain.groundtruth.export import export_dataset, to_transluce
from selfexplain.groundtruth.formats import read_rows
from selfexplain.groundtruth.splits import SPLITS
from selfexplain.utils.table_files import read_file

KEPT = ("source_prompt", "layers", "position", "token", "token_type", "source_position",
        "clean_output", "patched_output", "changed", "completion")  # fmt: skip


@pytest.fixture
def built(sensitive_target, target_dir, world, pairs_config, tmp_path):
    """A dataset about a target whose directory exists, because the export loads its tokenizer."""
    build(
        "activation_patching",
        pairs_config,
        replace(sensitive_target, name=str(target_dir)),
        world,
        tmp_path / "data",
        seed=0,
    )
    return tmp_path / "data"


def test_exported_rows_can_be_read_as_published_rows(built, tokenizer, tmp_path):
    paths = export_dataset(built, tmp_path / "exported")
    assert [path.name for path in paths] == [f"{split}.parquet" for split in SPLITS]
    for path in paths:
        rows = read_rows(built / path.name)
        exported = list(read_file(path))
        assert len(exported) == len(rows)
        for row, record in zip(rows, exported, strict=True):
            copy = from_transluce(read_patching, record, tokenizer)
            assert {name: copy[name] for name in KEPT} == {name: row[name] for name in KEPT}
            # The published form has no text, only tokens, which include special tokens.
            assert copy["target_prompt"] == "".join(row["prompt_tokens"])
            assert (copy["activations"][0] == row["activations"][0]).all()


def test_an_unknown_format_raises_an_error(tmp_path):
    with pytest.raises(SelfExplainError, match=r"no export format 'csv'\. Known: transluce"):
        export_dataset(tmp_path, tmp_path / "exported", "csv")


def test_a_task_without_a_published_form_raises_an_error():
    with pytest.raises(SelfExplainError, match="no Transluce format for the task 'feature_description'"):
        to_transluce("feature_description", [{}], None)
