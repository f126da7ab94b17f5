"""The HTML of the page. Whatever a visitor or a model wrote is escaped here, and only here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import log10
from typing import Any

from questions import Exemplar, PatchMap, Said, Trial, visible
from selfexplain.evaluation.config import EXPLAINED_BY
from showcase import Feature, Showcase

SYSTEMS = {
    "explainer": "explainer",
    "shuffled_vector": "control: another row's vector",
    "zero_vector": "control: a vector of zeros",
    "text_only": "control: no vector",
    "untrained": "the same model, untrained",
    "selfie": "the target itself, untrained (SelfIE)",
    "nearest_neighbour": "answer of the nearest training row",
    "lookup_rule": "a table of token types and layers",
    "majority": "always the more common answer",
    "ground_truth": "the true descriptions: a ceiling",
}
TASKS = {
    "feature_description": "What does this vector stand for?",
    "activation_patching": "What would a patch do?",
    "input_ablation": "What if a part were removed?",
}
METRICS = {
    "simulator_correlation": (
        "Simulator correlation",
        "How well the description foretells where the vector is active. 1 is perfect, 0 is chance.",
    ),
    "detection_balanced_accuracy": (
        "Detection",
        "Share of texts sorted rightly, by the description alone, into active and not active. 0.5 is chance.",
    ),
    "exact_match": ("Exact match", "The whole answer is right: whether the output changes, and to what."),
    "has_changed_macro_f1": (
        "Does it change?",
        "Macro-F1: whether the output changes, both cases counted alike. A fair coin gets about 0.5.",
    ),
    "content_match": ("What to?", "The output that the answer names is the one that really follows."),
}


def e(text: object) -> str:
    """Escaped for HTML."""
    return escape(str(text))


# ---------------------------------------------------------------- top and bottom


def header(show: Showcase) -> str:
    target, base = show.target, show.explainer.config.base_model_name_or_path
    other = show.foreign is not None and target.name != base  # a merged explainer's target is apart, but no other
    facts = [
        f"explainer <b>{e(show.name)}</b>",
        *([f"made of <b>{e(base)}</b>"] if other else []),
        f"target <b>{e(target.name)}</b>",
        f"{target.n_layers} layers of width {target.d_model}",
    ]
    title, whose = ("one model about another", "another's") if other else ("a model about itself", "its own")
    return f"""<header class="top"><h1>Ask {title}</h1>
<p>A language model was trained to say what {whose} computations do. Here every answer stands beside a control, the
same question without its evidence, and beside what really happens when the experiment is run.</p>
<p class="facts">{" · ".join(facts)}</p></header>"""


def footer(show: Showcase) -> str:
    config = show.explainer.config
    measured = [task.replace("_", " ") for task in config.tasks if task in (config.calibration or {})]
    rest = [task.replace("_", " ") for task in config.tasks if task not in (config.calibration or {})]
    how = [
        f"{what} ({e(', '.join(names))})" if measured and rest else what
        for what, names in (
            ("how likely the answer is to be right, as measured on held-out questions", measured),
            (
                "the probability that the explainer gives to its claim, not calibrated: compare, do not count on it",
                rest,
            ),
        )
        if names
    ]
    sure = "; ".join(how) or "the probability that the explainer gives to its claim"
    return f"""<footer class="bottom"><p><b>Confidence</b> is {sure}. <b>Layer</b> i is the output of decoder block i.
<b>Token</b> numbers count the begin-of-text token. What holds for {e(show.target.name)} says nothing about other
models.</p></footer>"""


def problem(message: str) -> str:
    return f"""<header class="top"><h1>This page has lost its model</h1>{error(message)}
