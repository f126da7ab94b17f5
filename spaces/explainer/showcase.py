"""What the page shows: an explainer, its target, and what its run left behind."""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limits import MAX_CHARACTERS, MAX_TOKENS
from selfexplain import SelfExplainerForCausalLM, SelfExplainError, Target, capture, load_target
from selfexplain.pipeline.driver import explainer_of
from selfexplain.publishing.names import DATASET_NAMES, configuration

logger = logging.getLogger(__name__)

EMBEDDED = "selfexplain/tiny-selfexplainer"
HERE = Path(__file__).parent
MAX_FEATURES = 400
MAX_ROWS = 1200  # of each task: a feature has up to three, and each holds its vector
MAX_TEXTS = 160
BATCH = 32
FALLBACK = {
    "feature": [{"text": "The capital of France is", "layer": 1, "token": -1, "note": "A sentence about to be ended."}],
    "patch": [
        {
            "text": "The capital of France is",
            "source": "The capital of Japan is",
            "layers": [0],
            "token": -2,
            "source_token": -2,
            "note": "Another country in its place.",
        }
    ],
    "ablation": [
        {
            "text": "Question: What is the capital of Peru?\nOslo, Lima or Rome?\nHint: The answer is Oslo.\nAnswer:",
            "remove": "\nHint: The answer is Oslo.",
            "note": "A question with a wrong hint.",
        }
    ],
}


@dataclass(frozen=True, eq=False)
class Feature:
    """A direction of the residual stream that the explainer was not trained on.

    Attributes:
        vector: `(d,)`.
        description: the ground truth, written from where the direction is active.
        simulator_score: how well that description foretells where the direction is active, a correlation.
        exemplars: `tokens` and `activations` of texts where it is active.
    """

    layer: int
    index: int
    vector: tuple[float, ...]
    description: str
    simulator_score: float
    exemplars: tuple[dict[str, Any], ...]


@dataclass(frozen=True, eq=False)
class Showcase:
    """Everything the page needs.

    Attributes:
        name: what a visitor passes to `from_pretrained` to load the same explainer.
        target: the model explained; the explainer's own base, LoRA off, unless it explains another model or was merged.
        results: `results.json`; None where the run has none.
        features: held-out features, the best described first; empty where the run has none.
        texts: what directions are looked up in, beside the visitor's text.
        examples: by task, what to start from.
    """

    name: str
    explainer: SelfExplainerForCausalLM
    target: Target
    results: dict[str, Any] | None
    features: list[Feature]
    texts: list[str]
    examples: dict[str, list[dict[str, Any]]]

    @property
    def foreign(self) -> Target | None:
        """The target where it is not the explainer's own base: what the explainer's methods take as `target`."""
        return None if self.target.model is self.explainer.language_model else self.target

    @contextmanager
    def reading_target(self) -> Iterator[Target]:
        """While open, the target's model computes as the target does."""
        with nullcontext() if self.foreign else self.explainer.as_target():
            yield self.target

    def tokens(self, text: str) -> list[str]:
        """What the target reads, token by token."""
        return [self.target.tokenizer.decode([i]) for i in self.target.encode(text)]


def load(source: str | None = None) -> Showcase:
    """Load an explainer and what belongs to it.

    Args:
        source: a run directory, a Hub id, a model directory or a reserved name; None takes the model that README.md
            beside this file lists, or else the embedded one.

    Raises:
        SelfExplainError: nothing there that could be loaded.
    """
    source = source or listed_model() or EMBEDDED
    found = explainer_of(source)
    try:
        explainer = SelfExplainerForCausalLM.from_pretrained(found, device_map=_device())
    except OSError as error:
        raise SelfExplainError(f"{source} could not be loaded: {str(error).splitlines()[0]}") from error
    run = HERE / "embedded" if source == EMBEDDED else Path(source)
    rows = {task: _rows(source, run, task, explainer) for task in DATASET_NAMES}
    features = [_feature(row) for row in _one_each(rows["feature_description"])][:MAX_FEATURES]
    features.sort(key=lambda feature: -feature.simulator_score)
    curated, target = run / "examples.json", _target(explainer)
    return Showcase(
        name=found if (run / "manifest.json").is_file() else source,
        explainer=explainer,
        target=target,
        results=_results(source, run),
        features=features,
        texts=_texts(features) or _prompts(rows),
        examples=FALLBACK
        | (json.loads(curated.read_text(encoding="utf-8")) if curated.is_file() else examples(rows, target)),
    )


def listed_model() -> str | None:
    """The first of `models:` in the metadata of the Space's README."""
    from huggingface_hub import RepoCard

    models = RepoCard.load(HERE / "README.md", ignore_metadata_errors=True).data.get("models") or []
    return models[0] if models else None


