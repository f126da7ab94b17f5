"""Header, footer and titles."""

from types import SimpleNamespace

from rendering.frame import footer, header, introduction, load_failure, task_title
from selfexplain.tasks import BUILT_IN


def test_the_header_names_explainer_and_target(show):
    html = header(show)
    assert "selfexplain/tiny-selfexplainer" in html and "<b>selfexplain/tiny</b>" in html
    assert "8 layers, width 96" in html and "Ask a model about itself" in html


def test_the_header_of_an_explainer_of_a_different_model_names_its_base():
    config = SimpleNamespace(base_model_name_or_path="lab/base")
    target = SimpleNamespace(name="lab/target", n_layers=2, d_model=4)
    html = header(
        SimpleNamespace(name="x", explainer=SimpleNamespace(config=config), target=target, separate_target=target)
    )
    assert "Ask one model about another" in html and "<b>lab/base</b>" in html


def test_the_footer_lists_the_tasks_with_calibrated_confidence():
    def text(tasks, calibration):
        config = SimpleNamespace(tasks=tasks, calibration=calibration)
        return footer(
            SimpleNamespace(explainer=SimpleNamespace(config=config), target=SimpleNamespace(name="lab/target"))
        )

    assert "uncalibrated" not in text(["input_ablation"], {"input_ablation": {}})
    assert "calibrated on held-out" not in text(["input_ablation"], None)
    both = text(["input_ablation", "activation_patching"], {"input_ablation": {}})
    assert "for input ablation. For activation patching, it is the uncalibrated probability" in both


def test_titles_come_from_the_task_or_from_the_name_of_one_that_is_not_installed():
    assert [task_title(task.name) for task in BUILT_IN] == [task.short_question for task in BUILT_IN]
    assert task_title("next_sentiment") == "Next sentiment"


def test_messages_and_titles_are_escaped():
    assert "<b>" not in load_failure("<b>") and "<i>" not in introduction("text", "<i>")
