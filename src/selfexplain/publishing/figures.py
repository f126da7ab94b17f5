"""Draw the figure of a dataset card: which interventions change the output."""

from collections.abc import Mapping
from pathlib import Path

ChangeCounts = Mapping[str, Mapping[str, Mapping[str, int]]]
"""Table -> group of interventions -> number of interventions that `changed` the output or left it `unchanged`."""


def draw_change_counts(tables: ChangeCounts, path: Path) -> None:
    """Draw how often the output changed in each group of interventions, one panel per table.

    Args:
        tables: the counts.
        path: PNG file to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    heights = [len(table) + 2 for table in tables.values()]
    figure = Figure(figsize=(8, 0.3 * sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(tables), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (name, table) in zip(panels, tables.items(), strict=True):
        groups = sorted(table, key=lambda group: _changed_share(table[group]))
        shares = [_changed_share(table[group]) for group in groups]
        axes.barh([group.replace("_", " ") for group in groups], shares, color="#1f5fa8", height=0.7)
        for row, (group, share) in enumerate(zip(groups, shares, strict=True)):
            axes.annotate(f"  {share:.1%} of {sum(table[group].values()):,}", (share, row), va="center", size=8)
        axes.set_title(
            f"{name.replace('_', ' ')}: share that changes the output, before balancing", loc="left", size=10
        )
        axes.set_xlim(0, max(1.3 * max(shares), 0.01))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, metadata={"Software": None})


def _changed_share(counts: Mapping[str, int]) -> float:
    return counts["changed"] / max(sum(counts.values()), 1)
