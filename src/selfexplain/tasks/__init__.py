"""Define the questions: their wording, and how answers are written and parsed. This package contains no tensors."""

from selfexplain.tasks import activation_patching, feature_description, input_ablation
from selfexplain.tasks.task import TASKS, Task, register

BUILT_IN = (feature_description.TASK, activation_patching.TASK, input_ablation.TASK)
"""The three tasks of the package, in the order of tables and cards."""

for _task in BUILT_IN:
    register(_task)

__all__ = ["BUILT_IN", "TASKS", "Task", "register"]
