"""Statements to gold premises: by value and dependency, never by line number.

1. Gold is gone through in topological order. A statement is a candidate for a gold premise if it states its value, or if its
   expression comes to that value although it states another (a slip: the premise is then `wrong`, not `missing`). Beside the
   gold value counts what the step rightly gives from what its parents were stated as, so that an inherited error is found.
   A candidate by value must also agree in what it was derived from: of the numbers that lead to the statement and those
   that lead to the gold premise at least one must be the same, where both are known.
2. Candidates are weighed by value, by the share of equal operands, by a name such as `s3`, and by their order; the
   assignment of the largest sum is taken (`scipy.optimize.linear_sum_assignment`).
3. What is left over: the same expression as one that is aligned, or its value again without an expression, is a
   restatement; a final answer states the last premise; a statement that shares half of its operands with the one gold
   premise that is missing between its neighbours, or is named by the id of a missing one, is taken for it, whatever its value.

Limits: a sentence of text states one premise. Of two equal values without an expression the order decides. A step that the
model merged into the next one stays unstated. A value rounded otherwise than gold is a wrong one. A wrong value without an
expression, such as `x = 126` for 124, is found only by a name or in a final answer. A coincidence of value and of one operand
is taken for the premise: `tests/benchmarks/extraction_check.py` measures how often, on the solutions of other problems.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from re import compile as pattern
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from qtrap_agents.extraction.arithmetic import evaluate
from qtrap_agents.extraction.statements import Statement
from qtrap_agents.premises import to_number
from qtrap_agents.semantics import consequence, is_right, same_value
from qtrap_agents.types import GoldPremise, Value

_VALUE, _SLIP, _OPERANDS, _NAME, _ORDER = 3.0, 2.0, 2.0, 0.5, 0.5
"""Weights of a candidate."""

_WIDEST = 200
"""Numbers that lead to a statement or a premise, at most."""

_TERM = pattern(r"[A-Za-z_]\w*|[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")


class Match(NamedTuple):
    """A statement (its place in the list) that states a gold premise (its place in the task), read as `value`."""

    statement: int
    gold: int
    value: Value


class _Gold(NamedTuple):
    """A gold premise with its operands as gold and as stated, all that leads to it, and the values that it may have."""

    premise: GoldPremise
    operands: tuple[Counter[Value], Counter[Value]]
    origins: frozenset[Value]
    expected: tuple[Value, ...]


def align(found: Sequence[Statement], gold: Sequence[GoldPremise]) -> list[Match]:
    """All matches, in the order of the statements; several statements may state one premise, the last one counts."""
    if not gold:
        return []
    statements = _Statements(found)
    stated = _greedy(statements, gold)
    first = _assigned(statements, [_known(premise, gold, stated) for premise in gold])
    stated = {gold[place].id: statements.read(index, known) for index, (place, known) in first.items()}
    known = [_known(premise, gold, stated) for premise in gold]
    chosen = {index: place for index, (place, _) in _assigned(statements, known).items()}
    chosen |= _left_over(statements, known, chosen)
    return [Match(index, place, statements.read(index, known[place])) for index, place in sorted(chosen.items())]


class _Statements:
    """The statements with what they compute and where they come from, to be found by value."""

    def __init__(self, found: Sequence[Statement]) -> None:
        self.found = found
        self.computed = [evaluate(statement.expression) if statement.expression else None for statement in found]
        self.operands = [Counter(map(_key, statement.operands)) for statement in found]
        self.origins = list(self._origins())
        self._by_value: dict[Value, list[int]] = defaultdict(list)
        for index, statement in enumerate(found):
            if statement.kind != "answer":
                computed = self.computed[index]
                values = (statement.value, *statement.readings, *(() if computed is None else (computed,)))
                for key in dict.fromkeys(map(_key, values)):
                    self._by_value[key].append(index)

    def _origins(self) -> Iterator[frozenset[Value]]:
        done: list[frozenset[Value]] = []
        for statement, operands in zip(self.found, self.operands, strict=True):
            done.append(_limited(set(operands).union(*(done[place] for place in statement.derived_from))))
            yield done[-1]

    def candidates(self, known: _Gold) -> list[int]:
        """Statements that state one of the values, or compute it."""
        return list(dict.fromkeys(index for value in known.expected for index in self._by_value.get(_key(value), ())))

    def read(self, index: int, known: _Gold) -> Value:
        """The value of a statement, in the reading that is nearest to what is expected."""
        readings = (self.found[index].value, *self.found[index].readings)
        right = (value for value in readings if is_right(value, known.premise))
        due = (value for value in readings if any(same_value(value, expected) for expected in known.expected))
        return next(right, next(due, readings[0]))

    def weight(self, index: int, known: _Gold, place: float) -> float:
        """How well a candidate fits; 0 where it does not. `place` is where in the task the premise stands, from 0 to 1."""
        statement, agreement = self.found[index], self.agreement(index, known)
        value = self.read(index, known)
        stated = any(same_value(value, expected) for expected in known.expected)
        if not self._related(index, known):
            return 0.0
        weight = (_VALUE if stated else _SLIP) + _OPERANDS * agreement + _NAME * (statement.name == known.premise.id)
        return weight - _ORDER * (index / max(1, len(self.found) - 1) - place) ** 2

    def agreement(self, index: int, known: _Gold) -> float:
        """The share of equal operands, gold's own or the stated ones."""
        return max(_overlap(self.operands[index], operands) for operands in known.operands)

    def _related(self, index: int, known: _Gold) -> bool:
        return not self.origins[index] or not known.origins or not self.origins[index].isdisjoint(known.origins)


