"""LangGraph apps as people write them, with clients that know nothing but OPENAI_BASE_URL (`workflow: apps:chaining`).

The patterns are those of LangGraph's own documentation (prompt chaining, routing, orchestrator and workers, evaluator and
optimiser, supervisor, teams as subgraphs), written anew. The first ones are sound, the others have what apps have.
"""

import asyncio
import operator
import re
import threading
import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import httpx
import openai
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, RetryPolicy, Send, interrupt
from pydantic import BaseModel
from typing_extensions import TypedDict

from qtrap_agents.types import Hop, Premise, Task

chat = ChatOpenAI(model="gpt-4o-mini", max_retries=0)
client = openai.AsyncOpenAI(max_retries=0)
blocking = openai.OpenAI(max_retries=0)
fixed = openai.AsyncOpenAI(base_url="https://api.openai.com/v1", api_key="none", max_retries=0)


async def ask(prompt: str, **options: Any) -> str:
    """One call of the plain client."""
    answer = await client.chat.completions.create(model="any", messages=[{"role": "user", "content": prompt}], **options)
    return answer.choices[0].message.content or ""


def ask_blocking(prompt: str) -> str:
    """The same, and nothing else can run meanwhile."""
    answer = blocking.chat.completions.create(model="any", messages=[{"role": "user", "content": prompt}])
    return answer.choices[0].message.content or ""


class Text(TypedDict, total=False):
    """State of the smaller apps."""

    question: str
    draft: str
    answer: str


def chaining() -> Any:
    """Prompt chaining with a gate: draft, a check in plain Python, improve where it fails, polish. LangChain's client."""

    def draft(state: Text) -> Text:
        return {"draft": str(chat.invoke(f"draft {state['question']}").content)}

    def gate(state: Text) -> Literal["improve", "polish"]:
        return "polish" if "!" in state["draft"] else "improve"

    def improve(state: Text) -> Text:
        return {"draft": str(chat.invoke(f"improve {state['draft']}").content)}

    async def polish(state: Text) -> Text:
        return {"answer": str((await chat.ainvoke(f"polish {state['draft']}")).content)}

    graph = StateGraph(Text)
    graph.add_node("draft", draft)
    graph.add_node("improve", improve)
    graph.add_node("polish", polish)
    graph.add_edge(START, "draft")
    graph.add_conditional_edges("draft", gate)
    graph.add_edge("improve", "polish")
    return graph.compile()


class Route(BaseModel):
    """What the router answers, as structured output."""

    step: Literal["poem", "story"]


def routing() -> Any:
    """Routing: the model chooses in structured output, a node without a call looks up, an edge follows; the text is streamed."""

    class State(MessagesState):
        step: str

    async def router(state: State) -> dict[str, Any]:
        chooser = chat.with_structured_output(Route, method="json_schema")
        found: Any = await chooser.ainvoke(state["messages"])
        return {"step": found.step}

    async def write(state: State) -> dict[str, Any]:
        parts = [part async for part in chat.astream([("system", f"write a {state['step']}"), *state["messages"]])]
        text = "".join(str(part.content) for part in parts)
        return {"messages": [("ai", text)]}

    graph = StateGraph(State)
    graph.add_node("router", router)
    graph.add_node("look_up", lambda state: {"step": state["step"].upper()})
    graph.add_node("poem", write)
    graph.add_node("story", write)
    graph.add_edge(START, "router")
    graph.add_edge("router", "look_up")
    graph.add_conditional_edges("look_up", lambda state: state["step"].lower(), ["poem", "story"])
    return graph.compile()


class Report(TypedDict, total=False):
    """State of the orchestrator."""

    topic: str
    section: str
    plan: list[str]
    done: Annotated[list[str], operator.add]
    answer: str


def orchestrator() -> Any:
    """Orchestrator and workers: a plan, one worker for each of its sections with Send, a synthesis of what they wrote."""

    async def plan(state: Report) -> Report:
        return {"plan": (await ask(f"plan {state['topic']}", max_tokens=20)).split()}

    async def worker(state: Report) -> Report:
        return {"done": [await ask(f"write {state['section']}", temperature=1.0, seed=4)]}

    async def synthesis(state: Report) -> Report:
        return {"answer": await ask(f"join {' '.join(state['done'])}", stop="\n")}

    graph = StateGraph(Report)
    graph.add_node("plan", plan)
    graph.add_node("worker", worker)
    graph.add_node("synthesis", synthesis)
    graph.add_edge(START, "plan")
    graph.add_conditional_edges("plan", lambda state: [Send("worker", {"section": one}) for one in state["plan"]], ["worker"])
    graph.add_edge("worker", "synthesis")
    return graph.compile()


