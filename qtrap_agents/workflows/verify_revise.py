"""`verify_revise`: a checker looks at what was stated and sends it back, a bounded number of times.

With `check: recompute` the checker works the same step out by itself, drawn at `temperature`; the premise stands once a value
was drawn twice, and otherwise the step is drawn again. At temperature 0 the checker only repeats the hop. With `check: model`
the checker is shown the statement and says `right` or `wrong` and why (an instruct model); the hop is then asked again with
the objection. `when: end` has it look at all steps together, once they are stated, and name the first wrong one; the chain
goes on anew from there. What the checker made of it is a decision of the trace, `verdict_s3`: `accepted`, `sent back`, `kept`
(the revisions are used up) or `unreadable` (the statement stands). Calls: 2 for every premise, and up to 2 more for each
revision; with `when: end` one for every premise and one for each look, and the hops from the wrong one on for each revision.
"""

import re
from functools import cache
from typing import Annotated, Any, Literal

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from pydantic import Field

from qtrap_agents.errors import ConfigError
from qtrap_agents.semantics import same_value
from qtrap_agents.types import Hop, Premise, Task, Value
from qtrap_agents.workflows.graphs import Graph, GraphFor, decide, goals, hop_name, listed, whole_question
from qtrap_agents.workflows.hop import Context, Draw, State, ask, hop, instruction, record, statements

Check = Literal["recompute", "model"]
When = Literal["hop", "end"]

CHECK_TOKENS = 64
ALL = "all"
"""What a look at all steps together is called."""

_JUDGEMENT = re.compile(r"\b(not\s+(?:right|correct)|wrong|incorrect|no|right|correct|yes)\b", re.IGNORECASE)
_FINE = {"right", "correct", "yes"}


class Checked(State, total=False):
    """The state with the place of work: which premise (from 0), which revision of it, and what the checker objected."""

    index: int
    revision: int
    back_to: int
    objection: str


def build(
    check: Check = "recompute",
    when: When = "hop",
    max_revisions: Annotated[int, Field(ge=0, le=10)] = 2,
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.7,
) -> GraphFor:
    """The same graph for every task.

    Raises:
        ConfigError: a recomputing checker is to look at the end, where it would run the whole chain again.
    """
    if check == "recompute" and when == "end":
        raise ConfigError("workflow 'verify_revise': 'when: end' goes with 'check: model'; two whole chains are a vote with k: 2")
    graph = _graph(check, when, max_revisions, temperature)
    return lambda task: graph


@cache
def _graph(check: Check, when: When, max_revisions: int, temperature: float) -> Graph:
    async def step(state: Checked, runtime: Runtime[Context]) -> dict[str, Any]:
        return await step_or_revision(state, runtime, check, temperature)

    async def look(state: Checked, runtime: Runtime[Context]) -> dict[str, Any]:
        if check == "recompute":
            return await recompute(state, runtime, temperature)
        return await (_look_at_one(state, runtime) if when == "hop" else _look_at_all(state, runtime))

    async def verdict(state: Checked) -> dict[str, Any]:
        return judge_one(state, check, max_revisions) if when == "hop" else _all(state, max_revisions)

    async def after_hop(state: Checked) -> str:
        if when == "end":
            return "check" if state["index"] + 1 >= len(goals(state["task"])) else "next"
        return "verdict" if check == "recompute" and drawn_twice(state) else "check"

    async def proceed(state: Checked) -> dict[str, Any]:
        return {"index": state["index"] + 1}

    async def after_verdict(state: Checked) -> str:
        return END if state["index"] >= len(goals(state["task"])) else "hop"

    graph = StateGraph(Checked, context_schema=Context)
    graph.add_node("hop", step)
    graph.add_node("check", look)
    graph.add_node("verdict", verdict)
    graph.add_edge(START, "hop")
    if when == "end":
        graph.add_node("next", proceed)
        graph.add_edge("next", "hop")
    graph.add_conditional_edges("hop", after_hop, ["check", "verdict" if when == "hop" else "next"])
    graph.add_edge("check", "verdict")
    graph.add_conditional_edges("verdict", after_verdict, ["hop", END])
    return graph.compile(name="verify_revise")


async def step_or_revision(state: Checked, runtime: Runtime[Context], check: Check, temperature: float) -> dict[str, Any]:
    """The hop itself, or its revision: drawn once more, and in view of the objection where there is one."""
    index, revision = state.get("index", 0), state.get("revision", 0)
    goal, draw = goals(state["task"])[index], None
    prompt = _prompt(state, runtime, goal)
    if revision and check == "recompute":
        draw = Draw(temperature=temperature, number=2 * revision)
    elif revision and index == state.get("back_to"):
        prompt = f"{prompt}\nYour earlier answer was sent back: {state['objection']}\nAnswer again."
    name = hop_name(index) + (f".revision_{revision}" if revision else "")
    node = "revision" if revision else "hop"
    update = await hop(state, runtime, goal, prompt=prompt, node=node, hop_id=name, draw=draw)
    return {**update, "index": index, "revision": revision}


def _prompt(state: State, runtime: Runtime[Context], goal: str) -> str:
    """What the hop is asked, from the premises as they stand."""
    task = state["task"]
    gold = next((premise for premise in task.premises if premise.id == goal), None)
    if gold is None:
        return whole_question(task, runtime.context.suite)
    return instruction(task, gold, statements(state), runtime.context.suite.spec.show_question)


