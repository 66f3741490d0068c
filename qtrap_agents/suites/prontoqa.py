"""ProntoQA: what a made-up being is, step by step along an ontology in plain sentences, and whether a statement is true.

Two layouts are read. The one of Logic-LLM: `context`, `question`, `options`, `answer` (`A` true, `B` false), `explanation`.
The one of the original generator: an object of examples, each with a `test_example` of `question` (the sentences), `query`,
`chain_of_thought` and `answer` (`True` or `False`).

A proof goes from the kind that the being is said to be to the kind above it, and so on, and ends in a property. Each kind on
the way is a premise, and the answer is the last one. Their rules are look-ups in the sentences of the context,
`{'wumpus': 'tumpus', …}[s1]`, so what follows from a wrong kind is known too; a kind with two kinds above it is left out of them,
but for the one that the proof takes.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from qtrap_agents.suites.rows import Form, Row, Unusable, list_of, task_id, text_of
from qtrap_agents.types import GoldPremise, Task

GOLD = "every step, with rules"

_SENTENCE = re.compile(r"[^.?!]+[.?!]")
_ABOVE = re.compile(r"(?:every|each) (\w+) is an? (\w+)|(\w+) are (\w+(?<![us])s)")
"""A property does not end like a plural: `nervous`, `hopeless`."""
_HAS = re.compile(r"(?:(?:every|each) (\w+) is|(\w+) are) (not )?(\w+)")
_BEING_IS = re.compile(r"(\w+) is an? (\w+)", re.IGNORECASE)
_BEING_HAS = re.compile(r"(\w+) is (not )?(\w+)", re.IGNORECASE)
_ASKED = re.compile(r"(?:true or false\W+)(\w+) is (not )?(?:an? )?(\w+)", re.IGNORECASE)
_ANSWERS = {"a": "true", "true": "true", "b": "false", "false": "false"}
_ACCEPT = {"true": ("yes",), "false": ("no",)}


class Ontology(NamedTuple):
    """Sentences of a context as tables: kind -> kinds above it, and kind -> property -> whether it has it."""

    above: Mapping[str, Sequence[str]]
    has: Mapping[str, Mapping[str, bool]]


class Statement(NamedTuple):
    """What is asked: `Max is not sour`."""

    being: str
    negated: bool
    name: str

    def __str__(self) -> str:
        return f"{self.being} is {'not ' if self.negated else ''}{self.name}"


def task(row: Row, form: Form) -> Task:
    """The task of an example of either layout. Raises Unusable."""
    inner = row.fields.get("test_example")
    generated = isinstance(inner, Mapping)
    fields = inner if isinstance(inner, Mapping) else row.fields
    names = ("question", "query", "chain_of_thought") if generated else ("context", "question", "explanation")
    context, asked = text_of(fields, names[0]), statement(text_of(fields, names[1]))
    truth = _ANSWERS.get(str(fields.get("answer")).strip().casefold())
    if truth is None:
        raise Unusable("field 'answer' missing or not A, B, True or False")
    premises = premises_of(asked, _kinds(asked, list_of(fields, names[2]), context), ontology(sentences(context)))
    if premises[-1].value != truth:
        raise Unusable("answer that the context contradicts", f"it follows that '{asked}' is {premises[-1].value}")
    return Task(
        id=task_id(form, row, "id"),
        suite=form.suite,
        question=question(context, asked),
        answer=truth,
        accept=premises[-1].accept,
        premises=premises,
        depth=len(premises),
    )


def question(context: str, asked: Statement) -> str:
    """The question as a hop sees it."""
    return f"{context}\nTrue or false: {asked}."


def sentences(context: str) -> list[str]:
    """The sentences of a text without their full stops."""
    return [match[0].strip(" .?!\n") for match in _SENTENCE.finditer(context)]


def statement(query: str) -> Statement:
    """What a query such as `True or false: Max is not sour.` asks. Raises Unusable."""
    found = _ASKED.search(query)
    if found is None:
        raise Unusable("question that is no statement about a being", repr(query[:80]))
    return Statement(found[1], found[2] is not None, found[3].casefold())


def ontology(said: Iterable[str]) -> Ontology:
    """What sentences of the forms `Every wumpus is a tumpus`, `Wumpuses are tumpuses` and `Each tumpus is not sour` say."""
    above: dict[str, list[str]] = {}
    has: dict[str, dict[str, bool]] = {}
    for text in said:
        if match := _ABOVE.fullmatch(text.casefold()):
            lower, upper = (match[1], match[2]) if match[1] else (singular(match[3]), singular(match[4]))
            above.setdefault(lower, []).append(upper)
        elif match := _HAS.fullmatch(text.casefold()):
            has.setdefault(match[1] or singular(match[2]), {})[match[4]] = match[3] is None
    return Ontology(above, has)


def singular(plural: str) -> str:
    """`impuses` -> `impus`, `felines` -> `feline`, `butterflies` -> `butterfly`."""
    if plural.endswith("ies"):
        return plural[:-3] + "y"
    return plural[:-2] if plural.endswith(("ses", "xes", "ches", "shes")) else plural.removesuffix("s")


def _kinds(asked: Statement, steps: Sequence[Any], context: str) -> list[str]:
    """The kinds that the being is of, in the order of the proof, the given one first. Raises Unusable."""
    said = [step.strip(" .\n") for step in steps if isinstance(step, str)]
    found = [match[2].casefold() for text in said if (match := _BEING_IS.fullmatch(text)) and match[1] == asked.being]
    if not found or len(set(found)) < len(found):
        raise Unusable("proof that is no chain of kinds", f"{asked.being} is said to be {' and '.join(found) or 'of no kind'}")
    given = {match.groups() for text in sentences(context) if (match := _BEING_IS.fullmatch(text))}
    if (asked.being, found[0]) not in given:
        raise Unusable("proof from a fact that the context does not have", f"'{asked.being} is a {found[0]}'")
    return found


def premises_of(asked: Statement, kinds: Sequence[str], world: Ontology) -> tuple[GoldPremise, ...]:
    """One premise for each kind after the first, and the answer.

    Args:
        asked: the statement in question.
        kinds: the kinds that the being is of, each one above the last.
        world: the sentences of the context.

    Raises:
        Unusable: a step, or what is asked, is not in the context.
    """
    for kind, upper in pairwise(kinds):
        if upper not in world.above.get(kind, ()):
            raise Unusable("proof from a rule that the context does not have", f"'every {kind} is a {upper}'")
    taken = dict(pairwise(kinds))
    table = {kind: taken.get(kind, uppers[0]) for kind, uppers in world.above.items() if kind in taken or len(uppers) == 1}
    truths = {kind: _truth(asked, has[asked.name]) for kind, has in world.has.items() if asked.name in has}
    if kinds[-1] not in truths:
        raise Unusable("proof that does not end in what is asked", f"no sentence says whether a {kinds[-1]} is {asked.name}")
    steps = [_step(number, asked, kind, upper, table) for number, (kind, upper) in enumerate(taken.items(), 1)]
    return (*steps, _last(len(steps) + 1, asked, kinds[-1], truths))


def _truth(asked: Statement, has: bool) -> str:
    return "true" if has != asked.negated else "false"


def _step(number: int, asked: Statement, kind: str, upper: str, table: Mapping[str, str]) -> GoldPremise:
    key, slot, parents = _input(number, kind)
    return GoldPremise(
        id=f"s{number}",
        text=f"{asked.being} is {'an' if upper[0] in 'aeiou' else 'a'} {upper}.",
        value=upper,
        depends_on=parents,
        rule=f"{dict(table)!r}[{key}]",
        instruction=f"{asked.being} is a {slot}. By the sentences above, every {slot} is a ___.",
        kind="kind",
    )


def _last(number: int, asked: Statement, kind: str, truths: Mapping[str, str]) -> GoldPremise:
    key, slot, parents = _input(number, kind)
    return GoldPremise(
        id=f"s{number}",
        text=f"'{asked}' is {truths[kind]}.",
        value=truths[kind],
        accept=_ACCEPT[truths[kind]],
        depends_on=parents,
        rule=f"{dict(truths)!r}[{key}]",
        instruction=f"{asked.being} is a {slot}. Is it true or false that {asked}?",
        kind="answer",
    )


def _input(number: int, kind: str) -> tuple[str, str, tuple[str, ...]]:
    """How the rule and the instruction name what the step goes from, and its parents."""
    before = f"s{number - 1}"
    return (before, f"{{{before}}}", (before,)) if number > 1 else (repr(kind), kind, ())
