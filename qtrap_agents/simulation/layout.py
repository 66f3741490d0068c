"""A workflow as the simulator sees it: a directed acyclic graph of nodes that state premises, in topological order.

A layout comes from a suite and a built-in workflow (`layouts.layouts_of`), or from a file of the user's own (`dag.load_dag`).
"""

from typing import Literal

from pydantic import Field

from qtrap_agents.types import Record

Operation = Literal["hop", "vote", "verify", "judge", "merge"]


class Node(Record):
    """One premise and how it comes about.

    `hop`: one model call. `vote`: `k` draws at `temperature`, the most frequent value wins, a tie goes to the earliest draw.
    `verify`: the hop, then draws at `temperature` until a value was stated twice, at most `max_revisions` revisions (workflow
    `verify_revise`, `check: recompute`). `judge`: the hop, then a checker that raises an alarm at a faulty statement with
    probability `detection` and at another with `false_alarm`; the hop is then drawn again, at most `max_revisions` times; by
    default the checker's rates are the fitted ones. `merge`: no model call, right where all parents are right.

    `arm` answers; None stands for the arm of the simulation. `failure` is the probability that a call fails, `retries` how
    often it is asked again; a node that fails for good ends the chain without an answer.
    """

    id: str
    parents: tuple[str, ...] = ()
    family: str
    kind: str = ""
    op: Operation = "hop"
    arm: str | None = None
    k: int = Field(default=5, ge=1, le=99)
    temperature: float = Field(default=0.7, ge=0)
    max_revisions: int = Field(default=2, ge=0, le=10)
    detection: float | None = Field(default=None, ge=0, le=1)
    false_alarm: float | None = Field(default=None, ge=0, le=1)
    failure: float = Field(default=0.0, ge=0, lt=1)
    retries: int = Field(default=0, ge=0, le=10)


class Layout(Record):
    """Nodes in topological order; the last one is the answer."""

    nodes: tuple[Node, ...] = Field(min_length=1)
