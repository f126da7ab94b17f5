"""A Hub for each test, clients in this process that use it, and runs to publish."""

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from hub.published import DATASETS, MODEL, PATCHING, RESULTS, TEXT
from hub.server import TOKEN, Hub

ROOT = Path(__file__).parents[2]


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """An empty Hub that this process uses; `waits` lists the seconds between attempts, which tests do not wait."""
    with Hub() as hub:
        point_clients_at(hub, monkeypatch, tmp_path / "hub-cache")
        yield hub


@pytest.fixture(scope="session")
def pushed(finished, space, tmp_path_factory):
    """A Hub after one `publish --metrics`, which must not be changed. `published` is what `publish` returned."""
    from selfexplain.publishing.hub import Options, publish

    with Hub() as hub:
        with pytest.MonkeyPatch.context() as monkeypatch:
            point_clients_at(hub, monkeypatch, tmp_path_factory.mktemp("hub") / "cache")
            hub.published = publish(finished, "lab", Options(metrics=True), space)
        yield hub


@pytest.fixture
def hub_with_run(hub, pushed):
    """A Hub that contains a published run and that the test may change."""
    hub.copy_of(pushed)
    return hub


def point_clients_at(hub, monkeypatch, cache):
    """Change the settings that huggingface_hub reads when it is imported."""
    import huggingface_hub.utils._http
    from huggingface_hub import constants

    from selfexplain.publishing import hub_calls

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
    monkeypatch.setattr(hub_calls, "time", SimpleNamespace(sleep=hub.waits.append))
    monkeypatch.setattr(hub_calls, "TIMEOUT", 5.0)


@pytest.fixture(scope="session")
def space():
    """Files of the demo Space."""
    from selfexplain.resources import resource

    return resource("spaces/explainer")


@pytest.fixture(scope="session")
def run_on_directory(tmp_path_factory):
    """A finished run on a model directory and a text file, given as relative paths: `ownmodel` and `./texts.txt`."""
    from selfexplain import bundled
    from selfexplain.bundled import TINY_WORLD
    from selfexplain.groundtruth.sources import read_corpus
    from selfexplain.pipeline.driver import run
    from selfexplain.runs.recipe import load_recipe

    path = tmp_path_factory.mktemp("own")
    shutil.copytree(bundled.resolve("selfexplain/tiny"), path / "ownmodel")
    texts = read_corpus(TINY_WORLD, 0).texts[:500]
    (path / "texts.txt").write_text("".join(text.replace("\n", " ") + "\n" for text in texts))
    features = ["layers=[1]", "n_saes=1", "n_features=48", "n_tokens=3000", "min_active=2", "rows_per_feature=1"]
    values = [
        "target=ownmodel", "corpus=./texts.txt", "tasks=[feature_description]", "training.epochs=0.05",
        "evaluation.rows_limit=2", "evaluation.selfie_rows=0", "evaluation.n_resamples=10",
        *(f"feature_description.{value}" for value in (*features, "n_candidates=1")),
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(path)
        return run(load_recipe("quickstart", values), path / "run")


@pytest.fixture
def run_dir(finished, tmp_path):
    """A copy of the finished run that the test may change."""
    return shutil.copytree(finished, tmp_path / "run")


def commit_reversed_rows(repo):
    """Commit the rows of another run, which are those of the first one in reverse order, to a branch."""
    import pyarrow.parquet as parquet

    from selfexplain.publishing.cards import dataset_card
    from selfexplain.publishing.facts import DatasetFacts

    files, hashes = dict(repo.files), {}
    for path in [path for path in files if path.endswith(".parquet")]:
        rows = parquet.read_table(io.BytesIO(files[path]))
        parquet.write_table(rows.take(list(reversed(range(len(rows))))), buffer := io.BytesIO())
        files[path] = buffer.getvalue()
        hashes[path.rpartition("/")[2]] = hashlib.sha256(files[path]).hexdigest()
    facts = next(json.loads(content) for path, content in files.items() if path.endswith("/card.json"))
    card = dataset_card(facts["task"], [DatasetFacts.from_data({**facts, "files": hashes}, "card.json")])
    return repo.commit({**files, "README.md": card.encode()}, "another run", "another-run")


@pytest.fixture(scope="session")
def reader(pushed, tmp_path_factory):
    """What a fresh process read from the Hub (`hub/client.py`)."""
    out = tmp_path_factory.mktemp("client")
    with Hub() as hub:
        hub.copy_of(pushed)
        repo = hub.repo(MODEL)
        revision = repo.refs["broken"] = repo.refs["main"]
        repo.commit({**repo.files, "config.json": b"{}"}, "a configuration of no model", "broken")
        docs = (ROOT / "docs" / "publish.md").read_text(encoding="utf-8").replace("my-lab/", "lab/")
        ids = {
            "model": MODEL,
            "revision": revision,
            "datasets": DATASETS,
            "revisions": [hub.repo(PATCHING).refs["main"], commit_reversed_rows(hub.repo(PATCHING))],
            "results": RESULTS,
            "text": TEXT,
            "metric": "lab/content_match",
            "docs": re.findall(r"```python\n(.*?)```", docs, re.DOTALL),
        }
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("HF_")},
            **hub.environment,
            "HF_HOME": str(out / "home"),
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
        }
        command = [sys.executable, str(ROOT / "tests" / "hub" / "client.py"), json.dumps(ids), str(out / "record.json")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=out)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads((out / "record.json").read_text())
