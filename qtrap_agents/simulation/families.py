"""What the tasks of a family look like, and what their gold rules make of wrong parents."""

import random
from collections import Counter, deque
from sys import intern

from qtrap_agents.semantics import consequence, is_right
from qtrap_agents.simulation.counts import Count, FamilyCounts, Place
from qtrap_agents.types import GoldPremise, Task, Value

_REMEMBERED = 200
"""Values of a family that counterfactual wrong parents are drawn from."""

_TRIED = 60
_DRAWN = 4
"""So many premises of one kind and number of parents are executed on wrong parents, so often each."""


class Families:
    """What tasks look like, and what their rules make of wrong parents, which are values of the same family."""

    def __init__(self) -> None:
        self.counts: dict[str, FamilyCounts] = {}
        self._values: dict[str, deque[Value]] = {}
        self._tried: Counter[tuple[str, str, int]] = Counter()
        self._rng = random.Random(0)

    def note(self, task: Task) -> None:
        """One more task."""
        if not task.premises:
            return
        family = intern(task.suite)
        counts = self.counts.setdefault(family, FamilyCounts())
        counts.depths.add(task.depth)
        for gold in task.premises:
            counts.kinds[intern(gold.kind)] += 1
            counts.parents += len(gold.depends_on)
            counts.without_rule += bool(gold.depends_on) and gold.rule is None
        values = self._values.setdefault(family, deque(maxlen=_REMEMBERED))
        values.extend(gold.value for gold in task.premises)
        for gold in task.premises:
            tried = (family, gold.kind, len(gold.depends_on))
            if gold.rule is not None and gold.depends_on and self._tried[tried] < _TRIED:
                self._tried[tried] += 1
                self._try(counts, family, gold, task)

    def _try(self, counts: FamilyCounts, family: str, gold: GoldPremise, task: Task) -> None:
        right = {premise.id: premise for premise in task.premises}
        for wrong in range(1, len(gold.depends_on) + 1):
            for _ in range(_DRAWN):
                changed = self._rng.sample(gold.depends_on, wrong)
                others = {name: self._other(right[name], family, task) for name in changed}
                given = {name: others.get(name, right[name].value) for name in gold.depends_on}
                found = consequence(gold, {name: value for name, value in given.items() if value is not None})
                if None not in given.values() and found is not None:
                    place = Place(family, intern(gold.kind), len(gold.depends_on), wrong)
                    counts.masks.setdefault(place, Count()).note(is_right(found, gold))

    def _other(self, gold: GoldPremise, family: str, task: Task) -> Value | None:
        """A wrong value of the same sort that another premise has, half of the time one of the same task."""
        own = [premise.value for premise in task.premises if _alike(premise.value, gold)]
        values = own if own and self._rng.random() < 0.5 else [value for value in self._values[family] if _alike(value, gold)]
        return self._rng.choice(values) if values else None


def _alike(value: Value, gold: GoldPremise) -> bool:
    """Another value of the same sort: a number for a number, as many words for words."""
    texts = isinstance(value, str), isinstance(gold.value, str)
    same_sort = len(str(value).split()) == len(str(gold.value).split()) if all(texts) else not any(texts)
    return same_sort and not is_right(value, gold)
