"""The funnel on hand-made chains whose every number is known."""

from collections.abc import Callable, Mapping

import forced
import pytest

from analysis.conftest import make_task, make_trace, with_fault
from qtrap_agents.analysis.divergence import HopDivergence, diverge
from qtrap_agents.analysis.funnel import (
    CLEAREST,
    ChainFacts,
    Counts,
    FirstErrors,
    Flips,
    Funnel,
    FunnelAccumulator,
    Harm,
    Premises,
    Share,
    Sums,
    median_distance,
    observe,
)
from qtrap_agents.types import Completion, GoldPremise, Hop, Message, Premise, Task, Trace, Value

RULES = ("41", "s1 + 1", "s2 * 2", "s3 - 4")
GOLD = {"s1": 41, "s2": 42, "s3": 84, "s4": 80}


def line(task_id: str = "line-1", suite: str = "line", rules: bool = True) -> Task:
    """41, then + 1, · 2, − 4."""
    premises = [
        GoldPremise(id=name, text="", value=value, depends_on=(f"s{index}",) if index else (), rule=rule if rules else None)
        for index, ((name, value), rule) in enumerate(zip(GOLD.items(), RULES, strict=True))
    ]
    return make_task(premises, suite, task_id)


def survivor() -> Task:
    """s2 = max(s1, 90) forgets s1."""
    return make_task(
        [
            GoldPremise(id="s1", text="", value=41, rule="41"),
            GoldPremise(id="s2", text="", value=90, depends_on=("s1",), rule="max(s1, 90)"),
        ]
    )


def chain(task: Task, values: Mapping[str, Value | None], arm: str) -> Trace:
    """One hop for each premise; a hop is told the stated values of its parents."""
    hops = []
    for number, gold in enumerate(task.premises, start=1):
        told = ", ".join(f"{parent} = {values.get(parent)}" for parent in gold.depends_on)
        text = str(values.get(gold.id, ""))
        hops.append(
            Hop(
                id=f"h{number}",
                node="step",
                messages=(Message(role="user", content=told),),
                completion=Completion(text=text, token_ids=forced.token_ids(text)),
                premises=(Premise(id=gold.id, text=text, value=values.get(gold.id), depends_on=gold.depends_on),),
            )
        )
    return make_trace(task, values, arm=arm).model_copy(update={"hops": tuple(hops)})


def reads(base: Trace, answers: Callable[[int, str], str]) -> tuple[HopDivergence, ...]:
    """The baseline's text under an arm that would answer so."""
    return diverge(base, forced.read(base), forced.read(base), forced.read(base, answers))


def writes(flips: Mapping[int, str]) -> Callable[[int, str], str]:
    """Other texts at some hops."""
    return lambda hop, text: flips.get(hop, text)


def facts(
    values: Mapping[str, Value | None],
    flips: Mapping[int, str],
    task: Task | None = None,
    base_values: Mapping[str, Value | None] | None = None,
) -> ChainFacts:
    """An arm that states `values`, and would write `flips` at these hops of the baseline's text."""
    task = task or line()
    base = chain(task, base_values or {premise.id: premise.value for premise in task.premises}, "fp16")
    return observe(task, base, chain(task, values, "awq"), reads(base, writes(flips)))


