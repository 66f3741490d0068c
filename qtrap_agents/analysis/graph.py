"""What became of every premise of one trace: right or wrong, and whose fault a wrong one is.

`judge` is the one pass over a trace; `premise_graph` shows its result as a networkx graph, `collapse` counts it.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

import networkx as nx

from qtrap_agents.errors import SuiteError
from qtrap_agents.semantics import consequence, same_value
from qtrap_agents.types import GoldPremise, Premise, Record, Task, Trace, Value

Status = Literal["match", "wrong", "missing", "unsupported"]
Origin = Literal["own", "inherited", "compounded"]


class JudgedPremise(Record):
    """One premise held against gold.

    `status` is `match` or `wrong`; `missing` where nothing parsable was stated; `unsupported` where the task has no
    gold for it. `origin` is set for errors (wrong or missing), as far as it can be told:

    - `own`: all parents match gold. The only origin that a missing premise can have: with a parent in error nothing
      was stated that could be compared with a consequence, so its origin is None.
    - `inherited`: wrong, and exactly what the gold rule gives for the stated parent values.
    - `compounded`: wrong, with a parent in error, and not their consequence; also where the rule has no value for
      these parents, be it that one of them is missing.
    - None: unknown, because the premise is wrong after a parent in error and its task has no rule to execute.

    `text` is what was stated (empty where nothing was), `hop_id` the hop that stated it, `parents` the ids that the
    premise was derived from: gold dependencies, or those stated for an unsupported premise.
    """

    id: str
    status: Status
    origin: Origin | None = None
    stated: Value | None = None
    gold: Value | None = None
    text: str = ""
    hop_id: str | None = None
    parents: tuple[str, ...] = ()

    @property
    def is_error(self) -> bool:
        """Wrong or missing."""
        return self.status in ("wrong", "missing")


def judge(trace: Trace, task: Task) -> tuple[JudgedPremise, ...]:
    """All gold premises in the task's topological order, then the unsupported ones in the order of their statement.

    Where a premise is stated several times the last statement counts, also where only an earlier one was parsable.

    Raises:
        SuiteError: the task's premises are not in topological order.
    """
    stated = _last_statements(trace)
    judged: dict[str, JudgedPremise] = {}
    for gold in task.premises:
        try:
            parents = [judged[parent] for parent in gold.depends_on]
        except KeyError as error:
            raise SuiteError(f"task '{task.id}': premise '{gold.id}' depends on {error}, not stated before it") from None
        judged[gold.id] = _judge_gold(gold, parents, *stated.pop(gold.id, (None, None)))
    for premise, hop_id in stated.values():
        judged[premise.id] = _unsupported(premise, hop_id, judged)
    return tuple(judged.values())


def premise_graph(trace: Trace, task: Task) -> "nx.DiGraph[str]":
    """The premises of one trace as an acyclic graph whose edges lead from a parent to what was derived from it.

    Nodes are premise ids with the attributes `status`, `origin`, `stated`, `gold`, `text` and `hop_id` of
    `JudgedPremise`; the graph itself carries `trace`, `task`, `arm`, `workflow` and `answer`.

    Raises:
        SuiteError: the task's premises are not in topological order.
    """
    graph: nx.DiGraph[str] = nx.DiGraph(trace=trace.id, task=task.id, arm=trace.arm, workflow=trace.workflow, answer=trace.answer)
    for premise in judge(trace, task):
        graph.add_node(premise.id, **premise.model_dump(exclude={"id", "parents"}))
        graph.add_edges_from((parent, premise.id) for parent in premise.parents)
    return graph


def _last_statements(trace: Trace) -> dict[str, tuple[Premise, str]]:
    """Premise id -> its last statement and the hop that made it, in the order of those statements."""
    last: dict[str, tuple[Premise, str]] = {}
    for hop in trace.hops:
        for premise in hop.premises:
            last.pop(premise.id, None)
            last[premise.id] = (premise, hop.id)
    return last


def _judge_gold(
    gold: GoldPremise, parents: Iterable[JudgedPremise], premise: Premise | None, hop_id: str | None
) -> JudgedPremise:
    stated = premise.value if premise else None
    status: Status = "missing" if stated is None else "match" if same_value(stated, gold.value) else "wrong"
    return JudgedPremise(
        id=gold.id,
        status=status,
        origin=None if status == "match" else _origin(gold, stated, parents),
        stated=stated,
        gold=gold.value,
        text=premise.text if premise else "",
        hop_id=hop_id,
        parents=gold.depends_on,
    )


def _origin(gold: GoldPremise, stated: Value | None, parents: Iterable[JudgedPremise]) -> Origin | None:
    """Whose fault an error is."""
    parents = tuple(parents)
    if all(parent.status == "match" for parent in parents):
        return "own"
    if stated is None or gold.rule is None:
        return None
    values = {parent.id: parent.stated for parent in parents if parent.stated is not None}
    return "inherited" if same_value(consequence(gold, values), stated) else "compounded"


def _unsupported(premise: Premise, hop_id: str, known: Mapping[str, JudgedPremise]) -> JudgedPremise:
    """Parents nobody stated before it are left out, so the graph stays acyclic whatever the model wrote."""
    return JudgedPremise(
        id=premise.id,
        status="unsupported",
        stated=premise.value,
        text=premise.text,
        hop_id=hop_id,
        parents=tuple(dict.fromkeys(parent for parent in premise.depends_on if parent in known)),
    )
