"""What publishing a run puts where, decided from the files of the run directory alone; and what is refused."""

import dataclasses
import fnmatch
import json
import logging
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from selfexplain import bundled
from selfexplain.errors import SelfExplainError
from selfexplain.publishing import cards
from selfexplain.publishing.figures import write_construction
from selfexplain.publishing.names import Names, configuration, is_hub_id

logger = logging.getLogger(__name__)

Kind = Literal["model", "dataset", "space"]

MAX_FILE_BYTES = 50 * 10**9
MAX_FILES_IN_DIRECTORY = 10_000
"""Limits of the Hub: hub/storage-limits in its documentation."""

_HUB_NAME = re.compile(r"[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9])?")
_CONTENT = ("tokenizer.json", "tokenizer_config.json", "injection_check.json", "card.json", "statistics.json")
"""What a model reads or wrote may look like a path and be none."""
_NOT_PUBLISHED = ("manifest.json", "replies.sqlite*", "neuronpedia-*")
"""Of a dataset's directory: how its build stands, what an endpoint said, and exports that lie elsewhere anyway."""
_TEXT = {".json", ".jsonl", ".yaml", ".yml", ".md", ".txt", ".py", ".jinja", ".css", ".js", ".html", ".toml", ".cfg"}
_LOCAL_PATH = re.compile(r"(?:(?:/[^\s/]+){2,}/?|~[\w.-]*/\S*|\.{1,2}/\S*|[A-Za-z]:[\\/]\S*)")
_NAMING_COLUMNS = ("target_model", "sae_release")
"""The columns of rows that name a model or a directory; all others hold text and numbers."""
_SECRETS = {
    "a Hugging Face token": re.compile(r"\bhf_(?:jwt_|oauth_)?[A-Za-z0-9]{20,}"),
    "a GitHub token": re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,})"),
    "an API key": re.compile(r"\b(?:sk-[\w-]{24,}|AKIA[0-9A-Z]{16}|AIza[\w-]{35}|xox[abprs]-[\w-]{10,})"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
}  # fmt: skip


@dataclass(frozen=True)
class File:
    """A file on this machine, and its path in the repository; `written_from` is the one it was made of, if any."""

    path: str
    source: Path
    written_from: Path | None = None

    @property
    def size(self) -> int:
        return self.source.stat().st_size


@dataclass(frozen=True)
class Repository:
    """What one repository shall hold.

    Attributes:
        title: what it is, for people.
        owned: patterns of paths that this run decides alone: files there that are not in `files` are deleted.
    """

    kind: Kind
    id: str
    title: str
    files: tuple[File, ...]
    owned: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    def owns(self, path: str) -> bool:
        return any(fnmatch.fnmatchcase(path, pattern) for pattern in self.owned)


@dataclass(frozen=True)
class Plan:
    recipe: Mapping[str, Any]
    names: Names
    repositories: tuple[Repository, ...]