async def recompute(state: Checked, runtime: Runtime[Context], temperature: float) -> dict[str, Any]:
    """The checker that works the same step out by itself."""
    goal, revision = goals(state["task"])[state["index"]], state["revision"]
    update = await hop(
        state,
        runtime,
        goal,
        prompt=_prompt(state, runtime, goal),
        node="check",
        hop_id=f"{hop_name(state['index'])}.check_{revision + 1}",
        draw=Draw(temperature=temperature, number=2 * revision + 1),
    )
    return {"hops": [_renamed(made, f"check_{goal}") for made in update["hops"]]}


def _renamed(made: Hop, name: str) -> Hop:
    return made.model_copy(update={"premises": tuple(premise.model_copy(update={"id": name}) for premise in made.premises)})


async def _look_at_one(state: Checked, runtime: Runtime[Context]) -> dict[str, Any]:
    goal, revision = goals(state["task"])[state["index"]], state["revision"]
    given = statements(state)[goal].depends_on
    lines = [state["task"].question, f"Step: {_prompt(state, runtime, goal)}", f"Stated: {listed(state, [goal])}"]
    lines.append("Is the stated value right? Answer `right` or `wrong`, then say why in one sentence.")
    name = f"{hop_name(state['index'])}.check_{revision + 1}"
    return await _asked(state, runtime, "\n".join(lines), name, f"check_{goal}", (*given, goal))


async def _look_at_all(state: Checked, runtime: Runtime[Context]) -> dict[str, Any]:
    names = goals(state["task"])
    lines = [state["task"].question, f"Stated: {listed(state, names)}"]
    lines.append(f"Which of the statements {names[0]} to {names[-1]} is the first wrong one? Answer with its name, or `none`.")
    return await _asked(state, runtime, "\n".join(lines), f"check_{state['revision'] + 1}", f"check_{ALL}", names)


async def _asked(
    state: Checked, runtime: Runtime[Context], prompt: str, name: str, premise: str, given: tuple[str, ...]
) -> dict[str, Any]:
    asked = await ask(state, runtime, prompt, CHECK_TOKENS, "check", hop_id=name, draw=Draw(max_tokens=CHECK_TOKENS))
    said = asked.answer.completion.text
    value = _all_judged(said, state["task"]) if premise == f"check_{ALL}" else _judged(said)
    update = record(state, runtime, asked, [Premise(id=premise, text=said, value=value, depends_on=given)], given)
    return {"hops": update["hops"]}


def _judged(text: str) -> Value | None:
    """`right`, `wrong`, or None where neither is said."""
    found = _JUDGEMENT.search(text)
    return None if found is None else "right" if found[1].casefold() in _FINE else "wrong"


def _all_judged(text: str, task: Task) -> Value | None:
    """The first statement that is named, `none`, or None where neither is said."""
    words = re.findall(r"\w+", text)
    named = next((name for word in words for name in goals(task) if word.casefold() == name.casefold()), None)
    return named or ("none" if any(word.casefold() == "none" for word in words) else None)


def drawn_twice(state: Checked) -> bool:
    """Whether the statement is a value that an earlier draw of the same step gave too."""
    name = hop_name(state["index"])
    *earlier, last = [hop for hop in state["hops"] if hop.id.partition(".")[0] == name]
    return any(same_value(last.premises[-1].value, hop.premises[-1].value) for hop in earlier)


def judge_one(state: Checked, check: Check, max_revisions: int) -> dict[str, Any]:
    """The verdict on one premise, and where the work goes on."""
    index, revision, goal = state["index"], state["revision"], goals(state["task"])[state["index"]]
    own = [hop for hop in state["hops"] if hop.id.partition(".")[0] == hop_name(index)]
    stated = next(hop for hop in reversed(own) if hop.node != "check")
    looked = own[-1] if own[-1].node == "check" else None
    if check == "recompute":
        others = [hop.premises[-1].value for hop in own if hop is not stated]
        fine: bool | None = any(same_value(stated.premises[-1].value, value) for value in others)
    else:
        said = looked.premises[-1].value if looked is not None else None
        fine = None if said is None else said == "right"
    word = _word(fine, revision < max_revisions)
    parents = [hop.id for hop in own] if check == "recompute" else [stated.id, own[-1].id]
    premise = Premise(id=f"verdict_{goal}", text=word, value=word, depends_on=(goal, f"check_{goal}"))
    update: dict[str, Any] = {
        "decisions": [decide(state, f"{hop_name(index)}.verdict_{revision + 1}", "verdict", parents, [premise])],
        "answer": stated.premises[-1].value,
    }
    if word != "sent back":
        return {**update, "index": index + 1, "revision": 0}
    objection = " ".join(own[-1].completion.text.split())
    return {**update, "revision": revision + 1, "back_to": index, "objection": objection}


def _word(fine: bool | None, again: bool) -> str:
    if fine is None:
        return "unreadable"
    return "accepted" if fine else "sent back" if again else "kept"


def _all(state: Checked, max_revisions: int) -> dict[str, Any]:
    """The verdict on all premises together."""
    names, revision, look = goals(state["task"]), state["revision"], state["hops"][-1]
    said = look.premises[-1].value
    word = _word(None if said is None else said == "none", revision < max_revisions)
    goal = str(said) if said in names else ALL
    premise = Premise(id=f"verdict_{goal}", text=word, value=word, depends_on=(f"check_{ALL}",))
    made = decide(state, f"verdict_{revision + 1}", "verdict", [look.id], [premise])
    stated = statements(state)[names[-1]].value
    if word != "sent back":
        return {"decisions": [made], "answer": stated, "index": len(names)}
    back_to, objection = names.index(goal), " ".join(look.completion.text.split())
    return {
        "decisions": [made],
        "answer": stated,
        "index": back_to,
        "back_to": back_to,
        "revision": revision + 1,
        "objection": objection,
    }
