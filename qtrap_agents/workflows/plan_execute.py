"""`plan_execute`: a planner writes the steps down, each is one hop, a last hop answers. Needs an instruct model.

Where the task has gold premises the planner is told their names, and a step with such a name states that premise; other steps
are `step_1`, `step_2`, … A step is given the question, its line of the plan and what the earlier ones stated. Lines of a plan
beyond `max_steps` are left out. Calls: 2 and one for each step of the plan.
"""

import re
from functools import cache
from typing import Annotated, Any

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from pydantic import Field

from qtrap_agents.types import Premise, Task
from qtrap_agents.workflows.graphs import Graph, GraphFor, goals, listed
from qtrap_agents.workflows.hop import Context, Draw, State, ask, hop, record

PLAN_TOKENS = 512
PLAN = "plan_"
"""What the lines of a plan are called, before the name of the step."""

_LINE = re.compile(
    r"^[\s*`#>-]*(?:step[ \t_]*)?([A-Za-z_]*[0-9]{1,4})[*`]*[ \t]*[.:)=-][ \t*]*(\S.*)$", re.MULTILINE | re.IGNORECASE
)


def build(max_steps: Annotated[int, Field(ge=1, le=512)] = 64) -> GraphFor:
    """The same graph for every task."""
    graph = _graph(max_steps)
    return lambda task: graph


@cache
def _graph(max_steps: int) -> Graph:
    async def plan(state: State, runtime: Runtime[Context]) -> dict[str, Any]:
        task = state["task"]
        asked = await ask(state, runtime, _wanted(task), PLAN_TOKENS, "plan", draw=Draw(max_tokens=PLAN_TOKENS))
        steps = steps_of(asked.answer.completion.text, task)[:max_steps]
        lines = [Premise(id=f"{PLAN}{name}", text=text, value=text) for name, text in steps]
        return {"hops": record(state, runtime, asked, lines, ())["hops"]}

    graph = StateGraph(State, context_schema=Context)
    graph.add_node("plan", plan)
    graph.add_node("step", _step)
    graph.add_node("answer", _answer)
    graph.add_edge(START, "plan")
    for node in ("plan", "step"):
        graph.add_conditional_edges(node, _next, ["step", "answer"])
    graph.add_edge("answer", END)
    return graph.compile(name="plan_execute")


def _wanted(task: Task) -> str:
    names = goals(task)
    asked = [task.question, "Write a plan: one step on each line, what to find out and from what. Do not work it out yet."]
    if task.premises:
        span = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
        asked.append(f"Begin each line with the name of its step, such as `{names[0]}: …`, from {span}.")
    else:
        asked.append("Begin each line with its number, such as `1: …`.")
    return "\n".join(asked)


def steps_of(text: str, task: Task) -> list[tuple[str, str]]:
    """The steps of a plan: the premise that each one states, and what is to be done (at most 500 characters).

    A line `s2: add both` or `Step 2. add both` states gold premise `s2` where there is one; of several lines with one name the
    first counts.
    """
    gold = {name.casefold(): name for name in goals(task)} if task.premises else {}
    found: dict[str, str] = {}
    for label, words in _LINE.findall(text):
        number = re.sub(r"\D", "", label)
        name = gold.get(label.casefold()) or gold.get(f"s{number}") or f"step_{number}"
        found.setdefault(name, words.strip(" *`")[:500])
    return list(found.items())


def _plan(state: State) -> list[Premise]:
    return list(state["hops"][0].premises)


async def _next(state: State) -> str:
    return "step" if len(state["hops"]) <= len(_plan(state)) else "answer"


async def _step(state: State, runtime: Runtime[Context]) -> dict[str, Any]:
    number = len(state["hops"])
    lines = _plan(state)
    line, earlier = lines[number - 1], [before.id.removeprefix(PLAN) for before in lines[: number - 1]]
    known = [f"Known: {listed(state, earlier)}"] if earlier else []
    prompt = "\n".join([state["task"].question, *known, f"Do this step only and state its result alone: {line.text}"])
    name, hop_id = line.id.removeprefix(PLAN), f"step_{number:03d}"
    update = await hop(state, runtime, name, prompt=prompt, node="step", hop_id=hop_id, given=[line.id, *earlier])
    return {"hops": update["hops"]}


async def _answer(state: State, runtime: Runtime[Context]) -> dict[str, Any]:
    steps = [line.id.removeprefix(PLAN) for line in _plan(state)]
    known = [f"Known: {listed(state, steps)}"] if steps else []
    prompt = "\n".join([state["task"].question, *known, "State the answer alone."])
    return dict(await hop(state, runtime, goals(state["task"])[-1], prompt=prompt, node="answer", given=steps))
