"""SVG charts."""

import re

from rendering.chart import chart


def test_points_are_scaled_to_the_chart_and_the_vertical_axis_includes_zero():
    svg = chart({"line": [(0, 1.0, 0.5, 2.0), (10, 2.0, 1.0, 4.0)]}, {0: "start", 10: "end"}, "A chart")
    assert re.search(r'<polyline points="([^"]*)"', svg)[1] == "66.0,170.0 566.0,120.0"
    assert re.search(r'<polygon points="([^"]*)"', svg)[1] == "66.0,195.0 566.0,170.0 566.0,20.0 66.0,120.0"
    assert re.findall(r">([^<>]+)</text>", svg) == ["start", "end", "0.00", "4.00"]


def test_names_and_labels_are_escaped():
    svg = chart({"<a>": [(0, 1, 1, 1)]}, {0: "<b>"}, '"<c>"')
    assert "<a>" not in svg and "<b>" not in svg and "<c>" not in svg
