"""`manifest.json` of a run: which run a directory holds, and which steps are done."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from selfexplain.utils.names import RelativePath
from selfexplain.utils.records import Record, Value


class StepRecord(Value):
    """The state of one step.

    Attributes:
        input_hash: SHA-256 of everything that the step's result depends on.
        status: "running" during the step (and after the process was killed), "stopped" after an error or Ctrl-C.
        seconds: time spent on the step, over all attempts.
        outputs: files that the step wrote, with their sizes in bytes; a size of 0 is not checked.
        after, amends: the same as in `engine.Step`.
    """

    input_hash: str
    status: Literal["running", "stopped", "done"] = "running"
    seconds: float = 0.0
    outputs: dict[RelativePath, int] = Field(default_factory=dict)
    after: tuple[str, ...] = ()
    amends: tuple[RelativePath, ...] = ()

    @property
    def is_done(self) -> bool:
        return self.status == "done"


class RunManifest(Record):
    """The identity and the progress of the run in a directory.

    Attributes:
        identity: values that distinguish this run from others, such as the names of its recipe and its models.
        seed: seed of the run.
        versions: library -> version, at the latest start.
        revisions: "<kind> <id>@<revision>" -> commit on the Hub that the run uses; "neuronpedia <source>" -> SHA-256 of
            an export, which has no commit; "rows <directory>" -> SHA-256 of the rows that the explainer was trained on;
            "weights <directory>" -> how the weights were converted.
        stages: name of a step -> its state, in the order in which the steps first ran.
    """

    remedy: ClassVar[str] = "Use a different directory (output_dir=DIR), or delete this one to start again."

    schema_version: Literal[1] = 1
    identity: dict[str, str]
    seed: int
    versions: dict[str, str]
    revisions: dict[str, str] = Field(default_factory=dict)
    stages: dict[str, StepRecord] = Field(default_factory=dict)

    @property
    def steps(self) -> Mapping[str, StepRecord]:
        """The entries of `stages`, which are steps."""
        return self.stages

    @property
    def seconds(self) -> dict[str, float]:
        """Finished step -> its duration in seconds."""
        return {name: step.seconds for name, step in self.stages.items() if step.is_done}