def optimiser() -> Any:
    """Evaluator and optimiser: a loop that the evaluator ends, plain client in plain functions."""

    def generate(state: Text) -> Text:
        return {"draft": ask_blocking(f"write {state['question']} after {state.get('answer', 'nothing')}")}

    def evaluate(state: Text) -> Text:
        return {"answer": ask_blocking(f"grade {state['draft']}")}

    graph = StateGraph(Text)
    graph.add_node("generate", generate)
    graph.add_node("evaluate", evaluate)
    graph.add_edge(START, "generate")
    graph.add_edge("generate", "evaluate")
    graph.add_conditional_edges("evaluate", lambda state: END if "good" in state["answer"] else "generate")
    return graph.compile()


def supervisor() -> Any:
    """A supervisor that hands over with Command, agents that report back; every agent sees all messages."""

    async def lead(state: MessagesState) -> Command[Any]:
        word = str((await chat.ainvoke([("system", "who is next?"), *state["messages"]])).content)
        return Command(goto=END if word == "done" else word)

    def agent(name: str) -> Any:
        async def act(state: MessagesState) -> Command[Any]:
            said = await chat.ainvoke([("system", f"you are {name}"), *state["messages"]])
            return Command(goto="lead", update={"messages": [said]})

        return act

    graph = StateGraph(MessagesState)
    graph.add_node("lead", lead)
    for name in ("maths", "research"):
        graph.add_node(name, agent(name))
    graph.add_edge(START, "lead")
    return graph.compile()


class Pool(TypedDict, total=False):
    """State of the teams."""

    question: str
    notes: Annotated[list[str], operator.add]
    answer: str


def _noting(*prompts: str) -> Any:
    """A node that asks one thing after the other and notes the answers."""

    async def node(state: Pool) -> Pool:
        return {"notes": [await ask(f"{prompt} {state['question']}") for prompt in prompts]}

    return node


def _team(name: str) -> Any:
    """A team: two members side by side, one of them with a second step, and someone who joins what they found."""
    graph = StateGraph(Pool)
    graph.add_node("left", _noting(f"{name} left"))
    graph.add_node("right", _noting(f"{name} right", f"{name} right again"))
    graph.add_node("more", _noting(f"{name} more"))
    graph.add_node("join", _noting(f"{name} join"))
    graph.add_edge(START, "left")
    graph.add_edge(START, "right")
    graph.add_edge("left", "more")
    graph.add_edge(["more", "right"], "join")
    return graph.compile()


def teams() -> Any:
    """Subgraphs and parallel branches: two teams at once, one as a node, one called by a node that asks before and after."""
    inner = _team("b")

    async def second(state: Pool) -> Pool:
        before = await ask(f"before {state['question']}")
        await inner.ainvoke({"question": state["question"], "notes": []})
        await inner.ainvoke({"question": state["question"], "notes": []})
        return {"notes": [before, await ask(f"after {state['question']}")]}

    async def end(state: Pool) -> Pool:
        return {"answer": await ask(f"end {state['question']}")}

    graph = StateGraph(Pool)
    graph.add_node("start", _noting("start"))
    graph.add_node("first", _team("a"))
    graph.add_node("second", second)
    graph.add_node("gather", lambda state: {"notes": ["gathered"]})
    graph.add_node("end", end)
    graph.add_edge(START, "start")
    graph.add_edge("start", "first")
    graph.add_edge("start", "second")
    graph.add_edge(["first", "second"], "gather")
    graph.add_edge("gather", "end")
    return graph.compile()


def crossed() -> Any:
    """Two lines side by side whose nodes run in the same rounds, and a choice that only one of them makes."""

    def line(first: str, then: str) -> Any:
        async def node(state: Pool) -> Any:
            return Command(goto=then, update={"notes": [await ask(f"{first} {state['question']}")]})

        return node

    graph = StateGraph(Pool)
    for first, then in (("a", "a2"), ("b", "b2"), ("a2", "end"), ("b2", END)):
        graph.add_node(first, line(first, then))
    graph.add_node("end", _noting("end"))
    graph.add_edge(START, "a")
    graph.add_edge(START, "b")
    return graph.compile()


