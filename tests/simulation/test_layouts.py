"""Layouts from suites and workflows, from files of the user's own, and with votes and checkers put in."""

import json
from pathlib import Path

import networkx as nx
import pytest
from modelled import arm, chain, model

from qtrap_agents.config import SuiteChoice, WorkflowChoice
from qtrap_agents.errors import ConfigError, SimulationError
from qtrap_agents.simulation.dag import every, load_dag
from qtrap_agents.simulation.layouts import layouts_of
from qtrap_agents.simulation.montecarlo import simulate

TEAM = """
answer: report
nodes:
  - {id: plan, family: f}
  - {id: left, family: f, parents: [plan]}
  - {id: right, family: f, parents: [plan], op: vote, k: 3}
  - {id: report, family: f, parents: [left, right], op: merge}
  - {id: aside, family: f, parents: [left]}
"""


def of(workflow: str, **params: object) -> tuple[str, ...]:
    choice = WorkflowChoice.model_validate({"name": workflow, "params": params})
    return tuple(node.op for node in layouts_of(SuiteChoice(name="program"), choice, 6, templates=3)[0].nodes)


def test_a_layout_has_the_kinds_and_parents_of_the_task() -> None:
    suite = SuiteChoice(name="program")
    layouts = layouts_of(suite, WorkflowChoice(), 12, templates=5)
    assert len(layouts) == 5
    assert all(len(layout.nodes) == 12 for layout in layouts)
    assert len({tuple(node.parents for node in layout.nodes) for layout in layouts}) > 1
    assert {node.kind for layout in layouts for node in layout.nodes} == {"plus", "minus", "times", "max", "min"}


def test_workflows_become_operations() -> None:
    assert of("chain") == of("map_reduce") == ("hop",) * 6
    assert of("vote", k=3) == ("vote",) * 6
    assert of("verify_revise") == ("verify",) * 6
    assert of("verify_revise", check="model") == ("judge",) * 6


@pytest.mark.parametrize(
    ("workflow", "params", "words"),
    [
        ("cot", {}, "workflow 'cot' has no layout that is known beforehand; simulate chain, map_reduce, vote, verify_revise"),
        ("vote", {"per": "chain"}, "with 'per: hop' only"),
        ("verify_revise", {"check": "model", "when": "end"}, "with 'when: hop' only"),
        ("map_reduce", {"over": "question"}, "with 'over: gold' only"),
    ],
)
def test_what_cannot_be_simulated_says_so(workflow: str, params: dict[str, str], words: str) -> None:
    with pytest.raises(SimulationError, match=words):
        of(workflow, **params)


def test_a_parameter_out_of_range_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match="parameter 'k' must be 1 to 99, not 0"):
        of("vote", k=0)


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_graph_of_ones_own_in_three_formats(tmp_path: Path) -> None:
    layout = load_dag(written(tmp_path / "team.yaml", TEAM))
    assert [node.id for node in layout.nodes] == ["plan", "left", "right", "aside", "report"]
    graph: nx.DiGraph[str] = nx.DiGraph()
    for name in "abc":
        graph.add_node(name, family="f")
    graph.add_edges_from([("a", "b"), ("a", "c"), ("b", "c")])
    nx.write_graphml(graph, tmp_path / "own.graphml")
    (tmp_path / "own.json").write_text(json.dumps(nx.node_link_data(graph, edges="edges")))
    first, second = load_dag(tmp_path / "own.graphml"), load_dag(tmp_path / "own.json")
    assert first == second
    assert first.nodes[-1].parents == ("a", "b")
    assert simulate([layout], model({"a": arm(0.1)}).point(), "a", 1000, seed=0).calls == 1000 * (1 + 1 + 3 + 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nodes:\n- {id: a, family: f, parents: [b]}\n- {id: b, family: f, parents: [a]}", r"form a cycle \(.* → .*\)"),
        ("nodes:\n- {id: a, family: f, parents: [x]}", "node 'a': unknown parent 'x'"),
        ("nodes:\n- {id: a, family: f}\n- {id: a, family: f}", "two nodes are called 'a'"),
        ("nodes:\n- {id: a, family: f}\n- {id: b, family: f}", "nothing is derived from a, b; say which is the answer"),
        ("answer: z\nnodes:\n- {id: a, family: f}", "unknown answer 'z'"),
        ("nodes:\n- {id: a, family: f, k: 0}", "node 'a': field 'k'"),
        ("nodes:\n- {id: a}", "node 'a': field 'family'"),
        ("nodes: []", "has no nodes"),
        ("[1, 2]", "has no list `nodes`"),
        ("a: [", "cannot be read as a layout"),
    ],
)
def test_a_wrong_graph_is_one_sentence_with_its_file(tmp_path: Path, text: str, words: str) -> None:
    path = written(tmp_path / "own.yaml", text)
    with pytest.raises(SimulationError, match=words) as caught:
        load_dag(path)
    assert str(path) in str(caught.value)


def test_a_graph_without_directions_or_a_file_is_one_sentence(tmp_path: Path) -> None:
    nx.write_graphml(nx.path_graph(3), tmp_path / "own.graphml")
    with pytest.raises(SimulationError, match="its edges have no direction"):
        load_dag(tmp_path / "own.graphml")
    with pytest.raises(SimulationError, match=r"none\.yaml: cannot be read"):
        load_dag(tmp_path / "none.yaml")


def test_a_checker_at_every_so_many_hops() -> None:
    layout = every(chain(7), 3, {"op": "vote", "k": 9})
    assert [node.op for node in layout.nodes] == ["hop", "hop", "vote", "hop", "hop", "vote", "hop"]
    assert layout.nodes[2].k == 9