<p>If this Space is yours: see that the model exists and can be read (a private or gated one needs the secret HF_TOKEN),
or name another one under <code>models:</code> in README.md or in the variable SELFEXPLAIN_EXPLAINER, and restart.</p>
</header>"""


def running() -> str:
    return '<p class="waiting" role="status">Asking and running every cell; some seconds …</p>'


# ---------------------------------------------------------------- things to pick


def picker(
    items: Sequence[str],
    picked: int | None,
    label: str,
    kind: str = "chips",
    shades: Sequence[float] = (),
    notes: Sequence[str] = (),
) -> str:
    """A row of buttons of which one is pressed; arrow keys move between them, a click or Enter picks."""
    buttons = []
    for index, item in enumerate(items):
        shade = f' style="--shade:{shades[index]:.2f}"' if shades else ""
        note = f"<small>{e(notes[index])}</small>" if notes else ""
        pressed = index == picked
        focusable = 0 if pressed or (picked is None and index == 0) else -1
        buttons.append(
            f'<button type="button" data-pick="{index}" aria-pressed="{str(pressed).lower()}" tabindex="{focusable}"'
            f"{shade}><span>{e(item)}</span>{note}</button>"
        )
    return f'<div class="picker {kind}" role="toolbar" aria-label="{e(label)}">{"".join(buttons)}</div>'


def tokens(texts: Sequence[str], picked: int, label: str, shades: Sequence[float] = ()) -> str:
    names = [visible(text) for text in texts]
    return picker(names, picked, f"{label}: pick a token", "tokens", [min(max(s, 0), 1) for s in shades])


def heat(exemplar: Exemplar, around: int = 9) -> str:
    """A text with each token shaded by its activation, cut to what stands around the most active one."""
    peak = max(range(len(exemplar.tokens)), key=exemplar.activations.__getitem__)
    first, last = max(0, peak - around), min(len(exemplar.tokens), peak + around)
    spans = [
        f'<span style="--shade:{min(max(activation, 0), 1):.2f}">{e(token.replace(chr(10), " ↵ "))}</span>'
        for token, activation in zip(exemplar.tokens[first:last], exemplar.activations[first:last], strict=True)
    ]
    return f'<p class="heat">{"… " if first else ""}{"".join(spans)}{" …" if last < len(exemplar.tokens) else ""}</p>'


# ---------------------------------------------------------------- the same in Python


@dataclass(frozen=True)
class Code:
    """Python that asks what the page asked.

    Attributes:
        explainer: what is loaded.
        target: the model explained, where it is not the explainer's own base.
    """

    explainer: str
    target: str | None = None

    @property
    def _load(self) -> str:
        names = "SelfExplainerForCausalLM, load_target" if self.target else "SelfExplainerForCausalLM"
        target = f"target = load_target({self.target!r})\n" if self.target else ""
        return f"""from selfexplain import {names}

explainer = SelfExplainerForCausalLM.from_pretrained({self.explainer!r})
{target}"""

    @property
    def _of(self) -> str:
        return ", target=target" if self.target else ""

    def feature(self, text: str, layer: int, token: int) -> str:
        return f"""{self._load}vector = explainer.capture({text!r}, layers=[{layer}]{self._of})[0, {token}]
print(explainer.explain_feature(vector, layer={layer}))"""

    def direction(self, feature: Feature) -> str:
        return f"""import torch

{self._load}vector = torch.tensor([{", ".join(f"{x:.4g}" for x in feature.vector)}])
print(explainer.explain_feature(vector, layer={feature.layer}))"""

    def patch(self, text: str, source: str, layers: Sequence[int], token: int, source_token: int) -> str:
        return f"""{self._load}layers = {list(layers)}
vector = explainer.capture({source!r}, layers{self._of})[:, {source_token}].mean(0)
explanation = explainer.explain_patch({text!r}, vector, layers, position={token}{self._of})
print(explanation, explainer.verify(explanation{self._of}), sep="\\n")"""

    def ablation(self, text: str, remove: str) -> str:
        return f"""{self._load}explanation = explainer.explain_ablation({text!r}, remove={remove!r}{self._of})
print(explanation, explainer.verify(explanation{self._of}), sep="\\n")"""


# ---------------------------------------------------------------- an answer beside its control and reality


def trial(trial: Trial, python: str) -> str:
    """Three columns: what the explainer says, what it says without its evidence, what really happens."""
    description = trial.task == "feature_description"
    title, reality = ("What is really there", _held(trial)) if description else ("What really happens", _outcome(trial))
    return f"""<section class="trial" aria-label="Answer, control and reality">
  {_claim(trial)}
  {_control(trial)}
  <article class="reality"><h3>{title}</h3>{reality}</article>
