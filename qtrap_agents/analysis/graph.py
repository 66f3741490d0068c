"""What became of every premise of one trace: right or wrong, and whose fault a wrong one is.

`verdicts` is the one pass over the gold premises, and all that `collapse` counts; `judge` adds what was said where, and
`premise_graph` shows that as a networkx graph.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import networkx as nx

from qtrap_agents.errors import SuiteError
from qtrap_agents.semantics import consequence, is_right, same_value
from qtrap_agents.types import GoldPremise, Premise, Record, Task, Trace, Value, in_order

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


class Verdict(NamedTuple):
    """What became of one gold premise: `status`, `origin` and `stated` as in `JudgedPremise`."""

    gold: GoldPremise
    stated: Value | None
    status: Status
    origin: Origin | None


class Statement(NamedTuple):
    """A premise and the id of the hop, or of the decision, that stated it."""

    premise: Premise
    hop_id: str


def last_statements(trace: Trace) -> dict[str, Statement]:
    """Premise id -> its last statement, in the order of these statements."""
    last: dict[str, Statement] = {}
    for said in in_order(trace.hops, trace.decisions):
        for premise in said.premises:
            last.pop(premise.id, None)
            last[premise.id] = Statement(premise, said.id)
    return last


def verdicts(task: Task, stated: Mapping[str, Statement]) -> list[Verdict]:
    """All gold premises in the task's topological order, held against their last statements.

    Raises:
        SuiteError: the task's premises are not in topological order.
    """
    found: dict[str, Verdict] = {}
    for gold in task.premises:
        try:
            parents = [found[parent] for parent in gold.depends_on]
        except KeyError as error:
            raise SuiteError(f"task '{task.id}': premise '{gold.id}' depends on {error}, not stated before it") from None
        statement = stated.get(gold.id)
        found[gold.id] = _verdict(gold, statement.premise.value if statement else None, parents)
    return list(found.values())


def judge(trace: Trace, task: Task) -> tuple[JudgedPremise, ...]:
    """All gold premises in the task's topological order, then the unsupported ones in the order of their statement.

    Where a premise is stated several times the last statement counts, also where only an earlier one was parsable.

    Raises:
        SuiteError: the task's premises are not in topological order.
    """
    stated = last_statements(trace)
    found = verdicts(task, stated)
    judged = {verdict.gold.id: _judged(verdict, stated.pop(verdict.gold.id, None)) for verdict in found}
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


def _verdict(gold: GoldPremise, stated: Value | None, parents: Sequence[Verdict]) -> Verdict:
    if stated is None:
        return Verdict(gold, stated, "missing", _origin(gold, stated, parents))
    if is_right(stated, gold):
        return Verdict(gold, stated, "match", None)
    return Verdict(gold, stated, "wrong", _origin(gold, stated, parents))


def _origin(gold: GoldPremise, stated: Value | None, parents: Sequence[Verdict]) -> Origin | None:
    """Whose fault an error is."""
    if all(parent.status == "match" for parent in parents):
        return "own"
    if stated is None or gold.rule is None:
        return None
    values = {parent.gold.id: parent.stated for parent in parents if parent.stated is not None}
    return "inherited" if same_value(consequence(gold, values), stated) else "compounded"


def _judged(verdict: Verdict, statement: Statement | None) -> JudgedPremise:
    return JudgedPremise(
        id=verdict.gold.id,
        status=verdict.status,
        origin=verdict.origin,
        stated=verdict.stated,
        gold=verdict.gold.value,
        text=statement.premise.text if statement else "",
        hop_id=statement.hop_id if statement else None,
        parents=verdict.gold.depends_on,
    )


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
