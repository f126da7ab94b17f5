"""Build counterfactual pairs from facts: CounterFact, relation tables, and tables of ready-made pairs."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from selfexplain.errors import SelfExplainError
from selfexplain.groundtruth.config import PairSource
from selfexplain.groundtruth.sources.items import Pair, Prompt, SourceItems
from selfexplain.groundtruth.sources.tables import read_columns
from selfexplain.groundtruth.sources.tokens import fits, word_tokens
from selfexplain.groundtruth.sources.values import Skips, as_text, as_word, as_words
from selfexplain.groundtruth.splits import SAME_NAME, near_duplicate_groups, split_of
from selfexplain.target.load import Target
from selfexplain.utils.hashing import list_files
from selfexplain.utils.names import local_path
from selfexplain.utils.parsing import parse_json
from selfexplain.utils.table_files import format_of, read_file

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
    if source.template.count("{statement}") > 1:
        raise SelfExplainError(
            f"source.template {source.template!r} contains {{statement}} more than once, but a patch needs one place "
            "of the subject. Keep one of them."
        )
    result: SourceItems[Pair] = SourceItems()
    facts, answers = _read_facts(source, result.skipped)
    subjects = [fact.subject for fact in facts]
    groups = dict(zip(subjects, near_duplicate_groups(subjects, SAME_NAME), strict=True))
    pools: dict[tuple[str, str], list[Fact]] = defaultdict(list)
    for fact in facts:
        pools[fact.relation, split_of(groups[fact.subject], seed)].append(fact)
    first_tokens = {
        answer: next(iter(word_tokens(target, answer)), -1) for values in answers.values() for answer in values
    }
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
    rows = _complete_pairs(source, result.skipped)
    names = [name for row in rows for name in row.subjects]
    groups = dict(zip(names, near_duplicate_groups(names, SAME_NAME), strict=True))
    for row in rows:
        if len(result.items) == n:
            break
        texts, subjects = row.texts, row.subjects
        group = [row.group] * 2 if row.group else [groups[subject] for subject in subjects]
        begins = [text.find(subject) for text, subject in zip(texts, subjects, strict=True)]
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
            result.items.append(Pair(clean, counterfactual, row.options))
    return result


@dataclass(frozen=True)
class _PairRow:
    """A row of a table of pairs; the clean prompt is first. `group` is empty if the table has none."""

    texts: tuple[str, str]
    subjects: tuple[str, str]
    options: tuple[str, ...]
    group: str


def _complete_pairs(source: PairSource, skipped: Counter[str]) -> list[_PairRow]:
    """The rows that have both prompts, both subjects and readable options; counts the others in `skipped`."""
    rows, skips = [], Skips()
    required = ("clean_prompt", "source_prompt", "subject", "source_subject")
    for number, row in read_columns(source, required, ("options", "group"), skips):
        clean, other = as_text(row["clean_prompt"]), as_text(row["source_prompt"])
        subject, other_subject = as_word(row["subject"]), as_word(row["source_subject"])
        options = as_words(row.get("options"), ",")
        if clean is None or other is None:
            skips.add("no text in clean_prompt or source_prompt", number)
        elif subject is None or other_subject is None:
            skips.add("no text in subject or source_subject", number)
        elif options is None:
            skips.add("options are not a list of texts", number)
        else:
            group = as_word(row.get("group")) or ""
            rows.append(_PairRow((clean, other), (subject, other_subject), tuple(options), group))
    skipped.update(skips.counter())
    return rows


def _prompt(source: PairSource, wording: str, subject: str, options: Sequence[str], group: str) -> Prompt:
    statement = wording.replace("{}", subject)
    template = source.template if source.n_options else "{statement}"
    before, after = (part.replace("{options}", " or ".join(options)) for part in template.split("{statement}"))
    begin = len(before) + wording.index("{}")
    return Prompt(before + statement + after, group, (begin, begin + len(subject)), len(before + statement))


def _read_facts(source: PairSource, skipped: Counter[str]) -> tuple[list[Fact], dict[str, list[str]]]:
    """One fact per relation and subject, and all answers of each relation; counts other facts in `skipped`."""
    facts: dict[tuple[str, str], Fact] = {}
    answers: dict[str, dict[str, None]] = defaultdict(dict)
    skips = Skips()
    for fact, others in (_counterfact if source.kind == "counterfact" else _relations)(source, skips):
        answers[fact.relation].update(dict.fromkeys([fact.answer, *others]))
        if (known := facts.setdefault((fact.relation, fact.subject), fact)) is not fact:
            skipped["the subject occurred before" + (" with a different answer" * (known.answer != fact.answer))] += 1
    skipped.update(skips.counter())
    return list(facts.values()), {relation: list(values) for relation, values in answers.items()}


def _counterfact(source: PairSource, skips: Skips) -> Iterator[tuple[Fact, list[str]]]:
    """Facts of CounterFact (Meng et al., arXiv 2202.05262) with further answers of their relation.

    A relation is identified by its id, or by its wording if it has no id.
    """
    for number, row in read_columns(source, ["requested_rewrite"], [], skips):
        record = row["requested_rewrite"]
        try:
            record = parse_json(record, "requested_rewrite") if isinstance(record, str) else record
        except SelfExplainError:
            record = None
        if not isinstance(record, dict) or not (prompt := as_text(record.get("prompt"))):
            skips.add("requested_rewrite has no prompt, subject, target_true.str and target_new.str", number)
            continue
        subject, true, new = (_text_in(record.get(name)) for name in ("subject", "target_true", "target_new"))
        if subject and true:
            yield (
                Fact(as_word(record.get("relation_id")) or prompt, (prompt,), subject, true.strip()),
                ([new.strip()] if new else []),
            )
        else:
            skips.add("no subject or no answer", number)


def _text_in(value: Any) -> str | None:
    """The text of a subject, or of a target of CounterFact such as {"str": "Paris"}."""
    return as_word(value.get("str") if isinstance(value, dict) else value)


def _relations(source: PairSource, skips: Skips) -> Iterator[tuple[Fact, list[str]]]:
    path = local_path(source.path or "")
    if source.path and path.is_dir():
        files = [file for file in list_files(path) if file.suffix.lower() == ".json"]
        if not files:
            raise SelfExplainError(f"{path} contains no JSON file. Give a directory with one JSON file per relation.")
        for file in files:
            yield from _relation_file(file, skips)
    elif source.path and format_of(path.name) == ".json" and path.is_file() and not _is_table(path):
        yield from _relation_file(path, skips)
    else:
        for number, row in read_columns(source, ["relation", "prompt", "subject", "object"], [], skips):
            relation, prompt = as_word(row["relation"]), as_text(row["prompt"])
            if relation is None or prompt is None:
                skips.add("no relation or no prompt", number)
            else:
                yield from _fact(relation, (prompt,), row, number, skips)


def _is_table(path: Path) -> bool:
    """Whether a JSON file contains rows of facts, and not one relation."""
    rows = list(islice(read_file(path), 2))
    return len(rows) != 1 or (isinstance(rows[0], dict) and "subject" in rows[0])


def _relation_file(file: Path, skips: Skips) -> Iterator[tuple[Fact, list[str]]]:
    relation = next(read_file(file), None)
    values = relation if isinstance(relation, dict) else {}
    name, samples = as_word(values.get("name")), values.get("samples")
    templates = values.get("prompt_templates")
    templates = templates if isinstance(templates, list) else []
    prompts = tuple(filter(as_text, templates))
    if name is None or not prompts or not isinstance(samples, list):
        raise SelfExplainError(
            f"{file} is not a relation file. Expected "
            '{"name": ..., "prompt_templates": ["... {} ..."], "samples": [{"subject": ..., "object": ...}]}.'
        )
    for _ in range(len(prompts), len(templates)):
        skips.add("a prompt template is not text", file.name)
    for number, sample in enumerate(samples, start=1):
        yield from _fact(name, prompts, sample, f"sample {number} of {file.name}", skips)


def _fact(
    relation: str, prompts: tuple[str, ...], row: Any, place: int | str, skips: Skips
) -> Iterator[tuple[Fact, list[str]]]:
    """The fact of a row with `subject` and `object`; nothing if one of them is missing."""
    values = row if isinstance(row, dict) else {}
    subject, answer = as_word(values.get("subject")), as_word(values.get("object"))
    if subject is None or answer is None:
        skips.add("no subject or no answer", place)
    else:
        yield Fact(relation, prompts, subject, answer.strip()), []