</section>
<p class="verdict">{e(_verdict(trial))}</p>
{_exemplars("Where else the target holds most of the same", trial.exemplars)}
{code(python, trial.prompt)}"""


def _claim(trial: Trial) -> str:
    said = _said(trial.explanation, trial.task)
    return f'<article class="claim"><h3>The explainer says</h3>{said}{_confidence(trial.explanation)}</article>'


def _control(trial: Trial) -> str:
    asked = f'<p class="from">Asked again with {e(trial.control_from)}.</p>'
    return f'<article class="control"><h3>Control</h3>{_said(trial.control, trial.task)}{asked}</article>'


def error(message: str) -> str:
    return f'<p class="problem" role="alert">{e(message)}</p>'


def waiting() -> str:
    return '<p class="waiting" role="status">Asking …</p>'


def code(python: str, prompt: str | None = None) -> str:
    asked = f"<p>The question as the explainer reads it:</p><pre>{e(prompt)}</pre>" if prompt else ""
    return f"""<details class="code"><summary>Copy as Python</summary>
<button type="button" data-copy>Copy</button><pre><code>{e(python)}</code></pre>{asked}</details>"""


def _said(said: Said, task: str) -> str:
    words = f'<p class="said">{e(said.text) or "<span>says nothing</span>"}</p>'
    if task == "feature_description":
        if not said.text:
            return words
        if said.score is None:
            return f'{words}<p class="mark"><span>these words do not occur in the texts looked through</span></p>'
        meaning = "correlation of these words with where it is active"
        return f'{words}<p class="mark">{_signed(said.score)} <span>{meaning}</span></p>'
    if said.changed is None:
        return words + _right(False, "not a readable answer")
    verb = "changes to" if said.changed else "stays"
    right = _right(bool(said.correct), "right" if said.correct else "wrong")
    return f'<p class="said"><span>{verb}</span>{e(said.output)}</p>{right}'


def _right(right: bool, word: str) -> str:
    return f'<p class="mark {"right" if right else "wrong"}">{word}</p>'


def _confidence(said: Said) -> str:
    share = round(100 * (said.confidence or 0))
    doubt = "" if said.answered else ": too little to count as an answer"
    return f"""<div class="confidence">Confidence {share} %{doubt}
<div class="bar" role="img" aria-label="{share} of 100"><i style="width:{share}%"></i></div></div>"""


def _outcome(trial: Trial) -> str:
    changed = trial.before != trial.after
    was = f'<p class="from">Before, it said “{e(trial.before)}”.</p>' if changed else ""
    verb = "changes to" if changed else "stays"
    return f'<p class="said"><span>{verb}</span>{e(trial.after)}</p>{was}<p class="from">Measured on the target.</p>'


def _held(trial: Trial) -> str:
    return f"""<p class="said"><span>right after this token, the target says</span>{e(trial.after)}</p>
<p class="from">Measured on the target.</p>"""


def _exemplars(title: str, exemplars: Sequence[Exemplar]) -> str:
    if not exemplars:
        return ""
    return f'<h3 class="sub">{e(title)}</h3><div class="exemplars">{"".join(map(heat, exemplars))}</div>'


def _verdict(trial: Trial) -> str:
    right, control_right = trial.explanation.correct, trial.control.correct
    if trial.task == "feature_description":
        if trial.control.text == trial.explanation.text:
            return "Another vector gets the same words, so this answer does not come from the vector."
        return "Another vector gets other words, so this answer was read from the vector."
    if trial.task == "input_ablation":
        if not right:
            return "The explainer is wrong about the target here."
        if trial.before != trial.after and control_right:
            return "The explainer foretold what the target does, and claims no change where the line is gone already."
        return "The explainer foretold what the target does."
    if right:
        return (
            "Right with this vector, and right with another: the text alone gave this answer away."
            if control_right
            else "Right with this vector and wrong with another: the answer was read from the vector."
        )
    return "The explainer is wrong here" + (
        "; the control is right, by luck or from the text." if control_right else ", and so is the control."
    )


def _percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %")


def _signed(value: float) -> str:
    return f"{value:z.2f}".replace("-", "−")


# ---------------------------------------------------------------- the map


def patch_map(found: PatchMap) -> str:
    """Two grids, tokens by blocks of layers: how likely the explainer finds a change, and where there is one."""
    n_blocks = len(found.blocks)
    likely = [p for row in found.predicted for p in row]
    heads = "".join(f'<th scope="col">{block[0]}–{block[-1]}</th>' for block in found.blocks)
    rows = []
    for place, token in enumerate(found.tokens):
        foretold, real = (
            "".join(_cell(found, place, b, kind, (min(likely), max(likely))) for b in range(n_blocks))
            for kind in ("foretold", "real")
        )
        name = e(visible(token))
        rows.append(f'<tr><th scope="row">{name}</th>{foretold}<td class="gap"></td>{real}</tr>')
    return f"""<p class="verdict">{_agreement(found)}</p>
