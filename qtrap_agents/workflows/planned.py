"""`planned`: a chain whose hops are answered by the arms of a precision plan, some by a vote or under a checker.

It belongs to the arm `plan` of `qtrap run --plan FILE`. The first rule of the plan that fits a hop tells which arm answers; with
`vote` the hop is drawn `k` times by that arm, as in the workflow `vote`, with `verify` it is drawn until a value was stated
twice, as in `verify_revise` with `check: recompute`. Each hop of the trace names the arm that answered. Calls: 1 for every
premise, `k` for one with a vote, and 2 and up to 2 more for each revision for one with a checker.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Send

from qtrap_agents.backends.planned import Planned
from qtrap_agents.errors import ConfigError
from qtrap_agents.plans import PrecisionPlan, Way
from qtrap_agents.workflows.graphs import Graph, GraphFor, goals, hop_name
from qtrap_agents.workflows.hop import Context
from qtrap_agents.workflows.verify_revise import Checked, drawn_twice, judge_one, recompute, step_or_revision
from qtrap_agents.workflows.vote import Sample, draw_sample, elect, samples_of

Node = Callable[..., Any]


def build(plan: PrecisionPlan) -> GraphFor:
    """The same graph for every task."""
    graph = _graph(plan)
    return lambda task: graph


class _Nodes(NamedTuple):
    """The nodes of a plan's graph."""

    hop: Node
    check: Node
    verdict: Node
    sample: Node
    majority: Node


def _graph(plan: PrecisionPlan) -> Graph:
    nodes = _nodes(plan)

    async def onward(state: Checked) -> list[Send] | str:
        index = state.get("index", 0)
        if index >= len(goals(state["task"])):
            return END
        vote = _way(plan, state).vote
        return "hop" if vote is None else samples_of(state, index, vote.k)

    async def after_hop(state: Checked) -> list[Send] | str:
        if not _at_work(state):
            return await onward(state)
        return "verdict" if drawn_twice(state) else "check"

    graph = StateGraph(Checked, context_schema=Context)
    for name, node in nodes._asdict().items():
        graph.add_node(name, node)
    ways = ["hop", "sample", END]
    graph.add_conditional_edges(START, onward, ways)
    graph.add_conditional_edges("hop", after_hop, ["check", "verdict", *ways])
    graph.add_edge("check", "verdict")
    graph.add_conditional_edges("verdict", onward, ways)
    graph.add_edge("sample", "majority")
    graph.add_conditional_edges("majority", onward, ways)
    return graph.compile(name="planned")


def _nodes(plan: PrecisionPlan) -> _Nodes:
    async def hop(state: Checked, runtime: Runtime[Context]) -> dict[str, Any]:
        way = _way(plan, state)
        temperature = way.verify.temperature if way.verify else 0.0
        update = await step_or_revision(state, _routed(runtime, way), "recompute", temperature)
        return update if way.verify else {**update, "index": update["index"] + 1}

    async def check(state: Checked, runtime: Runtime[Context]) -> dict[str, Any]:
        way = _way(plan, state)
        return await recompute(state, _routed(runtime, way), way.verify.temperature if way.verify else 0.0)

    async def verdict(state: Checked) -> dict[str, Any]:
        verify = _way(plan, state).verify
        return judge_one(state, "recompute", verify.max_revisions if verify else 0)

    async def sample(state: Sample, runtime: Runtime[Context]) -> dict[str, Any]:
        way = _way(plan, state)
        return await draw_sample(state, _routed(runtime, way), "hop", way.vote.temperature if way.vote else 0.0)

    async def majority(state: Checked) -> dict[str, Any]:
        vote, index = _way(plan, state).vote, state.get("index", 0)
        return {**elect(state, index, vote.k if vote else 1), "index": index + 1, "revision": 0}

    return _Nodes(hop, check, verdict, sample, majority)


def _way(plan: PrecisionPlan, state: Checked | Sample) -> Way:
    """How the premise at the index of the state is answered."""
    task, index = state["task"], state.get("index", 0)
    kind = task.premises[index].kind if task.premises else ""
    return plan.way(task.suite, kind, index + 1)


def _routed(runtime: Runtime[Context], way: Way) -> Runtime[Context]:
    """The same with the arm that is to answer. Raises ConfigError where the arm of the run is no plan."""
    backend = runtime.context.backend
    if not isinstance(backend, Planned):
        raise ConfigError("the workflow 'planned' belongs to the arm of a plan; use `qtrap run --plan FILE`")
    return runtime.override(context=replace(runtime.context, backend=backend.parts[way.arm], arm=way.arm))


def _at_work(state: Checked) -> bool:
    """Whether the last hop was for the premise at the index, which then waits for its checker."""
    return bool(state["hops"]) and state["hops"][-1].id.partition(".")[0] == hop_name(state["index"])