def _key(value: Value) -> Value:
    """Equal for values that differ by rounding only, but for a few at the edge."""
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _limited(values: Iterable[Value]) -> frozenset[Value]:
    return frozenset(sorted(values, key=str)[:_WIDEST])


def _overlap(ours: Counter[Value], theirs: Counter[Value]) -> float:
    total = (ours | theirs).total()
    return (ours & theirs).total() / total if total else 0.0


def _known(premise: GoldPremise, gold: Sequence[GoldPremise], stated: Mapping[str, Value]) -> _Gold:
    by_id = {other.id: other for other in gold}
    right = {parent: by_id[parent].value for parent in premise.depends_on if parent in by_id}
    ours = {parent: stated.get(parent, value) for parent, value in right.items()}
    expected = [premise.value, *premise.accept]
    if any(not same_value(ours[parent], value) for parent, value in right.items()):
        inherited = consequence(premise, ours)
        expected += [] if inherited is None else [inherited]
    operands = (_operands(premise, right), _operands(premise, ours))
    return _Gold(premise, operands, _origins(premise, by_id, stated), tuple(expected))


def _operands(premise: GoldPremise, parents: Mapping[str, Value]) -> Counter[Value]:
    """The numbers of the rule with these values for its parents; without a rule the values alone.

    A rule that is nothing but the value itself does not tell what it was derived from.
    """
    if premise.rule is None:
        return Counter(map(_key, parents.values()))
    terms = _TERM.findall(premise.rule)
    values = [parents.get(term, to_number(term) if term[0].isdigit() else None) for term in terms]
    found = Counter(_key(value) for value in values if value is not None)
    return Counter() if not parents and found == Counter([_key(premise.value)]) else found


def _origins(premise: GoldPremise, by_id: Mapping[str, GoldPremise], stated: Mapping[str, Value]) -> frozenset[Value]:
    """All numbers on the way to a premise."""
    found: set[Value] = set()
    waiting, seen = [premise.id], {premise.id}
    while waiting and len(found) < _WIDEST:
        current = by_id[waiting.pop()]
        parents = {parent: by_id[parent].value for parent in current.depends_on if parent in by_id}
        found.update(_operands(current, parents), (_key(stated[parent]) for parent in parents if parent in stated))
        waiting += [parent for parent in parents if parent not in seen]
        seen.update(parents)
    return frozenset(found)