<div class="mapbox"><table class="map"><caption>Left, a change is {_percent(min(likely))} (palest) to
{_percent(max(likely))} (strongest) likely; right, filled where the output really changes. Pick a cell to see it in
<em>Patch</em>.</caption>
<thead><tr><td></td><th scope="colgroup" colspan="{n_blocks}">Foretold</th><td class="gap"></td>
<th scope="colgroup" colspan="{n_blocks}">Real</th></tr>
<tr><th scope="col">layers</th>{heads}<td class="gap"></td>{heads}</tr></thead>
<tbody>{"".join(rows)}</tbody></table></div>"""


def _agreement(found: PatchMap) -> str:
    cells = [pair for rows in zip(found.predicted, found.actual, strict=True) for pair in zip(*rows, strict=True)]
    changes, stays = [p for p, a in cells if a], [p for p, a in cells if not a]
    said = f"The output really changes in {len(changes)} of {len(cells)} cells. "
    if not changes or not stays:
        return (
            said + f"The explainer finds a change {_percent(sum(p for p, _ in cells) / len(cells))} likely, on average."
        )
    pairs = [(p > q) + (p == q) / 2 for p in changes for q in stays]
    return said + (
        "Take a cell that changes and one that does not: the explainer finds the first one likelier to change in "
        f"{_percent(sum(pairs) / len(pairs))} of such pairs. Without any insight that would be 50 %."
    )


def _cell(found: PatchMap, place: int, block: int, kind: str, span: tuple[float, float]) -> str:
    likely, real = found.predicted[place][block], found.actual[place][block]
    shade = (likely - span[0]) / (span[1] - span[0] or 1) if kind == "foretold" else float(real)
    first, last = found.blocks[block][0], found.blocks[block][-1]
    outcome = f"change {_percent(likely)} likely" if kind == "foretold" else "changes" if real else "stays"
    label = f"{visible(found.tokens[place])}, layers {first} to {last}: {outcome}"
    index = place * len(found.blocks) + block
    return (
        f'<td><button type="button" data-pick="{index}" class="{kind}" style="--shade:{shade:.2f}" '
        f'title="{e(label)}" aria-label="{e(label)}" '
        f'tabindex="{-1 if index or kind == "real" else 0}"></button></td>'
    )


# ---------------------------------------------------------------- features


def feature_list(features: Sequence[tuple[int, Feature]], picked: int | None, total: int) -> str:
    if not features:
        return '<p class="waiting">No description has these words. Try fewer of them.</p>'
    buttons = "".join(
        f'<button type="button" data-pick="{index}" aria-pressed="{str(index == picked).lower()}">'
        f"<span>{e(feature.description)}</span><small>layer {feature.layer} · feature {feature.index}</small></button>"
        for index, feature in features
    )
    count = f'<p class="count">{len(features)} of {total} held-out features, the clearest first</p>'
    return f'{count}<div class="picker list" role="toolbar" aria-label="Features">{buttons}</div>'


def feature(feature: Feature, trial: Trial, python: str) -> str:
    """Its true description beside the explainer's and the control's, and where it is active."""
    top = max(max(exemplar["activations"]) for exemplar in feature.exemplars)
    shown = [
        Exemplar(tuple(exemplar["tokens"]), tuple(a / top for a in exemplar["activations"]))
        for exemplar in feature.exemplars
    ]
    return f"""<section class="trial" aria-label="A feature, described three times">
  {_claim(trial)}
  {_control(trial)}
  <article class="reality"><h3>True description</h3><p class="said">{e(feature.description)}</p>
    <p class="mark">{_signed(feature.simulator_score)} <span>correlation, on texts it was not written from</span></p>
  </article>
