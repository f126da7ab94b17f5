"""The forecast of a build: logged before anything is computed, and an error if the disk is too small."""

import logging
import shutil
from collections import namedtuple

import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.builders.forecast import forecast

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def write_rows():
    """Write 100 rows of 8 bytes per item."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    def write(items, path):
        write.calls.append(list(items))
        parquet.write_table(pa.table({"value": range(100 * len(items))}), path)

    write.calls = []
    return write


def test_a_sample_of_the_items_is_run_and_the_total_is_logged(write_rows, tokenizer, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "selfexplain"):
        forecast("some task", [f"The capital {n}" for n in range(200)], write_rows, tokenizer, tmp_path)
    assert [len(items) for items in write_rows.calls] == [1, 4]  # one to warm up, then one in fifty
    assert write_rows.calls[1] == [f"The capital {n}" for n in (0, 50, 100, 150)]
    assert "some task: 200 items, about 20,000 interventions on" in caplog.text and "in 1 process" in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_too_small_raises_an_error(write_rows, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**6, 10**6 - 1000, 1000))
    with pytest.raises(SelfExplainError, match=r"will need about .*B of disk, but .* are free at .*Free some space"):
        forecast("some task", ["The capital"] * 10_000, write_rows, tokenizer, tmp_path)
