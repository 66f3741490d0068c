"""`debate`: two agents answer, read each other, answer again; a judge decides where they differ. Needs an instruct model.

Both write all steps down, as in `cot`, drawn at `temperature` with seeds of their own. After `rounds` rounds equal answers
stand; otherwise a judge names one of them, and where it names none the first agent's stands. The premises of the agent that
won are the premises of the trace. Calls: 2 for every round, and 1 for the judge where it is asked.
"""

import re
from functools import cache
from typing import Annotated, Any

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Send
from pydantic import Field

from qtrap_agents.semantics import same_value
from qtrap_agents.types import Hop, Premise, Value
from qtrap_agents.workflows import cot
from qtrap_agents.workflows.graphs import Graph, GraphFor, decide
from qtrap_agents.workflows.hop import Context, Draw, State, ask, record

AGENTS = ("a", "b")
JUDGE_TOKENS = 64

_NAMED = re.compile(r"\b(?:agent\s+)?([AB])\b")


class Turn(State, total=False):
    """What an agent is given: the state, the round (from 0) and which agent it is."""

    number: int
    agent: int


def build(rounds: Annotated[int, Field(ge=1, le=10)] = 2, temperature: Annotated[float, Field(ge=0, le=2)] = 0.7) -> GraphFor:
    """The same graph for every task."""
    graph = _graph(rounds, temperature)
    return lambda task: graph


@cache
def _graph(rounds: int, temperature: float) -> Graph:
    async def agent(state: Turn, runtime: Runtime[Context]) -> dict[str, Any]:
        return await _agent(state, runtime, temperature)

    async def turns(state: State) -> list[Send] | str:
        number = len(state["hops"]) // len(AGENTS)
        if number < rounds:
            return [Send("agent", {**state, "number": number, "agent": agent}) for agent in range(len(AGENTS))]
        first, second = (_answer_of(state, hop) for hop in _last_two(state))
        return "verdict" if same_value(first, second) else "judge"

    async def turn(state: State) -> dict[str, Any]:
        return {"hops": []}

    graph = StateGraph(State, context_schema=Context)
    graph.add_node("agent", agent)
    graph.add_node("round", turn)
    graph.add_node("judge", _judge)
    graph.add_node("verdict", _verdict)
    graph.add_conditional_edges(START, turns, ["agent"])
    graph.add_edge("agent", "round")
    graph.add_conditional_edges("round", turns, ["agent", "judge", "verdict"])
    graph.add_edge("judge", "verdict")
    graph.add_edge("verdict", END)
    return graph.compile(name="debate")


async def _agent(state: Turn, runtime: Runtime[Context], temperature: float) -> dict[str, Any]:
    number, agent = state["number"], state["agent"]
    before = _last_two(state) if number else []
    update = await cot.all_steps(
        state,
        runtime,
        "agent",
        more=_both_answers(before[agent], before[1 - agent]) if before else "",
        hop_id=f"agent_{AGENTS[agent]}.round_{number + 1}",
        draw=Draw(temperature=temperature, number=len(AGENTS) * number + agent),
        parents=[hop.id for hop in before],
    )
    return {"hops": update["hops"]}


def _both_answers(own: Hop, other: Hop) -> str:
    said, theirs = own.completion.text.strip(), other.completion.text.strip()
    return (
        f"\nYour answer so far:\n{said}\nAnother agent answered:\n{theirs}"
        "\nLook for mistakes in both and write all steps again, as they are right."
    )


def _last_two(state: State) -> list[Hop]:
    """What the agents said last, the first agent's before the second's."""
    said = [hop for hop in state["hops"] if hop.node == "agent"]
    return sorted(said[-len(AGENTS) :], key=lambda hop: hop.id)


def _answer_of(state: State, hop: Hop) -> Value | None:
    return cot.answer(state["task"], hop.premises)


async def _judge(state: State, runtime: Runtime[Context]) -> dict[str, Any]:
    both = _last_two(state)
    said = [f"Agent {name.upper()}:\n{hop.completion.text.strip()}" for name, hop in zip(AGENTS, both, strict=True)]
    prompt = "\n".join([state["task"].question, *said, "Which agent is right? Answer `A` or `B`."])
    asked = await ask(state, runtime, prompt, JUDGE_TOKENS, "judge", draw=Draw(max_tokens=JUDGE_TOKENS))
    text = asked.answer.completion.text
    premise = Premise(id="judged", text=text, value=_named(text))
    return {"hops": record(state, runtime, asked, [premise], (), parents=[hop.id for hop in both])["hops"]}


def _named(text: str) -> Value | None:
    """`a`, `b`, or None where the judge names neither; the last one that is named counts."""
    named = _NAMED.findall(text)
    return str(named[-1]).casefold() if named else None


async def _verdict(state: State) -> dict[str, Any]:
    both, last = _last_two(state), state["hops"][-1]
    judged = last.premises[-1].value if last.node == "judge" else AGENTS[0]
    won = both[AGENTS.index(judged)] if judged in AGENTS else both[0]
    parents = dict.fromkeys((won.id, last.id) if last.node == "judge" else (hop.id for hop in both))
    made = decide(state, "verdict", "verdict", parents, won.premises)
    return {"decisions": [made], "answer": _answer_of(state, won)}