</section>
{_exemplars(f"Where feature {feature.index} of layer {feature.layer} is most active", shown)}
{code(python, trial.prompt)}"""


# ---------------------------------------------------------------- results


def results(found: Mapping[str, Any] | None) -> str:
    """Leaderboards with intervals and controls, and the comparison of explainers where the results have one."""
    if not found:
        return '<p class="waiting">This explainer came without results.json, so there is nothing to show here.</p>'
    parts = [_leaderboard(task, result) for task, result in found["tasks"].items()]
    compared = found.get("comparison", {"tasks": {}})
    parts += [_comparison(task, result) for task, result in compared["tasks"].items()]
    return "".join(parts)


def _leaderboard(task: str, result: Mapping[str, Any]) -> str:
    metrics = list(next(iter(result["scores"].values())))
    boards = "".join(_board(result, metric) for metric in metrics)
    sure = _risk_coverage(result["calibration"]) if "calibration" in result else ""
    return f"""<section class="results"><h3>{TASKS.get(task, e(task))}</h3>
<p class="from">{result["n_test"]:,} held-out questions in {result["n_groups"]} groups that share no fact with the
training data. Bars are 95 % intervals over groups, on an axis from 0 (the upright line) to 1 (the right
end).</p>{boards}{sure}</section>"""


def _board(result: Mapping[str, Any], metric: str) -> str:
    title, meaning = METRICS.get(metric, (metric.replace("_", " ").capitalize(), ""))
    scores = {system: scores[metric] for system, scores in result["scores"].items() if metric in scores}
    low = min(0.0, *(score["ci95"][0] for score in scores.values()))
    rows = []
    for system in [*(s for s in SYSTEMS if s in scores), *(s for s in scores if s not in SYSTEMS)]:
        value, (first, last) = scores[system]["value"], scores[system]["ci95"]
        at, left, right = (100 * (x - low) / (1 - low) for x in (value, first, last))
        rows.append(
            f'<tr class="{e(system)}"><th scope="row">{e(SYSTEMS.get(system, system.replace("_", " ")))}</th>'
            f'<td class="track" aria-hidden="true"><b style="left:{100 * -low / (1 - low):.1f}%"></b>'
            f'<i style="left:{left:.1f}%;width:{right - left:.1f}%"></i><u style="left:{at:.1f}%"></u></td>'
            f'<td class="number">{_signed(value)} <small>[{_signed(first)}, {_signed(last)}]</small></td></tr>'
        )
    return f"""<table class="board">
<caption><strong>{e(title)}</strong> {e(meaning)}<br>{e(_lift(result, metric))}</caption>
<tbody>{"".join(rows)}</tbody></table>"""


def _lift(result: Mapping[str, Any], metric: str) -> str:
    """The difference to the control that matters most, in words."""
    comparisons = result.get("comparisons", {})
    for control in ("shuffled_vector", "lookup_rule", "nearest_neighbour"):
        found = comparisons.get(f"explainer - {control}", {}).get(metric)
        if found:
            low, high = found["ci95"]
            return (
                f"Explainer less {SYSTEMS[control].removeprefix('control: ')}: {_signed(found['difference'])} "
                f"[{_signed(low)}, {_signed(high)}], p = {found['p_value']:.2g}."
            )
    return ""


def _comparison(task: str, result: Mapping[str, Any]) -> str:
    """Who explains whom, and from how many training rows."""
    metric = result["headline"]
    title = METRICS[metric][0]
    return f"""<section class="results"><h3>{TASKS[task]} Asked of other explainers too</h3>
{_matrix(result["scores"][metric], title, _differences(result["differences"][metric]))}
{_curves(result["means"][metric], title)}</section>"""


def _matrix(scores: Sequence[Mapping[str, Any]], title: str, differences: str) -> str:
    """Explainers (columns) by the targets that they explain (rows), trained on all rows."""
    found = {
        (score["target"], score["explainer"]): score
        for score in scores
        if score["share"] == 1 and score["explainer"] != "nearest_neighbour"
    }
    models = list(dict.fromkeys(target for target, _ in found))
    heads = "".join(f"<th scope='col'>{e(name)}</th>" for name in models)
    rows = []
    for target in models:
        cells = ""
        for explainer in models:
            score = found[target, explainer]
            low, high = score["ci95"]
            cells += (
                f'<td style="--shade:{max(score["value"], 0):.2f}" class="{"own" if target == explainer else ""}">'
                f"{_signed(score['value'])}<small>[{_signed(low)}, {_signed(high)}]</small></td>"
            )
        rows.append(f"<tr><th scope='row'>{e(target)}</th>{cells}</tr>")
    return f"""<p class="from"><strong>Who explains whom best?</strong> {e(title)}, the model explained by row, the
