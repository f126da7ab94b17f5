"""A road without rooms."""

import pytest

from selfexplain.pipeline import driver as road


@pytest.fixture
def write(monkeypatch):
    """The rooms after the ground truth replaced by ones that write a small file; `write.calls` says which were entered.

    A test replaces further rooms by `write(path, name)`.
    """

    def write(path, name):
        write.calls.append(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")

    write.calls = []
    monkeypatch.setattr(road._Road, "_train", lambda self: write(self.run_dir / "explainer" / "config.json", "train"))
    monkeypatch.setattr(road._Road, "_evaluate", lambda self: write(self.run_dir / "results.json", "evaluate"))
    monkeypatch.setattr(
        road._Road, "_write_cards", lambda self: write(self.run_dir / "cards" / "model_card.md", "card")
    )
    return write
