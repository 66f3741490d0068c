"""Layouts from a suite and a workflow: kinds and dependencies of real tasks, at any depth the suite can give."""

from collections.abc import Callable, Mapping

from qtrap_agents.config import SuiteChoice, WorkflowChoice
from qtrap_agents.errors import SimulationError
from qtrap_agents.simulation.layout import Layout, Node
from qtrap_agents.suites.catalog import load_suite
from qtrap_agents.types import Task, Value

TEMPLATES = 64
"""Tasks that a simulation takes its kinds and dependencies from."""

Settings = Mapping[str, Value]


def _hop(settings: Settings) -> dict[str, object]:
    return {}


def _vote(settings: Settings) -> dict[str, object]:
    if settings["per"] != "hop":
        raise SimulationError("workflow 'vote' can be simulated with 'per: hop' only; leave 'per' out or run it")
    return {"op": "vote", "k": settings["k"], "temperature": settings["temperature"]}


def _verify(settings: Settings) -> dict[str, object]:
    if settings["when"] != "hop":
        raise SimulationError("workflow 'verify_revise' can be simulated with 'when: hop' only; leave 'when' out or run it")
    common = {"max_revisions": settings["max_revisions"], "temperature": settings["temperature"]}
    return {"op": "verify" if settings["check"] == "recompute" else "judge", **common}


def _over_gold(settings: Settings) -> dict[str, object]:
    if settings["over"] != "gold":
        raise SimulationError("workflow 'map_reduce' can be simulated with 'over: gold' only; leave 'over' out or run it")
    return {}


SIMULATED: dict[str, Callable[[Settings], dict[str, object]]] = {
    "chain": _hop,
    "map_reduce": _over_gold,
    "vote": _vote,
    "verify_revise": _verify,
}
"""Workflows whose nodes follow from gold premises, and what each makes of a node."""


def layouts_of(
    suite: SuiteChoice, workflow: WorkflowChoice, depth: int, templates: int = TEMPLATES, seed: int = 0
) -> tuple[Layout, ...]:
    """The layouts of so many tasks of a suite at a depth.

    Raises:
        SimulationError: the workflow has no fixed layout, or the suite no task with gold premises at that depth.
        SuiteError, ConfigError: no such suite or workflow, or a wrong parameter.
    """
    how = node_settings(workflow)
    loaded = load_suite(suite)
    tasks = [task for task in loaded.tasks((depth,), (seed,), templates) if task.premises]
    if not tasks:
        raise SimulationError(f"suite '{loaded.name}' has no task with gold premises at depth {depth}; choose another --depth")
    return tuple(of_task(task, how) for task in tasks)


def node_settings(workflow: WorkflowChoice) -> dict[str, object]:
    """What a workflow makes of every node. Raises SimulationError, ConfigError."""
    from qtrap_agents.workflows.catalog import load_workflow, parameters

    load_workflow(workflow)
    if workflow.name not in SIMULATED:
        raise SimulationError(
            f"workflow '{workflow.name}' has no layout that is known beforehand; simulate {', '.join(SIMULATED)}, or give --dag"
        )
    settings = {parameter.name: parameter.default for parameter in parameters(workflow.name)} | workflow.params
    return SIMULATED[workflow.name](settings)


def of_task(task: Task, how: Mapping[str, object]) -> Layout:
    """The layout of one task: a node for each gold premise."""
    nodes = [
        Node.model_validate({"id": gold.id, "parents": gold.depends_on, "family": task.suite, "kind": gold.kind, **how})
        for gold in task.premises
    ]
    return Layout(nodes=tuple(nodes))
