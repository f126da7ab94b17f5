"""Cards are complete and readable, for people and for the Hub, and need only the files of a run."""

import json
import re
from html import escape
from itertools import pairwise

import pytest
import yaml
from huggingface_hub import RepoCard
from markdown_it import MarkdownIt

from publishing.small_run import write_small_run
from selfexplain.errors import SelfExplainError
from selfexplain.evaluation.results import Results
from selfexplain.groundtruth.config import TASK_CONFIGS, TableConfig
from selfexplain.publishing.cards import dataset_card, metric_card, model_card, results_card, space_card, write_cards
from selfexplain.publishing.facts import read_facts
from selfexplain.publishing.metadata import Licence
from selfexplain.publishing.names import Names
from selfexplain.runs.run_directory import RunDirectory
from selfexplain.tasks import TASKS, Task


@pytest.fixture
def run(tmp_path):
    return RunDirectory(write_small_run(tmp_path))


def metadata(path):
    return RepoCard.load(path).data.to_dict()


def edit_json(path, change):
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_model_card_metadata(run):
    write_cards(run.root)
    data = metadata(run.explainer / "README.md")
    assert data["library_name"] == "transformers"
    assert data["base_model"] == "selfexplain/tiny" and data["base_model_relation"] == "adapter"
    assert data["datasets"] == ["selfexplain-patching"]
    metrics = {
        metric["type"]: metric["value"] for entry in data["model-index"][0]["results"] for metric in entry["metrics"]
    }
    assert metrics == {"exact_match": 0.7123, "has_changed_macro_f1": 0.7123}


def test_local_base_is_not_in_the_metadata(run):
    config = run.explainer / "config.json"
    config.write_text(config.read_text().replace("selfexplain/tiny", "/data/models/base"))
    write_cards(run.root)
    assert "base_model" not in metadata(run.cards / "model_card.md")


def test_model_card_text(run):
    write_cards(run.root)
    card = (run.cards / "model_card.md").read_text()
    assert card == (run.explainer / "README.md").read_text()
    lines = card.splitlines()
    assert "| explainer | 0.712 [0.600, 0.800] | 0.712 [0.600, 0.800] |" in lines
    assert "| lookup rule |  | 0.500 [0.400, 0.600] |" in lines
    assert "| explainer - shuffled vector | 0.400 [0.300, 0.500] |  |" in lines
    assert "On has changed macro F1, the explainer is better than *lookup rule*." in lines
    assert "The test set has 50 rows in 20 groups; the output changes in 24 rows." in lines
    assert "2 answers of the explainer could not be parsed and count as incorrect." in lines
    assert "| site | block_output |" in lines
    assert "| versions.torch | 2.13.0 |" in lines
    assert "explain_patch" in card and "explain_ablation" not in card
    settings = card.split("## Training")[1].split("## Provenance")[0]
    assert "| learning_rate | 0.123 |" in settings.splitlines()


def test_the_model_card_leads_with_the_gain_over_the_strongest_baseline(run):
    results = json.loads(run.results_path.read_text())
    gain = {
        "system": "lookup_rule",
        "difference": -0.1,
        "ci95": [-0.2, -0.05],
        "p_value": 0.01,
        "validation_score": 0.6,
    }
    task = results["tasks"]["activation_patching"]
    subset = {"n_test": 30, "n_groups": 9, "scores": task["scores"], "gains": {"has_changed_macro_f1": gain}}
    subset["scores"] = {name: {m: s["value"] for m, s in of.items()} for name, of in task["scores"].items()}
    task |= {"gains": {"has_changed_macro_f1": gain}, "strata": {"token_type": {"last": subset}}, "hard": subset}
    task["readers"] = {"lookup_rule": {}, "logit_lens": {"unavailable": "no target"}}
    run.results_path.write_text(json.dumps(results))
    card = model_card(run, "figures/")
    lead = "| activation patching | has changed macro F1 | "
    assert card.index(lead) < card.index("## Use")
    assert "lookup rule 0.500 | -0.100 [-0.200, -0.050], worse |" in card
    assert (
        "- has changed macro F1: explainer minus lookup rule, the strongest baseline: -0.100 [-0.200, -0.050]." in card
    )
    assert "On the 30 hard rows, on which the strongest baseline is incorrect, the explainer scores" in card
    assert "| token type: last | 30 | " in card


