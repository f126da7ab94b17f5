"""Find the recipes, card templates and Spaces that ship with the package."""

from pathlib import Path

_ROOTS = (
    Path(__file__).parent / "_resources",  # an installed wheel
    Path(__file__).parents[2],  # a checkout or an editable install
)


def resource(name: str) -> Path:
    """Path of a packaged file or directory, such as `recipes` or `model_cards/model.md.jinja`.

    Raises:
        FileNotFoundError: the package has no file or directory with that name.
    """
    for root in _ROOTS:
        if (root / name).exists():
            return root / name
    raise FileNotFoundError(f"selfexplain has no packaged file {name!r}; looked in {' and '.join(map(str, _ROOTS))}.")