def together() -> Any:
    """A node that asks two things at once and a third one after them."""

    async def node(state: Text) -> Text:
        both = await asyncio.gather(ask("one"), ask("two"))
        return {"answer": await ask(" ".join(both))}

    return _single(node)


def functional() -> Any:
    """The functional API: tasks called by an entry point, two at once and one after them."""

    @task
    async def look(what: str) -> str:
        return await ask(what)

    @entrypoint()
    async def app(question: str) -> str:
        both = await asyncio.gather(look(f"left {question}"), look(f"right {question}"))
        return await look(" ".join(both))

    return app


def question_alone(task: Task) -> str:
    """Input of an app that takes text."""
    return task.question


def _single(node: Any, schema: Any = Text, **options: Any) -> Any:
    """A graph of one node."""
    graph = StateGraph(schema)
    graph.add_node("node", node, **options)
    graph.add_edge(START, "node")
    return graph.compile()


graph = chaining()
"""An app that is made while its module is imported."""


class Sums(TypedDict, total=False):
    """State of the calculator."""

    lines: list[str]
    values: Annotated[list[str], operator.add]
    answer: str


def calculator() -> Any:
    """One sum after the other, the last result in the place of the name of its step; the last one is the answer."""

    async def step(state: Sums) -> Sums:
        values = state.get("values", [])
        line = re.sub(r"\{s(\d+)\}", lambda slot: values[int(slot[1]) - 1], state["lines"][len(values)])
        said = await chat.ainvoke([("system", "All numbers are modulo 1000. Answer with the number only."), ("user", line)])
        return {"values": [str(said.content)], "answer": str(said.content)}

    graph = StateGraph(Sums)
    graph.add_node("step", step)
    graph.add_edge(START, "step")
    graph.add_conditional_edges("step", lambda state: "step" if len(state["values"]) < len(state["lines"]) else END)
    return graph.compile()


def sums_of(task: Task) -> Sums:
    """Input of the calculator."""
    return {"lines": [premise.instruction for premise in task.premises]}


def numbered(text: str, task: Task, hop: Hop) -> Sequence[Premise]:
    """Extractor of the calculator: a hop states the premise whose number it has."""
    number = int(hop.id.partition(".")[2] or 1) - 1
    gold = task.premises[number]
    return [Premise(id=gold.id, text=text, value=int(text) if text.strip().isdigit() else None, depends_on=gold.depends_on)]


def failing_extractor(text: str, task: Task) -> Sequence[Premise]:
    """An extractor with a bug."""
    return [Premise(id="s1", text=text, value=int(text))]


def last_note(state: Pool) -> str:
    """Answer of the teams: a note instead of the field."""
    return state["notes"][-1]


def no_note(state: Pool) -> str:
    """An answer function with a bug."""
    return state["notes"][99]


# What apps have.


def interrupting() -> Any:
    """Asks a person."""

    async def node(state: Text) -> Text:
        await ask("one")
        return {"answer": interrupt("go on?")}

    return _single(node)


def raising() -> Any:
    """A right call, then a bug."""

    async def node(state: Text) -> Text:
        await ask("one")
        raise KeyError("draft")

    return _single(node)


def hanging() -> Any:
    """Asks, and never ends; it can be cancelled."""

    async def node(state: Text) -> Text:
        await ask("one")
        await asyncio.sleep(3600)
        return {}

    return _single(node)


def hanging_thread() -> Any:
    """Never ends in a thread, which nobody can cancel."""

    def node(state: Text) -> Text:
        ask_blocking("one")
        time.sleep(3600)
        return {}

    return _single(node)


def endless() -> Any:
    """A loop without an end."""
    graph = StateGraph(Pool)
    graph.add_node("node", _noting("again"))
    graph.add_edge(START, "node")
    graph.add_edge("node", "node")
    return graph.compile()


def silent() -> Any:
    """No model call at all."""
    return _single(lambda state: {"answer": "42"})


def mute() -> Any:
    """A call, and nothing in the state that could be an answer."""

    async def node(state: Text) -> Text:
        return {"draft": await ask("one")}

    return _single(node)


def fallback() -> Any:
    """Takes a failed call for an answer."""

    async def node(state: Text) -> Text:
        try:
            return {"answer": await ask("one")}
        except openai.APIError:
            return {"answer": "0"}

    return _single(node)


