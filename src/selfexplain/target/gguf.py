"""Convert a GGUF file into an ordinary model directory, and record where its weights come from."""

import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from selfexplain.errors import SelfExplainError
from selfexplain.utils.hashing import file_sha256
from selfexplain.utils.io import report_full_disk, require_disk_space
from selfexplain.utils.records import Record

if TYPE_CHECKING:
    from gguf import GGUFReader
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

BYTES_PER_WEIGHT = 2  # bfloat16
INSTALL = "pip install 'selfexplain[gguf]'"


class WeightsOrigin(Record):
    """`weights_origin.json` of a converted model directory.

    Attributes:
        file: name of the file that the weights were read from.
        sha256: its SHA-256.
        quantization: type of most of its weights, such as Q4_1.
        package: registry package that contains the file, with its version; None if there is none.
        hub_id: the original model on the Hub; None if it is not known.
        licence: licence of the weights; None if it is not known.
    """

    file_name: ClassVar[str] = "weights_origin.json"
    remedy: ClassVar[str] = "Convert the file again: selfexplain convert FILE DIR."

    schema_version: Literal[1] = 1
    file: str
    sha256: str
    quantization: str
    package: str | None = None
    hub_id: str | None = None
    licence: str | None = None

    @property
    def summary(self) -> str:
        """What distinguishes the weights from the original ones, such as "dequantised from Q4_1"."""
        return f"dequantised from {self.quantization}"


def read_origin(directory: str | Path) -> WeightsOrigin | None:
    """The origin of the weights in a model directory; None for a directory that was not converted, or a Hub id."""
    path = Path(directory).expanduser() / WeightsOrigin.file_name
    return WeightsOrigin.read(path) if path.is_file() else None


def convert(
    file: Path,
    directory: Path,
    *,
    package: str | None = None,
    hub_id: str | None = None,
    licence: str | None = None,
) -> WeightsOrigin:
    """Dequantise a GGUF file and write an ordinary model directory with weights in bfloat16.

    The directory appears when it is complete. If it exists and was converted from the same file, nothing is done.

    Args:
        file: a GGUF file of a causal language model that transformers can read.
        directory: directory to write.
        package: registry package that contains the file.
        hub_id: the original model on the Hub.
        licence: licence of the weights.

    Raises:
        SelfExplainError: the file is missing, damaged or of an unsupported architecture, the package `gguf` is missing,
            the directory exists with other content, or the disk is too small.
    """
    reader = _read_header(file)
    digest = file_sha256(file)
    if (origin := read_origin(directory)) and origin.sha256 == digest:
        logger.info("%s was already converted from %s.", directory, file.name)
        return origin
    if directory.exists() and any(directory.iterdir() if directory.is_dir() else [directory]):
        raise SelfExplainError(
            f"{directory} exists and does not contain the weights of {file.name}. "
            "Give a new directory, or delete this one."
        )
    n_weights = sum(int(tensor.n_elements) for tensor in reader.tensors)
    require_disk_space(directory.parent, BYTES_PER_WEIGHT * n_weights / 1e9)
    origin = WeightsOrigin(
        file=file.name,
        sha256=digest,
        quantization=_quantization(reader),
        package=package,
        hub_id=hub_id,
        licence=licence,
    )
    logger.info("Dequantising %s: %.0f million weights in %s.", file.name, n_weights / 1e6, origin.quantization)
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by an interrupted process
    partial.mkdir(parents=True)
    with report_full_disk(partial):
        _write(file, partial)
        origin.write(partial / WeightsOrigin.file_name)
        if directory.is_dir():
            directory.rmdir()
        os.replace(partial, directory)
    return origin


def _read_header(file: Path) -> "GGUFReader":
    """The header of a GGUF file whose architecture transformers can read.

    Raises:
        SelfExplainError: see `convert`.
    """
    if not file.is_file():
        raise SelfExplainError(f"{file} does not exist. Give the path of a GGUF file.")
    try:
        from gguf import GGUFReader
    except ImportError:
        raise SelfExplainError(f"Reading GGUF files needs the package gguf. Install it: {INSTALL}.") from None
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    try:
        reader = GGUFReader(file)
        architecture = str(reader.fields["general.architecture"].contents())
    except Exception as error:  # the reader raises errors of many kinds for damaged files
        raise SelfExplainError(
            f"{file} could not be read as a GGUF file: {error}. Download the file again, or give a different one."
        ) from error
    if architecture not in GGUF_SUPPORTED_ARCHITECTURES:
        raise SelfExplainError(
            f"{file} contains a model of the architecture {architecture!r}, which transformers cannot convert. It can "
            f"convert: {', '.join(sorted(GGUF_SUPPORTED_ARCHITECTURES))}. Use the original model from the Hub instead."
        )
    return reader


def _quantization(reader: "GGUFReader") -> str:
    """The type of most of the weights."""
    sizes: dict[str, int] = {}
    for tensor in reader.tensors:
        sizes[tensor.tensor_type.name] = sizes.get(tensor.tensor_type.name, 0) + int(tensor.n_elements)
    return max(sizes, key=sizes.__getitem__)


def _write(file: Path, directory: Path) -> None:
    """Write the model and the tokenizer of a GGUF file to a directory."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        options = {"gguf_file": file.name, "trust_remote_code": False}
        packed = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **options)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **options)
    except Exception as error:  # transformers raises errors of many kinds for weights that it cannot map
        raise SelfExplainError(
            f"transformers could not convert {file}: {error}. Use the original model from the Hub instead."
        ) from error
    _unquantised(packed).save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _unquantised(model: "PreTrainedModel") -> "PreTrainedModel":
    """The same weights in bfloat16, in a model that transformers can save: it refuses to save one read from GGUF."""
    import torch

    config = type(model.config).from_dict(
        {name: value for name, value in model.config.to_dict().items() if name != "quantization_config"}
    )
    fresh = type(model)(config)
    fresh.load_state_dict(model.state_dict())
    fresh.generation_config = model.generation_config
    return fresh.to(torch.bfloat16)
