from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from replayed import FAMILIES, answers, chain, changed, draw, follow, other, replay, swaps

from qtrap_agents.analysis.causes import (
    Cause,
    ChainEvidence,
    Outcomes,
    ReplayAccumulator,
    earliest_saving,
    is_complete,
    origin_of,
    prove,
    states_the_same,
)
from qtrap_agents.analysis.funnel import Share
from qtrap_agents.evidence import Change, Replay, Reply
from qtrap_agents.types import Completion, GoldPremise, Hop, Premise, Task, Trace, Value

from .conftest import make_task


def line(depth: int = 6) -> Task:
    """1, 2, 3, …: each one more than the one before."""
    return make_task(
        [
            GoldPremise(
                id=f"s{step}",
                text="",
                value=step,
                depends_on=(f"s{step - 1}",) if step > 1 else (),
                rule=f"s{step - 1} + 1" if step > 1 else "1",
                kind="odd" if step % 2 else "even",
            )
            for step in range(1, depth + 1)
        ],
        "line",
    )


def repaired(task: Task, recorded: Trace, position: int) -> Replay:
    """Gold instead of one premise."""
    gold = task.premises[position - 1]
    trace = chain(task, changed(task, recorded, {gold.id: gold.value}), recorded.arm)
    return replay(trace, recorded.arm, Change(kind="repair", hop_id=f"hop_{position:03d}"))


def together(task: Task, recorded: Trace, positions: Iterable[int], slips: Sequence[str] = ()) -> Replay:
    """Several hops by the baseline at once, all of them right."""
    values = {f"s{position}": task.premise(f"s{position}").value for position in positions}
    changes = [Change(kind="swap", hop_id=f"hop_{position:03d}", arm="fp16") for position in positions]
    return replay(chain(task, changed(task, recorded, values, slips), recorded.arm), recorded.arm, *changes)


def evidence(
    task: Task, ours: dict[str, Value], theirs: dict[str, Value] | None = None, slips: Sequence[str] = ()
) -> ChainEvidence:
    """A whole replay: `ours` are the values that awq stated by its own fault, `slips` where it errs in other words too."""
    arm, baseline = chain(task, follow(task, ours), "awq"), chain(task, follow(task, theirs or {}), "fp16")
    forward = answers(task, arm, "fp16", "awq")
    backward = answers(task, baseline, "awq", "fp16", slips)
    replies = [*forward, *backward, *again(arm), *again(baseline)]
    replays = [*swaps(task, arm, forward, "awq", slips), *swaps(task, baseline, backward, "fp16")]
    return ChainEvidence(task, arm, baseline, replies, replays)


def again(trace: Trace) -> list[Reply]:
    """The same arm asked again: the same answers."""
    return [
        Reply(
            task_id=trace.task_id,
            seed=trace.seed,
            source=trace.arm,
            hop_id=hop.id,
            arm=trace.arm,
            completion=hop.completion,
            premises=hop.premises,
        )
        for hop in trace.hops
    ]


def added(*chains: ChainEvidence) -> Outcomes:
    seen = ReplayAccumulator()
    for item in chains:
        seen.add(item)
    return seen.profile().total.outcomes


def test_one_own_error_is_the_cause() -> None:
    task = line()
    found = evidence(task, {"s3": 7})
    cause = prove(found._replace(replays=[*found.replays, repaired(task, found.arm, 3)]))
    assert (cause.rescue, cause.causal_hop, cause.position, cause.swaps, cause.complete) == ("one swap", "hop_003", 3, 1, True)
    assert (cause.status, cause.origin, cause.kind, cause.is_first_error) == ("wrong", "own", "odd", True)
    assert cause.repaired_hop == "hop_003"
    assert cause.baseline_right


def test_two_own_errors_need_two_swaps() -> None:
    task = line()
    found = evidence(task, {"s2": 7, "s5": 1}, slips=("s5",))
    assert prove(found).rescue == "not restored"
    joint = together(task, found.arm, (2, 5))
    assert joint.trace.correct
    cause = prove(found._replace(replays=[*found.replays, joint]))
    assert (cause.rescue, cause.swaps, cause.causal_hop) == ("several swaps", 2, None)
    failed = together(task, found.arm, (2, 3), ("s5",))
    assert prove(found._replace(replays=[*found.replays, failed])).rescue == "not restored"


