"""`vote`: several samples and the majority of them, at every hop or of whole chains.

With `per: hop` every premise is drawn `k` times and the most frequent value is handed on. With `per: chain` the chain runs
`k` times by itself and the most frequent answer wins; the premises of the first chain that gave it stand for the majority.
Samples are drawn at `temperature`, each with a seed of its own; at 0 they are alike but for the noise of the batch, and the
vote is a chain at `k` times its cost. A tie goes to the value with the lowest sample number; a sample that states nothing
readable has no vote. Calls: `k` for every premise.
"""

from functools import cache
from typing import Annotated, Any, Literal

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Send
from pydantic import Field

from qtrap_agents.types import Hop, Premise
from qtrap_agents.workflows.graphs import Graph, GraphFor, decide, goals, hop_name, most_stated, whole_question
from qtrap_agents.workflows.hop import Context, Draw, State, hop

Per = Literal["hop", "chain"]


class Sample(State, total=False):
    """What one sample is given: the state, and which sample of which premise it is, both from 0."""

    number: int
    index: int


def build(
    k: Annotated[int, Field(ge=1, le=99)] = 5, per: Per = "hop", temperature: Annotated[float, Field(ge=0, le=2)] = 0.7
) -> GraphFor:
    """The same graph for every task."""
    graph = _graph(k, per, temperature)
    return lambda task: graph


@cache
def _graph(k: int, per: Per, temperature: float) -> Graph:
    async def samples(state: State) -> list[Send] | str:
        index = len(state["hops"]) // k
        if index >= len(goals(state["task"])):
            return END
        return samples_of(state, index, k, per)

    async def sample(state: Sample, runtime: Runtime[Context]) -> dict[str, Any]:
        return await draw_sample(state, runtime, per, temperature)

    async def majority(state: State) -> dict[str, Any]:
        index = len(state["hops"]) // k - 1
        last = index + 1 == len(goals(state["task"]))
        if per == "chain" and not last:
            return {"hops": []}
        return elect(state, index, k, per)

    graph = StateGraph(State, context_schema=Context)
    graph.add_node("sample", sample)
    graph.add_node("majority", majority)
    graph.add_conditional_edges(START, samples, ["sample", END])
    graph.add_edge("sample", "majority")
    graph.add_conditional_edges("majority", samples, ["sample", END])
    return graph.compile(name="vote")


async def draw_sample(state: Sample, runtime: Runtime[Context], per: Per, temperature: float) -> dict[str, Any]:
    """The state update of one sample of one premise."""
    index, number, task = state["index"], state["number"], state["task"]
    update = await hop(
        state,
        runtime,
        goals(task)[index],
        prompt=None if task.premises else whole_question(task, runtime.context.suite),
        node="sample",
        hop_id=f"{hop_name(index)}.{_suffix(per, number)}",
        draw=Draw(temperature=temperature, number=number),
    )
    return {"hops": update["hops"]}


def elect(state: State, index: int, k: int, per: Per = "hop") -> dict[str, Any]:
    """The state update of a majority among the last `k` hops, which are the samples of the premise at `index` (from 0)."""
    drawn = sorted(state["hops"][-k:], key=lambda sample: int(sample.id.rpartition("_")[2]))
    won = most_stated(drawn)
    premises = _chain_of(state, won) if per == "chain" else won.premises
    made = decide(state, f"{hop_name(index)}.vote", "vote", (hop.id for hop in drawn), premises)
    return {"decisions": [made], "answer": won.premises[-1].value}


def _suffix(per: Per, number: int) -> str:
    return f"{'sample' if per == 'hop' else 'chain'}_{number + 1}"


def samples_of(state: State, index: int, k: int, per: Per = "hop") -> list[Send]:
    """`k` samples of the premise at `index` (from 0), each to the node `sample`."""
    return [Send("sample", _given(state, per, index, number)) for number in range(k)]


def _given(state: State, per: Per, index: int, number: int) -> Sample:
    """The state as a sample sees it; a chain sees its own hops only."""
    own = state["hops"] if per == "hop" else [hop for hop in state["hops"] if hop.id.endswith(f".chain_{number + 1}")]
    decisions = state.get("decisions", [])
    return {"task": state["task"], "hops": own, "decisions": decisions, "index": index, "number": number}


def _chain_of(state: State, last: Hop) -> list[Premise]:
    suffix = last.id.rpartition(".")[2]
    return [premise for hop in state["hops"] if hop.id.endswith(f".{suffix}") for premise in hop.premises]
