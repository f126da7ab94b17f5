"""Line charts with confidence bands, as SVG."""

from collections.abc import Mapping, Sequence

from rendering.html import escaped

LEFT, WIDTH = 66, 500
BOTTOM, HEIGHT = 220, 200

Point = tuple[float, float, float, float]
"""x, y, and the lower and upper end of the band at x."""


def chart(lines: Mapping[str, Sequence[Point]], ticks: Mapping[float, str], label: str) -> str:
    """Return a key and a chart.

    Args:
        lines: Name -> points of a line, in the order of the key.
        ticks: x -> text on the horizontal axis.
        label: Alternative text.
    """
    points = [point for line in lines.values() for point in line]
    low_x, high_x = min(point[0] for point in points), max(point[0] for point in points)
    low_y, high_y = min(0.0, *(point[2] for point in points)), max(point[3] for point in points)

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = (x - low_x) / (high_x - low_x or 1), (y - low_y) / (high_y - low_y or 1)
        return LEFT + WIDTH * across, BOTTOM - HEIGHT * up

    def path(corners: Sequence[tuple[float, float]]) -> str:
        return " ".join("{:.1f},{:.1f}".format(*place(*corner)) for corner in corners)

    series = []
    for number, line in enumerate(lines.values()):
        band = [(x, low) for x, _, low, _ in line] + [(x, high) for x, _, _, high in reversed(line)]
        curve = [(x, y) for x, y, _, _ in line]
        series.append(
            f'<g class="series s{number}"><polygon points="{path(band)}"/><polyline points="{path(curve)}"/></g>'
        )
    marks = [_text(place(x, low_y)[0], BOTTOM + 22, "middle", text) for x, text in ticks.items()]
    marks += [_text(LEFT - 8, place(low_x, y)[1], "end", f"{y:.2f}") for y in (low_y, high_y)]
    keys = "".join(f'<li class="series s{number}">{escaped(name)}</li>' for number, name in enumerate(lines))
    return f"""<ul class="key">{keys}</ul><svg class="curves" viewBox="0 0 600 250" role="img"
aria-label="{escaped(label)}"><line x1="{LEFT}" y1="{BOTTOM}" x2="{LEFT + WIDTH}" y2="{BOTTOM}"/>
{"".join(series)}{"".join(marks)}</svg>"""


def _text(x: float, y: float, anchor: str, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escaped(text)}</text>'
