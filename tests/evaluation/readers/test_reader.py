"""The registry of readers: adding a reader is one function."""

import numpy as np
import pytest

from evaluation_data import Oracle, write_dataset
from selfexplain.errors import SelfExplainError
from selfexplain.evaluation.config import EvaluationConfig
from selfexplain.evaluation.evaluate import evaluate
from selfexplain.evaluation.metrics import Simulator
from selfexplain.evaluation.readers import READERS, Fitted, Material, NotAvailable, reader, readers_of
from selfexplain.evaluation.readers.answers import ask_readers
from selfexplain.evaluation.report import gain_verdict, markdown, strata_table
from selfexplain.evaluation.results import Environment, Gain, Results, ScoredModel
from selfexplain.evaluation.scorers import SCORERS
from selfexplain.evaluation.scoring import _strata
from selfexplain.tasks import activation_patching, input_ablation
from selfexplain.tasks.outcome import Outcome, render

CONFIG = EvaluationConfig(batch_size=8, n_resamples=50)
PATCHING, ABLATION = "activation_patching", "input_ablation"


class Shape:
    """A target of which only the shape is known."""

    name = "tiny"
    d_model = 8


@pytest.fixture
def registry(monkeypatch):
    """What is registered is removed after the test."""
    monkeypatch.setattr(READERS, "_values", dict(READERS._values))


def without_answers(rows):
    """Training rows from which no baseline can learn an output."""
    return [{**row, "completion": render(Outcome(row["changed"], "nowhere"))} for row in rows]


def test_a_reader_is_one_function_and_becomes_a_system_of_the_evaluation(registry, tmp_path, patching_rows):
    @reader(activation_patching.TASK)
    def by_group(material: Material) -> Fitted:
        """Read the number in the name of the group, which answers every question."""
        seen = {row["token_type"] for row in material.train}

        def answer(rows):
            numbers = [int(row["group"].removeprefix("fact")) for row in rows]
            return [
                render(Outcome((row["token_type"] == "subject") == (n % 4 > 0), f"city{n}"))
                for row, n in zip(rows, numbers, strict=True)
            ]

        return Fitted(answer, {"seen": len(seen)})

    write_dataset(tmp_path, without_answers(patching_rows), splits=("train",))
    datasets = {PATCHING: write_dataset(tmp_path, patching_rows, splits=("validation", "test"))}
    result = evaluate(Oracle([]), Oracle([]), Shape(), datasets, CONFIG, 0, predictions_dir=tmp_path)[PATCHING]
    assert result.scores["by_group"]["exact_match"].value == 1
    assert result.readers["by_group"].settings == {"seen": 2} and result.readers["by_group"].unavailable is None
    gain = result.gains["exact_match"]
    assert (gain.system, gain.validation_score, gain.difference) == ("by_group", 1, -1)
    assert gain.ci95 == result.comparisons["explainer - by_group"]["exact_match"].ci95
    assert '"by_group":"The ' in (tmp_path / f"{PATCHING}.jsonl").read_text()


def test_the_strongest_baseline_is_chosen_on_validation_rows_and_not_on_test_rows(registry, tmp_path, patching_rows):
    rows = [{**row, "group": f"{row['group']} {split}"} for split in ("validation", "test") for row in patching_rows]
    truth = {row["group"]: row["completion"] for row in rows}

    def correct_on(split):
        return lambda material: Fitted(lambda rows: [truth[r["group"]] if split in r["group"] else "?" for r in rows])

    for split in ("validation", "test"):
        READERS.register(f"{PATCHING}/correct_on_{split}", correct_on(split))
    dataset = write_dataset(tmp_path, without_answers(rows), splits=("train",))
    for split in ("validation", "test"):
        write_dataset(tmp_path, [row for row in rows if split in row["group"]], splits=(split,))
    result = evaluate(Oracle(rows), Oracle([]), Shape(), {PATCHING: dataset}, CONFIG, 0)[PATCHING]
    scores = {name: result.scores[f"correct_on_{name}"]["content_match"].value for name in ("validation", "test")}
    assert scores["test"] > scores["validation"] == 0
    assert result.gains["content_match"].system == "correct_on_validation"
    assert result.gains["content_match"].difference == result.scores["explainer"]["content_match"].value


