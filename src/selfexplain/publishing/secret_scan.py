"""Find access tokens and private keys in files of any format.

The raw bytes of every file are searched, and also what a reader would see of them: text without its escapes, columns
of tables, members of archives, and the text of images. Formats are recognised by their content, not by their suffix.
"""

import bz2
import gzip
import html
import io
import lzma
import re
import struct
import tarfile
import tempfile
import urllib.parse
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast

from selfexplain.errors import SelfExplainError

if TYPE_CHECKING:
    import pyarrow as pa

_HUGGING_FACE, _GITHUB, _API = "a Hugging Face token", "a GitHub token", "an API key"

SECRETS = (
    (_HUGGING_FACE, rb"hf_", rb"(?<![A-Za-z])hf_(?:jwt_|oauth_)?[A-Za-z0-9]{20,}|hf_(?:jwt_|oauth_)?[A-Za-z0-9]{30,}"),
    *((_GITHUB, prefix, prefix + rb"[A-Za-z0-9]{30,}") for prefix in (b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_")),
    (_GITHUB, b"github_pat_", rb"github_pat_\w{30,}"),
    ("a GitLab token", b"glpat-", rb"glpat-[\w-]{20,}"),
    ("a PyPI token", b"pypi-AgE", rb"pypi-AgE[\w-]{50,}"),
    ("an npm token", b"npm_", rb"npm_[A-Za-z0-9]{36}"),
    # "task-", "risk-" and "desk-" also end in "sk-", so that only random text counts after them.
    (_API, b"sk-", rb"(?<![A-Za-z])sk-(?=[A-Za-z_-]*\d)[\w-]{24,}|(?<![aeioumn])sk-(?=[A-Za-z]*\d)[A-Za-z0-9]{24,}"),
    (_API, b"sk-", rb"sk-(?:proj|ant|or|svcacct|admin)-[\w-]{32,}"),
    (_API, b"sk-", rb"sk-(?=[a-z0-9]*[A-Z])(?=[A-Z0-9]*[a-z])(?=[A-Za-z]*\d)[A-Za-z0-9]{24,}"),
    (_API, b"k_live_", rb"[sr]k_live_[A-Za-z0-9]{20,}"),
    (_API, b"gsk_", rb"gsk_[A-Za-z0-9]{40,}"),
    (_API, b"r8_", rb"r8_[A-Za-z0-9]{36,}"),
    (_API, b"AKIA", rb"AKIA[0-9A-Z]{16}"),
    (_API, b"ASIA", rb"ASIA[0-9A-Z]{16}"),
    (_API, b"AIza", rb"AIza[\w-]{35}"),
    (_API, b"ya29.", rb"ya29\.[\w-]{30,}"),
    (_API, b"xox", rb"xox[abeprs]-[\w-]{10,}"),
    (_API, b"SG.", rb"SG\.[\w-]{22}\.[\w-]{43}"),
    (_API, b"wandb_v1_", rb"wandb_v1_[\w-]{30,}"),
    ("a private key", b"PRIVATE KEY", rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY"),
    ("a private key", b"PuTTY-User", rb"PuTTY-User-Key-File-\d"),
)
"""Kind of secret, a text that it contains (searched first, because that is fast), and its pattern.

The patterns have no boundaries of words, because secrets may follow and precede anything.
"""

_PATTERNS = [(what, text, re.compile(pattern)) for what, text, pattern in SECRETS]

_CHUNK, _OVERLAP = 2**20, 2**13
"""Bytes that are searched at once, and how many of them are searched again with the next ones."""

_MAX_NESTING = 4
"""Archives in archives are opened up to this depth."""

_MAX_HEADER = 100 * 2**20
"""Longest header of a safetensors file, as in the safetensors library."""

_ESCAPE = re.compile(
    rb"\\(?:[ux]\{([0-9A-Fa-f]{1,6})\}|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|x([0-9A-Fa-f]{2})|(\r?\n[ \t]*)|(.))",
    re.DOTALL,
)
"""An escape of JSON, YAML or source code: a code, the end of a line, or a single character."""

Piece = tuple[str, IO[bytes]]
"""Where content is in its file (empty for the file itself), and the content."""


class Secret(NamedTuple):
    """A secret that was found.

    Attributes:
        what: its kind, such as "a Hugging Face token".
        place: where it is in its file, such as "column 'prompt'"; empty for the file's own bytes.
    """

    what: str
    place: str


def find_secret(path: Path) -> Secret | None:
    """Return the first secret in a file, or None.

    Raises:
        SelfExplainError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return _search(file, "", 0)
    except OSError as error:
        raise SelfExplainError(f"{path} cannot be read: {error.strerror or error}.") from error


def find_secret_in_text(text: str) -> str | None:
    """Return the kind of the first secret in a text, or None."""
    return _search_text(text.encode(errors="replace"))


def _search(file: IO[bytes], place: str, depth: int) -> Secret | None:
    start = file.read(512)
    file.seek(0)
    is_weights = _header_size(start) is not None
    for chunk in _chunks(file):
        if what := _search_bytes(chunk) if is_weights else _search_text(chunk):
            return Secret(what, place)
    if depth == _MAX_NESTING:
        return None
    for inner, content in _decoded(file, start):
        if found := _search(content, f"{place}, {inner}" if place and inner else place or inner, depth + 1):
            return found
    return None


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    """The content of a file in pieces that overlap."""
    rest = b""
    while block := file.read(_CHUNK):
        chunk = rest + block
        yield chunk
        rest = chunk[-_OVERLAP:]


def _search_bytes(data: bytes) -> str | None:
    return next((what for what, text, pattern in _PATTERNS if text in data and pattern.search(data)), None)


def _search_text(data: bytes) -> str | None:
    """Search bytes, and the text in them without the escapes of UTF-16, JSON, YAML, source code, HTML and URLs."""
    variants = [data]
    for decode in (_without_zeros, _unescape, _unescape, _unescape_html, urllib.parse.unquote_to_bytes):
        decoded = decode(variants[-1])
        if decoded != variants[-1]:
            variants.append(decoded)
    return next((what for variant in variants if (what := _search_bytes(variant))), None)


def _without_zeros(data: bytes) -> bytes:
    """ASCII letters in UTF-16 and UTF-32 are their bytes with zeros between."""
    return data.replace(b"\0", b"")


def _unescape(data: bytes) -> bytes:
    return _ESCAPE.sub(_character, data) if b"\\" in data else data


def _character(match: re.Match[bytes]) -> bytes:
    if code := match[1] or match[2] or match[3] or match[4]:
        number = int(code, 16)
        return bytes([number]) if number < 128 else b" "
    if match[5]:  # a line that continues
        return b""
    return b" " if match[6].isalpha() else match[6]


def _unescape_html(data: bytes) -> bytes:
    return html.unescape(data.decode("latin-1")).encode("latin-1", "replace") if b"&" in data else data


def _decoded(file: IO[bytes], start: bytes) -> Iterator[Piece]:
    """What is inside a file of a known format. Damaged content is skipped, because its bytes were searched."""
    magic: list[tuple[bytes, Callable[[IO[bytes]], Iterator[Piece]]]] = [
        (b"PAR1", _parquet),
        (b"ARROW1", _arrow_file),
        (b"\xff\xff\xff\xff", _arrow_stream),
        (b"\x89PNG", _png),
        (b"PK\x03\x04", _zip),
        (b"\x1f\x8b", lambda file: _compressed(cast("IO[bytes]", gzip.GzipFile(fileobj=file)))),
        (b"BZh", lambda file: _compressed(bz2.BZ2File(file))),
        (b"\xfd7zXZ", lambda file: _compressed(lzma.LZMAFile(file))),  # noqa: SIM115
        (b"\x28\xb5\x2f\xfd", _zstandard),
    ]
    reader = next((reader for prefix, reader in magic if start.startswith(prefix)), None)
    if start[257:262] == b"ustar":
        reader = _tar
    elif _header_size(start) is not None:
        reader = _safetensors
    if reader is None:
        return
    file.seek(0)
    with suppress(Exception):  # each library has its own errors for damaged files
        for place, content in reader(file):
            with tempfile.SpooledTemporaryFile(max_size=2**24) as copy:
                with suppress(OSError, EOFError, lzma.LZMAError, zipfile.BadZipFile):
                    while block := content.read(_CHUNK):
                        copy.write(block)
                copy.seek(0)
                yield place, copy


def _header_size(start: bytes) -> int | None:
    """Size of a safetensors header; None for other files."""
    if len(start) < 10 or start[8:9] != b"{":
        return None
    (size,) = struct.unpack("<Q", start[:8])
    return size if size <= _MAX_HEADER else None


def _safetensors(file: IO[bytes]) -> Iterator[Piece]:
    (size,) = struct.unpack("<Q", file.read(8))
    yield "header", io.BytesIO(file.read(size))


def _png(file: IO[bytes]) -> Iterator[Piece]:
    from PIL import Image

    with Image.open(file) as image:
        image.load()  # text may follow the pixels
        for value in image.info.values():
            yield "text of the image", io.BytesIO(value if isinstance(value, bytes) else str(value).encode())


def _zip(file: IO[bytes]) -> Iterator[Piece]:
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            yield "names in the archive", io.BytesIO(name.encode())
            if not name.endswith("/"):
                with suppress(RuntimeError, NotImplementedError, zipfile.BadZipFile):  # encrypted or unsupported
                    yield f"member {Path(name).name!r}", archive.open(name)


def _tar(file: IO[bytes]) -> Iterator[Piece]:
    with tarfile.open(fileobj=file) as archive:
        for member in archive:
            yield "names in the archive", io.BytesIO(member.name.encode(errors="replace"))
            if content := archive.extractfile(member) if member.isfile() else None:
                yield f"member {Path(member.name).name!r}", content


def _compressed(content: IO[bytes]) -> Iterator[Piece]:
    yield "compressed content", content


def _zstandard(file: IO[bytes]) -> Iterator[Piece]:
    import pyarrow

    yield "compressed content", io.BufferedReader(pyarrow.CompressedInputStream(file, "zstd"))


def _parquet(file: IO[bytes]) -> Iterator[Piece]:
    import pyarrow.parquet as pq

    table = pq.ParquetFile(file)
    yield from _schema(table.schema_arrow, table.metadata.metadata)
    columns = [field.name for field in table.schema_arrow if _has_text(field.type)]
    for group in range(table.num_row_groups):
        for batch in table.iter_batches(row_groups=[group], columns=columns):
            yield from _columns(batch)


def _arrow_file(file: IO[bytes]) -> Iterator[Piece]:
    import pyarrow as pa

    reader = pa.ipc.open_file(file)
    yield from _schema(reader.schema, reader.metadata)
    for n in range(reader.num_record_batches):
        yield from _columns(reader.get_batch(n))


def _arrow_stream(file: IO[bytes]) -> Iterator[Piece]:
    import pyarrow as pa

    reader = pa.ipc.open_stream(file)
    yield from _schema(reader.schema, None)
    for batch in reader:
        yield from _columns(batch)


def _schema(schema: "pa.Schema", metadata: dict[bytes, bytes] | None) -> Iterator[Piece]:
    """Names of columns, and the metadata of a table and its columns."""
    texts = [str(schema).encode()]
    for entries in (metadata, schema.metadata, *(field.metadata for field in schema)):
        texts += [part for entry in (entries or {}).items() for part in entry]
    yield "names of columns and metadata", io.BytesIO(b"\n".join(texts))


def _has_text(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    if isinstance(kind, pa.BaseExtensionType):
        return _has_text(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return _has_text(kind.value_type)
    if pa.types.is_nested(kind):
        return any(_has_text(kind.field(n).type) for n in range(kind.num_fields))
    return not pa.types.is_primitive(kind) and not pa.types.is_null(kind)


def _columns(batch: "pa.RecordBatch") -> Iterator[Piece]:
    """The text of each column of a table."""
    for field, column in zip(batch.schema, batch.columns, strict=True):
        if _has_text(field.type):
            texts = (text for value in column.to_pylist() for text in _texts(value))
            yield f"column {field.name!r}", io.BytesIO(b"\n".join(texts))


def _texts(value: Any) -> Iterator[bytes]:
    """Every text in nested values, and each list of tokens as one text."""
    if isinstance(value, str):
        yield value.encode(errors="replace")
    elif isinstance(value, bytes):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield str(key).encode(errors="replace")
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            if not isinstance(item, float | int):
                yield from _texts(item)
        if _are_tokens(value):
            yield "".join(value).encode(errors="replace")


def _are_tokens(values: list[Any] | tuple[Any, ...]) -> bool:
    """Whether values are the tokens of a text with its spaces, in which a secret is cut into tokens."""
    if not all(isinstance(value, str) for value in values):
        return False
    return any(first and second[:1].isspace() for first, second in pairwise(values))
