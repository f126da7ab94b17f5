"""The figure of a dataset card."""

from selfexplain.publishing.figures import draw_change_counts


def test_figure_has_one_panel_per_table(tmp_path):
    import matplotlib.image

    table = {"last": {"unchanged": 30, "changed": 10}, "subject_final": {"unchanged": 0, "changed": 0}}
    draw_change_counts({"patches_by_token_type": table}, tmp_path / "new" / "one.png")
    draw_change_counts({"patches_by_token_type": table, "patches_by_layer": table}, tmp_path / "two.png")
    one, two = (matplotlib.image.imread(path) for path in (tmp_path / "new" / "one.png", tmp_path / "two.png"))
    assert two.shape[0] == 2 * one.shape[0] and two.shape[1] == one.shape[1]
