"""Card sections: the task-specific text of cards, as templates with named macros, registered by task name.

A template defines any of these macros; a macro that it lacks is taken from `model_cards/tasks/generic.md.jinja`, which
needs nothing but the `Task` record:

- `construction(task)`: how rows were made.
- `columns(task)`: table rows that describe the task's own columns.
- `splits(task)`: what was left out of the splits.
- `out_of_distribution(task)`: what the additional test sets contain.
- `imports(task, usage)`: import lines that the usage snippet needs.
- `usage(task, row, usage)`: Python lines that ask the question of a row; `explainer` exists (see `Usage`).
- `limits(task)`: list items for "Limits and misuse".
"""

from dataclasses import dataclass
from pathlib import Path

from selfexplain.resources import resource
from selfexplain.tasks import activation_patching, feature_description, input_ablation
from selfexplain.utils.registry import Registry

GENERIC_TEMPLATE = "tasks/generic.md.jinja"


@dataclass(frozen=True)
class CardSection:
    """Where the macros of a task are.

    Attributes:
        template: path of the template, absolute or relative to the package's `model_cards/`.
    """

    template: str

    def __post_init__(self) -> None:
        path = Path(self.template)
        if not (path if path.is_absolute() else resource("model_cards") / path).is_file():
            raise FileNotFoundError(f"The card template {self.template} does not exist. Give its absolute path.")


@dataclass(frozen=True)
class Usage:
    """How the code on a model card reaches the explainer's target.

    Attributes:
        target_argument: `, target=target` if calls need it, otherwise empty.
        reads_target: whether the reader can load the target; if not, snippets use random vectors.
        has_tokenizer: whether the explainer's own tokenizer is the target's, so that questions about a text need no
            target.
        load_rows: arguments of `load_dataset` for the task's rows.
    """

    target_argument: str
    reads_target: bool
    has_tokenizer: bool
    load_rows: str


CARD_SECTIONS: Registry[CardSection] = Registry("card section")
"""Task name -> its card section. Tasks that are not registered get the generic one."""

for _task in (feature_description, activation_patching, input_ablation):
    CARD_SECTIONS.register(_task.TASK.name, CardSection(f"tasks/{_task.TASK.name}.md.jinja"))


def templates_of(task: str) -> tuple[str, ...]:
    """The templates to look for a macro in, in this order."""
    own = (CARD_SECTIONS[task].template,) if task in CARD_SECTIONS else ()
    return (*own, GENERIC_TEMPLATE)
