"""Python code that the demo shows."""

from snippets import Snippets


def test_every_snippet_runs_and_prints_an_explanation(show, capsys):
    code = Snippets(show.name)
    text, source = "The capital of France is", "The capital of Peru is"
    example = show.examples["input_ablation"][0]
    for snippet in (
        code.feature(text, 1, 5),
        code.patch(text, source, (0, 1), 4, 4),
        code.ablation(example.text, example.remove),
        code.direction(show.features[0]),
    ):
        exec(snippet, {})
        assert capsys.readouterr().out.strip()


def test_a_separate_target_is_loaded_and_passed_on():
    code = Snippets("lab/explainer", "lab/target").ablation("a b", "b")
    assert "target = load_target('lab/target')" in code and code.count("target=target") == 2
