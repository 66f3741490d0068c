"""Trees of sums: consistent gold, and levels whose steps do not need each other."""

import math

import pytest

from qtrap_agents.config import SuiteChoice
from qtrap_agents.semantics import check_task
from qtrap_agents.suites.catalog import load_suite


@pytest.mark.parametrize("depth", [1, 2, 7, 8, 31])
def test_levels_are_logarithmic_and_gold_is_what_the_rules_give(depth: int) -> None:
    for task in load_suite(SuiteChoice(name="tree")).tasks((depth,), (0, 1), 5):
        assert check_task(task) == []
        assert len(task.premises) == task.depth == depth
        level: dict[str, int] = {}
        for premise in task.premises:
            level[premise.id] = 1 + max((level[parent] for parent in premise.depends_on), default=0)
        assert level[task.premises[-1].id] == math.ceil(math.log2(depth + 1))
        used = [parent for premise in task.premises for parent in premise.depends_on]
        assert sorted(used) == sorted(name for name in level if name != task.premises[-1].id)


def test_steps_are_asked_in_the_words_of_arith() -> None:
    task = next(load_suite(SuiteChoice(name="tree", params={"modulus": 10})).tasks((3,), (0,), 1))
    assert all(premise.instruction.startswith("arith: ") and premise.instruction.endswith(" =") for premise in task.premises)
    assert all(0 <= int(premise.value) < 10 for premise in task.premises)
    assert "{s1}" in task.premises[-1].instruction