def test_an_error_that_repairs_itself_is_not_the_cause() -> None:
    """s2 is wrong, s4 comes back to gold by a second error, s5 is the error that counts."""
    task = line()
    cause = prove(evidence(task, {"s2": 7, "s4": 4, "s5": 0}))
    assert (cause.causal_hop, cause.is_first_error, cause.origin) == ("hop_005", False, "own")


def test_a_cause_after_an_error_is_compounded() -> None:
    """With s2 = 7 the arm should say 8, 9, …; the baseline, asked the wrong words, happens to come back to gold."""
    task = line()
    found = evidence(task, {"s2": 7, "s4": 20}, slips=("s4",))
    back = found.arm.model_copy(update={"score": 1.0})
    lucky = replay(back, "awq", Change(kind="swap", hop_id="hop_004", arm="fp16"))
    cause = prove(found._replace(replays=[*found.replays, lucky]))
    assert (cause.causal_hop, cause.origin, cause.is_first_error, origin_of(cause)) == (
        "hop_004",
        "compounded",
        False,
        "compounded",
    )


def test_what_is_not_replayed_is_said() -> None:
    found = evidence(line(), {"s3": 7})
    unanswered = found._replace(replies=[reply for reply in found.replies if reply.hop_id != "hop_006"])
    assert (prove(unanswered).rescue, prove(unanswered).complete) == ("one swap", False)
    for part in (found._replace(replays=[]), found._replace(replays=[], replies=[])):
        assert (prove(part).rescue, prove(part).causal_hop, prove(part).swaps) == ("incomplete", None, None)
    died = [
        made.model_copy(update={"trace": made.trace.model_copy(update={"error": "x", "score": None})}) for made in found.replays
    ]
    assert prove(found._replace(replays=died)).rescue == "incomplete"
    counts = added(found, found._replace(replays=[]))
    assert (counts.failed, counts.incomplete, counts.saved_by_one) == (2, 1, Share(count=1, n=1))


def test_replays_of_other_chains_and_kinds_are_not_counted() -> None:
    found = evidence(line(), {"s3": 7})
    right = chain(found.task, follow(found.task, {}), "awq")
    foreign = replay(right, "fp16", Change(kind="swap", hop_id="hop_001", arm="awq"))
    repair = replay(right, "awq", Change(kind="repair", hop_id="hop_002"))
    cause = prove(found._replace(replays=[*found.replays, foreign, repair]))
    assert (cause.causal_hop, cause.repaired_hop) == ("hop_003", "hop_002")
    assert earliest_saving(found.arm, [replay(right, "awq", Change(kind="swap", hop_id="elsewhere"))], "swap") is None


def test_a_right_premise_can_be_causal_and_a_missing_one_too() -> None:
    task = line()
    found = evidence(task, {"s3": 7})
    right = found.arm.model_copy(update={"score": 1.0})
    odd = prove(found._replace(replays=[replay(right, "awq", Change(kind="swap", hop_id="hop_001", arm="fp16"))]))
    assert (odd.causal_hop, odd.status, origin_of(odd), odd.is_first_error) == ("hop_001", "match", "right", False)
    base: dict[str, object] = {"task_id": "t", "suite": "s", "depth": 1, "hops": 1, "baseline_right": True, "complete": True}
    assert origin_of(Cause.model_validate(base | {"rescue": "one swap", "status": "missing"})) == "missing"
    assert origin_of(Cause.model_validate(base | {"rescue": "one swap", "status": "wrong"})) == "unknown"


def test_of_several_premises_of_a_hop_the_one_in_error_counts() -> None:
    task = line(3)
    values = {"s1": 1, "s2": 9, "s3": 10}
    premises = tuple(Premise(id=name, text="", value=value) for name, value in values.items())
    hop = Hop(id="answer", node="answer", completion=Completion(text=""), premises=premises)
    arm = chain(task, values, "awq").model_copy(update={"hops": (hop,)})
    saved = replay(arm.model_copy(update={"score": 1.0}), "awq", Change(kind="swap", hop_id="answer", arm="fp16"))
    cause = prove(ChainEvidence(task, arm, chain(task, follow(task, {}), "fp16"), [], [saved]))
    assert (cause.origin, cause.kind, cause.is_first_error) == ("own", "even", True)


