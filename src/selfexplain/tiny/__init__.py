"""The embedded models: small enough to travel in the package, real enough to explain."""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
TINY_WORLD = "selfexplain/tiny-world"
"""The reserved name of the world's texts, as a corpus."""

NAMES = {
    "selfexplain/tiny": "tiny",
    "selfexplain/tiny-sibling": "tiny-sibling",
    "selfexplain/tiny-selfexplainer": "tiny-selfexplainer",
}


def resolve(name: str) -> str:
    """The directory behind a reserved name; any other name unchanged."""
    return str(WEIGHTS / NAMES[name]) if name in NAMES else name
