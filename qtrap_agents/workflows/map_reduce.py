"""`map_reduce`: independent steps side by side, then what they give together.

With `over: gold` all premises whose parents are stated are asked for at once, level by level of the gold graph, until the
answer is. With `over: question`, and for tasks without gold premises, a model call splits the question (an instruct model),
the parts are answered side by side, and a last call merges them. Calls: one for every premise; over a question, 2 and one
for each part, of which there are at most `max_parts`.
"""

import re
from functools import cache
from typing import Annotated, Any, Literal

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Send
from pydantic import Field

from qtrap_agents.types import Premise
from qtrap_agents.workflows.graphs import Graph, GraphFor, goals, hop_name
from qtrap_agents.workflows.hop import Context, Draw, State, ask, hop, record, statements

SPLIT_TOKENS = 256

_NUMBERED = re.compile(r"^[\s*#>-]*(?:[0-9]{1,3}[.):]|[-*•])[\s*]*(\S.*)$", re.MULTILINE)


class Part(State, total=False):
    """What one branch is given: the state, and which of the premises or parts it is, from 0."""

    index: int


def build(over: Literal["gold", "question"] = "gold", max_parts: Annotated[int, Field(ge=1, le=64)] = 8) -> GraphFor:
    """One graph for tasks with gold premises, one for the others."""
    return lambda task: _by_levels() if task.premises and over == "gold" else _by_parts(max_parts)


@cache
def _by_levels() -> Graph:
    graph = StateGraph(State, context_schema=Context)
    graph.add_node("hop", _hop)
    graph.add_node("gather", _gather)
    graph.add_conditional_edges(START, _ready, ["hop", END])
    graph.add_edge("hop", "gather")
    graph.add_conditional_edges("gather", _ready, ["hop", END])
    return graph.compile(name="map_reduce over gold")


async def _ready(state: State) -> list[Send] | str:
    """Every premise that is not stated while all its parents are."""
    stated, task = statements(state), state["task"]
    ready = [
        Send("hop", {**state, "index": index})
        for index, premise in enumerate(task.premises)
        if premise.id not in stated and all(parent in stated for parent in premise.depends_on)
    ]
    return ready or END


async def _hop(state: Part, runtime: Runtime[Context]) -> dict[str, Any]:
    index = state["index"]
    update = await hop(state, runtime, goals(state["task"])[index], node="hop", hop_id=hop_name(index))
    return {"hops": update["hops"]}


async def _gather(state: State) -> dict[str, Any]:
    last = statements(state).get(goals(state["task"])[-1])
    return {"answer": last.value if last is not None else None}


@cache
def _by_parts(max_parts: int) -> Graph:
    async def split(state: State, runtime: Runtime[Context]) -> dict[str, Any]:
        prompt = f"{state['task'].question}\n{SPLIT}"
        asked = await ask(state, runtime, prompt, SPLIT_TOKENS, "split", draw=Draw(max_tokens=SPLIT_TOKENS))
        parts = parts_of(asked.answer.completion.text)[:max_parts]
        questions = [Premise(id=f"question_{number}", text=part, value=part) for number, part in enumerate(parts, 1)]
        return {"hops": record(state, runtime, asked, questions, ())["hops"]}

    graph = StateGraph(State, context_schema=Context)
    graph.add_node("split", split)
    graph.add_node("part", _part)
    graph.add_node("merge", _merge)
    graph.add_edge(START, "split")
    graph.add_conditional_edges("split", _parts, ["part", "merge"])
    graph.add_edge("part", "merge")
    graph.add_edge("merge", END)
    return graph.compile(name="map_reduce over the question")


SPLIT = "Which independent questions must be answered for this? Write each on its own line with its number. Do not answer them."


def parts_of(text: str) -> list[str]:
    """The numbered or bulleted lines of a text without their numbers, each at most 500 characters."""
    return [line.strip(" *_`")[:500] for line in _NUMBERED.findall(text)]


async def _parts(state: State) -> list[Send] | str:
    questions = state["hops"][0].premises
    return [Send("part", {**state, "index": index}) for index in range(len(questions))] or "merge"


async def _part(state: Part, runtime: Runtime[Context]) -> dict[str, Any]:
    index = state["index"]
    asked_for = statements(state)[f"question_{index + 1}"]
    prompt = f"{state['task'].question}\nAnswer only this part of it, with its result alone: {asked_for.text}"
    update = await hop(state, runtime, f"part_{index + 1}", prompt=prompt, node="part", hop_id=f"part_{index + 1:03d}")
    return {"hops": update["hops"]}


async def _merge(state: State, runtime: Runtime[Context]) -> dict[str, Any]:
    stated = statements(state)
    questions = [name for name in stated if name.startswith("question_")]
    parts = [name.replace("question", "part") for name in questions]
    known = [f"{stated[question].text} {stated[part].value}" for question, part in zip(questions, parts, strict=True)]
    prompt = "\n".join([state["task"].question, *(["Known:", *known] if known else []), "State the answer alone."])
    return dict(await hop(state, runtime, goals(state["task"])[-1], prompt=prompt, node="merge", given=parts))