def test_one_flip_spoils_one_value_and_the_chain() -> None:
    found = facts(with_fault(line(), 2, 47), {2: "47"})
    counts = found.counts
    assert (counts.arm.positions, counts.arm.flips, counts.arm.value_positions, counts.arm.value_flips) == (12, 1, 12, 1)
    assert (counts.floor.positions, counts.floor.flips, counts.floor.drop, counts.floor.kl) == (12, 0, 0, 0)
    assert (counts.self_positions, counts.self_flips) == (12, 0)
    assert counts.arm.drop == pytest.approx(forced.SURE - forced.SECOND)
    assert (counts.read, counts.hit, counts.hops.compared) == (4, Premises(own=1), 4)
    assert counts.premises == Premises(match=1, own=1, inherited=2)
    assert counts.flips == Flips(everywhere=Harm(harmful=1), asked=Harm(harmful=1))
    assert counts.first_errors == FirstErrors(value_flip=1, confirmed=1)
    chains = counts.chains
    assert (chains.n, chains.scored, chains.flipped, chains.value_flipped, chains.value_flipped_false) == (1, 1, 1, 1, 1)
    assert (chains.false, chains.collapsed, chains.recovered, chains.right, chains.baseline_right) == (1, 1, 0, 0, 1)
    assert (found.flip_to_error, found.error_to_collapse) == (0, 0)


def test_the_clear_chain_names_token_premise_and_hop() -> None:
    clear = facts(with_fault(line(), 2, 47), {2: "47"}).clear
    assert clear is not None
    assert (clear.hop_id, clear.hop, clear.position, clear.piece) == ("h2", 2, 1, "2")
    assert (clear.token_id, clear.arm_token_id, clear.arm_logprob) == (ord("2"), ord("7"), forced.SURE)
    assert (clear.premise, clear.gold, clear.baseline_value, clear.arm_value) == ("s2", 42, 42, 47)
    assert (clear.collapse_hop, clear.other_flips, clear.confirmed) == ("h2", 0, True)


@pytest.mark.parametrize(
    ("values", "flips"),
    [
        (GOLD, {2: "47"}),
        (with_fault(line(), 2, 47), {}),
        (with_fault(line(), 2, 47), {3: "94"}),
        ({"s1": 41, "s2": 47, "s3": 94, "s4": 91}, {2: "47"}),
        ({"s1": 41, "s2": 47, "s3": None, "s4": None}, {2: "47"}),
        ({"s1": 41, "s2": 47, "s3": 84, "s4": 81}, {2: "47"}),
    ],
    ids=["right answer", "no flip", "flip elsewhere", "second error of its own", "missing", "recovered in between"],
)
def test_chains_that_are_not_clear(values: Mapping[str, Value | None], flips: Mapping[int, str]) -> None:
    assert facts(values, flips).clear is None


def test_a_chain_that_the_baseline_failed_too_is_not_clear() -> None:
    found = facts(with_fault(line(), 2, 47), {2: "47"}, base_values=with_fault(line(), 4, 81))
    assert found.clear is None
    assert found.counts.first_errors == FirstErrors(value_flip=1, confirmed=1)


def test_an_error_that_dies_is_recovered() -> None:
    found = facts({"s1": 47, "s2": 90}, {1: "47"}, survivor())
    chains = found.counts.chains
    assert (chains.false, chains.recovered, chains.collapsed, chains.right) == (1, 1, 0, 1)
    assert found.counts.flips == Flips(everywhere=Harm(harmful=1), asked=Harm(harmful=1), answer_right=1)
    assert (found.flip_to_error, found.error_to_collapse, found.clear) == (0, None, None)


def test_a_flip_without_consequence_is_harmless() -> None:
    found = facts(GOLD, {3: "94"})
    assert found.counts.flips == Flips(everywhere=Harm(harmless=1), asked=Harm(harmless=1), answer_right=1)
    assert found.counts.hit == Premises(match=1)
    assert found.counts.first_errors == FirstErrors()
    assert (found.flip_to_error, found.error_to_collapse) == (None, None)


def test_a_flip_below_an_error_finds_other_words() -> None:
    """The arm never saw the text where it would have flipped; what it stated there is inherited."""
    found = facts(with_fault(line(), 2, 47), {2: "47", 3: "85"})
    assert found.counts.flips == Flips(everywhere=Harm(harmful=1, harmless=1), asked=Harm(harmful=1))
    assert found.counts.hit == Premises(own=1, inherited=1)
    assert found.clear is not None
    assert found.clear.other_flips == 1


