"""Test the engine with steps that append their name to a file."""

import errno
import json
from contextlib import nullcontext

import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.runs.engine import Step, execute, forget_removed, open_run
from selfexplain.utils.hashing import fingerprint_files

IDENTITY = {"recipe": "fake", "target": "none"}


class FakeRun:
    """Three steps: `left` and `right` are independent, `join` reads both. `calls` lists the steps that ran."""

    def __init__(self, run_dir):
        self.run_dir = run_dir
        self.calls = []
        self.inputs = {"left": 0, "right": 0, "join": 0}
        self.failures = {}
        self.revisions = {}

    def step(self, name, after=()):
        def action():
            self.calls.append(name)
            path = self.run_dir / name / "data.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a") as file:
                file.write(name)
            if name in self.failures:
                raise self.failures.pop(name)
            return self.revisions.get(name)

        return Step(name, {"value": self.inputs[name]}, (name,), action, after)

    def steps(self):
        return [self.step("left"), self.step("right"), self.step("join", ("left", "right"))]

    def open(self):
        return open_run(self.run_dir, IDENTITY, seed=0)

    def go(self):
        self.calls.clear()
        execute(self.steps(), self.open())
        return self.calls


@pytest.fixture
def fake(tmp_path):
    return FakeRun(tmp_path / "run")


def manifest(fake):
    return json.loads((fake.run_dir / "manifest.json").read_text())


def test_steps_run_in_order_and_once(fake):
    assert fake.go() == ["left", "right", "join"]
    assert fake.go() == []
    stages = manifest(fake)["stages"]
    assert [record["status"] for record in stages.values()] == ["done"] * 3
    assert stages["left"]["outputs"] == {"left/data.txt": len("left")}
    assert manifest(fake)["versions"]["selfexplain"]


def test_changed_inputs_rerun_the_step_and_its_readers_from_the_beginning(fake):
    fake.go()
    fake.inputs["right"] = 1
    assert fake.go() == ["right", "join"]
    assert (fake.run_dir / "join" / "data.txt").read_text() == "join"
    fake.inputs["join"] = 1
    assert fake.go() == ["join"]


@pytest.mark.parametrize("failure", [RuntimeError("killed"), KeyboardInterrupt()])
def test_an_interrupted_step_continues_from_its_files(fake, failure):
    fake.failures["right"] = failure
    with pytest.raises(type(failure)):
        fake.go()
    assert manifest(fake)["stages"]["right"]["status"] == "stopped"
    assert fake.go() == ["right", "join"]
    assert (fake.run_dir / "right" / "data.txt").read_text() == "rightright"


def test_an_interrupted_step_with_changed_inputs_starts_from_the_beginning(fake):
    fake.failures["right"] = RuntimeError("killed")
    with pytest.raises(RuntimeError, match="killed"):
        fake.go()
    fake.inputs["right"] = 1
    fake.go()
    assert (fake.run_dir / "right" / "data.txt").read_text() == "right"


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_text("le")])
def test_missing_or_truncated_files_are_rebuilt_together_with_the_steps_that_read_them(fake, damage):
    fake.go()
    damage(fake.run_dir / "left" / "data.txt")
    assert fake.go() == ["left", "join"]
    assert (fake.run_dir / "left" / "data.txt").read_text() == "left"


def test_revisions_that_a_step_returns_are_in_the_manifest(fake):
    fake.revisions["left"] = {"neuronpedia x": "0" * 64}
    fake.go()
    assert manifest(fake)["revisions"] == {"neuronpedia x": "0" * 64}


@pytest.mark.parametrize(
    "failure",
    [
        OSError(errno.ENOSPC, "full"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"),  # of torch.save
    ],
)
def test_a_full_disk_is_reported_and_finished_work_is_kept(fake, failure):
    fake.failures["right"] = failure
    with pytest.raises(SelfExplainError, match=r"Step right: no space left.*same command"):
        fake.go()
    assert fake.go() == ["right", "join"]


@pytest.mark.parametrize("failure", [None, KeyboardInterrupt()])
def test_files_that_a_removed_step_rewrote_are_rebuilt(fake, failure):
    run_dir = fake.run_dir

    def amend():
        (run_dir / "left" / "data.txt").write_text("left, amended")
        path = run_dir / "extra" / "deep" / "data.txt"
        path.parent.mkdir(parents=True)
        path.write_text("extra")
        if failure:
            raise failure

    fake.go()
    steps = fake.steps()
    extra = Step("extra", {}, ("extra/deep",), amend, ("left",), amends=("left/data.txt",))
    with pytest.raises(KeyboardInterrupt) if failure else nullcontext():
        execute([*steps, extra], fake.open())
    assert fake.go() == []
    forget_removed(steps, fake.open())
    assert "extra" not in manifest(fake)["stages"]
    assert bool(list(run_dir.rglob("extra/deep/*"))) == bool(failure)  # files of an unfinished step are not known
    assert fake.go() == ["left", "join"]
    assert (run_dir / "left" / "data.txt").read_text() == "left"
    forget_removed(steps[1:2], fake.open())  # the others are finished and rewrote nothing, so they are kept
    assert fake.go() == []


def test_a_directory_with_a_different_run_is_not_changed(fake):
    fake.go()
    before = fingerprint_files(fake.run_dir)
    with pytest.raises(SelfExplainError, match=r"different run \(recipe fake.*\(recipe other.*output_dir=DIR"):
        open_run(fake.run_dir, {**IDENTITY, "recipe": "other"}, seed=0)
    assert fingerprint_files(fake.run_dir) == before


def test_a_directory_with_other_files_is_not_changed(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(SelfExplainError, match="contains files but not a run"):
        open_run(tmp_path, IDENTITY, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not valid JSON"),
        ('{"identity":', "is not valid JSON"),
        ("[]", "expected an object"),
        ("{}", "does not have the expected form"),
        ('{"schema_version": 2}', "schema version 2"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_refused(fake, text, words):
    fake.go()
    (fake.run_dir / "manifest.json").write_text(text)
    with pytest.raises(SelfExplainError, match=rf"manifest\.json.*{words}"):
        fake.go()
    assert (fake.run_dir / "manifest.json").read_text() == text


def test_a_file_in_place_of_the_directory_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(SelfExplainError, match="cannot be used as a run directory"):
        open_run(tmp_path / "run", IDENTITY, seed=0)


def test_files_outside_of_the_run_are_neither_read_nor_deleted(fake, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "data.txt").write_text("keep")
    fake.run_dir.mkdir()
    (fake.run_dir / "left").symlink_to(outside)
    (fake.run_dir / "manifest.json").write_text(
        json.dumps({"schema_version": 1, "identity": IDENTITY, "seed": 0, "versions": {}, "stages": {}})
    )
    with pytest.raises(SelfExplainError, match="left is a symbolic link to"):
        fake.go()
    (fake.run_dir / "left").unlink()
    for name in ("../outside", str(outside)):
        step = Step("left", {}, (name,), lambda: None)
        with pytest.raises(SelfExplainError, match="is not a relative path inside"):
            execute([step], fake.open())
    assert (outside / "data.txt").read_text() == "keep"
