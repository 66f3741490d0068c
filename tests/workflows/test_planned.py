"""`planned`: who answers which hop, votes and checkers where the plan has them."""

import asyncio
from collections.abc import Mapping, Sequence

import driven
import planned
import pytest
from driven import ARITH, LINE, drew, gold, right, task_of, values

from qtrap_agents.analysis.collapse import analyse
from qtrap_agents.backends.planned import Planned
from qtrap_agents.backends.scripted import ScriptedArm
from qtrap_agents.config import Limits, SamplingConfig
from qtrap_agents.errors import ConfigError, TransientError
from qtrap_agents.plans import PrecisionPlan
from qtrap_agents.types import Message, Sampling, Task
from qtrap_agents.workflows.catalog import load_planned
from qtrap_agents.workflows.drive import Course, drive
from qtrap_agents.workflows.hop import Context


def high(messages: Sequence[Message], sampling: Sampling) -> str:
    """One too high, always."""
    return str(int(right(messages, sampling)) + 1)


SCRIPTS: Mapping[str, driven.Script] = {"solve": right, "noisy": high, "slow": right}


def carry_out(
    plan: PrecisionPlan, task: Task = LINE, by: Mapping[str, driven.Script] = SCRIPTS, limits: Limits | None = None
) -> Course:
    backend = Planned({arm.name: ScriptedArm(arm.name, by[arm.name]) for arm in plan.parts}, plan.default)
    limits = limits or Limits()
    return asyncio.run(drive(load_planned(plan, limits), task, Context(backend, ARITH, SamplingConfig(seed=5), limits=limits)))


def who(course: Course) -> list[tuple[str, str | None]]:
    return [(hop.id, hop.arm) for hop in course.hops]


def test_each_hop_is_answered_by_the_arm_of_its_rule() -> None:
    task = task_of(gold("s1", 3, kind="plus"), gold("s2", 6, ["s1"], "s1 * 2", kind="times"), gold("s3", 5, ["s2"], kind="plus"))
    course = carry_out(
        planned.plan(rules=[{"kinds": ["times"], "arm": "noisy"}, {"positions": [3, 3], "arm": "slow"}], default="solve"), task
    )
    assert who(course) == [("hop_001", "solve"), ("hop_002", "noisy"), ("hop_003", "slow")]
    assert (course.error, course.answer, values(course)) == (None, 6, {"s1": 3, "s2": 7, "s3": 6})
    assert [hop.parents for hop in course.hops] == [(), ("hop_001",), ("hop_002",)]
    assert all(hop.sampling is None for hop in course.hops)


def test_a_plan_of_one_arm_asks_what_a_chain_asks() -> None:
    course, chain = (
        carry_out(planned.plan(rules=[], default="solve")),
        driven.run(LINE, right, "chain", sampling=SamplingConfig(seed=5)),
    )
    assert [(hop.messages, hop.completion.text, hop.premises) for hop in course.hops] == [
        (hop.messages, hop.completion.text, hop.premises) for hop in chain.hops
    ]


def test_a_vote_between_plain_hops() -> None:
    def wavering(messages: Sequence[Message], sampling: Sampling) -> str:
        return str(int(right(messages, sampling)) + (drew(sampling) == 0))

    plan = planned.plan(rules=[{"positions": [2, 2], "arm": "noisy", "vote": {"k": 3, "temperature": 0.9}}], default="solve")
    course = carry_out(plan, by={**SCRIPTS, "noisy": wavering})
    samples = [(f"hop_002.sample_{number}", "noisy") for number in (1, 2, 3)]
    assert who(course) == [("hop_001", "solve"), *samples, ("hop_003", "solve")]
    assert values(course) == {"s1": 3, "s2": 6, "s3": 5}
    assert [(made.id, made.after) for made in course.decisions] == [("hop_002.vote", 4)]
    drawn = [hop.sampling for hop in course.hops[1:4]]
    assert [(one.seed, one.temperature) for one in drawn if one] == [(5 + driven.STEP * number, 0.9) for number in range(3)]
    facts = analyse(driven.trace_of(course, LINE, 1.0), LINE)
    assert (facts.match, facts.wrong, facts.missing) == (3, 0, 0)


@pytest.mark.parametrize(
    ("said", "hops", "verdicts", "answer"),
    [
        ((6, 6), ["hop_002", "hop_002.check_1"], ["accepted"], 5),
        ((7, 6, 6), ["hop_002", "hop_002.check_1", "hop_002.revision_1"], ["sent back", "accepted"], 5),
        ((6, 7, 8, 9), ["hop_002", "hop_002.check_1", "hop_002.revision_1", "hop_002.check_2"], ["sent back", "kept"], 7),
    ],
)
def test_a_checker_between_plain_hops(said: tuple[int, ...], hops: list[str], verdicts: list[str], answer: int) -> None:
    def script(messages: Sequence[Message], sampling: Sampling) -> str:
        return str(said[drew(sampling)]) if messages[-1].content.startswith("s2") else right(messages, sampling)

    plan = planned.plan(rules=[{"positions": [2, 2], "arm": "noisy", "verify": {"max_revisions": 1}}], default="solve")
    course = carry_out(plan, by={**SCRIPTS, "noisy": script})
    assert who(course) == [("hop_001", "solve"), *((name, "noisy") for name in hops), ("hop_003", "solve")]
    assert [made.premises[0].value for made in course.decisions] == verdicts
    assert course.answer == answer


def test_votes_and_checkers_at_the_first_and_last_hop_and_one_after_the_other() -> None:
    rules = [
        {"positions": [1, 1], "arm": "slow", "verify": {}},
        {"positions": [2, 2], "arm": "solve", "vote": {"k": 2}},
        {"positions": [3, 3], "arm": "slow", "verify": {}},
    ]
    course = carry_out(planned.plan(rules=rules))
    assert (course.error, course.answer, len(course.hops)) == (None, 5, 6)
    assert [made.id for made in course.decisions] == ["hop_001.verdict_1", "hop_002.vote", "hop_003.verdict_1"]
    ends = carry_out(planned.plan(rules=[{"arm": "solve", "vote": {"k": 2}}]))
    assert (ends.answer, len(ends.hops), len(ends.decisions)) == (5, 6, 3)


def test_a_passing_failure_is_asked_again() -> None:
    failed: list[int] = []

    def shaky(messages: Sequence[Message], sampling: Sampling) -> str:
        if not failed:
            failed.append(1)
            raise TransientError("busy")
        return right(messages, sampling)

    plan = planned.plan(rules=[], default="solve")
    course = carry_out(plan, by={**SCRIPTS, "solve": shaky}, limits=Limits(retries=1))
    assert (course.error, course.answer) == (None, 5)


def test_a_refused_hop_ends_the_chain_and_keeps_what_was_before() -> None:
    def broken(messages: Sequence[Message], sampling: Sampling) -> str:
        raise RuntimeError("out of luck")

    course = carry_out(planned.plan(rules=[{"positions": [1, 1], "arm": "solve"}]), by={**SCRIPTS, "noisy": broken})
    assert who(course) == [("hop_001", "solve")]
    assert course.error is not None
    assert "out of luck" in course.error


def test_the_workflow_of_a_plan_belongs_to_its_arm() -> None:
    context = Context(ScriptedArm("test", right), ARITH, SamplingConfig())
    with pytest.raises(ConfigError, match="belongs to the arm of a plan"):
        asyncio.run(drive(load_planned(planned.plan()), LINE, context))
