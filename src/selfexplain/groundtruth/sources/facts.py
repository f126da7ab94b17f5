"""Build counterfactual pairs from facts: CounterFact, relation tables, and tables of ready-made pairs."""

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.config import PairSource
from selfexplain.groundtruth.sources.items import Pair, Prompt, SourceItems
from selfexplain.groundtruth.sources.tables import read_columns
from selfexplain.groundtruth.sources.tokens import fits, word_tokens
from selfexplain.groundtruth.splits import SAME_NAME, near_duplicate_groups, split_of
from selfexplain.target.load import Target

TRIES = 20  # counterparts drawn for a fact before it is skipped


@dataclass(frozen=True)
class Fact:
    """One entry of a relation.

    Attributes:
        relation: name of the relation.
        prompts: wordings of the statement up to the answer, with `{}` for the subject.
        subject: subject of the fact.
        answer: object of the fact.
    """

    relation: str
    prompts: tuple[str, ...]
    subject: str
    answer: str


@dataclass(frozen=True)
class _Facts:
    """The facts of a source, indexed for drawing pairs.

    Attributes:
        answers: relation -> its answers.
        groups: subject -> its group of near-duplicate names.
        pools: (relation, split) -> the facts of this relation in this split.
        first_tokens: answer -> its first token.
    """

    source: PairSource
    target: Target
    seed: int
    answers: Mapping[str, Sequence[str]]
    groups: Mapping[str, str]
    pools: Mapping[tuple[str, str], Sequence[Fact]]
    first_tokens: Mapping[str, int]

    def draw_pair(self, fact: Fact, rng: random.Random) -> Pair | str:
        """A pair of `fact` with a randomly drawn counterpart, or the reason why there is none."""
        pool = self.pools[fact.relation, split_of(self.groups[fact.subject], self.seed)]
        first = self.first_tokens
        drawn = (rng.choice(pool) for _ in range(TRIES))
        other = next((f for f in drawn if f.subject != fact.subject and first[f.answer] != first[fact.answer]), None)
        if other is None:
            return "no fact of the same relation and split has an answer that begins with a different token"
        wording, options = rng.choice(fact.prompts), [fact.answer, other.answer]
        if "{}" not in wording:
            return "no {} for the subject in the prompt"
        for answer in rng.sample(self.answers[fact.relation], len(self.answers[fact.relation])):
            if len(options) < self.source.n_options and first[answer] not in {first[option] for option in options}:
                options.append(answer)
        shown = rng.sample(options, len(options))
        clean, counterfactual = (
            _prompt(self.source, wording, f.subject, shown, self.groups[f.subject]) for f in (fact, other)
        )
        if not all(fits(self.target, prompt.text) for prompt in (clean, counterfactual)):
            return "longer than the context"
        return Pair(clean, counterfactual, tuple(options) if self.source.n_options else ())


def fact_pairs(source: PairSource, target: Target, n: int, seed: int) -> SourceItems[Pair]:
    """Up to `n` pairs of facts that belong to the same relation and split and differ in subject and answer.

    Both prompts list the same options: the two answers and further answers of the relation. All options begin with
    different tokens, because the outcome of a patch is read from a single token.

    Raises:
        SelfExplainError: the source is missing or unreadable, or its template lacks a field.
    """
    fields = ["{statement}", *(["{options}"] if source.n_options else [])]
    if missing := [name for name in fields if name not in source.template]:
        raise SelfExplainError(
            f"source.template {source.template!r} lacks {' and '.join(missing)}. Put it where the text belongs."
        )
    result: SourceItems[Pair] = SourceItems()
    facts, answers = _read_facts(source, result.skipped)
    subjects = [fact.subject for fact in facts]
    groups = dict(zip(subjects, near_duplicate_groups(subjects, SAME_NAME), strict=True))
    pools: dict[tuple[str, str], list[Fact]] = defaultdict(list)
    for fact in facts:
        pools[fact.relation, split_of(groups[fact.subject], seed)].append(fact)
    first_tokens = {answer: word_tokens(target, answer)[0] for values in answers.values() for answer in values}
    indexed = _Facts(source, target, seed, answers, groups, pools, first_tokens)
    rng = random.Random(seed)
    rng.shuffle(facts)
    seen: set[tuple[str, str]] = set()
    for round_ in range(n):
        n_before = len(result.items)
        for fact in facts:
            if len(result.items) == n:
                break
            pair = indexed.draw_pair(fact, rng)
            if isinstance(pair, str):
                result.skipped[pair] += round_ == 0
            elif pair.texts not in seen:
                seen.add(pair.texts)
                result.items.append(pair)
        if len(result.items) in (n_before, n):
            break
    return result