def test_snippets_are_python(run):
    write_cards(run.root)
    for name in ("model_card", "activation_patching"):
        code = (run.cards / f"{name}.md").read_text().split("```python\n")[1].split("```")[0]
        compile(code, name, "exec")
    card = (run.cards / "model_card.md").read_text()
    call = "patch = explainer.explain_patch(text, vector, layers=[2, 3], position=4)"
    # The question of the row whose output changes.
    assert all(line in card for line in (r'text = "\"longer\""', "[:, 5].mean(0)", call))


def test_dataset_directory_with_its_card_loads_only_the_rows(run, tmp_path):
    from datasets import load_dataset

    write_cards(run.root)
    directory = run.dataset("activation_patching").root
    for index in range(4):  # without the card's metadata, `datasets` would read the most frequent file type
        (directory / f"statistics_{index}.json").write_text("{}")
    data = load_dataset(str(directory), cache_dir=str(tmp_path / "cache"))
    assert {split: rows.num_rows for split, rows in data.items()} == {"train": 4, "validation": 1, "test": 2}
    assert data["train"].column_names[:2] == ["prompt", "completion"]


def test_dataset_card_text(run):
    write_cards(run.root)
    dataset = run.dataset("activation_patching")
    assert dataset.card.read_text() == (run.cards / "activation_patching.md").read_text()
    lines = dataset.card.read_text().splitlines()
    assert "| train | 4 | 2 |" in lines
    assert "| changed share | 0.4812 |" in lines and r"| note | a\|b |" in lines
    assert "| patches | 1,234 |" in lines and "| balance.lookup rule accuracy | 0.5 |" in lines
    assert not any(line.startswith("| words") for line in lines)  # long lists are only in statistics.json
    assert "| lookup rule on the test split, has changed macro F1 | 0.500 [0.400, 0.600] |" in lines
    assert "| last | 30 | 10 |" in lines and "| cell 6 | 6 |" in lines
    assert "![Share of interventions that change the output](activation_patching.png)" in lines
    assert (dataset.root / "activation_patching.png").stat().st_size > 1000
    assert "| n_pairs | 10 |" in lines
    assert any(line.startswith("| clean_log_prob") for line in lines)
    assert not any(line.startswith("| scoring_exemplars") for line in lines)
    assert "Rows are split by group: no fact is in two splits." in lines


def test_run_without_an_explainer_has_no_model_card(run):
    (run.explainer / "config.json").unlink()
    run.explainer.rmdir()
    write_cards(run.root)
    assert {path.name for path in run.cards.iterdir()} == {"activation_patching.md", "activation_patching.png"}


def test_writing_twice_changes_nothing(run):
    write_cards(run.root)
    first = (run.cards / "model_card.md").read_bytes()
    write_cards(run.root)
    assert (run.cards / "model_card.md").read_bytes() == first


HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "a</code></td><script>alert(1)</script>",
    "[x](javascript:alert(1))",
    "x](javascript:alert(1)) [y",
    "![x](data:text/html;base64,PHN2Zz4=)",
    "<javascript:alert(1)>",
    "&lt;b&gt; &#60;b>",
    "a\n```\n\n<b>b</b>\n\n````\n[z]: javascript:alert(1)\n\n[z]",
    "~~~\n<i>",
    "# heading",
    "`a` | b\\` <u>",
    '"), __import__("os").system("x"), ("',
)