def _greedy(statements: _Statements, gold: Sequence[GoldPremise]) -> dict[str, Value]:
    """A first guess of what each premise was stated as, its parents first."""
    stated: dict[str, Value] = {}
    taken: set[int] = set()
    for number, premise in enumerate(gold):
        known = _known(premise, gold, stated)
        place = number / max(1, len(gold) - 1)
        weights = {index: statements.weight(index, known, place) for index in statements.candidates(known) if index not in taken}
        best = max(weights, key=lambda index: weights[index], default=None)
        if best is not None and weights[best] > 0:
            taken.add(best)
            stated[premise.id] = statements.read(best, known)
    return stated


def _assigned(statements: _Statements, known: Sequence[_Gold]) -> dict[int, tuple[int, _Gold]]:
    """Statement -> its gold premise, at most one each, of the largest sum of weights."""
    weights = {
        (number, index): weight
        for number, premise in enumerate(known)
        for index in statements.candidates(premise)
        if (weight := statements.weight(index, premise, number / max(1, len(known) - 1))) > 0
    }
    rows = sorted({number for number, _ in weights})
    columns = sorted({index for _, index in weights})
    row_of, column_of = ({name: place for place, name in enumerate(names)} for names in (rows, columns))
    table = np.zeros((len(rows), len(columns)))
    for (number, index), weight in weights.items():
        table[row_of[number], column_of[index]] = weight
    chosen = zip(*linear_sum_assignment(table, maximize=True), strict=True)
    return {columns[column]: (rows[row], known[rows[row]]) for row, column in chosen if table[row, column] > 0}


def _left_over(statements: _Statements, known: Sequence[_Gold], chosen: Mapping[int, int]) -> dict[int, int]:
    """Gold premises of further statements: of those in a gap first, then of restatements and answers."""
    found = _in_gaps(statements, known, chosen)
    latest: dict[Value, int] = {}
    for index, statement in enumerate(statements.found):
        place = chosen.get(index, found.get(index))
        if statement.kind == "answer":
            place = len(known) - 1
        elif place is None:
            place = _restated(statements, index, known, chosen, latest)
        if place is not None:
            found[index] = latest[_key(statement.value)] = place
    return found


def _restated(
    statements: _Statements, index: int, known: Sequence[_Gold], chosen: Mapping[int, int], latest: Mapping[Value, int]
) -> int | None:
    """The premise whose value a statement repeats without an expression, or whose expression it shows again."""
    if statements.computed[index] is None and not statements.operands[index]:
        return latest.get(_key(statements.found[index].value))
    stated = set(chosen.values())
    return next(
        (
            place
            for place in sorted(stated)
            if index in statements.candidates(known[place]) and statements.agreement(index, known[place]) == 1
        ),
        None,
    )


def _in_gaps(statements: _Statements, known: Sequence[_Gold], chosen: Mapping[int, int]) -> dict[int, int]:
    """Premises that nothing states, taken up by the id that a statement names, or by its operands and neighbours."""
    missing = [place for place in range(len(known)) if place not in chosen.values()]
    ids = {known[place].premise.id: place for place in missing}
    found: dict[int, int] = {}
    for index, statement in enumerate(statements.found):
        if index in chosen or statement.kind == "answer":
            continue
        low = max((place for at, place in chosen.items() if at < index), default=-1)
        high = min((place for at, place in chosen.items() if at > index), default=len(known))
        between = [place for place in missing if low < place < high]
        place = ids.get(statement.name or "")
        if place is None and len(between) == 1 and _computes(statements, index, known[between[0]]):
            place = between[0]
        if place is not None and place not in found.values():
            found[index] = place
    return found


def _computes(statements: _Statements, index: int, known: _Gold) -> bool:
    """Whether a statement uses all stated parents of a premise, or at least half of its operands."""
    shown = statements.operands[index]
    parents = known.operands[1] if known.premise.rule is None else None
    return bool(shown) and (statements.agreement(index, known) >= 0.5 or (parents is not None and parents <= shown))
