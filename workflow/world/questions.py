"""Questions with four or five options about the world, and which facts and sums are kept back for the test sets.

`Held` divides what can be asked: whatever a benchmark asks, no training text does.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from workflow.world.facts import (
    ANIMALS,
    COLOURS,
    FOODS,
    PERSON_ATTRIBUTES,
    TOWN_ATTRIBUTES,
    TRADES,
    TREES,
    World,
    stream,
)
from workflow.world.sums import ALL_SUMS, Sum, wrong_results


@dataclass(frozen=True)
class Fact:
    """One attribute of one person or town."""

    name: str
    attribute: str
    value: str

    @property
    def question(self) -> str:
        """The fact as a question."""
        return f"What is the {self.attribute} of {self.name}?"

    @property
    def statement(self) -> str:
        """The fact as a sentence."""
        return f"The {self.attribute} of {self.name} is {self.value}."


@dataclass(frozen=True)
class Choice:
    """A question with options of which exactly one is right."""

    question: str
    options: tuple[str, ...]
    gold: int
    passage: str = ""

    @property
    def letters(self) -> str:
        """One letter an option: ABCD or ABCDE."""
        return "ABCDE"[: len(self.options)]


@dataclass(frozen=True)
class Held:
    """Facts and sums, each divided into those kept for tests and those training may ask about."""

    test_person: tuple[Fact, ...]
    test_town: tuple[Fact, ...]
    test_sums: tuple[Sum, ...]
    train_facts: tuple[Fact, ...]
    train_sums: tuple[Sum, ...]

    @classmethod
    def divide(cls, world: World, seed: int, kept: int) -> Held:
        """Keep `kept` of each kind for tests.

        Raises:
            ValueError: a kind has too few questions to keep that many and still train on one.
        """
        kinds = {"people": person_facts(world), "towns": town_facts(world), "sums": list(ALL_SUMS)}
        for what, pool in kinds.items():
            if len(pool) <= kept:
                more = f"more {what}, or fewer test_items" if what != "sums" else "fewer test_items"
                raise ValueError(
                    f"test_items: tests need {kept} questions on {what} and training one more, and this world has "
                    f"{len(pool)}. Legal: {more}."
                )
            stream(seed, f"held {what}").shuffle(pool)
        person, town, sums = kinds.values()
        return cls(
            tuple(person[:kept]),
            tuple(town[:kept]),
            tuple(sums[:kept]),
            tuple(person[kept:] + town[kept:]),
            tuple(sums[kept:]),
        )


def person_facts(world: World) -> list[Fact]:
    """Every attribute of every person."""
    return [
        Fact(person.name, attribute, getattr(person, attribute))
        for person in world.people
        for attribute in PERSON_ATTRIBUTES
    ]


def town_facts(world: World) -> list[Fact]:
    """Every attribute of every town."""
    return [
        Fact(town.name, attribute, getattr(town, attribute)) for town in world.towns for attribute in TOWN_ATTRIBUTES
    ]


def fact_choice(fact: Fact, world: World, gold: int, random_: random.Random) -> Choice:
    """A fact with three wrong values of the same attribute."""
    values = {
        "town": sorted(town.name for town in world.towns),
        "river": sorted({town.river for town in world.towns}),
        "trade": list(TRADES),
        "colour": list(COLOURS),
        "animal": list(ANIMALS),
        "tree": list(TREES),
        "food": list(FOODS),
    }[fact.attribute]
    wrong = random_.sample([value for value in values if value != fact.value], 3)
    return _choice(fact.question, fact.value, wrong, gold)


def number_choice(question: str, result: int, options: int, gold: int, random_: random.Random) -> Choice:
    """A question whose answer is a number, with wrong numbers near the right one."""
    wrong = [str(n) for n in wrong_results(result, options - 1, random_)]
    return _choice(question, str(result), wrong, gold)


def logic_choice(world: World, gold: int, random_: random.Random) -> Choice:
    """Two people and their trades in a passage; which statement follows?"""
    a, b = random_.sample(world.names, 2)
    first, second, absent = random_.sample(list(TRADES), 3)
    right, *wrong = f"{a} is a {first}", f"{a} is a {second}", f"{b} is a {first}", f"{b} is a {absent}"
    random_.shuffle(wrong)
    return _choice("Which is true?", right, wrong, gold, passage=f"{a} is a {first} and {b} is a {second}.")


def balanced(count: int, options: int, random_: random.Random) -> list[int]:
    """Gold positions that occur equally often (up to one), in random order."""
    golds = [i % options for i in range(count)]
    random_.shuffle(golds)
    return golds


def _choice(question: str, right: str, wrong: list[str], gold: int, passage: str = "") -> Choice:
    options = [*wrong[:gold], right, *wrong[gold:]]
    return Choice(question, tuple(options), gold, passage)
