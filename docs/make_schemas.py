"""Write the JSON Schema of every record to docs/schemas, and the table of files to docs/files.md."""

import inspect
import json
import sys
from importlib import import_module
from pathlib import Path

from selfexplain.utils.records import Record

DOCS = Path(__file__).parent
PAGE = DOCS / "files.md"

RECORDS = {
    "manifest.json": "selfexplain.runs.manifest.RunManifest",
    "lock.json, while a process works on the run": "selfexplain.runs.lock.LockHolder",
    "results.json": "selfexplain.evaluation.results.Results",
    "comparison.json": "selfexplain.evaluation.results.Comparison",
    "predictions/<task>.jsonl, per line": "selfexplain.evaluation.predictions.Prediction",
    "datasets/<task>/statistics.json": "selfexplain.groundtruth.statistics.DatasetStatistics",
    "datasets/<task>/manifest.json": "selfexplain.groundtruth.dataset_directory.DatasetManifest",
}
"""File in a run directory -> the record in it."""

INTRODUCTION = """# Files and schemas

<!-- Written by docs/make_schemas.py. -->

A run directory contains these files. Every JSON file has a declared schema and a `schema_version`. Reading checks the version: older files are migrated, and files of a newer
version are refused with an error. In Python, `RunDirectory(path)` from `selfexplain.runs.run_directory` reads them as typed records.

| file | content | record | JSON Schema |
|---|---|---|---|
"""
OTHERS = """
Further files: `recipe.yaml` (the recipe with every default filled in, see [Recipe keys](recipe_reference.md)), `datasets/<task>/*.parquet` (rows), `explainer/` (the trained
explainer), `figures/`, `cards/`, `comparison/` (explainers and answers of a comparison) and `replies.sqlite` (cached replies of a chat model).
"""


def record_of(name: str) -> type[Record]:
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute)


def contents() -> dict[Path, str]:
    """Path -> text of every generated file."""
    files, lines = {}, []
    for place, name in RECORDS.items():
        record = record_of(name)
        schema = DOCS / "schemas" / f"{record.__name__}.json"
        files[schema] = json.dumps(record.model_json_schema(), indent=2) + "\n"
        summary = (inspect.getdoc(record) or "").split("\n\n")[0].replace("\n", " ")
        lines.append(f"| `{place}` | {summary} | `{name}` | [{schema.name}](schemas/{schema.name}) |")
    files[PAGE] = INTRODUCTION + "\n".join(lines) + "\n" + OTHERS
    return files


def main() -> None:
    for path, text in contents().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    print(f"Wrote {PAGE} and {len(RECORDS)} schemas.", file=sys.stderr)


if __name__ == "__main__":
    main()