def make_plan(
    run_dir: Path,
    org: str,
    staging: Path,
    *,
    full: bool = False,
    base: str | None = None,
    licence: cards.Licence | None = None,
    licences: Mapping[str, str] | None = None,
    space: Path | None = None,
    earlier: Mapping[str, Path] | None = None,
    replace: bool = False,
) -> Plan:
    """Plan the repositories of a finished run: ground truth, results, model and Space, in the order of pushing.

    Args:
        staging: an empty directory for what is written for publishing, such as the cards; the rest is read where it
            lies, and the run directory is not touched.
        full: merge the trained weights into the base instead of naming it.
        base: id on the Hub of a base that the run read from a directory.
        licence: of the base.
        licences: of the target and of what the rows were made from, by name, where they are known.
        space: the files of the Space; it is left out where the target is not on the Hub, where it finds none to run.
        earlier: by id of a dataset repository, a directory with the small files that runs published there.
        replace: take the place of another run that was published under the same name.

    Raises:
        SelfExplainError: the run is unfinished or does not fit together, would replace another one, names a base that
            others cannot load, or holds local paths, secrets or files that the Hub would not take.
    """
    if not re.fullmatch(r"\w(?:[\w-]*\w)?", org):
        raise SelfExplainError(f"{org!r} is no organisation or user of the Hub: give its name alone, such as my-lab.")
    recipe = check_finished(run_dir)
    earlier = earlier or {}
    names = Names(org)
    public = staging / "run"
    words = _public_words(recipe, run_dir, full, base)
    _copy_in_public_words(run_dir, public, words)
    if full:
        _merge(run_dir, public, words)
    recipe = cards.read_recipe(public)
    if not replace:
        _check_replaced(recipe, names, earlier)
    repositories = [
        *(
            _dataset(public, task, names, staging, earlier.get(names.dataset(task)), licences or {})
            for task in recipe["tasks"]
        ),
        _results(public, recipe, names, staging, earlier.get(names.results)),
        _model(public, recipe, names, staging, licence),
    ]
    if space is not None and not is_hub_id(recipe["target"]):
        logger.warning(
            "no Space: it runs the target, %r, which is not on the Hub (--base ID names it)", recipe["target"]
        )
    elif space is not None:
        repositories.append(_space(space, recipe, names, staging))
    for repository in repositories:
        _check_limits(repository)
    for file in (file for part in repositories for file in part.files if file.source.suffix == ".parquet"):
        _check_rows(file)
    texts = [file for part in repositories for file in part.files if file.source.suffix in _TEXT]
    origins = [(file, file.written_from or file.source) for file in texts]
    for file, origin in sorted(origins, key=lambda pair: not pair[1].is_relative_to(public)):  # causes first
        _check_text(file, run_dir / origin.relative_to(public) if origin.is_relative_to(public) else None)
    return Plan(recipe, names, tuple(repositories))


def check_finished(run_dir: Path) -> dict[str, Any]:
    """The resolved recipe of a run whose every step is done and whose files are those that the manifest lists.

    Raises:
        SelfExplainError: otherwise, with what is wrong.
    """
    import pyarrow.parquet as pq

    if not (run_dir / "manifest.json").is_file():
        raise SelfExplainError(f"{run_dir} is no run (no manifest.json): give the directory of a finished run.")
    again = "Run its recipe again (what is done is kept), then publish"
    recipe, manifest = cards.read_recipe(run_dir), cards.read_json(run_dir / "manifest.json")
    if "tasks" not in recipe:
        raise SelfExplainError(
            f"{run_dir} holds no explainer: a run of the recipe {recipe.get('name')!r} is not published."
        )
    stages = manifest["stages"]
    wanted = [*(f"dataset/{task}" for task in recipe["tasks"]), "evaluate", "card"]
    open_stages = [name for name in {**dict.fromkeys(wanted), **stages} if stages.get(name, {}).get("status") != "done"]
    if open_stages:
        raise SelfExplainError(f"{run_dir} is unfinished: {', '.join(open_stages)} not done. {again}.")
    if "train" not in stages:
        raise SelfExplainError(
            f"{run_dir} only evaluated {manifest['identity']['explainer']!r} and trained nothing: publish the run that "
            "trained it."
        )
    for stage in stages.values():
        for name, size in stage["outputs"].items():
            path = run_dir / name
            found = path.stat().st_size if path.is_file() else 0
            if found != size:
                what = "lost or cut short" if found < size else "changed since; put it back, or delete it"
                raise SelfExplainError(f"{path} has {found:,} bytes, the run wrote {size:,}: {what}. {again}.")
    cards.read_results(run_dir)
    for task in recipe["tasks"]:
        statistics = cards.read_json(run_dir / "datasets" / task / "statistics.json")
        for split, counts in statistics["splits"].items():
            rows = pq.read_metadata(run_dir / "datasets" / task / f"{split}.parquet").num_rows
            if rows != counts["rows"]:
                raise SelfExplainError(
                    f"datasets/{task}/{split}.parquet has {rows} rows, its statistics say {counts['rows']}. {again}."
                )
    return recipe


