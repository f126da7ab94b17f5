"""Secrets are found wherever a reader would see them, and ordinary files raise no alarm."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image, PngImagePlugin
from safetensors.torch import save_file

from selfexplain.publishing.secret_scan import find_secret, find_secret_in_text

ROOT = Path(__file__).parents[2]
TOKEN = "hf_" + "aB3dE" * 6 + "xYzW"
EXAMPLES = [
    (TOKEN, "a Hugging Face token"),
    ("hf_oauth_" + "a1" * 17, "a Hugging Face token"),
    ("hf_jwt_" + "eyJ" + "a1" * 17, "a Hugging Face token"),
    ("ghp_" + "a1" * 18, "a GitHub token"),
    ("github_pat_" + "a1" * 20, "a GitHub token"),
    ("glpat-" + "a1" * 10, "a GitLab token"),
    ("pypi-AgE" + "a1" * 30, "a PyPI token"),
    ("npm_" + "a1" * 18, "an npm token"),
    ("sk-" + "a1" * 20, "an API key"),
    ("sk-proj-" + "a1-_" * 12, "an API key"),
    ("sk-ant-api03-" + "a1-_" * 12, "an API key"),
    ("AKIA" + "A1" * 8, "an API key"),
    ("AIza" + "a1-_B" * 7, "an API key"),
    ("xoxb-1234567890-abc", "an API key"),
    ("-----BEGIN " + "PRIVATE KEY-----", "a private key"),
    ("-----BEGIN OPENSSH " + "PRIVATE KEY-----", "a private key"),
]


@pytest.mark.parametrize(("secret", "what"), EXAMPLES, ids=[secret[:12] for secret, _ in EXAMPLES])
@pytest.mark.parametrize("frame", ["{}", "key={}\n", "\\n{}", '"é{}é"', "_{}", "Z{}"])
def test_kinds_of_secrets_in_any_surroundings(tmp_path, secret, what, frame):
    path = tmp_path / "notes"
    path.write_text("words\n" * 10 + frame.replace("{}", secret) + " words")
    assert find_secret(path) == (what, "")


def png(*texts: tuple[str, str], compressed: bool = False) -> bytes:
    info = PngImagePlugin.PngInfo()
    for key, text in texts:
        info.add_text(key, text, zip=compressed)
    Image.new("L", (4, 4)).save(buffer := io.BytesIO(), "PNG", pnginfo=info)
    return buffer.getvalue()


def png_with_international_text(text: str) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("note", text, zip=True)
    Image.new("L", (4, 4)).save(buffer := io.BytesIO(), "PNG", pnginfo=info)
    return buffer.getvalue()


def parquet(table: pa.Table, **options) -> bytes:
    pq.write_table(table, buffer := io.BytesIO(), compression="zstd", **options)
    return buffer.getvalue()


def arrow(table: pa.Table, writer) -> bytes:
    sink = pa.BufferOutputStream()
    with writer(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as file:
        file.write_table(table)
    return sink.getvalue().to_pybytes()


def zipped(content: bytes, name: str = "inner") -> bytes:
    with zipfile.ZipFile(buffer := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def tarred(content: bytes) -> bytes:
    with tarfile.open(fileobj=(buffer := io.BytesIO()), mode="w:gz") as archive:
        member = tarfile.TarInfo("inner")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def safetensors(path: Path, metadata: dict[str, str], name: str = "w") -> bytes:
    save_file({name: torch.zeros(2)}, path / "w.safetensors", metadata)
    return (path / "w.safetensors").read_bytes()


MANY = ["a word"] * 3000
PLACES = {
    "JSON after a line break": lambda _: json.dumps({"text": f"a\n{TOKEN}"}),
    "JSON after an accent": lambda _: json.dumps({"text": f"é{TOKEN}"}, ensure_ascii=False),
    "JSON after an escaped accent": lambda _: json.dumps({"text": f"é{TOKEN}"}),
    "JSON with escaped letters": lambda _: '"' + "".join(f"\\u{ord(letter):04x}" for letter in TOKEN) + '"',
    "JSON in JSON": lambda _: json.dumps(json.dumps(TOKEN).replace("_", "\\u005f")),
    "JSON key": lambda _: json.dumps({TOKEN: 1}),
    "YAML over two lines": lambda _: f'key: "{TOKEN[:12]}\\\n    {TOKEN[12:]}"',
    "YAML": lambda _: yaml.safe_dump({"text": f"a\n\té{TOKEN}"}),
    "Python escapes": lambda _: f"key = 'hf\\x5f{TOKEN[3:]}'",
    "HTML entities": lambda _: f"<p>hf&#95;{TOKEN[3:]}</p>",
    "URL": lambda _: f"https://x.org/?key=hf%5F{TOKEN[3:]}",
    "Markdown": lambda _: TOKEN.replace("_", "\\_"),
    "inside a word": lambda _: f"my{TOKEN}ofyours",
    "UTF-16": lambda _: f"a {TOKEN}".encode("utf-16"),
    "UTF-32 in other bytes": lambda _: b"\x01\x02" + TOKEN.encode("utf-32-le") + b"\xff",
    "bytes of no format": lambda _: b"\x00\xff\xfe" * 1000 + TOKEN.encode() + b"\x80",
    "end of the first megabyte": lambda _: b"x" * (2**20 - 10) + TOKEN.encode(),
    "parquet rows": lambda _: parquet(pa.table({"text": [*MANY, TOKEN]})),
    "parquet rows of tokens": lambda _: parquet(pa.table({"t": [["is", " hf", "_", TOKEN[3:20], TOKEN[20:]]]})),
    "parquet nested": lambda _: parquet(pa.table({"x": [{"a": [{"b": [TOKEN], "c": [0.5]}]}] * 9})),
    "parquet binary": lambda _: parquet(pa.table({"x": [b"", TOKEN.encode()]})),
    "parquet dictionary": lambda _: parquet(pa.table({"x": pa.array([TOKEN, "b"] * 9).dictionary_encode()})),
    "parquet map": lambda _: parquet(pa.table({"x": pa.array([[(TOKEN, 1)]], pa.map_(pa.string(), pa.int8()))})),
    "parquet column": lambda _: parquet(pa.table({TOKEN: [1]})),
    "parquet metadata": lambda _: parquet(pa.table({"x": [1]}).replace_schema_metadata({"note": TOKEN})),
    "parquet metadata of a column": lambda _: parquet(
        pa.table([[1]], schema=pa.schema([pa.field("x", pa.int8(), metadata={"note": f"\n{TOKEN}"})]))
    ),
    "arrow file": lambda _: arrow(pa.table({"x": [*MANY, TOKEN]}), pa.ipc.new_file),
    "arrow stream": lambda _: arrow(pa.table({"x": [*MANY, TOKEN]}), pa.ipc.new_stream),
    "safetensors metadata": lambda path: safetensors(path, {"note": f"\né{TOKEN}"}),
    "safetensors escapes": lambda path: safetensors(path, {"note": f"{TOKEN}\n"}).replace(b"_aB3", b"\\u005faB3"),
    "safetensors name": lambda path: safetensors(path, {}, f"x.{TOKEN}.weight"),
    "PNG text": lambda _: png(("note", TOKEN)),
    "PNG compressed text": lambda _: png(("note", f"é{TOKEN}" * 5), compressed=True),
    "PNG international text": lambda _: png_with_international_text(TOKEN * 5),
    "gzip": lambda _: gzip.compress(f"{TOKEN}\n".encode() * 9),
    "bzip2": lambda _: bz2.compress(f"{TOKEN}\n".encode() * 9),
    "xz": lambda _: lzma.compress(f"{TOKEN}\n".encode() * 9),
    "zstandard": lambda _: pa.Codec("zstd").compress(f"{TOKEN}\n".encode() * 9, asbytes=True),
    "zip": lambda _: zipped(TOKEN.encode() * 9),
    "zip in zip": lambda _: zipped(zipped(TOKEN.encode() * 9)),
    "name in a zip": lambda _: zipped(b"", f"{TOKEN}/x"),
    "tar.gz": lambda _: tarred(TOKEN.encode()),
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["file", "file.unknown"])
def test_secrets_in_content_of_any_format(tmp_path, place, name):
    path, content = tmp_path / name, PLACES[place](tmp_path)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = find_secret(path)
    assert found is not None
    assert found.what == "a Hugging Face token"


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (parquet(pa.table({"prompt": [*MANY, TOKEN, "z"]})), "column 'prompt'"),
        (gzip.compress(TOKEN.encode() * 9), "compressed content"),
        (zipped(parquet(pa.table({"prompt": ["a", TOKEN, "z"]})), "rows"), "member 'rows', column 'prompt'"),
    ],
    ids=["parquet", "gzip", "zip"],
)
def test_place_of_a_secret(tmp_path, content, place):
    (tmp_path / "file").write_bytes(content)
    assert find_secret(tmp_path / "file").place == place


@pytest.mark.parametrize(
    "text",
    [
        "self_attention_of_the_last_layer_in_selfexplain",
        "half_hf_transfer, hf_hub_download, hf_api_token_of_the_organisation",
        "task-activation-patching-of-the-quickstart-recipe-3",
        "sk-toggleable__label-arrow sk-estimator-id-12",
        "risk-adjusted-return-on-capital-in-2019, desk-0a1b2c3d4e5f60718293a4b5c6d7e8f9",
        "-----BEGIN PUBLIC KEY-----",
        "AKIA hf_ sk- ghp_ xox",
        "0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d",
    ],
)
def test_ordinary_text_is_no_secret(text):
    assert find_secret_in_text(text) is None
    assert find_secret_in_text(f"\\n{text}é") is None


@pytest.mark.parametrize(
    "start", [b"PAR1", b"ARROW1", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"\xff" * 4]
)
def test_damaged_files_are_searched_as_bytes(tmp_path, start):
    (tmp_path / "file").write_bytes(start + b"\x07" * 600)
    assert find_secret(tmp_path / "file") is None
    (tmp_path / "file").write_bytes(start + b"\x07" * 600 + TOKEN.encode())
    assert find_secret(tmp_path / "file") is not None


def test_shipped_files_and_a_run_have_no_secrets(finished):
    shipped = [
        ROOT / "src" / "selfexplain" / "tiny",
        ROOT / "spaces",
        ROOT / "recipes",
        ROOT / "docs" / "results",
        finished,
    ]
    files = [path for directory in shipped for path in directory.rglob("*") if path.is_file()]
    assert len(files) > 50
    assert [path for path in files if find_secret(path)] == []