def check_is_harmless(card: str) -> None:
    """Check that the rendered card has only the tags, schemes of links, headings and code blocks of its template."""
    front_matter, body = card.split("\n---\n", 1)
    yaml.safe_load(front_matter.removeprefix("---\n"))
    markdown = MarkdownIt("commonmark", {"html": True}).enable("table")
    markdown.validateLink = lambda link: True  # other renderers may not check the scheme
    tokens = [inner for token in markdown.parse(body) for inner in (token, *(token.children or []))]
    tags = [token.content for token in tokens if token.type in ("html_inline", "html_block")]
    own = r"\s*(</?details>|<details><summary>[^<]*</summary>)\s*"
    assert [tag for tag in tags if not re.fullmatch(own, tag)] == []
    links = [token.attrs.get("href") or token.attrs.get("src") or "" for token in tokens if token.attrs]
    schemes = {match[1].lower() for link in links if (match := re.match(r"\s*([\w.+-]+):", str(link)))}
    assert schemes <= {"https"}, links
    headings = [b.content for a, b in pairwise(tokens) if a.type == "heading_open"]
    assert "heading" not in headings and headings
    opened = len(re.findall(r"^`{3,}\w+$", body, re.M))
    assert len([token for token in tokens if token.type == "fence"]) == opened


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_values_stay_text(run, text):
    edit_json(run.root / "results.json", lambda data: hostile_results(data, text))
    edit_json(
        run.explainer / "config.json",
        lambda data: data.update(
            base_model_name_or_path=text,
            target={**data["target"], "model": text, "revision": text},
            base_model_revision=text,
        ),
    )
    path = run.recipe_path
    recipe = yaml.safe_load(path.read_text())
    recipe.update(target=text, explainer=text, corpus=text)
    recipe["activation_patching"]["source"].update(path=text, revision=text)
    path.write_text(yaml.safe_dump(recipe))
    statistics = run.root / "datasets" / "activation_patching" / "statistics.json"
    edit_json(
        statistics,
        lambda data: data.setdefault("counts", {}).update(
            {
                text: 3,
                "topics": {text: {"rows": 1, text: text}},
                "names": {f"{text} {n}": n for n in range(9)},
                "list": [text],
            }
        ),
    )
    write_cards(run.root)
    licence = Licence("other", text, f"javascript:{text}")
    facts = read_facts(run, "activation_patching")
    example = facts.example.model_copy(update={"prompt": text, "completion": text})
    recipes = facts.recipe.model_copy(update={"name": text, "changed_settings": {text: text, "list": [text]}})
    other = facts.model_copy(
        update={"name": text, "example": example, "recipe": recipes, "licences": {text: text}, "versions": {text: text}}
    )
    results = Results.read(run.results_path)
    cards = [
        *(path.read_text() for path in run.cards.glob("*.md")),
        model_card(run, "figures/", Names("lab"), licence),
        dataset_card("activation_patching", [other], Names("lab")),
        dataset_card("activation_patching", [other, facts], Names("lab")),
        results_card({text: results, "small": results}, Names("lab")),
    ]
    for card in cards:
        check_is_harmless(card)


def hostile_results(data, text):
    data["recipe"] = data["target"]["name"] = data["explainer"]["name"] = text
    data["environment"]["versions"][text] = text
    result = data["tasks"]["activation_patching"]
    result["scores"][text] = result["scores"]["explainer"]


@pytest.mark.parametrize(
    "link",
    [
        "javascript:alert(1)",
        "JavaScript:x",
        " javascript:x",
        "data:text/html,x",
        "//evil.org",
        "vbscript:x",
        "https://a b",
    ],
)
def test_licence_links_to_other_schemes_are_text(run, link):
    card = model_card(run, "figures/", Names("lab"), Licence("other", "meadow", link))
    assert "Licence: meadow, inherited from the base model." in card.splitlines()


def test_published_card_links_to_repositories_and_inherits_the_licence(run):
    licence = Licence("other", "meadow", "https://example.org/meadow")
    card = model_card(run, "figures/", Names("lab"), licence)
    data = RepoCard(card).data
    assert data.datasets == ["lab/selfexplain-patching"] and data.license_name == "meadow"
    assert "Licence: [meadow](https://example.org/meadow), inherited from the base model." in card.splitlines()
    assert 'from_pretrained("lab/small-selfexplainer")' in card
    assert "![Scores on held-out questions, with controls](figures/summary.png)" in card
    assert "https://huggingface.co/spaces/lab/small-explainer" in card


def test_dataset_card_covers_every_target(run):
    facts = read_facts(run, "activation_patching").model_copy(update={"name": "lab--mine"})
    recipe = facts.recipe.model_copy(update={"target": "lab/other"})
    other = facts.model_copy(update={"name": "lab--other", "recipe": recipe, "has_vectors_file": True})
    card = dataset_card("activation_patching", [facts, other], Names("lab"))
    configs = RepoCard(card).data.to_dict()["configs"]
    assert [config["config_name"] for config in configs] == ["lab--mine", "lab--other", "lab--other-vectors"]
    assert configs[1]["data_files"][0] == {"split": "train", "path": "lab--other/train.parquet"}
    assert not any("default" in config for config in configs)
    assert 'load_dataset("lab/selfexplain-patching", "lab--mine")' in card
    assert "[lab/other](https://huggingface.co/lab/other)" in card