def is_local(name: str) -> bool:
    """Whether a model's name is a directory of this machine rather than a Hub id or a reserved name."""
    return name not in bundled.NAMES and (not is_hub_id(name) or Path(name).is_dir())


def base_of(run_dir: Path) -> str:
    """The base model as the explainer names it."""
    return cards.read_json(run_dir / "explainer" / "config.json")["base_model_name_or_path"]


def _public_words(recipe: Mapping[str, Any], run_dir: Path, full: bool, base: str | None) -> dict[str, str]:
    """What stands for the local names of the recipe: the base's id, and the last part of every other path.

    The explainer names its models by their whole path, recipe and rows as they were typed: both get one public name.
    """
    own_base = base_of(run_dir)
    if base is not None and not is_local(own_base):
        raise SelfExplainError(f"--base {base}: the run's base is {own_base}, which others can load. Leave --base out.")
    if base is not None and not is_hub_id(base):
        raise SelfExplainError(
            f"--base {base}: expected the id of a model on the Hub, such as meta-llama/Llama-3.2-1B."
        )
    if is_local(own_base) and not full and base is None:
        raise SelfExplainError(
            f"the base of {run_dir} is the directory {own_base}, which nobody else can load. Publish with --full, "
            "which merges the trained weights into it, or name it on the Hub with --base ID."
        )
    words = {own_base: base or Path(own_base).name} if is_local(own_base) else {}
    own_target = cards.read_json(run_dir / "explainer" / "config.json")["target"]["model"]
    for typed, located in ((recipe["explainer"] or recipe["target"], own_base), (recipe["target"], own_target)):
        if located is not None and is_local(located):
            words.setdefault(located, Path(located).name)
            words[typed] = words[located]
    for value in _leaves(recipe):
        if value not in bundled.NAMES and (_LOCAL_PATH.fullmatch(value) or ("/" in value and Path(value).exists())):
            words.setdefault(value, Path(value).name)
    return words


def _copy_in_public_words(run_dir: Path, public: Path, words: Mapping[str, str]) -> None:
    """Links to the files of the manifest; those that hold one of the words are rewritten."""
    manifest = cards.read_json(run_dir / "manifest.json")
    names = {"recipe.yaml", *(name for stage in manifest["stages"].values() for name in stage["outputs"])}
    for name in sorted(names):
        source, copy = run_dir / name, public / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if words and source.suffix == ".parquet":
            _rewrite_parquet(source, copy, words)
        elif words and source.suffix in _TEXT:
            copy.write_text(_reword(source.read_text(encoding="utf-8"), words), encoding="utf-8")
        else:
            copy.symlink_to(source.resolve())


def _reword(text: str, words: Mapping[str, str], bare_anywhere: bool = False) -> str:
    """The text with every word replaced.

    Args:
        bare_anywhere: replace a name without a separator wherever it stands alone, not only as the value of a key that
            names a model: in running text it may be any word.
    """
    longest_first = sorted(words, key=len, reverse=True)
    anywhere = [word for word in longest_first if "/" in word or bare_anywhere]
    as_value = [word for word in longest_first if word not in anywhere]
    patterns = [rf"(?<![\w./~-]){re.escape(word)}(?![\w-])" for word in anywhere]
    key = r"""(?:(?<=^target: )|(?<=^explainer: )|(?<="name": ")|(?<="model_name": "))"""
    patterns += [rf"{key}{re.escape(word)}(?=\"|$)" for word in as_value]
    return re.sub("|".join(patterns), lambda found: words[found[0]], text, flags=re.M) if patterns else text


