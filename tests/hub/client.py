"""What a reader of the cards does: a fresh process with an empty cache. Writes what it saw to the file it is given.

Run with the environment of `Hub.environment`; arguments: a JSON object with the ids, and where to write.
"""

import contextlib
import io
import json
import sys
from pathlib import Path


def main(ids, out):
    from huggingface_hub import ModelCard, hf_hub_download

    seen = {}

    # Without `import selfexplain`: the code comes by trust_remote_code.
    from transformers import AutoModel

    try:
        AutoModel.from_pretrained(ids["model"])
    except ValueError as error:
        seen["without either"] = str(error)
    remote = AutoModel.from_pretrained(ids["model"], trust_remote_code=True, revision=ids["revision"])
    seen["trust_remote_code"] = type(remote).__name__

    import selfexplain

    model = AutoModel.from_pretrained(ids["model"], revision=ids["revision"])
    try:
        AutoModel.from_pretrained(ids["model"], revision="broken")
    except (ValueError, OSError, KeyError) as error:
        seen["broken revision"] = str(error)
    seen["same class"] = type(model) is selfexplain.SelfExplainerForCausalLM
    seen["patched"] = model.explain_patch(ids["text"], model.capture(ids["text"], layers=[1])[0, 4], [1], 4).text

    from transformers import BitsAndBytesConfig

    # Four bits change a model of this size more than the check on loading allows.
    options = {"quantization_config": BitsAndBytesConfig(load_in_4bit=True), "check_injection": False}
    four = AutoModel.from_pretrained(ids["model"], **options)
    seen["4-bit"] = any(type(module).__name__ == "Linear4bit" for module in four.modules())

    from datasets import load_dataset

    for name in ids["datasets"]:
        rows = load_dataset(name)
        streamed = next(iter(load_dataset(name, split="test", streaming=True)))
        seen[name] = {"rows": {split: len(part) for split, part in rows.items()}, "first": rows["test"][0] == streamed}
    answers = load_dataset(ids["results"], "activation_patching")["test"]
    seen["answers"] = sorted(entry["system"] for entry in answers[0]["answers"])

    seen["snippets"] = {}
    for kind, name in [("model", ids["model"]), *(("dataset", name) for name in (*ids["datasets"], ids["results"]))]:
        path = hf_hub_download(name, "README.md", repo_type=kind)
        card = ModelCard.load(path).text
        for number, snippet in enumerate(card.split("```python\n")[1:]):
            said = io.StringIO()
            with contextlib.redirect_stdout(said):
                exec(compile(snippet.split("```")[0], f"{name} {number}", "exec"), {})
            seen["snippets"][f"{name} {number}"] = said.getvalue()
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        for snippet in ids["page"]:
            exec(compile(snippet, "docs/publish.md", "exec"), {})
    seen["page"] = said.getvalue()
    Path(out).write_text(json.dumps(seen))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2])
