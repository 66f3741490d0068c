"""Costs by role of node, from new and old traces, and what they come to for an arm."""

import pytest

from qtrap_agents.analysis.roles import Checks, RoleCost, checks, merged, role_costs
from qtrap_agents.analysis.summary import ArmAccumulator
from qtrap_agents.types import Completion, Decision, GoldPremise, Hop, Measurement, Premise, Task, Trace, Value


def made(name: str, node: str, premise: str = "s1", prompt: int = 10, completion: int = 2, latency_s: float = 0.5) -> Hop:
    spent = Completion(text="", prompt_tokens=prompt, completion_tokens=completion, latency_s=latency_s)
    return Hop(id=name, node=node, completion=spent, premises=(Premise(id=premise, text="", value=1),))


@pytest.mark.parametrize(
    ("node", "premise", "role"),
    [
        ("hop_007", "s7", "hop"),
        ("s7", "s7", "hop"),
        ("sample", "s7", "sample"),
        ("agent-2", "s7", "agent"),
        ("step.12", "s7", "step"),
        ("7", "s7", "7"),
        ("answer", "s7", "answer"),
    ],
)
def test_the_role_is_the_name_of_the_node_without_its_number(node: str, premise: str, role: str) -> None:
    assert made("h", node, premise).role == role


def test_costs_add_up_by_role_in_the_order_of_their_first_call() -> None:
    costs = role_costs([made("hop_001", "hop_001"), made("c1", "check", completion=5), made("hop_002", "hop_002", prompt=30)])
    assert list(costs) == ["hop", "check"]
    assert costs["hop"] == RoleCost(role="hop", calls=2, prompt_tokens=40, completion_tokens=4, latency_s=1.0)
    both = merged(costs, role_costs([made("c2", "check"), made("a", "answer")]))
    assert {role: cost.calls for role, cost in both.items()} == {"hop": 2, "check": 2, "answer": 1}
    assert both["check"].completion_tokens == 7


TASK = Task(
    id="t",
    suite="x",
    question="",
    answer=4,
    depth=2,
    premises=(
        GoldPremise(id="s1", text="", value=2),
        GoldPremise(id="s2", text="", value=4, depends_on=("s1",), rule="s1 * 2"),
    ),
)


def trace(first: Value | None, second: Value | None, verdict: str) -> Trace:
    """Two statements and a verdict on the second."""
    hops = tuple(
        made(f"hop_{place}", "hop").model_copy(update={"premises": (Premise(id=f"s{place}", text="", value=value),)})
        for place, value in enumerate((first, second), 1)
    )
    told = Decision(id="v", node="verdict", after=2, premises=(Premise(id="verdict_s2", text="", value=verdict),))
    return Trace(
        id="r/a/t", run_id="r", task_id="t", suite="x", depth=2, seed=0, workflow="w", arm="a", hops=hops, decisions=(told,),
        answer=second, score=float(second == 4), measurement=Measurement(duration_s=1.0),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("first", "second", "verdict", "expected"),
    [
        (2, 4, "accepted", Checks(checked=1)),
        (2, 4, "sent back", Checks(checked=1, false_alarms=1)),
        (2, 5, "kept", Checks(checked=1, faulty=1, detected=1)),
        (2, 5, "accepted", Checks(checked=1, faulty=1)),
        (2, None, "sent back", Checks(checked=1, faulty=1, detected=1)),
        (3, 6, "accepted", Checks(checked=1)),
        (3, 6, "sent back", Checks(checked=1, false_alarms=1)),
        (None, 6, "sent back", Checks(checked=1, faulty=1, detected=1)),
        (2, 5, "unreadable", Checks(checked=1, faulty=1, unreadable=1)),
    ],
)
def test_an_inherited_value_is_no_fault_of_the_statement(
    first: Value | None, second: Value | None, verdict: str, expected: Checks
) -> None:
    assert checks(trace(first, second, verdict), TASK) == expected


def test_an_arm_counts_every_attempt() -> None:
    seen = ArmAccumulator()
    for attempt in (1, 2):
        seen.add(trace(2, 5, "kept").model_copy(update={"attempt": attempt}), TASK)
    assert seen.checks == Checks(checked=2, faulty=2, detected=2)
    assert seen.roles["hop"].calls == 4
    assert checks(trace(2, 4, "accepted"), TASK.model_copy(update={"premises": ()})) is None
