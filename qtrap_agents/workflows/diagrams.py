"""What every workflow does, takes and costs, with its graph as the graph itself draws it.

`python -m qtrap_agents.workflows.diagrams` writes `DIAGRAMS.md` beside this file.
"""

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from qtrap_agents.config import ArmConfig, WorkflowChoice
from qtrap_agents.plans import PrecisionPlan, Rule, Verify, Vote
from qtrap_agents.types import GoldPremise, Task, Value
from qtrap_agents.workflows import planned
from qtrap_agents.workflows.catalog import WORKFLOWS, load_planned, load_workflow, parameters

DOCUMENT = Path(__file__).with_name("DIAGRAMS.md")

VARIANTS: Mapping[str, tuple[Mapping[str, Value], ...]] = {
    "verify_revise": ({}, {"check": "model", "when": "end"}),
    "map_reduce": ({}, {"over": "question"}),
}
"""Parameters that make another graph, by workflow."""

_HEAD = """# Workflows

Written by `python -m qtrap_agents.workflows.diagrams` from the workflows themselves; every diagram is drawn by its graph for
a task of three premises. Choose one with `workflow: NAME`, or with parameters: `workflow: {name: vote, k: 5}`. Nodes that make
no model call (`majority`, `verdict`, `gather`, `round`, `next`, `tool`) are decisions of the trace, or leave nothing on it.
"""


def diagram(name: str, params: Mapping[str, Value] | None = None) -> str:
    """The graph of a workflow, or of the user's own `module:function`, as Mermaid text. Raises ConfigError."""
    graph = load_workflow(WorkflowChoice(name=name, params=dict(params or {})))(_example())
    return graph.get_graph().draw_mermaid().strip()


def summary(name: str) -> str:
    """What a built-in workflow does, in one sentence."""
    return _told(name).partition("\n")[0]


def document() -> str:
    """A section for each built-in workflow, and one for that of precision plans."""
    return "\n".join([_HEAD, *map(_section, WORKFLOWS), _planned_section()])


def _section(name: str) -> str:
    parts = _words(name, _told(name))
    if rows := [f"| `{known.name}` | `{known.default}` | {known.range} |" for known in parameters(name)]:
        parts.append("\n".join(["| parameter | default | may be |", "|---|---|---|", *rows]))
    for params in VARIANTS.get(name, ({},)):
        shown = "".join(f", {field}: {value}" for field, value in params.items())
        parts.append(f"`workflow: {{name: {name}{shown}}}`\n\n```mermaid\n{diagram(name, params)}\n```")
    return "\n\n".join(parts) + "\n"


def _planned_section() -> str:
    drawn = load_planned(_example_plan())(_example()).get_graph().draw_mermaid().strip()
    return "\n\n".join([*_words("planned", _said_by(planned, "planned")), f"```mermaid\n{drawn}\n```"]) + "\n"


def _words(name: str, told: str) -> list[str]:
    """The heading, the first sentence, what is said besides, and the number of calls."""
    first, _, rest = told.partition("\n")
    text, _, calls = rest.strip().rpartition("Calls: ")
    return [
        f"## `{name}`",
        _sentence(first),
        *([text.strip()] if text.strip() else []),
        f"Calls: {' '.join(calls.split())}",
    ]


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"


def _told(name: str) -> str:
    """What the module of a workflow says about it."""
    return _said_by(inspect.getmodule(WORKFLOWS[name]), name)


def _said_by(module: ModuleType | None, name: str) -> str:
    return re.sub(rf"^`{name}`: ", "", inspect.getdoc(module) or "")


def _example_plan() -> PrecisionPlan:
    """A hop on each arm, one with a vote and one with a checker."""
    arms = tuple(ArmConfig(name=name, backend="scripted", script="module:function") for name in ("fp16", "awq"))
    rules = (Rule(positions=(1, 1), arm="awq", vote=Vote()), Rule(positions=(2, 2), arm="fp16", verify=Verify()))
    return PrecisionPlan(suite="example", depth=3, arms=arms, baseline="fp16", default="awq", rules=rules)


def _example() -> Task:
    """Two independent premises and one that needs both."""
    premises = (
        GoldPremise(id="s1", text="s1 = 1", value=1),
        GoldPremise(id="s2", text="s2 = 2", value=2),
        GoldPremise(id="s3", text="s3 = 3", value=3, depends_on=("s1", "s2")),
    )
    return Task(id="example", suite="example", question="1 and 2 make", answer=3, premises=premises, depth=3)


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
    print(DOCUMENT)
