"""Names and paths of the models that ship with the package."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "tiny" / "weights"
TINY_WORLD = "selfexplain/tiny-world"
"""Reserved name of the generated corpus that the embedded models were trained on."""

NAMES = {
    "selfexplain/tiny": "tiny",
    "selfexplain/tiny-sibling": "tiny-sibling",
    "selfexplain/tiny-selfexplainer": "tiny-selfexplainer",
}
"""Reserved model name -> directory below `WEIGHTS`."""


def resolve(name: str) -> str:
    """Return the directory of a reserved model name, and any other name unchanged."""
    return str(WEIGHTS / NAMES[name]) if name in NAMES else name