def test_cards_of_a_real_run_are_rendered_completely(finished):
    results = json.loads((finished / "results.json").read_text())
    for path in (finished / "cards").glob("*.md"):
        text = path.read_text()
        assert "{{" not in text and "{%" not in text and "None" not in text and "Undefined" not in text
        body = re.sub(r"^(`{3,}).*?^\1$", "", text, flags=re.M | re.S)
        for table in re.findall(r"(?:^\|.*\n)+", body, re.M):
            widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
            assert len(widths) == 1, table
    card = (finished / "cards" / "model_card.md").read_text()
    row = json.loads((finished / "predictions" / "activation_patching.jsonl").read_text().splitlines()[0])
    assert row["prompt"].strip() in card
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(card)
    assert f"<td><code>{escape(row['completion'])}</code></td>" in page  # `<<<Lima>>>` is not an HTML tag
    for task, result in results["tasks"].items():
        for metric, score in result["scores"]["explainer"].items():
            low, high = score["ci95"]
            assert f"{score['value']:.3f} [{low:.3f}, {high:.3f}]" in card, (task, metric)


def test_prose_of_a_real_card_has_at_most_two_intervals_per_sentence(finished):
    for path in (finished / "cards").glob("*.md"):
        prose = [line for line in path.read_text().splitlines() if not line.startswith("|")]
        for sentence in re.split(r"(?<=[.!?])\s", "\n".join(prose)):
            assert len(re.findall(r"\[-?[\d.]+, -?[\d.]+\]", sentence)) <= 2, sentence


def test_damaged_or_missing_results_are_reported(run):
    run.results_path.write_text('{"tasks":')
    with pytest.raises(SelfExplainError, match=r"results\.json is not valid JSON"):
        write_cards(run.root)
    run.results_path.unlink()
    with pytest.raises(SelfExplainError, match=r"results\.json does not exist.*Run the recipe again"):
        write_cards(run.root)


def test_cards_name_the_source_of_the_rows_and_its_licence(run):
    facts = read_facts(run, "activation_patching")
    card = dataset_card("activation_patching", [facts.model_copy(update={"licences": {"lab/facts": "mit"}})])
    link = "[lab/facts](https://huggingface.co/datasets/lab/facts) at 0123abc"
    assert f"The rows were made from {link}." in card.splitlines() and "- `lab/facts`: mit" in card.splitlines()
    assert f"activation patching on {link}." in model_card(run, "figures/")
    assert "corpus.jsonl" not in card
    recipe = facts.recipe.model_copy(update={"source": "corpus.jsonl", "source_revision": None})
    card = dataset_card("activation_patching", [facts.model_copy(update={"recipe": recipe})])
    assert "The rows were made from `corpus.jsonl`." in card.splitlines()


def test_out_of_distribution_sets_have_configurations_and_scores(run):
    facts = read_facts(run, "activation_patching")
    counts = {"activations": {"vectors": 9, "rows": 8}, "differences": {"vectors": 7, "rows": 7}}
    statistics = facts.statistics.model_copy(update={"out_of_distribution": counts})
    card = dataset_card("feature_description", [facts.model_copy(update={"statistics": statistics})])
    configs = RepoCard(card).data.to_dict()["configs"]
    assert configs[1:] == [
        {"config_name": name, "data_files": [{"split": "test", "path": f"{name}.parquet"}]} for name in counts
    ]
    assert "| activations | 9 | 8 |" in card.splitlines() and "| differences | 7 | 7 |" in card.splitlines()
    assert "`activations` contains whole activations" in card

    def add_test_set(results):
        task = results["tasks"]["activation_patching"]
        task["out_of_distribution"] = {"differences": {**task, "n_test": 7}}

    edit_json(run.results_path, add_test_set)
    lines = model_card(run, "figures/").splitlines()
    assert "### Scores: activation patching, differences" in lines
    assert "The test set has 7 rows in 20 groups; the output changes in 24 rows." in lines


def test_model_card_of_a_base_with_a_different_local_target_uses_random_vectors(run):
    edit_json(run.explainer / "config.json", lambda config: config["target"].update(model="/data/models/mine"))
    run.recipe_path.write_text(run.recipe_path.read_text().replace("target: selfexplain/tiny\n", "target: mine\n"))
    card = model_card(run, "figures/")
    code = card.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    assert "pass target=load_target(DIRECTORY)" in code
    assert "explainer.explain_patch(" not in code  # the target's tokenizer is missing


