"""Write docs/results.md, the figures next to the results files, and the results table of README.md.

Everything comes from the committed files docs/results/<run>/results.json. With `--check`, nothing is written, and the
exit code is 1 if a page is not up to date.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from selfexplain.evaluation import comparison_report, report
from selfexplain.evaluation.results import Results, Score
from selfexplain.tasks import TASKS
from selfexplain.utils.formatting import format_name

DOCS = Path(__file__).parent
PAGE = DOCS / "results.md"
README = DOCS.parent / "README.md"
BEGIN = "<!-- results table: written by docs/make_results.py -->\n"
END = "<!-- end of results table -->"

README_RUN = "quickstart"
"""The run whose results the README shows."""
README_ROWS = (
    ("feature_description", "simulator_correlation", "nearest_neighbour"),
    ("activation_patching", "has_changed_macro_f1", "nearest_neighbour"),
    ("activation_patching", "content_match", "nearest_neighbour"),
    ("input_ablation", "has_changed_macro_f1", "lookup_rule"),
    ("input_ablation", "content_match", "nearest_neighbour"),
)
"""Task, metric, and the baseline for results without gains, of every row of the README's table."""

INTRODUCTION = """# Results

<!-- Written by docs/make_results.py. -->

Every table is computed from a committed `results.json` by `make results`. Brackets contain 95 % intervals, bootstrapped over groups (facts, questions, concepts of features). All rows
are held out. *Shuffled vector* asks the same explainer with the vector of a different row from the same layer, *zero vector* with zeros, and *text only* without a vector. What it
still scores was read from the text or guessed. A table of the present version begins with the gain over the strongest baseline, which was chosen on validation rows. Tables
without gains were computed before the cheap readers became part of the evaluation: their baselines are too weak, and on the embedded model readers are better than the
explainer. See [How to read the scores](scores.md#why-shuffled-vectors-are-not-enough).
"""

SECTIONS = {
    "tiny": (
        "The embedded model",
        "`selfexplain run recipes/tiny.yaml`. The explainer ships as `selfexplain/tiny-selfexplainer`. *Ground truth* scores the description of the ground truth itself. *Activations* "
        "and *differences* are out-of-distribution test sets: whole activations of the residual stream, and differences between the activations of counterfactual pairs. No training "
        "row is of these kinds.\n\n"
        "- Feature descriptions depend on the vector, and are better than those of the nearest training feature. They are far below the ground truth's own descriptions.\n"
        "- Patching answers depend on the vector in part. The lookup rule on token type and layer block scores at chance, because rows are balanced over these cells.\n"
        "- Whether an ablation changes the answer is predicted equally well by a lookup rule on topic and hint style. The rule cannot predict what the answer becomes.\n"
        "- Out of distribution, whole activations are described hardly better than with zero vectors and no better than by the nearest training feature. Differences are not "
        "described at all, and calibration, which was fitted on features, makes their confidence worse.",
    ),
    "claims": (
        "Self-explanation against explanation by another model",
        "`selfexplain run recipes/tiny_claims.yaml`. Both embedded models explain themselves and each other, with one training per explainer. [Compare explainers](compare.md) describes the "
        "method. For features, a model explains itself better than the other model does. For patching and ablation, no score shows such an advantage with all rows. One training per explainer does not show how much "
        "another training would differ. Numbers in parentheses are shares of the training groups.",
    ),
    "stories": (
        "A story model",
        "`selfexplain run recipes/local_model.yaml target=stories3M-hf corpus=stories.jsonl`: a story model of 3 million parameters that is not part of this project, and 800 stories. "
        "Feature descriptions depend on the vector and are as good as those of the nearest training feature. For patching, the nearest training row is as good as the explainer.",
    ),
    "quickstart": (
        "The quickstart",
        "`make quickstart`. Its layers, SAEs, adapter and held-out rows differ from those of `recipes/tiny.yaml`, so the scores are not comparable with those above. "
        "Training depends on the number of CPU threads, because float sums do. It is the only run here with the cheap readers: on every question a reader that trains no language "
        "model scores higher than the explainer.",
    ),
}
"""Directory below docs/results -> title and introduction of its section."""


