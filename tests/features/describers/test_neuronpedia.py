"""Exports of Neuronpedia are joined on the index, and what is missing is said."""

import functools
import gzip
import json
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch

from selfexplain.errors import SelfExplainError
from selfexplain.features.describers import neuronpedia
from selfexplain.features.describers.neuronpedia import read_descriptions
from selfexplain.features.dictionary import of_directions


@pytest.fixture
def dictionary():
    return of_directions(torch.eye(32)[:20], 2, "r", "s", torch.zeros(32), np.array([1, 4, 9, 17]))


@pytest.fixture
def export(tmp_path):
    """Twelve features in two batches, in lexicographic order; one is described twice, one not at all."""
    root = tmp_path / "export/2-res"
    (root / "explanations").mkdir(parents=True)
    numbers = sorted(map(str, range(12)))
    for batch in range(2):
        with gzip.open(root / f"explanations/batch-{batch}.jsonl.gz", "wt") as file:
            for number in numbers[6 * batch : 6 * batch + 6]:
                texts = {"4": ["fours", " square\n numbers "], "7": []}.get(number, [f"the number {number}"])
                for text in texts:
                    record = {"modelId": "m", "layer": "2-res", "index": number, "description": text}
                    file.write(json.dumps(record) + "\n")
    return root


def test_descriptions_are_joined_on_the_index_wherever_they_stand(dictionary, export, tmp_path):
    found, report = read_descriptions(dictionary, str(export.parent / "{layer}-res"), tmp_path)
    assert found == {0: ["the number 1"], 1: ["fours", "square numbers"], 2: ["the number 9"]}
    assert len(report.pop("sha256")) == 64
    assert report == {"batches": 2, "records": 12, "described": 3, "missing": 1}


@pytest.fixture
def url(export):
    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(export.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_an_export_is_downloaded_once(dictionary, export, url, tmp_path):
    local, report = read_descriptions(dictionary, str(export), tmp_path)
    assert read_descriptions(dictionary, f"{url}/{{layer}}-res", tmp_path) == (local, report)
    for path in (export / "explanations").iterdir():
        path.unlink()
    assert read_descriptions(dictionary, f"{url}/{{layer}}-res", tmp_path) == (local, report)
    with pytest.raises(SelfExplainError, match="HTTP 404"):
        read_descriptions(dictionary, f"{url}/other", tmp_path)
    with pytest.raises(SelfExplainError, match="Run again"):
        read_descriptions(dictionary, "http://127.0.0.1:9/x", tmp_path)


def test_the_address_in_the_bucket_is_the_one_the_sae_names(dictionary, export, url, tmp_path, monkeypatch):
    with pytest.raises(SelfExplainError, match="does not say where Neuronpedia has it"):
        read_descriptions(dictionary, None, tmp_path)
    monkeypatch.setattr(neuronpedia, "BUCKET", url)
    named = of_directions(torch.eye(32)[:20], 2, "r", "s", torch.zeros(32), np.array([1]))
    object.__setattr__(named, "neuronpedia_id", "2-res")
    assert read_descriptions(named, None, tmp_path)[0] == {0: ["the number 1"]}


def test_what_is_missing_cut_off_or_of_another_layer_is_refused(dictionary, export, tmp_path):
    folder = export / "explanations"
    whole = (folder / "batch-0.jsonl.gz").read_bytes()
    other = of_directions(torch.eye(32)[:20], 3, "r", "s", torch.zeros(32))
    with pytest.raises(SelfExplainError, match="describes '2-res'; expected an export of layer 3"):
        read_descriptions(other, str(export), tmp_path)
    (folder / "batch-0.jsonl.gz").write_bytes(whole[:-20])
    with pytest.raises(SelfExplainError, match="cut off"):
        read_descriptions(dictionary, str(export), tmp_path)
    (folder / "batch-0.jsonl.gz").unlink()
    with pytest.raises(SelfExplainError, match="lacks batch 0"):
        read_descriptions(dictionary, str(export), tmp_path)
    with pytest.raises(SelfExplainError, match="no export"):
        read_descriptions(dictionary, str(tmp_path / "nowhere"), tmp_path)
    (folder / "batch-0.jsonl.gz").write_bytes(gzip.compress(b'{"index": "900", "description": "x"}\n'))
    (folder / "batch-1.jsonl.gz").unlink()
    with pytest.raises(SelfExplainError, match="none of a feature"):
        read_descriptions(dictionary, str(export), tmp_path)