def test_hard_rows_are_those_on_which_the_strongest_baseline_is_incorrect(registry, tmp_path, patching_rows):
    truth = {row["group"]: row["completion"] for row in patching_rows}
    solved = {row["group"] for row in patching_rows if int(row["group"].removeprefix("fact")) < 12}

    def reads_most(material):
        return Fitted(lambda rows: [r["completion"] if r["group"] in solved else "?" for r in rows])

    READERS.register(f"{PATCHING}/reads_most", reads_most)
    write_dataset(tmp_path, without_answers(patching_rows), splits=("train",))
    datasets = {PATCHING: write_dataset(tmp_path, patching_rows, splits=("validation", "test"))}
    result = evaluate(Oracle(patching_rows), Oracle([]), Shape(), datasets, CONFIG, 0)[PATCHING]
    assert result.gains["exact_match"].system == "reads_most"
    assert (result.hard.n_test, result.hard.n_groups) == (16, 4) and len(truth) == 16
    assert result.hard.scores["explainer"]["exact_match"] == 1 and result.hard.scores["reads_most"]["exact_match"] == 0
    assert set(result.strata) == {"token_type", "layers"} and set(result.strata["layers"]) == {"0-1", "2-3"}
    of_subjects = result.strata["token_type"]["subject"]
    assert of_subjects.n_test == 32 and of_subjects.scores["reads_most"]["exact_match"] == 0.75
    assert of_subjects.gains["exact_match"].difference == 0.25
    results = Results(
        recipe="r",
        target=ScoredModel(name="t"),
        explainer=ScoredModel(name="t"),
        tasks={PATCHING: result},
        environment=Environment(versions={}, device="cpu", seed=0),
    )
    text = markdown(results)
    assert "on the 16 hard rows, on which the strongest baseline is incorrect: explainer exact match 1.000" in text
    assert "- exact match: explainer minus reads most, the strongest baseline: +0.250 [" in text
    assert ("token type: subject", "32", "1.000") in [cells[:3] for cells in strata_table(result, "exact_match")]


def test_parts_with_few_rows_have_no_scores(datasets_of):
    result = evaluate(Oracle([]), Oracle([]), Shape(), datasets_of(ABLATION), CONFIG, 0)[ABLATION]
    assert set(result.strata) == {"hint_style"}  # there are only 10 rows of each topic
    assert result.hard is None


def test_parts_with_few_groups_have_no_scores(tmp_path, patching_rows):
    """Their intervals over groups would be far too narrow."""
    rows = [
        {**row, "group": f"{row['token_type']} {n % 4 if row['token_type'] == 'subject' else n}"}
        for n, row in enumerate(patching_rows)
    ]
    dataset = write_dataset(tmp_path, rows, splits=("train", "validation", "test"))
    result = evaluate(Oracle([]), Oracle([]), Shape(), {PATCHING: dataset}, CONFIG, 0)[PATCHING]
    token_types = {row["token_type"] for row in rows}
    assert set(result.strata["token_type"]) == token_types - {"subject"} and len(token_types) == 2


def test_a_gain_that_is_not_defined_on_a_part_is_left_out(patching_rows):
    scorer, empty = SCORERS[PATCHING], np.zeros((len(patching_rows), 2))
    counted = np.where(np.array([row["token_type"] == "subject" for row in patching_rows])[:, None], 1.0, empty)
    statistics = {system: {"exact_match": counted} for system in ("explainer", "other")}
    strata = _strata(scorer, patching_rows, statistics, Simulator(), {"exact_match": ("other", 0.5)}, 10, 0)
    with_gains = [value for value, subset in strata["token_type"].items() if subset.gains]
    assert with_gains == ["subject"] and len(strata["token_type"]) == 2


