"""The published Space runs as on the Hub: with its own files and a model that it downloads."""

import json
import shutil

import pytest

from hub.published import SPACE
from selfexplain.pipeline.driver import run
from selfexplain.publishing.hub import Options, publish
from selfexplain.publishing.plan import PlanOptions, make_plan
from selfexplain.runs.recipe import load_recipe
from serving import serving

SIBLING = "selfexplain/tiny-sibling"


@pytest.fixture
def cross_model(run_dir):
    """The finished run with a different explainer: its ground truth is kept, the later steps run again."""
    from little import LITTLE

    path = run_dir / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["identity"]["explainer"] = SIBLING
    for task in ("feature_description", "input_ablation"):
        del manifest["stages"][f"dataset/{task}"]
        shutil.rmtree(run_dir / "datasets" / task)
    path.write_text(json.dumps(manifest))
    few = ["tasks=[activation_patching]", "training.epochs=0.05", "adapter.fit_tokens=500", "evaluation.rows_limit=4"]
    return run(load_recipe("quickstart", [*LITTLE, f"explainer={SIBLING}", *few]), run_dir)


def test_space_of_a_cross_model_explainer_verifies_with_the_target(hub, cross_model, space, tmp_path):
    from gradio_client import Client

    publish(cross_model, "lab", Options(), space)
    for name, content in hub.repo(SPACE).files.items():
        (tmp_path / "space" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "space" / name).write_bytes(content)
    environment = {**hub.environment, "HF_HOME": str(tmp_path / "home")}
    with serving(tmp_path / "space", tmp_path / "log", environment) as url:
        client = Client(url, verbose=False, download_files=False)
        assert f"<b>{SIBLING}</b>" in json.dumps(client.config)
        texts = ["The capital of France is", "The capital of Japan is"]
        verified = client.predict(*texts, [0, 1], 4, 4, api_name="/explain_patch")
    # The outputs of the target, which differ from those of the explainer's base.
    assert (verified["before"], verified["after"]) == ("Paris", "Tokyo")


def test_run_whose_target_is_not_on_the_hub_has_no_space(run_dir, space, tmp_path, caplog):
    def plan(staging):
        plan = make_plan(run_dir, "lab", tmp_path / staging, PlanOptions(space=space))
        files = {part.kind: part.files for part in plan.repositories}
        card = next(file.source for file in files["model"] if file.path == "README.md")
        return "space" in files, "quickstart-explainer" in card.read_text()

    assert plan("on the Hub") == (True, True)
    assert "No Space is published" not in caplog.text
    recipe = run_dir / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("target: selfexplain/tiny\n", "target: /data/models/mine\n"))
    assert plan("local") == (False, False)
    assert "No Space is published" in caplog.text and "'mine'" in caplog.text