def _rewrite_parquet(source: Path, copy: Path, words: Mapping[str, str]) -> None:
    """The same rows, with the models and directories that they name under their public names."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(source) as file, pq.ParquetWriter(copy, file.schema_arrow, compression="zstd") as writer:
        for batch in file.iter_batches():
            for column in set(_NAMING_COLUMNS) & set(batch.schema.names):
                field = batch.schema.field(column)
                named = batch[column].to_pylist()
                public = {value: _reword(value, words, bare_anywhere=True) for value in set(named)}
                renamed = pa.array([public[value] for value in named], field.type)
                batch = batch.set_column(batch.schema.get_field_index(column), field, renamed)
            writer.write_batch(batch)


def _merge(run_dir: Path, public: Path, words: Mapping[str, str]) -> None:
    """Put the full form in the place of the adapter form."""
    from selfexplain.modeling.modeling_selfexplainer import SelfExplainerForCausalLM

    shutil.rmtree(public / "explainer")
    SelfExplainerForCausalLM.from_pretrained(run_dir / "explainer", dtype="auto").merge_and_save(public / "explainer")
    for _, file in _tree(public / "explainer"):
        if file.suffix == ".json" and file.name != "tokenizer.json":
            file.write_text(_reword(file.read_text(encoding="utf-8"), words), encoding="utf-8")


def _check_replaced(recipe: Mapping[str, Any], names: Names, earlier: Mapping[str, Path]) -> None:
    """Raise SelfExplainError where another run's rows about the target, or results of a recipe of that name, lie."""
    rows, results = f"{configuration(recipe['target'])}/card.json", f"{recipe['name']}/results.json"
    there: dict[tuple[str, str], Callable[[Any], dict[str, Any]]] = {
        **{(names.dataset(task), rows): lambda card: _run_of_recipe(card["recipe"]) for task in recipe["tasks"]},
        (names.results, results): _run_of_results,
    }
    own = _run_of_recipe(recipe)
    for (repository, name), run_of in there.items():
        path = earlier.get(repository, Path()) / name
        found = run_of(cards.read_json(path)) if path.is_file() else own
        if found != own:
            other = ", ".join(f"{key} {value}" for key, value in found.items() if value != own[key])
            instead = "publish to another --org" if name == rows else "change `name` in the recipe"
            raise SelfExplainError(
                f"{repository}: {name.partition('/')[0]} there is of another run ({other}), which this one would "
                f"replace. If that is meant, add --replace; else {instead}."
            )


