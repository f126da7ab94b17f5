"""Do what the cards and docs tell a reader to do, in a fresh process with an empty cache, and record what happened.

Run it with the environment of `Hub.environment`. Arguments: a JSON object with ids, and the JSON file to write.
"""

import contextlib
import io
import json
import sys
from pathlib import Path


def main(ids, out):
    record = {}
    load_models(ids, record)
    load_datasets(ids, record)
    load_revisions(ids, record)
    run_snippets(ids, record)
    if ids["metric"]:
        load_metric(ids, record)
    Path(out).write_text(json.dumps(record))


def load_models(ids, record):
    # Without `import selfexplain`, the code comes with trust_remote_code.
    from transformers import AutoModel

    try:
        AutoModel.from_pretrained(ids["model"])
    except ValueError as error:
        record["without either"] = str(error)
    remote = AutoModel.from_pretrained(ids["model"], trust_remote_code=True, revision=ids["revision"])
    record["trust_remote_code"] = type(remote).__name__

    import selfexplain

    model = AutoModel.from_pretrained(ids["model"], revision=ids["revision"])
    try:
        AutoModel.from_pretrained(ids["model"], revision="broken")
    except (ValueError, OSError, KeyError) as error:
        record["broken revision"] = str(error)
    record["same class"] = type(model) is selfexplain.SelfExplainerForCausalLM
    record["patched"] = model.explain_patch(ids["text"], model.capture(ids["text"], layers=[0])[0, 4], [0], 4).text

    from transformers import BitsAndBytesConfig

    # Four bits change a model of this size by more than the check on loading allows.
    options = {"quantization_config": BitsAndBytesConfig(load_in_4bit=True), "check_injection": False}
    four = AutoModel.from_pretrained(ids["model"], **options)
    record["4-bit"] = any(type(module).__name__ == "Linear4bit" for module in four.modules())


def load_datasets(ids, record):
    from datasets import load_dataset

    for name in ids["datasets"]:
        rows = load_dataset(name)
        streamed = next(iter(load_dataset(name, split="test", streaming=True)))
        record[name] = {
            "rows": {split: len(part) for split, part in rows.items()},
            "first": rows["test"][0] == streamed,
        }
    answers = load_dataset(ids["results"], "activation_patching")["test"]
    record["answers"] = sorted(entry["system"] for entry in answers[0]["answers"])


def load_revisions(ids, record):
    """Load two revisions of a repository, and copies of them in directories of the same name."""
    from datasets import load_dataset
    from huggingface_hub import snapshot_download

    record["revisions"] = []
    for revision in ids["revisions"]:
        rows = load_dataset(ids["datasets"][1], revision=revision)["test"]
        path = snapshot_download(
            ids["datasets"][1], repo_type="dataset", revision=revision, local_dir=f"{revision}/copy"
        )
        record["revisions"].append([rows["prompt"][:], load_dataset(path)["test"]["prompt"][:]])


def run_snippets(ids, record):
    from huggingface_hub import ModelCard, hf_hub_download

    record["snippets"] = {}
    for kind, name in [("model", ids["model"]), *(("dataset", name) for name in (*ids["datasets"], ids["results"]))]:
        path = hf_hub_download(name, "README.md", repo_type=kind)
        card = ModelCard.load(path).text
        for number, snippet in enumerate(card.split("```python\n")[1:]):
            record["snippets"][f"{name} {number}"] = printed_by([snippet.split("```")[0]], f"{name} {number}")
    record["docs"] = printed_by(ids["docs"], "docs/publish.md")


def load_metric(ids, record):
    import evaluate

    metric = evaluate.load(ids["metric"])
    outcome = "The most likely output would change to <<< Lima>>>."
    record["metric"] = metric.compute(predictions=[outcome, "Lima"], references=[outcome, outcome])


def printed_by(snippets, name):
    """What code prints; each snippet has its own variables."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for snippet in snippets:
            exec(compile(snippet, name, "exec"), {})
    return printed.getvalue()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2])
