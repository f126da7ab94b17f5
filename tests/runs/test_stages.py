"""The stage engine, on steps that only append a letter to a file."""

import errno
import json
from contextlib import nullcontext

import pytest

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.shards import fingerprint_files
from selfexplain.runs.stages import Step, execute, forget_removed, open_run

IDENTITY = {"recipe": "fake", "target": "none"}


class FakeRun:
    """Three steps: `left` and `right` side by side, `join` after both. `calls` says what ran."""

    def __init__(self, run_dir):
        self.run_dir = run_dir
        self.calls = []
        self.inputs = {"left": 0, "right": 0, "join": 0}
        self.failures = {}

    def step(self, name, after=()):
        def action():
            self.calls.append(name)
            path = self.run_dir / name / "data.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a") as file:
                file.write(name)
            if name in self.failures:
                raise self.failures.pop(name)

        return Step(name, {"value": self.inputs[name]}, (name,), action, after)

    def go(self):
        self.calls.clear()
        steps = [self.step("left"), self.step("right"), self.step("join", ("left", "right"))]
        execute(steps, self.run_dir, open_run(self.run_dir, IDENTITY, seed=0))
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


def test_changed_inputs_rerun_the_step_and_what_follows_from_nothing(fake):
    fake.go()
    fake.inputs["right"] = 1
    assert fake.go() == ["right", "join"]
    assert (fake.run_dir / "join" / "data.txt").read_text() == "join"
    fake.inputs["join"] = 1
    assert fake.go() == ["join"]


@pytest.mark.parametrize("failure", [RuntimeError("killed"), KeyboardInterrupt()])
def test_a_stopped_step_continues_on_what_it_left(fake, failure):
    fake.failures["right"] = failure
    with pytest.raises(type(failure)):
        fake.go()
    assert manifest(fake)["stages"]["right"]["status"] == "stopped"
    assert fake.go() == ["right", "join"]
    assert (fake.run_dir / "right" / "data.txt").read_text() == "rightright"


def test_a_stopped_step_with_other_inputs_starts_from_nothing(fake):
    fake.failures["right"] = RuntimeError("killed")
    with pytest.raises(RuntimeError):
        fake.go()
    fake.inputs["right"] = 1
    fake.go()
    assert (fake.run_dir / "right" / "data.txt").read_text() == "right"


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_text("le")])
def test_missing_or_half_written_files_are_made_anew_with_what_reads_them(fake, damage):
    fake.go()
    damage(fake.run_dir / "left" / "data.txt")
    assert fake.go() == ["left", "join"]
    assert (fake.run_dir / "left" / "data.txt").read_text() == "left"


@pytest.mark.parametrize(
    "failure",
    [
        OSError(errno.ENOSPC, "full"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"),  # of torch.save
    ],
)
def test_a_full_disk_says_so_and_keeps_what_is_done(fake, failure):
    fake.failures["right"] = failure
    with pytest.raises(SelfExplainError, match=r"right: no space left.*same command"):
        fake.go()
    assert fake.go() == ["right", "join"]


@pytest.mark.parametrize("failure", [None, KeyboardInterrupt()])
def test_what_a_removed_step_rewrote_is_made_anew(fake, failure):
    run_dir, manifest_of = fake.run_dir, lambda: open_run(fake.run_dir, IDENTITY, seed=0)

    def amend():
        (run_dir / "left" / "data.txt").write_text("left, amended")
        path = run_dir / "extra" / "deep" / "data.txt"
        path.parent.mkdir(parents=True)
        path.write_text("extra")
        if failure:
            raise failure

    fake.go()
    steps = [fake.step("left"), fake.step("right"), fake.step("join", ("left", "right"))]
    extra = Step("extra", {}, ("extra/deep",), amend, ("left",), amends=("left/data.txt",))
    with pytest.raises(KeyboardInterrupt) if failure else nullcontext():
        execute([*steps, extra], run_dir, manifest_of())
    assert fake.go() == []
    forget_removed(steps, run_dir, manifest_of())
    assert "extra" not in manifest(fake)["stages"] and (failure or not list(run_dir.rglob("extra/deep/*")))
    assert fake.go() == ["left", "join"]
    assert (run_dir / "left" / "data.txt").read_text() == "left"
    forget_removed(steps[1:2], run_dir, manifest_of())  # finished, and rewrote nothing: kept
    assert fake.go() == []


def test_another_run_in_the_directory_is_left_alone(fake):
    fake.go()
    before = fingerprint_files(fake.run_dir)
    with pytest.raises(SelfExplainError, match=r"another run: recipe fake.*given: recipe other.*output_dir=DIR"):
        open_run(fake.run_dir, {**IDENTITY, "recipe": "other"}, seed=0)
    assert fingerprint_files(fake.run_dir) == before


def test_files_that_are_no_run_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(SelfExplainError, match="holds files but no run"):
        open_run(tmp_path, IDENTITY, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("text", ["", '{"identity":', "[]", '{"schema_version": 2}'])
def test_a_corrupt_manifest_says_what_to_do(fake, text):
    fake.go()
    (fake.run_dir / "manifest.json").write_text(text)
    with pytest.raises(SelfExplainError, match=r"manifest\.json is corrupt.*delete"):
        fake.go()


def test_a_file_in_place_of_the_directory(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(SelfExplainError, match="cannot be used as a run directory"):
        open_run(tmp_path / "run", IDENTITY, seed=0)


def test_the_fingerprint_of_a_directory_follows_names_and_contents(tmp_path):
    (tmp_path / "a").write_text("1")
    first = fingerprint_files(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    renamed = fingerprint_files(tmp_path)
    (tmp_path / "b").write_text("2")
    assert len({first, renamed, fingerprint_files(tmp_path)}) == 3