def _run_of_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What makes two runs different ones."""
    explainer = recipe["explainer"] or recipe["target"]
    return {"recipe": recipe["name"], "target": recipe["target"], "explainer": explainer, "seed": recipe["seed"]}


def _run_of_results(results: Mapping[str, Any]) -> dict[str, Any]:
    target, explainer = results["target"]["name"], results["explainer"]["name"]
    seed = results["environment"]["seed"]
    return {"recipe": results["recipe"], "target": target, "explainer": explainer, "seed": seed}


def _dataset(
    public: Path, task: str, names: Names, staging: Path, earlier: Path | None, licences: Mapping[str, str]
) -> Repository:
    """One configuration a target; those of earlier runs stay, and the card tells of all."""
    own = cards.read_configuration(public, task)
    told = {name: licences[name] for name in (own.recipe["target"], own.source[0]) if name in licences}
    own = dataclasses.replace(own, name=configuration(own.recipe["target"]), licences=told)
    directory = public / "datasets" / task
    facts = _staged(staging / own.name / f"{task}.json", json.dumps(dataclasses.asdict(own), indent=1) + "\n")
    card_facts = [cards.Configuration(**cards.read_json(path)) for path in _earlier(earlier, "*/card.json", own.name)]
    card = cards.dataset_card(task, sorted([own, *card_facts], key=lambda found: found.name), names)
    files = [File("README.md", _staged(staging / "cards" / f"{task}.md", card)), File(f"{own.name}/card.json", facts)]
    files += [
        File(f"{own.name}/{path}", file)
        for path, file in _tree(directory)
        if path != "README.md" and not any(fnmatch.fnmatchcase(path, pattern) for pattern in _NOT_PUBLISHED)
    ]
    files.append(File(f"{own.name}/recipe.yaml", public / "recipe.yaml"))
    if own.has_figure:
        figure = public / "cards" / f"{task}.png"
        if not figure.is_file():  # a run of an earlier version
            write_construction(own.statistics, figure)
        files.append(File(f"{own.name}/{task}.png", figure))
    return Repository("dataset", names.dataset(task), f"ground truth: {task}", _sorted(files), (f"{own.name}/*",))


def _results(public: Path, recipe: Mapping[str, Any], names: Names, staging: Path, earlier: Path | None) -> Repository:
    name, results = recipe["name"], cards.read_json(public / "results.json")
    runs = {path.parent.name: cards.read_json(path) for path in _earlier(earlier, "*/results.json", name)}
    scores = "".join(json.dumps(score) + "\n" for score in _scores(results))
    files = [
        File(
            "README.md", _staged(staging / "cards" / "results.md", cards.results_card({**runs, name: results}, names))
        ),
        File(f"{name}/scores.jsonl", _staged(staging / "scores.jsonl", scores)),
        File(f"{name}/results.json", public / "results.json"),
        File(f"{name}/recipe.yaml", public / "recipe.yaml"),
        *(
            File(f"{name}/predictions/{path}", _staged(staging / "predictions" / path, _answers(file)), file)
            for path, file in _tree(public / "predictions")
        ),
        *(File(f"{name}/figures/{path}", file) for path, file in _tree(public / "figures")),
    ]
    return Repository("dataset", names.results, "results", _sorted(files), (f"{name}/*",))


def _scores(results: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """One row a score, for tables over many runs."""
    for task, result in cards.sections(results["tasks"]):
        for system, scores in result["scores"].items():
            for metric, score in scores.items():
                yield {
                    "recipe": results["recipe"],
                    "target": results["target"]["name"],
                    "explainer": results["explainer"]["name"],
                    "task": task,
                    "system": system,
                    "metric": metric,
                    "value": float(score["value"]),
                    "ci95_low": float(score["ci95"][0]),
                    "ci95_high": float(score["ci95"][1]),
                    "n_test": result["n_test"],
                    "n_groups": result["n_groups"],
                }


def _answers(predictions: Path) -> str:
    """The rows of a run's predictions with the answers as a list: runs whose systems differ then make one table."""
    rows = [json.loads(line) for line in predictions.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        row["answers"] = [{"system": system, "answer": _said(answer)} for system, answer in row["answers"].items()]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _said(answer: str | bool) -> str:
    """An answer in words: of rules that only tell whether the output changes, too."""
    return answer if isinstance(answer, str) else "changed" if answer else "unchanged"


def _model(
    public: Path, recipe: Mapping[str, Any], names: Names, staging: Path, licence: cards.Licence | None
) -> Repository:
    card = cards.model_card(public, "figures/", names, licence)
    files = [
        File("README.md", _staged(staging / "cards" / "model.md", card)),
        *(File(path, file) for path, file in _tree(public / "explainer") if path != "README.md"),
        *(File(f"figures/{path}", file) for path, file in _tree(public / "figures")),
        File("results.json", public / "results.json"),
        File("recipe.yaml", public / "recipe.yaml"),
    ]
    owned = ("lora/*", "merged/*", "figures/*", "*.safetensors", "*.safetensors.index.json")
    return Repository("model", names.model(recipe["name"]), "explainer", _sorted(files), owned)


def _space(space: Path, recipe: Mapping[str, Any], names: Names, staging: Path) -> Repository:
    readme = cards.space_card((space / "README.md").read_text(encoding="utf-8"), recipe, names)
    files = [
        File("README.md", _staged(staging / "cards" / "space.md", readme)),
        *(
            File(path, file)
            for path, file in _tree(space)
            if path != "README.md" and not any(part.startswith((".", "__")) for part in Path(path).parts)
        ),
    ]
    return Repository("space", names.space(recipe["name"]), "Space", _sorted(files))


def _check_limits(repository: Repository) -> None:
    """Raise SelfExplainError for what the Hub would refuse."""
    name = repository.id.rpartition("/")[2]
    if not _HUB_NAME.fullmatch(name) or "--" in name or ".." in name:
        raise SelfExplainError(
            f"{repository.id} is no name for a repository: letters, digits, '-', '_' and '.', at most 96 of them. "
            "Change `name` in the recipe."
        )
    directories: dict[str, int] = {}
    for file in repository.files:
        parent = file.path.rpartition("/")[0]
        directories[parent] = directories.get(parent, 0) + 1
        if file.size > MAX_FILE_BYTES:
            raise SelfExplainError(
                f"{file.source} has {file.size / 1e9:.0f} GB; the Hub takes files of {MAX_FILE_BYTES / 1e9:.0f} GB at "
                "the most. Save it in smaller shards."
            )
    crowded = [name or "the root" for name, n in directories.items() if n > MAX_FILES_IN_DIRECTORY]
    if crowded:
        raise SelfExplainError(
            f"{repository.id}: {crowded[0]} holds more than {MAX_FILES_IN_DIRECTORY:,} files, the most that the Hub "
            "takes in a directory. Use larger shards."
        )


def _check_text(file: File, original: Path | None) -> None:
    """Raise SelfExplainError for what nobody should read, and for paths that mean nothing to others.

    Args:
        original: where a person finds the file; None where it is written for publishing.
    """
    text, place = file.source.read_text(encoding="utf-8"), original or file.source
    for what, pattern in _SECRETS.items():
        if pattern.search(text):
            raise SelfExplainError(
                f"{place} holds {what}. Remove it there, and revoke it if others have seen the file."
            )
    found = None
    if file.source.suffix in (".json", ".yaml") and not file.path.endswith(_CONTENT):
        found = _local_path(_leaves(_load(file.source, text)))
    elif file.source.suffix in (".md", ".py"):
        own = [str(path) for path in (Path.cwd(), Path.home()) if path.name]  # `/` is in every link
        found = next((path for path in own if re.search(rf"(?<![\w.:/-]){re.escape(path)}/", text)), None)
    if found is not None:
        raise SelfExplainError(
            f"{place} names {found}, a path of this machine that means nothing to others. Make the run again with the "
            "current version, or correct that file."
        )


def _check_rows(file: File) -> None:
    """Raise SelfExplainError where rows name a path of this machine."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    columns = [name for name in _NAMING_COLUMNS if name in pq.read_schema(file.source).names]
    rows = pq.read_table(file.source, columns=columns)
    found = _local_path(value for column in rows.columns for value in pc.unique(column).to_pylist())
    if found is not None:
        raise SelfExplainError(
            f"rows of {file.path} name {found}, a path of this machine that means nothing to others. Build the dataset "
            "again from where the recipe says."
        )


def _local_path(values: Iterable[str]) -> str | None:
    """The first path of this machine in these strings."""
    words = (word.strip("'\"`(),;:") for value in values for word in value.split())
    return next((word for word in words if _LOCAL_PATH.fullmatch(word)), None)


def _load(path: Path, text: str) -> Any:
    import yaml

    return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)


def _leaves(value: Any) -> Iterator[str]:
    """Every string in nested mappings and lists."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)


def _staged(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def _tree(directory: Path) -> list[tuple[str, Path]]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return [(path.relative_to(directory).as_posix(), path) for path in sorted(files)]


def _earlier(directory: Path | None, pattern: str, own: str) -> Sequence[Path]:
    """The files that other runs published; a run's own are replaced."""
    return [path for path in sorted(directory.glob(pattern)) if path.parent.name != own] if directory else []


def _sorted(files: Sequence[File]) -> tuple[File, ...]:
    return tuple(sorted(files, key=lambda file: file.path))
