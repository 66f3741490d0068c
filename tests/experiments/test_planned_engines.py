"""A precision plan on real engines: two at once, each hop answered by the weights of its rule."""

from collections import Counter
from pathlib import Path

import planned
import pytest
import scripts

from qtrap_agents.config import RunConfig
from qtrap_agents.plans import PrecisionPlan
from qtrap_agents.report.comparison import compare_runs
from qtrap_agents.types import Sampling

ENGINE = {"max_model_len": 256, "max_num_seqs": 64, "kv_cache_gib": 0.25}


def relate(**changes: object) -> PrecisionPlan:
    """A plan for chains of facts, which AWQ and FP16 weights know differently well."""
    arms = [{"name": name, "checkpoint": f"reference:small/{name}", "backend": "vllm"} for name in ("fp16", "gptq")]
    known = planned.content(suite="relate", depth=4, arms=arms, baseline="fp16", default="gptq", **changes)
    return PrecisionPlan.model_validate(known)


def config(plan: PrecisionPlan, *more: str) -> RunConfig:
    return planned.config(plan, *more, tasks_per_depth=60, concurrency=32, engine=ENGINE)


@pytest.mark.vllm
def test_two_engines_at_once_each_with_its_own_weights(tmp_path: Path) -> None:
    """FP16 states the right fact from whatever it is given; GPTQ has forgotten some, in the same chains at the same time."""
    alone = planned.config(
        relate(rules=[{"positions": [1, 2], "arm": "fp16"}]), tasks_per_depth=60, concurrency=32, engine=ENGINE
    )
    plan_arm = tuple(arm for arm in alone.arms if arm.backend == "plan")
    run = scripts.go(alone.model_copy(update={"arms": plan_arm, "baseline": "plan"}), tmp_path)
    wrong, asked = Counter[str | None](), Counter[str | None]()
    for trace in scripts.by_task(run, "plan").values():
        assert trace.error is None
        for hop in trace.hops:
            asked[hop.arm] += 1
            wrong[hop.arm] += hop.premises[0].value != scripts.solve(hop.messages, Sampling())
    assert asked == {"fp16": 120, "gptq": 120}
    assert wrong["fp16"] == 0
    assert wrong["gptq"] >= 3
    identity = run.identity("plan")
    assert identity is not None
    assert (identity.parts["fp16"].is_quantised, identity.parts["gptq"].is_quantised) == (False, True)
    server = run.totals("plan").server
    assert server is not None
    assert server.requests == 240


@pytest.mark.slow
@pytest.mark.vllm
def test_each_arm_of_a_plan_answers_as_it_does_alone(tmp_path: Path) -> None:
    """The hops of a plan say, word for word, what the arm of their rule says alone, and votes draw with seeds of their own."""
    rules = [{"positions": [2, 2], "arm": "gptq"}, {"positions": [3, 3], "arm": "gptq", "vote": {"k": 3}}]
    run = scripts.go(config(relate(rules=[*rules, {"arm": "fp16"}], predicted=planned.predicted()), "gptq"), tmp_path)
    traces = {arm: scripts.by_task(run, arm) for arm in ("fp16", "gptq", "plan")}
    alone: dict[str, dict[str, str]] = {"fp16": {}, "gptq": {}}
    for arm, said in alone.items():
        for trace in traces[arm].values():
            said |= {hop.messages[-1].content: hop.completion.text for hop in trace.hops}
    pairs = []
    for trace in traces["plan"].values():
        assert trace.error is None
        assert [hop.arm for hop in trace.hops] == ["fp16", *["gptq"] * 4, "fp16"]
        plain = [hop for hop in trace.hops if hop.sampling is None]
        pairs += [(hop.completion.text, alone[hop.arm or ""].get(hop.messages[-1].content)) for hop in plain]
    known = [(said, expected) for said, expected in pairs if expected is not None]
    assert len(known) >= 120
    assert sum(said == expected for said, expected in known) >= 0.98 * len(known)

    identity = run.identity("plan")
    assert identity is not None
    assert identity.verification is not None
    assert identity.verification.status in ("verified", "emulated")
    fp16, gptq = identity.parts["fp16"], identity.parts["gptq"]
    assert (fp16.is_quantised, gptq.is_quantised) == (False, True)
    assert (gptq.weight_bytes or 0) < (fp16.weight_bytes or 0)

    (found,) = compare_runs([run]).plans
    plan, baseline = found.outcomes[:2]
    assert plan.against is not None
    assert (plan.arm, baseline.arm, plan.judged, baseline.judged) == ("plan", "fp16", 60, 60)
    counted = sum(
        (identity.parts[hop.arm or ""].weight_bytes or 0) * hop.completion.completion_tokens
        for trace in traces["plan"].values()
        for hop in trace.hops
    )
    assert plan.cost is not None
    assert plan.cost.value == pytest.approx(counted / 60)
    totals = run.totals("plan")
    assert totals.server is not None
    assert totals.server.requests == sum(len(trace.hops) for trace in traces["plan"].values())
