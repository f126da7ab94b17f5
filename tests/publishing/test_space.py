"""The published Space, run as the Hub runs it: its own files, and a model that it fetches."""

import json
import shutil

import pytest

from selfexplain.pipeline.driver import run
from selfexplain.publishing.hub import Options, publish
from selfexplain.publishing.plan import make_plan
from selfexplain.runs.recipe import load_recipe
from serving import serving

SIBLING = "selfexplain/tiny-sibling"


@pytest.fixture
def cross_model(run_dir):
    """The finished run with another model as the explainer: its ground truth is kept, what comes after is made anew."""
    from little import LITTLE

    path = run_dir / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["identity"]["explainer"] = SIBLING
    path.write_text(json.dumps(manifest))
    few = ["tasks=[activation_patching]", "training.epochs=0.05", "adapter.fit_tokens=500", "evaluation.rows_limit=4"]
    for task in ("feature_description", "input_ablation"):
        del manifest["stages"][f"dataset/{task}"]
        shutil.rmtree(run_dir / "datasets" / task)
    path.write_text(json.dumps(manifest))
    return run(load_recipe("quickstart", [*LITTLE, f"explainer={SIBLING}", *few]), run_dir)


def test_one_model_explains_another_on_the_page(hub, cross_model, space, tmp_path):
    from gradio_client import Client

    publish(cross_model, "lab", Options(), space)
    files = hub.repo("spaces/lab/quickstart-explainer").files
    for name, content in files.items():
        (tmp_path / "space" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "space" / name).write_bytes(content)
    environment = {**hub.environment, "HF_HOME": str(tmp_path / "home")}
    with serving(tmp_path / "space", tmp_path / "log", environment) as url:
        client = Client(url, verbose=False, download_files=False)
        page = json.dumps(client.config)
        assert "Ask one model about another" in page and f"<b>{SIBLING}</b>" in page
        texts = ["The capital of France is", "The capital of Japan is"]
        found = client.predict(*texts, [0, 1], 4, 4, api_name="/explain_patch")
    assert (found["before"], found["after"]) == ("Paris", "Tokyo")  # what the target says, not the explainer's base


def test_where_nobody_has_the_target_there_is_no_space_and_this_is_said(run_dir, space, tmp_path, caplog):
    def planned(staging):
        found = {
            part.kind: part.files for part in make_plan(run_dir, "lab", tmp_path / staging, space=space).repositories
        }
        card = next(file.source for file in found["model"] if file.path == "README.md")
        return "space" in found, "quickstart-explainer" in card.read_text()

    assert planned("named") == (True, True) and "no Space" not in caplog.text
    recipe = run_dir / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("target: selfexplain/tiny\n", "target: /data/models/mine\n"))
    assert planned("local") == (False, False)
    assert "no Space" in caplog.text and "'mine'" in caplog.text
