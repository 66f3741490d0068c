"""`cot`: one model call writes all premises: one a line, or in prose where the suite reads prose.

Calls: 1.
"""

from collections.abc import Callable, Sequence
from typing import Any

from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime

from qtrap_agents.errors import ExtractionError
from qtrap_agents.types import Premise, Task, Value
from qtrap_agents.workflows.hop import Context, Draw, State, Update, ask, record
from qtrap_agents.workflows.reading import JSON_TOKENS, read_steps, steps_form


def build() -> Callable[[Task], CompiledStateGraph[Any, Any, Any, Any]]:
    """The same graph for every task."""
    graph = StateGraph(State, context_schema=Context)
    graph.add_node("answer", _answer)
    graph.add_edge(START, "answer")
    graph.add_edge("answer", END)
    compiled = graph.compile(name="cot")
    return lambda task: compiled


async def _answer(state: State, runtime: Runtime[Context]) -> Update:
    update = await all_steps(state, runtime, "answer")
    return {**update, "answer": answer(state["task"], update["hops"][0].premises)}


async def all_steps(
    state: State,
    runtime: Runtime[Context],
    node: str,
    *,
    more: str = "",
    hop_id: str | None = None,
    draw: Draw | None = None,
    parents: Sequence[str] = (),
) -> Update:
    """The state update of one hop that writes all premises; `more` stands behind the question.

    Raises:
        ExtractionError: they could not be read; it carries the hop. CompletionError, ArmDied: as of `ask`.
    """
    task, suite = state["task"], runtime.context.suite
    form = steps_form(suite, task)
    max_tokens = suite.spec.cot_tokens_per_premise * max(1, len(task.premises)) + (JSON_TOKENS if form else 0)
    question = task.question if form else prompt(task, suite.spec.extractor)
    asked = await ask(state, runtime, question + more, max_tokens, node, hop_id=hop_id, draw=draw, form=form)
    try:
        premises = read_steps(asked.answer.completion.text, suite, task)
    except ExtractionError as error:
        error.hops = tuple(record(state, runtime, asked, (), (), parents)["hops"])
        raise
    return record(state, runtime, asked, premises, (), parents)


def answer(task: Task, premises: Sequence[Premise]) -> Value | None:
    """The value of the last gold premise, or of a line `answer = value`; an earlier step is never taken for it."""
    stated = {premise.id: premise.value for premise in premises if premise.value is not None}
    if not task.premises:
        return stated.get("answer", next(reversed(stated.values()), None))
    return stated.get(task.premises[-1].id, stated.get("answer"))


def prompt(task: Task, extractor: str = "steps") -> str:
    """The question and how to write the steps down, as the extractor of the suite reads them."""
    if extractor != "steps":
        return f"{task.question}\nReason step by step, and write the answer on the last line as `#### value`."
    if not task.premises:
        return f"{task.question}\nWrite the answer on the last line as `answer = value`."
    ids = [premise.id for premise in task.premises]
    steps = ids[0] if len(ids) == 1 else f"{ids[0]} to {ids[-1]}"
    return f"{task.question}\nWrite every step on its own line as `{ids[0]} = value`, from {steps}."