def read(name: str) -> Results:
    return Results.read(DOCS / "results" / name / "results.json")


def provenance(results: Results) -> str:
    """How long a run took, where, and with which versions. Results do not include the time of a comparison."""
    minutes, versions = sum(results.environment.seconds.values()) / 60, results.environment.versions
    took = f"The run took {minutes:.0f} minutes" if results.comparison is None else "Run"
    return (
        f"{took} on {results.environment.device.upper()}, seed {results.environment.seed}, "
        f"selfexplain {versions['selfexplain']}, torch {versions['torch']}, transformers {versions['transformers']}."
    )


def page() -> str:
    """The text of docs/results.md."""
    parts = [INTRODUCTION]
    for name, (title, introduction) in SECTIONS.items():
        results = read(name)
        parts += [
            f"## {title}\n",
            f"{introduction}\n",
            f"{provenance(results)} [results.json](results/{name}/results.json)\n",
        ]
        if results.comparison is None:
            parts += [
                f"![Scores on held-out questions, with controls](results/{name}/summary.png)\n",
                report.markdown(results),
            ]
            parts += [f"![Share of incorrect answers against coverage](results/{name}/risk_coverage.png)\n"]
        else:
            parts += [f"![Scores by target and explainer](results/{name}/privileged_access.png)\n"]
            parts += [f"![Scores against the number of training rows](results/{name}/data_efficiency.png)\n"]
            parts += [comparison_report.markdown(results.comparison)]
    return "\n".join(part.rstrip() + "\n" for part in parts)


def readme_table(results: Results) -> str:
    """The results table of the README: one number per cell, the intervals are in docs/results.md.

    Results of earlier versions have no gains; their table names a fixed baseline and the control instead.
    """
    if any(result.gains for result in results.tasks.values()):
        return _table_of_gains(results)
    lines = ["| question | score | explainer | shuffled vector | baseline |", "|---|---|---:|---:|---:|"]
    for task, metric, baseline in README_ROWS:
        scores = results.tasks[task].scores
        shuffled = scores.get("shuffled_vector", {}).get(metric)
        cells = [TASKS[task].title, format_name(metric), f"**{_value(scores['explainer'][metric])}**"]
        cells += [_value(shuffled), f"{format_name(baseline)} {_value(scores[baseline][metric])}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _table_of_gains(results: Results) -> str:
    """The explainer's gain over the strongest baseline of each metric, and in words whether it is one."""
    lines = ["| question | score | explainer | strongest baseline | the explainer is |", "|---|---|---:|---:|---|"]
    for task, metric, _ in README_ROWS:
        result = results.tasks[task]
        gain = (result.gains or {}).get(metric)
        cells = [TASKS[task].title, format_name(metric), f"**{_value(result.scores['explainer'][metric])}**"]
        if gain:
            cells += [
                f"{format_name(gain.system)} {_value(result.scores[gain.system][metric])}",
                f"{report.gain_verdict(gain)}, {gain.difference:+.2f}",
            ]
        lines.append(f"| {' | '.join([*cells, *['–'] * (5 - len(cells))])} |")
    return "\n".join(lines) + "\n"


def readme() -> str:
    """The text of README.md with the current table."""
    before, begin, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    return f"{before}{begin}\n{readme_table(read(README_RUN))}\n{end}{after}"


def _value(score: Score | None) -> str:
    return "–" if score is None else f"{score.value:.2f}"


def write_figures() -> None:
    for name in SECTIONS:
        results, directory = read(name), DOCS / "results" / name
        if results.comparison is None:
            for path in report.write_figures(results, directory):
                if path.stem not in ("summary", "risk_coverage"):
                    path.unlink()
        else:
            comparison_report.write_figures(results.comparison, directory)


def main(arguments: Sequence[str]) -> int:
    texts = {PAGE: page(), README: readme()}
    if "--check" in arguments:
        stale = [path.name for path, text in texts.items() if path.read_text(encoding="utf-8") != text]
        print(f"Not up to date: {', '.join(stale)}. Run make results." if stale else "Results are up to date.")
        return bool(stale)
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    write_figures()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