def test_own_and_inherited_errors() -> None:
    task = line()
    seen = ReplayAccumulator()
    seen.add(evidence(task, {"s3": 7}, slips=("s3",)))
    hops = seen.profile().total.hops
    assert (hops.own, hops.all_errors) == (Share(count=1, n=6), Share(count=4, n=6))
    assert hops.inherited == pytest.approx(0.5)
    assert hops.hops("swapped").share == Share(count=1, n=6)
    assert hops.hops("again").share == hops.hops("baseline_again").share == Share(count=0, n=6)
    assert hops.hops("reverse").share == Share(count=1, n=6)


def test_teacher_forcing_needs_right_premises() -> None:
    """The baseline is wrong at s2, so what the arm makes of it at s3 is not its own error; s2 itself is asked rightly."""
    task = line(3)
    seen = ReplayAccumulator()
    seen.add(evidence(task, {"s3": 7}, theirs={"s2": 5}, slips=("s3",)))
    assert seen.profile().total.hops.own == Share(count=0, n=2)


def test_the_reverse_and_the_noise_floor() -> None:
    task = line()
    broken = evidence(task, {"s3": 7}, slips=("s3", "s6"))
    assert added(broken).broken_share == Share(count=2, n=2)
    survived = broken.baseline.model_copy(update={"score": 1.0})
    kept = replay(survived, "fp16", Change(kind="swap", hop_id="hop_003", arm="awq"))
    assert added(broken._replace(replays=[kept])).broken_share == Share(count=0, n=1)
    failing = evidence(task, {"s3": 7}, theirs={"s6": 0}, slips=("s3",))
    assert added(failing).reverse == 0
    assert added(failing).baseline_wrong == 1


def test_healthy_chains_are_the_floor() -> None:
    task = line()
    quiet = evidence(task, {})
    assert added(quiet).harmed_share == Share(count=0, n=1)
    assert added(quiet._replace(replies=[])).harmed_share == Share(count=0, n=0)
    slip = answers(task, quiet.arm, "fp16", "awq", ("s4",))
    loud = quiet._replace(replies=slip, replays=swaps(task, quiet.arm, slip, "awq"))
    assert added(loud).harmed_share == Share(count=1, n=1)
    assert added(quiet, loud).failed == 0


def test_profiles_by_suite_kind_and_place() -> None:
    seen = ReplayAccumulator()
    for position in (3, 4):
        seen.add(evidence(line(), {f"s{position}": 50}))
    deep = line(20).model_copy(update={"suite": "other", "id": "deep", "depth": 20})
    seen.add(evidence(deep, {"s20": 0}))
    seen.add(evidence(deep, {"s2": 50, "s9": 70}, slips=("s9",)))
    found = seen.profile()
    assert [(group.suite, group.outcomes.failed) for group in found.suites] == [("line", 2), ("other", 2)]
    assert [(group.suite, group.depth) for group in found.cells] == [("line", 6), ("other", 20)]
    assert found.kinds["line"] == {"even": Share(count=1, n=6), "odd": Share(count=1, n=6)}
    assert found.kinds["other"] == {"even": Share(count=1, n=20), "odd": Share(count=0, n=20)}
    assert found.tenths == (0, 0, 0, 0, 0, 0, 0, 0, 0, 1)
    assert (found.origins, found.swaps) == ({"own": 3}, {1: 3})
    assert [cause.task_id for cause in found.causes] == ["deep", "deep", "toy-1", "toy-1"]
    assert (found.total.outcomes.one, found.total.outcomes.none) == (3, 1)


def test_stating_the_same() -> None:
    one, two, none = (Premise(id="a", text=str(value), value=value) for value in (1, 2, None))
    assert states_the_same([one], [one.model_copy(update={"text": "one"})])
    assert states_the_same([none], [none])
    assert not states_the_same([one], [two])
    assert not states_the_same([one], [none])
    assert not states_the_same([none], [one])
    assert not states_the_same([one], [])
    assert not states_the_same([one], [one.model_copy(update={"id": "b"})])


@given(family=st.sampled_from(FAMILIES), depth=st.integers(1, 12), index=st.integers(0, 3), data=st.data())
def test_one_error_is_always_proven(family: str, depth: int, index: int, data: st.DataObject) -> None:
    task = draw(family, depth, index)
    position = data.draw(st.integers(1, depth))
    found = evidence(task, {f"s{position}": other(task, task.premises[position - 1].value)})
    replies = [reply for reply in found.replies if (reply.source, reply.arm) == ("awq", "fp16")]
    assert is_complete(found.arm, replies, found.replays)
    if not found.arm.correct:
        cause = prove(found)
        assert (cause.position, cause.origin, cause.is_first_error, cause.complete) == (position, "own", True, True)