def test_without_validation_rows_no_baseline_is_called_the_strongest(datasets_of, caplog):
    result = evaluate(Oracle([]), Oracle([]), Shape(), datasets_of(ABLATION), CONFIG, 0)[ABLATION]
    assert result.gains is None and "the strongest baseline is not chosen" in caplog.text


def test_the_ground_truth_is_never_the_strongest_baseline(tmp_path, feature_rows, datasets_of):
    dataset = datasets_of("feature_description")
    write_dataset(dataset["feature_description"].root, feature_rows, splits=("validation",))
    result = evaluate(Oracle([]), Oracle([]), Shape(), dataset, CONFIG, 0)["feature_description"]
    assert result.gains["simulator_correlation"].system in {"nearest_neighbour", "untrained"}


def test_readers_that_cannot_read_the_rows_are_reported_with_the_reason(datasets_of, caplog):
    tasks = evaluate(Oracle([]), Oracle([]), Shape(), datasets_of(PATCHING, ABLATION), CONFIG, 0)
    for task in (PATCHING, ABLATION):
        result = tasks[task]
        assert set(result.readers) == set(readers_of(task)) and not set(result.readers) & set(result.scores)
    reason = tasks[PATCHING].readers["gradient_boosting"].unavailable
    assert (
        reason == "the rows have no column position and no column prompt_ids and no column target_prompt and no "
        "column clean_output"
    )
    assert f"the reader gradient_boosting is not available: {reason}" in caplog.text


def test_verdicts_may_be_numpy_bools(registry, tmp_path, patching_rows):
    READERS.register(f"{PATCHING}/verdicts", lambda material: Fitted(lambda rows: np.ones(len(rows), bool)))
    dataset = write_dataset(tmp_path, patching_rows)
    result = evaluate(Oracle([]), Oracle([]), Shape(), {PATCHING: dataset}, CONFIG, 0)[PATCHING]
    assert set(result.scores["verdicts"]) == {"has_changed_macro_f1"}


def test_a_reader_gives_one_answer_per_row(registry):
    READERS.register(f"{PATCHING}/first", lambda material: Fitted(lambda rows: ["?"]))
    with pytest.raises(SelfExplainError, match="first gave 1 answers to 2 rows of activation_patching"):
        ask_readers(PATCHING, Material([{}]), {"test": [{}, {}]})


def test_parts_that_readers_share_are_fitted_once():
    calls = []

    def fit(material):
        calls.append(material)
        return len(calls)

    one, other = Material([{}]), Material([{}])
    assert [one.share(fit), one.share(fit), other.share(fit)] == [1, 1, 2]


def test_a_reader_that_needs_the_target_says_so():
    with pytest.raises(NotAvailable, match="the target's weights are not at hand"):
        _ = Material([{}]).target


def test_every_built_in_task_has_readers():
    assert list(readers_of("feature_description")) == ["token_lens", "token_lens_grammar", "logit_lens"]
    assert list(readers_of(PATCHING)) == [
        "gradient_boosting",
        "logit_lens_options",
        "logit_lens_vocabulary",
        "substitution",
    ]
    assert list(readers_of(ABLATION)) == ["gradient_boosting", "second_choice", "asked_in_words"]
    assert readers_of("unknown") == {} and input_ablation.TASK.name == ABLATION


@pytest.mark.parametrize(
    ("interval", "verdict"), [((0.1, 0.2), "better"), ((-0.2, -0.1), "worse"), ((0, 1), "no better")]
)
def test_the_verdict_follows_the_interval(interval, verdict):
    gain = Gain(system="s", validation_score=0.5, difference=sum(interval) / 2, ci95=interval, p_value=0.5)
    assert gain_verdict(gain) == verdict
