"""Load an explainer, its target, and what its run left behind."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from examples import Example, read_examples
from run_files import HubFiles, LocalFiles, RunFiles
from sae_features import MAX_TEXTS, Feature, exemplar_texts, read_features
from selfexplain import SelfExplainerForCausalLM, SelfExplainError, Target, load_target
from selfexplain.evaluation.results import Results
from selfexplain.runs.find_explainer import find_explainer
from selfexplain.runs.run_directory import RunDirectory
from selfexplain.target.tokens import token_text
from selfexplain.tasks import BUILT_IN, feature_description

EMBEDDED = "selfexplain/tiny-selfexplainer"
HERE = Path(__file__).parent

E = TypeVar("E", bound=Example)


@dataclass(frozen=True, eq=False)
class Showcase:
    """Everything that the demo shows.

    Attributes:
        name: Argument of `from_pretrained` that loads this explainer.
        explainer: The explainer.
        target: The model being explained. It is the explainer's own base with LoRA switched off, unless the explainer
            explains a different model or was merged.
        files: Files of the run.
        results: Scores; None if there are none.
        features: SAE features of the test split, highest simulator score first.
        texts: Reference texts, in which directions are looked up.
        examples: Task -> examples to start from.
    """

    name: str
    explainer: SelfExplainerForCausalLM
    target: Target
    files: RunFiles
    results: Results | None
    features: list[Feature]
    texts: list[str]
    examples: Mapping[str, tuple[Example, ...]]

    @property
    def separate_target(self) -> Target | None:
        """The target if it is not the explainer's own base, else None; the explainer's methods take it as `target`."""
        return None if self.target.model is self.explainer.language_model else self.target

    @contextmanager
    def reading_target(self) -> Iterator[Target]:
        """Yield the target, with the explainer's LoRA weights switched off in the meantime."""
        with nullcontext() if self.separate_target else self.explainer.as_target():
            yield self.target

    def tokens(self, text: str) -> list[str]:
        """Return the tokens of a text as the target reads them."""
        return [token_text(self.target.tokenizer, token) for token in self.target.encode(text)]

    def examples_of(self, task: str, kind: type[E]) -> tuple[E, ...]:
        """Return the examples of a task, which are of class `kind`."""
        return tuple(example for example in self.examples[task] if isinstance(example, kind))


def load(source: str | None = None) -> Showcase:
    """Load an explainer and the files of its run.

    Args:
        source: Run directory, Hub id, model directory or reserved name. By default the model that README.md lists, or
            the embedded explainer if it lists none.

    Raises:
        SelfExplainError: The explainer cannot be loaded, or a file of its run is damaged.
    """
    source = source or listed_model() or EMBEDDED
    path = find_explainer(source)
    try:
        explainer = SelfExplainerForCausalLM.from_pretrained(path, device_map=_device())
    except OSError as error:
        raise SelfExplainError(f"The explainer {source} cannot be loaded: {str(error).splitlines()[0]}") from error
    files, target = _files(source, explainer), _target(explainer)
    rows = {task.name: files.rows(task.name) for task in BUILT_IN}
    features = read_features(rows[feature_description.TASK.name])
    return Showcase(
        name=path if RunDirectory(Path(source)).is_run else source,
        explainer=explainer,
        target=target,
        files=files,
        results=files.results(),
        features=features,
        texts=exemplar_texts(features) or _prompts(rows),
        examples=read_examples(files.examples_path, rows, target),
    )


def listed_model() -> str | None:
    """Return the first of `models:` in the metadata of the Space's README, or None."""
    from huggingface_hub import RepoCard

    models = RepoCard.load(HERE / "README.md", ignore_metadata_errors=True).data.get("models") or []
    return models[0] if models else None


def _files(source: str, explainer: SelfExplainerForCausalLM) -> RunFiles:
    if source == EMBEDDED:
        return LocalFiles(HERE / "embedded")
    if Path(source).exists():
        return LocalFiles(Path(source))
    return HubFiles(source, explainer.config.target["model"] or explainer.config.base_model_name_or_path)


def _prompts(rows: Mapping[str, list[dict[str, Any]]]) -> list[str]:
    """Return texts that the target read in the other tasks, for runs without features."""
    prompts = [row["target_prompt"] for of_task in rows.values() for row in of_task if "target_prompt" in row]
    return list(dict.fromkeys(prompts))[:MAX_TEXTS]


def _target(explainer: SelfExplainerForCausalLM) -> Target:
    """Return the explainer's own base, or load the target if it is a different model.

    Raises:
        SelfExplainError: The target is unknown or cannot be loaded.
    """
    config, target = explainer.config, explainer.config.target
    if not config.merged and target["model"] in (None, config.base_model_name_or_path):
        return Target(explainer.language_model, explainer.processor.tokenizer, target["model"] or "its own base")
    if target["model"] is None:
        raise SelfExplainError(
            "The explainer is merged and its config.json does not name its target, so there is no model to run. "
            "Set target.model in config.json."
        )
    return load_target(target["model"], target.get("revision"), "auto", device_map=_device())


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
