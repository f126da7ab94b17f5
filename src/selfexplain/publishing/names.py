"""What the parts of a run are called on the Hub."""

import re
from dataclasses import dataclass

DATASET_NAMES = {
    "feature_description": "selfexplain-features",
    "activation_patching": "selfexplain-patching",
    "input_ablation": "selfexplain-ablation",
}


@dataclass(frozen=True)
class Names:
    """Ids of the repositories of one organisation (or user); `recipe` is the name of a recipe."""

    org: str

    def model(self, recipe: str) -> str:
        return f"{self.org}/{recipe}-selfexplainer"

    def dataset(self, task: str) -> str:
        return f"{self.org}/{DATASET_NAMES[task]}"

    @property
    def results(self) -> str:
        return f"{self.org}/selfexplain-results"

    def space(self, recipe: str) -> str:
        return f"{self.org}/{recipe}-explainer"

    def collection(self, recipe: str) -> str:
        """A title: the Hub makes the id."""
        return f"{recipe} self-explainer"[:60]


def configuration(target: str) -> str:
    """The configuration of a dataset that holds the rows about a target: `meta-llama/Llama-3.1-8B` and another
    organisation's model of the same name are two."""
    return target.replace("/", "--")


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of an id on the Hub, such as meta-llama/Llama-3.2-1B."""
    return re.fullmatch(r"\w[\w.-]*/[\w.-]+", name) is not None
