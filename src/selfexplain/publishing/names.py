"""Names on the Hub: the repositories of a run, and the configurations of a dataset."""

from dataclasses import dataclass

from selfexplain.tasks import TASKS


@dataclass(frozen=True)
class Names:
    """Repository ids of one organisation or user.

    Attributes:
        org: name of the organisation or user.
    """

    org: str

    def model(self, recipe: str) -> str:
        """The explainer of a recipe."""
        return f"{self.org}/{recipe}-selfexplainer"

    def dataset(self, task: str) -> str:
        """The ground truth of a task, shared by all targets."""
        return f"{self.org}/{TASKS[task].dataset_name}"

    @property
    def results(self) -> str:
        """The dataset with the scores and answers of all recipes."""
        return f"{self.org}/selfexplain-results"

    def space(self, recipe: str) -> str:
        """The demo of a recipe's explainer."""
        return f"{self.org}/{recipe}-explainer"

    def metric(self, metric: str) -> str:
        """The metric repository that `evaluate.load` reads."""
        return f"{self.org}/{metric}"

    def collection(self, recipe: str) -> str:
        """Title of the collection; the Hub derives its id."""
        return f"{recipe} self-explainer"[:60]


def configuration(target: str) -> str:
    """Name of the dataset configuration with the rows about a target.

    It contains the organisation, so that models of the same name from two organisations have separate configurations.
    """
    return target.replace("/", "--")
