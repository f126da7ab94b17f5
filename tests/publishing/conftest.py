"""A Hub for each test, and clients in this process that talk to it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from hub.published import DATASETS, MODEL, RESULTS, TEXT
from hub.server import TOKEN, Hub


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub with the clients of this process pointed at it; `waits` are the seconds they would wait between tries."""
    with Hub() as hub:
        point_clients_at(hub, monkeypatch, tmp_path / "hub-cache")
        yield hub


@pytest.fixture(scope="session")
def pushed(finished, space, tmp_path_factory):
    """A Hub after one `publish`; for reading, and to be copied. With it, what `publish` returned."""
    from selfexplain.publishing.hub import Options, publish

    with Hub() as hub:
        with pytest.MonkeyPatch.context() as monkeypatch:
            point_clients_at(hub, monkeypatch, tmp_path_factory.mktemp("hub") / "cache")
            hub.done = publish(finished, "lab", Options(), space)
        yield hub


@pytest.fixture
def hub_with_run(hub, pushed):
    """A Hub of the test's own that holds a published run."""
    hub.copy_of(pushed)
    return hub


def point_clients_at(hub, monkeypatch, cache):
    """huggingface_hub reads its settings when it is imported: change them where they lie."""
    import huggingface_hub.utils._http
    from huggingface_hub import constants

    from selfexplain.publishing import hub as publishing

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for name, value in {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_PROGRESS_BARS": True,
        "HF_HUB_CACHE": str(cache),
    }.items():
        monkeypatch.setattr(constants, name, value)
    hub.waits = []
    monkeypatch.setattr(huggingface_hub.utils._http.time, "sleep", lambda _: None)
    monkeypatch.setattr(publishing, "time", SimpleNamespace(sleep=hub.waits.append))
    monkeypatch.setattr(publishing, "TIMEOUT", 5.0)


@pytest.fixture(scope="session")
def space(tmp_path_factory):
    """Files of a Space; the real ones where the checkout has them."""
    from selfexplain.resources import resource

    try:
        return resource("spaces/explainer")
    except FileNotFoundError:
        pass
    path = tmp_path_factory.mktemp("space")
    (path / "README.md").write_text("---\ntitle: x\nsdk: gradio\napp_file: app.py\n---\n\n# Try it\n")
    (path / "app.py").write_text("import os\n\nprint(os.environ['SELFEXPLAIN_EXPLAINER'])\n")
    (path / "requirements.txt").write_text("selfexplain\n")
    return path


@pytest.fixture(scope="session")
def on_directory(tmp_path_factory):
    """A finished run on a model directory and a text, both named as typed beside them: `ownmodel`, `./texts.txt`."""
    from selfexplain import bundled
    from selfexplain.bundled import TINY_WORLD
    from selfexplain.groundtruth.sources import read_corpus
    from selfexplain.pipeline.driver import run
    from selfexplain.runs.recipe import load_recipe

    path = tmp_path_factory.mktemp("own")
    shutil.copytree(bundled.resolve("selfexplain/tiny"), path / "ownmodel")
    texts = read_corpus(TINY_WORLD, 0).texts[:500]
    (path / "texts.txt").write_text("".join(text.replace("\n", " ") + "\n" for text in texts))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(path)
        few = [
            "layers=[1]", "n_saes=1", "n_features=48", "n_tokens=3000", "n_candidates=1", "min_active=2",
            "rows_per_feature=1",
        ]  # fmt: skip
        values = [
            "target=ownmodel", "corpus=./texts.txt", "tasks=[feature_description]", "training.epochs=0.05",
            "evaluation.rows_limit=2", "evaluation.selfie_rows=0", "evaluation.n_resamples=10",
            *(f"feature_description.{value}" for value in few),
        ]  # fmt: skip
        return run(load_recipe("quickstart", values), path / "run")


@pytest.fixture
def run_dir(finished, tmp_path):
    """A copy of the finished run, to be changed."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def real_space(space, monkeypatch):
    """The Space that the command takes from the package is the one of these tests."""
    from selfexplain import resources

    find = resources.resource
    monkeypatch.setattr(resources, "resource", lambda name: space if name == "spaces/explainer" else find(name))


@pytest.fixture(scope="session")
def seen(pushed, tmp_path_factory):
    """What a fresh process saw on the Hub."""
    out = tmp_path_factory.mktemp("client")
    with Hub() as hub:
        hub.copy_of(pushed)
        repo = hub.repo(MODEL)
        revision = repo.refs["broken"] = repo.refs["main"]
        repo.commit({**repo.files, "config.json": b"{}"}, "names no model", "broken")
        page = (
            (Path(__file__).parents[2] / "docs" / "publish.md").read_text(encoding="utf-8").replace("my-lab/", "lab/")
        )
        ids = {
            "model": MODEL,
            "revision": revision,
            "datasets": DATASETS,
            "results": RESULTS,
            "text": TEXT,
            "page": re.findall(r"```python\n(.*?)```", page, re.DOTALL),
        }
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("HF_")},
            **hub.environment,
            "HF_HOME": str(out / "home"),
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2] / "src"), os.environ.get("PYTHONPATH", "")]),
        }
        call = [sys.executable, str(Path(__file__).with_name("client.py")), json.dumps(ids), str(out / "seen.json")]
        done = subprocess.run(call, env=environment, capture_output=True, text=True, cwd=out)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads((out / "seen.json").read_text())
