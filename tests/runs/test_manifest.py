"""Test the record of a run."""

import json

import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.runs.manifest import RunManifest, StepRecord


def test_a_manifest_reads_back_equal_and_keeps_the_names_of_its_keys(tmp_path):
    step = StepRecord(input_hash="0" * 64, status="done", seconds=1.5, outputs={"a/b": 3}, after=("x",), amends=("c",))
    manifest = RunManifest(identity={"recipe": "r"}, seed=1, versions={"torch": "2"}, stages={"train": step})
    manifest.write(tmp_path / "manifest.json")
    assert RunManifest.read(tmp_path / "manifest.json") == manifest
    data = json.loads((tmp_path / "manifest.json").read_text())
    assert set(data) == {"identity", "seed", "versions", "schema_version", "revisions", "stages"}
    assert data["stages"]["train"] == {
        "input_hash": "0" * 64, "status": "done", "seconds": 1.5, "outputs": {"a/b": 3}, "after": ["x"],
        "amends": ["c"],
    }  # fmt: skip


def test_only_finished_steps_have_a_duration():
    steps = {
        "a": StepRecord(input_hash="", status="done", seconds=2.0),
        "b": StepRecord(input_hash="", status="stopped", seconds=3.0),
    }
    assert RunManifest(identity={}, seed=0, versions={}, stages=steps).seconds == {"a": 2.0}


@pytest.mark.parametrize("field", ["outputs", "amends"])
@pytest.mark.parametrize("path", ["/etc/passwd", "../outside.txt", "a/../../b", ""])
def test_paths_outside_of_the_run_are_refused(tmp_path, field, path):
    step = {"input_hash": "", field: {path: 1} if field == "outputs" else [path]}
    data = {"schema_version": 1, "identity": {}, "seed": 0, "versions": {}, "stages": {"train": step}}
    (tmp_path / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(SelfExplainError, match=r"manifest\.json does not have.*is not a relative path inside the run"):
        RunManifest.read(tmp_path / "manifest.json")
