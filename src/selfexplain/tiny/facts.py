"""Read `facts.yaml`: countries, animals, elements, ships, parcels, and the sentences about them."""

import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

Table = list[list[str]]
"""Rows of words; the first column is the subject."""


@dataclass(frozen=True)
class Relation:
    """One kind of fact.

    Attributes:
        name: unique name; also the topic of the four-option questions.
        answer_class: class of the objects; other options are drawn from it.
        statements: sentences with `{}` for the subject that end just before the object.
        question: question about the object, with `{}` for the subject.
        facts: subject -> object.
        hint_reliability: probability that a hint is correct, in style "answer" and in style "previous".
        content: kind of contents of the parcels in questions about parcels: a key of `Facts.contents`.
        parcel_statements: sentences about the contents of a parcel, with `{}` for the parcel.
    """

    name: str
    answer_class: str
    statements: tuple[str, ...]
    question: str
    facts: dict[str, str]
    hint_reliability: tuple[float, float]
    content: str | None = None
    parcel_statements: tuple[str, ...] = ()


@dataclass(frozen=True)
class Facts:
    """The content of the file.

    Attributes:
        tables: "countries", "animals" and "elements" -> rows.
        ship_words: words that names of ships begin with, and words that they end with.
        ships: names of all ships with a home country.
        uncharted: names of the ships without one.
        relations: all kinds of facts.
        parcels: names of the parcels.
        contents: kind of contents of a parcel -> the sentence that states the contents.
        hint_styles: style of a hint -> its text, with `{}` for the option.
        neutral_sentences: sentences that state no fact.
    """

    tables: dict[str, Table]
    ship_words: tuple[list[str], list[str]]
    ships: list[str]
    uncharted: list[str]
    relations: list[Relation]
    parcels: list[str]
    contents: dict[str, str]
    hint_styles: dict[str, str]
    neutral_sentences: list[str]

    @property
    def answers(self) -> dict[str, list[str]]:
        """Class of objects -> all objects of that class."""
        answers: dict[str, list[str]] = {}
        for relation in self.relations:
            known = answers.setdefault(relation.answer_class, [])
            known.extend(sorted(set(relation.facts.values()) - set(known)))
        return answers

    @property
    def classes(self) -> dict[str, set[str]]:
        """Classes of words that a feature description may name -> their words."""
        answers = self.answers
        return {
            "countries": {row[0] for row in self.tables["countries"]},
            "capitals": set(answers["capital"]),
            "languages": set(answers["language"]),
            "currencies": set(answers["currency"]),
            "continents": set(answers["continent"]),
            "animals": {row[0] for row in self.tables["animals"]},
            "young animals": set(answers["young animal"]),
            "elements": {row[0] for row in self.tables["elements"]},
            "symbols": set(answers["symbol"]),
            "parcels": {parcel.split()[1] for parcel in self.parcels},
            "colours": {parcel.split()[0] for parcel in self.parcels},
            "first words of ships": set(self.ship_words[0]),
            "last words of ships": set(self.ship_words[1]),
        }


@cache
def read_facts() -> Facts:
    """Read the file. The home countries of the ships are drawn with a fixed seed."""
    data = yaml.safe_load(Path(__file__).with_name("facts.yaml").read_text(encoding="utf-8"))
    ships, homes = _ships(data["ships"], data["countries"])
    n_charted, n_uncharted = data["ships"]["n_charted"], data["ships"]["n_uncharted"]
    tables = {name: data[name] for name in ("countries", "animals", "elements")}
    parcels = data["parcels"]
    return Facts(
        tables=tables,
        ship_words=(data["ships"]["first_words"], data["ships"]["last_words"]),
        ships=ships[:n_charted],
        uncharted=ships[n_charted : n_charted + n_uncharted],
        relations=[_relation(one, tables, homes) for one in data["relations"]],
        parcels=[f"{colour} {thing}" for colour in parcels["colours"] for thing in parcels["things"]],
        contents=parcels["contents"],
        hint_styles=data["hint_styles"],
        neutral_sentences=data["neutral_sentences"],
    )


def _ships(data: dict[str, Any], countries: Table) -> tuple[list[str], dict[str, list[str]]]:
    """All names of ships in random order, and the home country of the first `n_charted`, as a row of the table."""
    rng = random.Random(0)
    ships = [f"{first} {last}" for first in data["first_words"] for last in data["last_words"]]
    rng.shuffle(ships)
    return ships, {ship: countries[rng.randrange(len(countries))] for ship in ships[: data["n_charted"]]}


def _relation(data: dict[str, Any], tables: dict[str, Table], homes: dict[str, list[str]]) -> Relation:
    rows = homes if data["table"] == "ships" else {row[0]: row for row in tables[data["table"]]}
    first, second = data["hint_reliability"]
    return Relation(
        name=data["name"],
        answer_class=data["answer_class"],
        statements=tuple(data["statements"]),
        question=data["question"],
        facts={subject: row[data["column"]] for subject, row in rows.items()},
        hint_reliability=(first, second),
        content=data.get("content"),
        parcel_statements=tuple(data.get("parcel_statements", ())),
    )
