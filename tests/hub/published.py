"""Names of the repositories that the tests publish, and a helper for runs that a test edits."""

import json

MODEL = "lab/quickstart-selfexplainer"
DATASETS = ["lab/selfexplain-features", "lab/selfexplain-patching", "lab/selfexplain-ablation"]
RESULTS = "lab/selfexplain-results"
TEXT = "The capital of France is"


def update_manifest(run_dir):
    """As if the run had written the files as they are now."""
    manifest = json.loads((run_dir / "manifest.json").read_text())
    for stage in manifest["stages"].values():
        stage["outputs"] = {path: (run_dir / path).stat().st_size for path in stage["outputs"]}
    (run_dir / "manifest.json").write_text(json.dumps(manifest))
