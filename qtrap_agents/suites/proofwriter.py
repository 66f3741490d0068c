"""ProofWriter: facts and rules in plain sentences, and questions about what follows from them.

Rows are the theories of the `meta-*.jsonl` files, of the open and the closed world: `theory`, `triples`, `rules`, and
`questions` with `question`, `answer` (true, false or `Unknown`), `QDep` and `proofsWithIntermediates`. Each question is a task.

The first of its shortest proofs gives the premises: in `((((triple2) -> (rule6 % int2)) triple3) -> (rule7 % int1))`, `int2`
follows from a given fact by rule 6, and `int1` from `int2` and another fact by rule 7. They become `s1`, `s2`, …, and the
last premise is the answer. What a rule would give from other parents is not worked out, so premises have no rules. A question
without a proof (`Unknown`, or false in a closed world) or whose proof is a given fact has its answer as the only premise.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from qtrap_agents.suites.rows import Form, Row, Unusable, gold, records_of, task_id, text_of
from qtrap_agents.types import GoldPremise, Task, Value

GOLD = "conclusions of the proof, no rules; answer only where nothing is proved"

_TOKEN = re.compile(r"->|[()%]|[A-Za-z]+[0-9]*")
_UNREADABLE = "proof that cannot be read"
_DEEPEST = 200
_ANSWERS = {"true": "true", "false": "false", "unknown": "unknown"}


class _Step(NamedTuple):
    """A conclusion of a proof: its name, the rule, and the conclusions and facts that it follows from."""

    name: str
    rule: str
    given: tuple[str, ...]


def questions(row: Row) -> Iterator[Row]:
    """One row for each question of a theory. Raises Unusable."""
    asked = _table(row.fields, "questions")
    if not asked:
        raise Unusable("field 'questions' missing or not an object")
    theory = str(row.fields.get("id") or f"{row.number:05d}")
    for name, question in asked.items():
        yield Row(row.number, f"{row.where}, {name}", {**row.fields, "id": f"{theory}-{name}", "asked": question})


def task(row: Row, form: Form) -> Task:
    """The task of one question. Raises Unusable."""
    asked = row.fields["asked"] if isinstance(row.fields["asked"], Mapping) else {}
    question, answer = text_of(asked, "question"), _ANSWERS.get(str(asked.get("answer")).casefold())
    if answer is None:
        raise Unusable("field 'answer' missing or not true, false or Unknown")
    steps, said = _shortest(asked)
    premises = [_premise(number, step, steps, said, row, form) for number, step in enumerate(steps, 1)]
    premises.append(_last(len(premises) + 1, question, answer))
    metadata: dict[str, Value] = {name: asked[name] for name in ("QDep", "strategy") if isinstance(asked.get(name), str | int)}
    return Task(
        id=task_id(form, row, "id"),
        suite=form.suite,
        question=f"{text_of(row.fields, 'theory')}\n\nTrue, false or unknown? {question}",
        answer=answer,
        premises=tuple(premises),
        depth=len(premises),
        metadata=metadata,
    )


def _last(number: int, question: str, answer: str) -> GoldPremise:
    before = (f"s{number - 1}",) if number > 1 else ()
    known = f"It follows that: {{{before[0]}}}. " if before else ""
    return GoldPremise(
        id=f"s{number}",
        text=f"{question} {answer}",
        value=answer,
        depends_on=before,
        instruction=f"{known}Is this true, false or unknown: {question}",
        kind="answer",
    )


def _premise(number: int, step: _Step, steps: list[_Step], said: Mapping[str, str], row: Row, form: Form) -> GoldPremise:
    ids = {earlier.name: f"s{place}" for place, earlier in enumerate(steps[: number - 1], 1)}
    given = [f"{{{ids[name]}}}." if name in ids else _fact(row.fields, said, name) for name in step.given]
    return GoldPremise(
        id=f"s{number}",
        text=said[step.name],
        value=gold(said[step.name], form.parser),
        depends_on=tuple(dict.fromkeys(ids[name] for name in step.given if name in ids)),
        instruction=" ".join([*filter(None, given), _sentence(_table(row.fields, "rules"), step.rule), "What follows?"]),
        kind="rule",
    )


def _fact(fields: Mapping[str, Any], said: Mapping[str, str], name: str) -> str:
    """The sentence of a given fact, or of what a closed world takes to be false (`naf`) where the data tells it."""
    if name.casefold().startswith("naf"):
        return said.get(name, "")
    return _sentence(_table(fields, "triples"), name)


def _sentence(table: Mapping[str, Any], name: str) -> str:
    entry = table.get(name)
    if not isinstance(entry, Mapping):
        raise Unusable("proof from a fact or rule without a sentence", f"'{name}'")
    return text_of(entry, "text")


def _table(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    """An object without the empty entries that a hub fills it up with."""
    value = fields.get(name)
    return {key: entry for key, entry in value.items() if entry} if isinstance(value, Mapping) else {}


def _shortest(asked: Mapping[str, Any]) -> tuple[list[_Step], dict[str, str]]:
    """The steps of the first of the shortest proofs, parents first, and the sentence of each conclusion."""
    best: tuple[list[_Step], dict[str, str]] | None = None
    for proof in records_of(asked, "proofsWithIntermediates") if asked.get("proofsWithIntermediates") else ():
        table = _table(proof, "intermediates")
        said = {name: _sentence(table, name) for name in table}
        steps = _steps(text_of(proof, "representation"), said)
        if best is None or len(steps) < len(best[0]):
            best = (steps, said)
    return best or ([], {})


def _steps(representation: str, said: Mapping[str, str]) -> list[_Step]:
    tokens = _TOKEN.findall(representation)
    steps: dict[str, _Step] = {}
    _, end = _group(tokens, 0, steps)
    if end != len(tokens):
        raise Unusable(_UNREADABLE, "brackets that do not match")
    unknown = [name for name in steps if name not in said]
    if unknown:
        raise Unusable("conclusion without a sentence", f"'{unknown[0]}'")
    return list(steps.values())


def _group(tokens: list[str], at: int, steps: dict[str, _Step], depth: int = 0) -> tuple[list[str], int]:
    """What the expression at `at` states, and where it ends; conclusions inside it are added to `steps`, parents first."""
    if at >= len(tokens) or tokens[at] in ("->", ")", "%") or depth > _DEEPEST:
        raise Unusable(_UNREADABLE, "it ends too early or is nested too deep")
    if tokens[at] != "(":
        return [tokens[at]], at + 1
    stated: list[str] = []
    at += 1
    while at < len(tokens) and tokens[at] not in (")", "->"):
        found, at = _group(tokens, at, steps, depth + 1)
        stated += found
    if at < len(tokens) and tokens[at] == "->":
        name, at = _conclusion(tokens, at + 1, stated, steps)
        stated = [name]
    if at >= len(tokens):
        raise Unusable(_UNREADABLE, "brackets that do not match")
    return stated, at + 1


def _conclusion(tokens: list[str], at: int, given: list[str], steps: dict[str, _Step]) -> tuple[str, int]:
    """`(rule6 % int2)` after an arrow: the name of the conclusion, and where it ends."""
    found = [token for token in tokens[at : at + 5] if token not in ("(", ")")][:3]
    if len(found) < 3 or found[1] != "%":
        raise Unusable(_UNREADABLE, "no '% int' after an arrow")
    rule, _, name = found
    end = tokens.index(name, at) + 1
    steps.setdefault(name, _Step(name, rule, tuple(given)))
    return name, end + (tokens[at] == "(")
