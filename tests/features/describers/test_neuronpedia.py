"""Exports of Neuronpedia are joined on the index, and incomplete exports are reported or refused."""

import functools
import gzip
import json
import threading
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch

from selfexplain.errors import SelfExplainError
from selfexplain.features.describers import neuronpedia
from selfexplain.features.describers.neuronpedia import read_descriptions
from selfexplain.features.dictionary import dictionary_from_directions


@pytest.fixture
def dictionary():
    return dictionary_from_directions(torch.eye(32)[:20], 2, "r", "s", torch.zeros(32), np.array([1, 4, 9, 17]))


@pytest.fixture
def export(tmp_path):
    """An export of twelve features in two batches, in lexicographic order: one has two descriptions, one has none."""
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


def test_descriptions_are_joined_on_the_index_across_batches(dictionary, export, tmp_path):
    descriptions, report = read_descriptions(dictionary, str(export.parent / "{layer}-res"), tmp_path)
    assert descriptions == {0: ["the number 1"], 1: ["fours", "square numbers"], 2: ["the number 9"]}
    assert len(report.pop("sha256")) == 64
    assert report == {"batches": 2, "records": 12, "described": 3, "missing": 1}


@pytest.mark.parametrize("description", [None, float("nan"), 3, ["x"], " "])
def test_descriptions_that_are_not_text_count_as_missing(dictionary, export, tmp_path, description):
    renamed = export.rename(export.with_name("{x} 2-res"))  # braces in the name of a directory
    path = renamed / "explanations/batch-0.jsonl.gz"
    records = [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines()]
    records = [r | {"description": description} if r["index"] == "1" else r for r in records]
    path.write_bytes(gzip.compress("".join(json.dumps(record) + "\n" for record in records).encode()))
    descriptions, report = read_descriptions(dictionary, str(export.parent / "{x} {layer}-res"), tmp_path)
    assert 0 not in descriptions and report["missing"] == 2


@pytest.fixture
def url(export):
    """The address of a server for the export on this machine."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(export.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_an_export_is_downloaded_once_and_failed_downloads_raise_an_error(dictionary, export, url, tmp_path):
    local, report = read_descriptions(dictionary, str(export), tmp_path)
    assert read_descriptions(dictionary, f"{url}/{{layer}}-res", tmp_path) == (local, report)
    for path in (export / "explanations").iterdir():
        path.unlink()
    assert read_descriptions(dictionary, f"{url}/{{layer}}-res", tmp_path) == (local, report)
    with pytest.raises(SelfExplainError, match="returned HTTP 404"):
        read_descriptions(dictionary, f"{url}/other", tmp_path)
    with pytest.raises(SelfExplainError, match=r"Run again\. Downloaded files are kept"):
        read_descriptions(dictionary, "http://127.0.0.1:9/x", tmp_path)


def test_the_metadata_of_the_sae_name_the_source_in_the_bucket(dictionary, export, url, tmp_path, monkeypatch):
    with pytest.raises(SelfExplainError, match="does not name a source on Neuronpedia"):
        read_descriptions(dictionary, None, tmp_path)
    monkeypatch.setattr(neuronpedia, "BUCKET", url)
    named = dictionary_from_directions(torch.eye(32)[:20], 2, "r", "s", torch.zeros(32), np.array([1]))
    named = replace(named, neuronpedia_id="2-res")
    assert read_descriptions(named, None, tmp_path)[0] == {0: ["the number 1"]}


def test_an_incomplete_damaged_or_unrelated_export_raises_an_error(dictionary, export, tmp_path):
    folder = export / "explanations"
    complete = (folder / "batch-0.jsonl.gz").read_bytes()
    other = dictionary_from_directions(torch.eye(32)[:20], 3, "r", "s", torch.zeros(32))
    with pytest.raises(SelfExplainError, match="describes '2-res'; expected layer 3"):
        read_descriptions(other, str(export), tmp_path)
    (folder / "batch-0.jsonl.gz").write_bytes(complete[:-20])
    with pytest.raises(SelfExplainError, match="is truncated or not an export"):
        read_descriptions(dictionary, str(export), tmp_path)
    (folder / "batch-0.jsonl.gz").unlink()
    with pytest.raises(SelfExplainError, match="lacks batch 0"):
        read_descriptions(dictionary, str(export), tmp_path)
    with pytest.raises(SelfExplainError, match="contains no export of Neuronpedia"):
        read_descriptions(dictionary, str(tmp_path / "nowhere"), tmp_path)
    (folder / "batch-0.jsonl.gz").write_bytes(gzip.compress(b'{"index": "900", "description": "x"}\n'))
    (folder / "batch-1.jsonl.gz").unlink()
    with pytest.raises(SelfExplainError, match=r"None of the 1 descriptions in .* belongs to a feature of s"):
        read_descriptions(dictionary, str(export), tmp_path)
