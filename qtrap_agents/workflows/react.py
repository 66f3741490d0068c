"""`react`: think, call a tool, read what it gives, until the answer (an instruct model and a task with tools).

What is called and what it gave are premises: under the gold ids where the task has some for them (see `call_premise`), else
`call_2` and `observation_2`. A call that cannot be read or fails is an observation that the model is shown, without a value.
The last of `max_steps` steps is told to answer; a model that does not has no answer. Calls: one for every step.
"""

import re
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from pydantic import Field

from qtrap_agents import tools
from qtrap_agents.premises import parse_value
from qtrap_agents.semantics import is_right, same_value
from qtrap_agents.types import Premise, Task, Value
from qtrap_agents.workflows.graphs import Graph, GraphFor, decide, goals
from qtrap_agents.workflows.hop import Asked, Context, Draw, State, ask, record, statements

STEP_TOKENS = 128
OBSERVATION = "Observation:"
CALL = "call"
"""How the kind of a gold premise begins that is a call."""

UNREADABLE = "no call and no answer could be read; write one line `Action: tool(argument)` or `Answer: value`"

_ANSWER = re.compile(r"^[\s*_`#>-]*(?:final[ \t]+)?answer[*_`]*[ \t]*[:=][ \t*_`]*(\S.*)$", re.MULTILINE | re.IGNORECASE)


def build(
    max_steps: Annotated[int, Field(ge=1, le=256)] = 16, step_tokens: Annotated[int, Field(ge=8, le=4096)] = STEP_TOKENS
) -> GraphFor:
    """The same graph for every task."""
    graph = _graph(max_steps, step_tokens)
    return lambda task: graph


@cache
def _graph(max_steps: int, step_tokens: int) -> Graph:
    async def act(state: State, runtime: Runtime[Context]) -> dict[str, Any]:
        last = len(state["hops"]) + 1 >= max_steps
        draw = Draw(max_tokens=step_tokens, stop=(f"\n{OBSERVATION}",))
        name = f"act_{len(state['hops']) + 1:03d}"
        asked = await ask(state, runtime, _prompt(state, last), step_tokens, "act", hop_id=name, draw=draw)
        update = record(state, runtime, asked, _said(state, asked, runtime), _seen(state))
        text = update["hops"][-1].completion.text
        return {**update, "answer": None} if _call_of(state["task"], text) else dict(update)

    async def done(state: State) -> str:
        return END if _answered(state) or len(state["hops"]) >= max_steps else "tool"

    graph = StateGraph(State, context_schema=Context)
    graph.add_node("act", act)
    graph.add_node("tool", _observe)
    graph.add_edge(START, "act")
    graph.add_conditional_edges("act", done, ["tool", END])
    graph.add_edge("tool", "act")
    return graph.compile(name="react")


def _prompt(state: State, last: bool) -> str:
    """The question, the tools, and what was called and seen so far."""
    task = state["task"]
    told = tools.describe(task.tools) or "none"
    lines = [task.question, f"Tools:\n{told}"]
    lines.append("Think in one sentence, then write one line `Action: tool(argument)`, or `Answer: value` when you know it.")
    for hop, seen in zip(state["hops"], state.get("decisions", []), strict=True):
        lines += [hop.completion.text.strip(), f"{OBSERVATION} {seen.premises[-1].text}"]
    return "\n".join([*lines, *(["This is the last step: write `Answer: value`."] if last else [])])


def _said(state: State, asked: Asked, runtime: Runtime[Context]) -> list[Premise]:
    """The call, or the answer where none stands before it; nothing where neither can be read."""
    text, task = asked.answer.completion.text, state["task"]
    given = _seen(state)
    call = _call_of(task, text)
    if call is not None:
        name = call_premise(task, statements(state), str(call)) or f"call_{len(state['hops']) + 1}"
        return [Premise(id=name, text=text, value=str(call), depends_on=given)]
    answer = _ANSWER.search(text)
    if answer is None:
        return []
    value = parse_value(answer[1], runtime.context.suite.parser)
    return [Premise(id=goals(task)[-1], text=answer[0].strip(), value=value, depends_on=given)]


def _seen(state: State) -> tuple[str, ...]:
    """Ids of what the tools gave so far."""
    return tuple(dict.fromkeys(premise.id for made in state.get("decisions", []) for premise in made.premises))


def _call_of(task: Task, text: str) -> tools.Call | None:
    """The call in a text, where no answer stands before it."""
    answer = _ANSWER.search(text)
    return tools.parse_call(text[: answer.start()] if answer else text, task.tools)


def _answered(state: State) -> bool:
    hop = state["hops"][-1]
    return bool(hop.premises) and _call_of(state["task"], hop.completion.text) is None


async def _observe(state: State) -> dict[str, Any]:
    """What the tool gives for the call of the last hop, or why it gives nothing."""
    task, hop, number = state["task"], state["hops"][-1], len(state["hops"])
    call = _call_of(task, hop.completion.text)
    text, value = UNREADABLE, None
    if call is not None:
        try:
            value = await tools.acall(task.tools, call.tool, call.argument)
            text = str(value)
        except tools.ToolError as error:
            text = f"error: {error}"
    called = hop.premises[-1].id if hop.premises else None
    place = result_premise(task, statements(state), called, call.tool) if called and call else None
    premise = Premise(id=place or f"observation_{number}", text=text, value=value, depends_on=(called,) if called else ())
    return {"decisions": [decide(state, f"tool_{number:03d}", "tool", [hop.id], [premise])]}


def call_premise(task: Task, stated: Mapping[str, Premise], value: Value) -> str | None:
    """The gold premise that a call states; None where the task has none for it.

    Gold premises of a kind that begins with `call` whose parents are stated are open. Of those that are not stated rightly yet,
    the one with this value is taken. Another call that was not made before stands for the first that is not stated at all: it
    was due.
    """
    open_ = [gold for gold in task.premises if gold.kind.startswith(CALL) and all(parent in stated for parent in gold.depends_on)]
    for gold in open_:
        if is_right(value, gold) and not (gold.id in stated and is_right(stated[gold.id].value, gold)):
            return gold.id
    if any(same_value(value, premise.value) for premise in stated.values()):
        return None
    return next((gold.id for gold in open_ if gold.id not in stated), None)


def result_premise(task: Task, stated: Mapping[str, Premise], called: str, tool: str) -> str | None:
    """The gold premise that the result of a call states.

    It depends on the call; where the task has no premise for the call, it is the first result of this tool that depends on
    nothing and is not stated.
    """
    results = [gold for gold in task.premises if not gold.kind.startswith(CALL)]
    if any(gold.id == called for gold in task.premises):
        return next((gold.id for gold in results if called in gold.depends_on), None)
    return next((gold.id for gold in results if gold.kind == tool and not gold.depends_on and gold.id not in stated), None)