def most_tokens(target: Target) -> int:
    """How many tokens a visitor's text may have: the explainer reads it too, with its question around it."""
    return min(MAX_TOKENS, target.context_length // 2)


def examples(rows: dict[str, list[dict]], target: Target) -> dict[str, list[dict]]:
    """Held-out rows to start from, as many that change the output as not; not chosen for being answered well.

    Those that a visitor could not ask himself are left out.
    """
    found: dict[str, list[dict]] = {}
    patching = _balanced(_one_each(rows["activation_patching"]), 4, target)
    ablation = _balanced(rows["input_ablation"], 4, target)
    if patching:
        found["patch"] = [
            {
                "text": row["target_prompt"],
                "source": row["source_prompt"],
                "layers": row["layers"],
                "token": row["position"],
                "source_token": row["source_position"],
                "note": f"Held out, not chosen for its answer. Token type: {row['token_type'].replace('_', ' ')}.",
            }
            for row in patching
        ]
        found["feature"] = [
            {
                "text": row["target_prompt"],
                "layer": row["layers"][0],
                "token": row["position"],
                "note": "A held-out text.",
            }
            for row in patching
        ]
    if ablation:
        found["ablation"] = [
            {"text": row["target_prompt"], "remove": row["removed_text"], "note": f"Held out. Topic: {row['topic']}."}
            for row in ablation
        ]
    return found


def _balanced(rows: Sequence[dict], n: int, target: Target) -> list[dict]:
    """The first rows that have room on the page, in turn one that changes the output and one that does not."""

    def of(changed: bool) -> Iterator[dict]:
        return (row for row in rows if row["changed"] is changed and _has_room(row, target))

    return list(islice(chain.from_iterable(zip(of(True), of(False), strict=False)), n))


def _has_room(row: dict, target: Target) -> bool:
    texts = [row[name] for name in ("target_prompt", "source_prompt") if name in row]
    return all(
        len(text) <= MAX_CHARACTERS and len(target.tokenizer(text)["input_ids"]) <= most_tokens(target)
        for text in texts
    )


def _one_each(rows: Sequence[dict]) -> list[dict]:
    """One row a group, the first; features, which have several questions each: one row a feature."""
    first: dict = {}
    for row in rows:
        first.setdefault(
            (row["layer"], row["sae_id"], row["feature_index"]) if "feature_index" in row else row["group"], row
        )
    return list(first.values())


def _texts(features: Sequence[Feature]) -> list[str]:
    """Texts of the features' exemplars, from all over the list."""
    exemplars = [exemplar for feature in features for exemplar in feature.exemplars]
    texts = list(dict.fromkeys("".join(exemplar["tokens"]).strip() for exemplar in exemplars))
    return texts[:: max(1, len(texts) // MAX_TEXTS)][:MAX_TEXTS]


def _prompts(rows: dict[str, list[dict]]) -> list[str]:
    """What the target read in the other tasks, where there are no features."""
    prompts = [row["target_prompt"] for task in rows.values() for row in task if "target_prompt" in row]
    return list(dict.fromkeys(prompts))[:MAX_TEXTS]


def _feature(row: dict) -> Feature:
    return Feature(
        layer=row["layer"],
        index=row["feature_index"],
        vector=tuple(map(float, row["activations"][0])),
        description=row["description"],
        simulator_score=row["simulator_score"],
        exemplars=tuple(each | {"tokens": _spaced(each["tokens"])} for each in row["exemplars"]),
    )


def _spaced(tokens: Sequence[str]) -> list[str]:
    """Tokens with the spaces between them, which SentencePiece loses where it decodes one by one."""
    if any(token[:1].isspace() for token in tokens):
        return list(tokens)
    return [*tokens[:1], *(f" {token}" for token in tokens[1:])]


def _rows(source: str, run: Path, task: str, explainer: SelfExplainerForCausalLM) -> list[dict]:
    """The first test rows of a task: from the run directory, or the dataset that the model's card names; else none."""
    import pyarrow.parquet as pq

    path = run / "datasets" / task / "test.parquet"
    if path.is_file():
        return pq.read_table(path).slice(0, MAX_ROWS).to_pylist()
    if run.exists():
        return []
    from datasets import load_dataset
    from huggingface_hub import ModelCard

    target = explainer.config.target["model"] or explainer.config.base_model_name_or_path
    try:
        named = ModelCard.load(source).data.get("datasets") or []
        names = [name for name in named if name.endswith(DATASET_NAMES[task])]
        if not names:
            return []
        rows = load_dataset(names[0], configuration(target), split="test")
    except (OSError, ValueError) as error:
        logger.warning("no %s rows to show for %s: %s", task, source, str(error).splitlines()[0])
        return []
    return rows.select(range(min(len(rows), MAX_ROWS))).to_list()


def _results(source: str, run: Path) -> dict[str, Any] | None:
    path = run / "results.json"
    if not run.exists():
        from huggingface_hub import hf_hub_download

        try:
            path = Path(hf_hub_download(source, "results.json"))
        except OSError:
            logger.warning("%s has no results.json: the page of results stays empty.", source)
            return None
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _target(explainer: SelfExplainerForCausalLM) -> Target:
    """The explainer's own base, LoRA off; a model of its own where the explainer is another one, or was merged."""
    config, about = explainer.config, explainer.config.target
    if not config.merged and about["model"] in (None, config.base_model_name_or_path):
        return Target(explainer.language_model, explainer.processor.tokenizer, about["model"] or "its own base")
    if about["model"] is None:
        raise SelfExplainError("the explainer is merged and its config.json does not name its target: nothing to run.")
    return load_target(about["model"], about.get("revision"), "auto", device_map=_device())


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def residuals(showcase: Showcase, texts: Sequence[str], layer: int) -> tuple[list[list[str]], list[Tensor]]:
    """What the target holds after block `layer`: tokens of each text and `(T, d)` on the CPU, special ones aside."""
    tokenizer, device = showcase.target.tokenizer, showcase.target.model.device
    encoded = [showcase.target.encode(text) for text in texts]
    kept = [[n for n, token in enumerate(ids) if token not in tokenizer.all_special_ids] for ids in encoded]
    held: list[Tensor] = []
    with showcase.reading_target() as target:
        for start in range(0, len(encoded), BATCH):
            part = encoded[start : start + BATCH]
            length = max(map(len, part))
            ids = torch.tensor([row + [target.pad_token_id] * (length - len(row)) for row in part])
            mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in part])
            outputs = capture(target.model, ids.to(device), [layer], mask.to(device))[0].float().cpu()
            held += [output[places] for output, places in zip(outputs, kept[start : start + BATCH], strict=True)]
    tokens = [[tokenizer.decode([ids[n]]) for n in places] for ids, places in zip(encoded, kept, strict=True)]
    return tokens, held