def test_model_card_of_a_different_base_passes_the_target(run):
    edit_json(run.explainer / "config.json", lambda config: config.update(base_model_name_or_path="lab/base"))
    card = model_card(run, "figures/")
    assert 'target = load_target("selfexplain/tiny")' in card.splitlines()
    assert "position=4, target=target)" in card and "explainer.verify(patch, target=target)" in card
    assert "The base is a different model than the target" in card


def test_results_card_lists_recipes_by_name(run):
    results = run.read_results()
    card = results_card({"zebra": results, "ant": results}, Names("lab"))
    assert card.index("[ant](") < card.index("[zebra](")
    assert '"lab/selfexplain-results", "activation_patching"' in card
    configs = RepoCard(card).data.to_dict()["configs"]
    assert [config["config_name"] for config in configs] == ["scores", "activation_patching"]
    other = RepoCard(results_card({"zebra": results}, Names("lab"))).data.to_dict()["configs"]
    assert other[0]["data_files"] == configs[0]["data_files"]
    assert other[0]["description"] != configs[0]["description"]  # load_dataset caches the results by the metadata


def test_space_and_metric_cards_keep_their_text_and_get_ids_and_the_tag(run):
    text = "---\ntitle: x\nsdk: gradio\ntags: [demo]\n---\n\n# Try it\n"
    space = RepoCard(space_card(text, run.read_recipe(), Names("lab")))
    assert space.data.title == "small explainer" and space.data.models == ["lab/small-selfexplainer"]
    assert space.data.datasets == ["lab/selfexplain-patching", "lab/selfexplain-results"]
    assert space.data.tags == ["demo", "selfexplain"] and "# Try it" in space.text
    assert RepoCard(metric_card(text)).data.tags == ["demo", "selfexplain"]


SENTIMENT = Task(
    name="card_sentiment",
    asks="whether the continuation of a text is positive",
    short_question="Will it end well?",
    columns={"text": "text", "label": "text"},
    query_columns=("text",),
    metrics=("exact_match",),
    headline="exact_match",
    correct_when="exact match",
    dataset_name="selfexplain-sentiment",
    split_unit="story",
)


@pytest.fixture
def sentiment(run, monkeypatch):
    """The small run with a fourth task that registers no card section, instead of activation patching."""
    import datasets

    monkeypatch.setitem(TASKS._values, SENTIMENT.name, SENTIMENT)
    monkeypatch.setitem(TASK_CONFIGS._values, SENTIMENT.name, TableConfig)
    recipe = yaml.safe_load(run.recipe_path.read_text())
    settings = {"tasks": [SENTIMENT.name], SENTIMENT.name: {"path": "lab/stories"}}
    run.recipe_path.write_text(yaml.safe_dump({**recipe, **settings}))
    run.dataset("activation_patching").root.rename(run.dataset(SENTIMENT.name).root)
    row = {"prompt": "Will it end well? Once", "completion": "yes", "text": "Once", "label": "yes"}
    datasets.Dataset.from_list([row]).to_parquet(run.dataset(SENTIMENT.name).rows("test"))

    def rename(results):
        results["tasks"] = {SENTIMENT.name: results["tasks"].pop("activation_patching")}
        scores = results["tasks"][SENTIMENT.name]["scores"]
        scores["explainer"] = {"exact_match": scores["explainer"]["exact_match"]}

    edit_json(run.results_path, rename)
    return run


def test_cards_of_a_task_without_a_section_come_from_its_record(sentiment):
    names = Names("lab")
    card = model_card(sentiment, "figures/", names)
    assert "- **Card sentiment**: whether the continuation of a text is positive." in card.splitlines()
    code = card.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    assert "from datasets import load_dataset" in code.splitlines()
    assert 'load_dataset("lab/selfexplain-sentiment", "selfexplain--tiny", split="test")[0]' in code
    assert "explainer.answer([row])" in code
    assert "Scores on held-out rows, which share no story with the training data" in card

    lines = dataset_card(SENTIMENT.name, [read_facts(sentiment, SENTIMENT.name)]).splitlines()
    assert "| text | text, part of the question |" in lines and "| label | text |" in lines
    assert "Rows are split by group: no story is in two splits." in lines
    assert "| path | lab/stories |" in lines

    card = results_card({"small": Results.read(sentiment.results_path)}, names)
    assert "## Card sentiment" in card.splitlines()