def test_distances_count_hops_and_may_be_negative() -> None:
    early = facts(with_fault(line(), 3, 85), {1: "47", 3: "85"})
    assert (early.flip_to_error, early.error_to_collapse) == (2, 0)
    late = facts({"s1": 41, "s2": 47, "s3": 84, "s4": 81}, {4: "81"})
    assert (late.flip_to_error, late.error_to_collapse) == (-2, 2)
    assert late.counts.first_errors == FirstErrors(no_flip=1)


def test_a_first_error_without_a_flip_is_not_explained() -> None:
    assert facts(with_fault(line(), 2, 47), {3: "94"}).counts.first_errors == FirstErrors(no_flip=1)


def test_a_flip_that_the_own_text_does_not_take_is_not_confirmed() -> None:
    assert facts(with_fault(line(), 2, 47), {2: "43"}).counts.first_errors == FirstErrors(value_flip=1)
    assert facts(with_fault(line(), 2, 47), {2: "57"}).counts.first_errors == FirstErrors(value_flip=1)


def test_an_error_that_the_baseline_shares_needs_no_flip() -> None:
    both = with_fault(line(), 2, 47)
    assert facts(both, {}, base_values=both).counts.first_errors == FirstErrors(shared=1)


def test_an_error_in_other_words_is_not_compared() -> None:
    """The baseline erred at s1, so s2 was asked with another number."""
    base = with_fault(line(), 1, 40)
    found = facts(with_fault(line(), 2, 47), {2: "47"}, base_values=base)
    assert found.counts.first_errors == FirstErrors(other_words=1)
    assert found.counts.flips.asked.n == 0


def test_missing_and_unknown_premises() -> None:
    silent = facts({"s1": 41, "s2": None, "s3": None, "s4": None}, {2: "no"})
    assert silent.counts.premises == Premises(match=1, missing=3)
    assert silent.counts.flips.everywhere == Harm(harmful=1)
    assert silent.counts.first_errors == FirstErrors(value_flip=1)
    ruleless = facts(with_fault(line(), 2, 47), {2: "47", 3: "85"}, line(rules=False))
    assert ruleless.counts.premises == Premises(match=1, own=1, unknown=2)
    assert ruleless.counts.flips.everywhere == Harm(harmful=1, unknown=1)
    assert ruleless.clear is None


def test_a_flip_outside_of_the_value() -> None:
    """`so 42`: the arm would begin with another word."""
    task = make_task([GoldPremise(id="s1", text="", value=42, rule="42")])
    base, own = (
        make_trace(task, {"s1": value}, arm=arm).model_copy(
            update={
                "hops": (
                    Hop(
                        id="h1",
                        node="step",
                        completion=Completion(text=text, token_ids=forced.token_ids(text)),
                        premises=(Premise(id="s1", text=text, value=value),),
                    ),
                )
            }
        )
        for arm, text, value in (("fp16", "so 42", 42), ("awq", "no 47", 47))
    )
    counts = observe(task, base, own, reads(base, lambda *_: "no 47")).counts
    assert (counts.arm.positions, counts.arm.value_positions, counts.arm.flips, counts.arm.value_flips) == (6, 3, 1, 0)
    assert counts.first_errors == FirstErrors(other_flip=1, confirmed=1)
    assert (counts.chains.flipped, counts.chains.value_flipped) == (1, 0)


def test_without_scores_the_hop_and_chain_level_remain() -> None:
    task = line()
    base, own = chain(task, GOLD, "fp16"), chain(task, with_fault(task, 2, 47), "awq")
    for counts in (observe(task, base, own, diverge(base, None, None, None)).counts, observe(task, None, own, ()).counts):
        assert counts.premises == Premises(match=1, own=1, inherited=2)
        assert counts.first_errors == FirstErrors(not_scored=1)
        assert (counts.chains.n, counts.chains.scored, counts.chains.collapsed) == (1, 0, 1)
        assert counts.arm.positions == counts.read == 0


