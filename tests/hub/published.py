"""Names of the repositories that the tests publish, and helpers for runs that a test edits."""

import json

MODEL = "lab/quickstart-selfexplainer"
DATASETS = ["lab/selfexplain-features", "lab/selfexplain-patching", "lab/selfexplain-ablation"]
RESULTS = "lab/selfexplain-results"
SPACE = "spaces/lab/quickstart-explainer"
TEXT = "The capital of France is"

PATCHING = "datasets/lab/selfexplain-patching"
REPOSITORIES = {MODEL, SPACE, *(f"datasets/{name}" for name in (*DATASETS, RESULTS))}
"""Everything that publishing a run creates, except for its collection and the metrics."""

METRICS = {
    "exact_match", "has_changed_macro_f1", "content_match", "simulator_correlation", "detection_balanced_accuracy",
}  # fmt: skip


def update_manifest(run_dir):
    """Record the current sizes of all files, as if the run had written them."""
    manifest = json.loads((run_dir / "manifest.json").read_text())
    for stage in manifest["stages"].values():
        stage["outputs"] = {path: (run_dir / path).stat().st_size for path in stage["outputs"]}
    (run_dir / "manifest.json").write_text(json.dumps(manifest))


def rename_target(run_dir, name):
    """Change the name of a run's target in all text files, and its corpus to one without a licence."""
    for path in (*run_dir.rglob("*.json"), run_dir / "recipe.yaml"):
        path.write_text(path.read_text().replace("selfexplain/tiny", name).replace(f"{name}-world", "corpus.jsonl"))
    update_manifest(run_dir)


def empty_repositories(hub, names=REPOSITORIES):
    """Remove all files from repositories, so that publishing has something to do."""
    for name in names:
        hub.repo(name).commit({".gitattributes": b""}, "emptied", "main")


def commit_titles(hub, name):
    """Titles of all commits of a repository; the first one is the Hub's own."""
    return [commit.title for commit in hub.repo(name).commits.values()]