def table_pairs(source: PairSource, target: Target, n: int, seed: int) -> SourceItems[Pair]:
    """Up to `n` pairs from a table that contains both prompts and their subjects.

    Raises:
        SelfExplainError: the table is missing or unreadable.
    """
    result: SourceItems[Pair] = SourceItems()
    required = ("clean_prompt", "source_prompt", "subject", "source_subject")
    rows = list(read_columns(source, required, ("options", "group")))
    names = [str(row[name]) for row in rows for name in ("subject", "source_subject")]
    groups = dict(zip(names, near_duplicate_groups(names, SAME_NAME), strict=True))
    for row in rows:
        if len(result.items) == n:
            break
        texts = str(row["clean_prompt"]), str(row["source_prompt"])
        subjects = [str(row[name]) for name in ("subject", "source_subject")]
        group = [str(row["group"])] * 2 if row.get("group") else [groups[subject] for subject in subjects]
        begins = [text.find(subject) if subject else -1 for text, subject in zip(texts, subjects, strict=True)]
        if -1 in begins:
            result.skipped["the subject does not occur in the prompt"] += 1
        elif texts[0] == texts[1]:
            result.skipped["both prompts are the same"] += 1
        elif split_of(group[0], seed) != split_of(group[1], seed):
            result.skipped["the two subjects are in different splits"] += 1
        elif not all(fits(target, text) for text in texts):
            result.skipped["longer than the context"] += 1
        else:
            clean, counterfactual = (
                Prompt(text, name, (begin, begin + len(subject)), len(text))
                for text, name, begin, subject in zip(texts, group, begins, subjects, strict=True)
            )
            result.items.append(Pair(clean, counterfactual, tuple(_as_list(row.get("options")))))
    return result


def _prompt(source: PairSource, wording: str, subject: str, options: Sequence[str], group: str) -> Prompt:
    statement = wording.replace("{}", subject)
    template = source.template if source.n_options else "{statement}"
    before, after = template.replace("{options}", " or ".join(options)).split("{statement}", 1)
    begin = len(before) + wording.index("{}")
    return Prompt(before + statement + after, group, (begin, begin + len(subject)), len(before + statement))


def _as_list(value: Any) -> list[str]:
    """Options given as a list, or as comma-separated text (in CSV files)."""
    return [word.strip() for word in value.split(",")] if isinstance(value, str) else list(value or ())


def _read_facts(source: PairSource, skipped: Counter[str]) -> tuple[list[Fact], dict[str, list[str]]]:
    """One fact per relation and subject, and all answers of each relation; counts other facts in `skipped`."""
    facts: dict[tuple[str, str], Fact] = {}
    answers: dict[str, dict[str, None]] = defaultdict(dict)
    for fact, others in (_counterfact if source.kind == "counterfact" else _relations)(source):
        if not fact.subject.strip() or not fact.answer.strip():
            skipped["no subject or no answer"] += 1
            continue
        answers[fact.relation].update(dict.fromkeys([fact.answer, *others]))
        if (known := facts.setdefault((fact.relation, fact.subject), fact)) is not fact:
            skipped["the subject occurred before" + (" with a different answer" * (known.answer != fact.answer))] += 1
    return list(facts.values()), {relation: list(values) for relation, values in answers.items()}


def _counterfact(source: PairSource) -> Iterator[tuple[Fact, list[str]]]:
    """Facts of CounterFact (Meng et al., arXiv 2202.05262) with further answers of their relation.

    A relation is identified by its id, or by its wording if it has no id.
    """
    for number, row in enumerate(read_columns(source, ["requested_rewrite"]), start=1):
        try:
            record = row["requested_rewrite"]
            record = json.loads(record) if isinstance(record, str) else record
            prompt = record["prompt"]
            true, new = (record[name]["str"] for name in ("target_true", "target_new"))
            yield Fact(record.get("relation_id") or prompt, (prompt,), record["subject"], true.strip()), [new.strip()]
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise SelfExplainError(
                f"{source.path}, row {number} has an incomplete requested_rewrite ({type(error).__name__}: {error}). "
                "It must contain prompt, subject, target_true.str and target_new.str."
            ) from error


def _relations(source: PairSource) -> Iterator[tuple[Fact, list[str]]]:
    path = Path(source.path or "").expanduser()
    if source.path and (path.is_dir() or path.suffix == ".json"):
        files = sorted(path.rglob("*.json")) if path.is_dir() else [path]
        if not files:
            raise SelfExplainError(f"{path} contains no JSON file. Give a directory with one JSON file per relation.")
        for file in files:
            yield from _relation_file(file)
        return
    for row in read_columns(source, ["relation", "prompt", "subject", "object"]):
        yield Fact(row["relation"], (row["prompt"],), str(row["subject"]), str(row["object"]).strip()), []


def _relation_file(file: Path) -> Iterator[tuple[Fact, list[str]]]:
    try:
        relation: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        prompts = tuple(relation["prompt_templates"])
        for sample in relation["samples"]:
            yield Fact(relation["name"], prompts, str(sample["subject"]), str(sample["object"]).strip()), []
    except (OSError, UnicodeDecodeError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise SelfExplainError(
            f"{file} is not a relation file ({type(error).__name__}: {error}). Expected "
            '{"name": ..., "prompt_templates": ["... {} ..."], "samples": [{"subject": ..., "object": ...}]}.'
        ) from error