def test_hops_of_another_tokenizer_are_set_aside_one_by_one() -> None:
    task = line()
    base, own = chain(task, GOLD, "fp16"), chain(task, with_fault(task, 2, 47), "awq")
    arm = forced.read(base, lambda hop, text: "47" if hop == 2 else text)
    (first, *rest) = arm.hops
    assert first.score is not None
    first = first.model_copy(update={"score": first.score.model_copy(update={"prompt_checksum": "other"})})
    hops = diverge(base, forced.read(base), None, arm.model_copy(update={"hops": (first, *rest)}))
    counts = observe(task, base, own, hops).counts
    assert (counts.hops.compared, counts.hops.other_tokens, counts.arm.positions, counts.read) == (3, 1, 9, 3)
    assert counts.first_errors == FirstErrors(value_flip=1, confirmed=1)


def collect(*cases: tuple[Task, Mapping[str, Value | None], Mapping[int, str]]) -> Funnel:
    seen = FunnelAccumulator()
    for task, values, flips in cases:
        base = chain(task, {premise.id: premise.value for premise in task.premises}, "fp16")
        seen.add(task, base, chain(task, values, "awq"), reads(base, writes(flips)))
    return seen.funnel()


def test_cells_add_up() -> None:
    broken = (line(), with_fault(line(), 2, 47), {2: "47"})
    funnel = collect(broken, broken, (line(), GOLD, {}), (line("b-1", "b"), GOLD, {1: "40"}))
    assert [(cell.suite, cell.depth, cell.counts.chains.n) for cell in funnel.cells] == [("b", 4, 1), ("line", 4, 3)]
    assert [(cell.suite, cell.depth) for cell in funnel.suites] == [("b", None), ("line", None)]
    assert funnel.total.arm.flips == 3
    assert funnel.total.premises == Premises(match=10, own=2, inherited=4)
    assert funnel.total == funnel.suites[0].counts + funnel.suites[1].counts
    assert (funnel.flip_to_error, funnel.error_to_collapse) == ({0: 2}, {0: 2})
    assert collect().total == Counts()


def test_the_clearest_chains_come_first() -> None:
    """Fewest other flips, then the larger loss, then the name; the token of the arm is shown as it was seen elsewhere."""
    many = [(line(f"t-{index:02d}"), with_fault(line(), 2, 47), {2: "47"}) for index in range(CLEAREST + 2)]
    noisy = (line("t-a"), with_fault(line(), 2, 47), {2: "47", 3: "85"})
    funnel = collect(noisy, *reversed(many))
    assert funnel.clear == CLEAREST + 3
    assert [chain.task_id for chain in funnel.clearest] == [f"t-{index:02d}" for index in range(CLEAREST)]
    assert {chain.arm_piece for chain in funnel.clearest} == {None}
    assert {chain.arm_piece for chain in collect((line(), with_fault(line(), 2, 48), {2: "48"})).clearest} == {"8"}


def test_shares_and_the_floor() -> None:
    floor = Share(count=0, n=1000)
    high = floor.interval
    assert high is not None
    assert high.high == pytest.approx(0.0038, abs=1e-4)
    assert Share(count=3, n=1000).within(floor) is True
    assert Share(count=4, n=1000).within(floor) is False
    assert Share(count=0, n=0).within(floor) is None
    assert Share(count=1, n=5).within(Share(count=0, n=0)) is None
    assert (Share(count=0, n=0).share, Share(count=0, n=0).interval) == (None, None)


def test_medians() -> None:
    assert median_distance({}) is None
    assert median_distance({0: 3, 5: 2}) == 0
    assert median_distance({-1: 1, 4: 1}) == 1.5


def test_sums_add_field_by_field() -> None:
    total: Sums = Premises(match=1, own=2) + Premises(own=3, missing=4)
    assert total == Premises(match=1, own=5, missing=4)
