"""A pipeline whose training, evaluation and cards are replaced by functions that write a small file."""

import pytest

from selfexplain.pipeline.steps import RecipeSteps


@pytest.fixture
def write(monkeypatch):
    """Replace all steps after the ground truth; `write.calls` lists the steps that ran.

    A test replaces further steps with `write(path, name)`.
    """

    def write(path, name):
        write.calls.append(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")

    write.calls = []
    monkeypatch.setattr(RecipeSteps, "_train", lambda self: write(self.run.explainer / "config.json", "train"))
    monkeypatch.setattr(RecipeSteps, "_evaluate", lambda self: write(self.run.results_path, "evaluate"))
    monkeypatch.setattr(RecipeSteps, "_write_cards", lambda self: write(self.run.cards / "model_card.md", "card"))
    return write