explainer by column; a model explained by itself stands in an outlined cell. {differences}</p>
<div class="mapbox"><table class="matrix"><thead><tr><td></td>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table>
</div>"""


def _differences(differences: Sequence[Mapping[str, Any]]) -> str:
    """What explaining oneself is worth with all rows, over all models, in words."""
    names = {"other": "another model", "nearest_neighbour": "the nearest training row"}
    sentences = []
    for found in differences:
        role, share = found["second"]
        if found["first"] == ["self", 1.0] and share == 1:
            low, high = found["ci95"]
            sentences.append(
                f"Itself less {names[role]}, the mean over all models: {_signed(found['difference'])} "
                f"[{_signed(low)}, {_signed(high)}], p = {found['p_value']:.2g}."
            )
    return " ".join(sentences)


def _curves(means: Sequence[Mapping[str, Any]], title: str) -> str:
    """A score against the number of training rows, the mean over targets, a line a kind of explainer."""
    lines = {
        EXPLAINED_BY[role]: [(log10(p["n_train"]), p["value"], *p["ci95"]) for p in means if p["role"] == role]
        for role in dict.fromkeys(p["role"] for p in means)
    }
    amounts = sorted({p["n_train"] for p in means})
    return f"""<p class="from"><strong>From how many training rows?</strong> {e(title)} against the number of training
rows, with 95 % intervals.</p>
{_chart(lines, {log10(n): f"{n:,}" for n in amounts}, f"{title} against training rows")}"""


def _risk_coverage(said: Mapping[str, Any]) -> str:
    """What confidence is worth: the share of wrong answers if only the surest are given."""
    lines = {
        "the surest answers only": [
            (coverage, risk, risk, risk) for coverage, risk in said["curve"] if coverage > 0.02
        ],
        "answers taken at random": [(0.0, said["risk"], said["risk"], said["risk"]), (1.0, *[said["risk"]] * 3)],
    }
    return f"""<p class="from"><strong>Does confidence mean anything?</strong> Share of wrong answers (vertical) if only
the surest are given (horizontal). Right is: {e(said["correct"])}. Calibration error {said["ece"]:.3f}, before
calibration {said["ece_uncalibrated"]:.3f}.</p>
{_chart(lines, {0.0: "none", 0.5: "half", 1.0: "all"}, "Share of wrong answers against share of answers given")}"""


def _chart(lines: Mapping[str, Sequence[tuple[float, ...]]], ticks: Mapping[float, str], label: str) -> str:
    """Lines of (x, y, low, high), drawn in the colours of the page."""
    points = [point for line in lines.values() for point in line]
    low_x, high_x = min(p[0] for p in points), max(p[0] for p in points)
    low_y, high_y = min(0.0, *(p[2] for p in points)), max(p[3] for p in points)

    def at(x: float, y: float) -> str:
        across = (x - low_x) / (high_x - low_x or 1)
        return f"{66 + 500 * across:.1f},{220 - 200 * (y - low_y) / (high_y - low_y or 1):.1f}"

    drawn = []
    for number, line in enumerate(lines.values()):
        band = [at(p[0], p[2]) for p in line] + [at(p[0], p[3]) for p in reversed(line)]
        drawn.append(
            f'<g class="series s{number}"><polygon points="{" ".join(band)}"/>'
            f'<polyline points="{" ".join(at(p[0], p[1]) for p in line)}"/></g>'
        )
    marks = [(at(x, low_y).split(",")[0], "242", "middle", text) for x, text in ticks.items()]
    marks += [("58", at(low_x, y).split(",")[1], "end", f"{y:.2f}") for y in (low_y, high_y)]
    texts = "".join(f'<text x="{x}" y="{y}" text-anchor="{anchor}">{e(t)}</text>' for x, y, anchor, t in marks)
    keys = "".join(f'<li class="series s{number}">{e(name)}</li>' for number, name in enumerate(lines))
    return f"""<ul class="key">{keys}</ul><svg class="curves" viewBox="0 0 600 250" role="img" aria-label="{e(label)}">
<line x1="66" y1="220" x2="566" y2="220"/>{"".join(drawn)}{texts}</svg>"""