def persistent() -> Any:
    """LangGraph runs the node again after a failed call."""

    async def node(state: Text) -> Text:
        return {"answer": await ask("one")}

    return _single(node, retry_policy=RetryPolicy(max_attempts=3, initial_interval=0.01, retry_on=openai.APIError))


def greedy() -> Any:
    """Wants two answers at once."""

    async def node(state: Text) -> Text:
        return {"answer": await ask("one", n=2)}

    return _single(node)


def tooled() -> Any:
    """Wants to call tools."""

    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    async def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await chat.bind_tools([add]).ainvoke(state["messages"])]}

    return _single(node, MessagesState)


def elsewhere() -> Any:
    """One call to another model than the arm, one to the arm."""
    judge = FakeListChatModel(responses=["fine"])

    async def node(state: Text) -> Text:
        verdict = await judge.ainvoke([HumanMessage("judge")])
        return {"answer": await ask(f"after {verdict.content}")}

    return _single(node)


def only_elsewhere() -> Any:
    """Never asks the arm."""
    judge = FakeListChatModel(responses=["42"])

    async def node(state: Text) -> Text:
        return {"answer": str((await judge.ainvoke([HumanMessage("judge")])).content)}

    return _single(node)


def fixed_address() -> Any:
    """A client from before the app was traced, which leads to OpenAI itself."""

    async def node(state: Text) -> Text:
        answer = await fixed.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "one"}])
        return {"answer": answer.choices[0].message.content or ""}

    return _single(node)


def own_thread() -> Any:
    """Asks in a thread that does not know whose it is."""

    def node(state: Text) -> Text:
        found: list[str] = []
        thread = threading.Thread(target=lambda: found.append(ask_blocking(f"one {state['question']}")))
        thread.start()
        thread.join()
        return {"answer": found[0]}

    return _single(node)


def plain_http() -> Any:
    """No client library at all."""

    async def node(state: Text) -> Text:
        async with httpx.AsyncClient(base_url=str(client.base_url)) as web:
            body = {"messages": [{"role": "user", "content": f"one {state['question']}"}]}
            answer = (await web.post("chat/completions", json=body)).json()
        return {"answer": answer["choices"][0]["message"]["content"]}

    return _single(node)


def stubborn() -> Any:
    """An `async def` node with a blocking client."""

    async def node(state: Text) -> Text:
        return {"answer": ask_blocking(f"one {state['question']}")}

    return _single(node)


def remembering() -> Any:
    """Its own checkpointer, and a subgraph that remembers between its calls."""

    async def count(state: Pool) -> Pool:
        return {"notes": [await ask(f"note {len(state.get('notes', []))}")]}

    inner = StateGraph(Pool)
    inner.add_node("count", count)
    inner.add_edge(START, "count")
    graph = StateGraph(Text)
    counter = inner.compile(checkpointer=True)

    async def node(state: Text) -> Text:
        found = await counter.ainvoke({"question": state["question"]})
        return {"draft": state.get("draft", "") + "x", "answer": found["notes"][-1]}

    graph.add_node("node", node)
    graph.add_edge(START, "node")
    graph.add_conditional_edges("node", lambda state: "node" if len(state["draft"]) < 3 else END)
    return graph.compile(checkpointer=InMemorySaver())


def unwatched() -> Any:
    """A subgraph that wants no checkpointer, with two nodes at once and one after them."""
    inner = StateGraph(Pool)
    for name in ("left", "right", "join"):
        inner.add_node(name, _noting(name))
    inner.add_edge(START, "left")
    inner.add_edge(START, "right")
    inner.add_edge(["left", "right"], "join")
    graph = StateGraph(Pool)
    graph.add_node("first", _noting("first"))
    graph.add_node("team", inner.compile(checkpointer=False))
    graph.add_edge(START, "first")
    graph.add_edge("first", "team")
    return graph.compile()


def sorted_out() -> Any:
    """An input without a field for a question."""

    class Odd(TypedDict):
        numbers: list[int]

    return _single(lambda state: {"numbers": []}, Odd)


def question_of(text: str, task: Task) -> Sequence[str]:
    """An extractor that returns something else than premises."""
    return [text]


def no_input(task: Any) -> str:
    """An input function with a bug."""
    return str(task.title)
