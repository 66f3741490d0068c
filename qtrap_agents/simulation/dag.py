"""A layout from a file of the user's own (YAML, networkx node-link JSON, GraphML), and checkers or votes put into one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import networkx as nx
import yaml
from pydantic import ValidationError

from qtrap_agents.errors import SimulationError, first_line, unknown
from qtrap_agents.simulation.layout import Layout, Node

FORMATS = "YAML with `nodes`, networkx node-link JSON, or GraphML"


def load_dag(path: Path) -> Layout:
    """The layout in a file, its nodes in topological order. Edges lead from a premise to what is derived from it.

    Raises:
        SimulationError: names the file, the node and the remedy.
    """
    data = _read(path)
    nodes: dict[str, Node] = {}
    for number, fields in enumerate(data["nodes"], start=1):
        node = _node(path, number, fields)
        if node.id in nodes:
            raise SimulationError(f"{path}: two nodes are called '{node.id}'; give each an id of its own")
        nodes[node.id] = node
    for node in nodes.values():
        for parent in node.parents:
            if parent not in nodes:
                raise SimulationError(f"{path}: node '{node.id}': {unknown('parent', parent, nodes)}")
    if not nodes:
        raise SimulationError(f"{path}: has no nodes; a layout needs at least one")
    ordered = [nodes[name] for name in _in_order(path, nodes)]
    answer = _answer(path, nodes, data.get("answer"))
    return Layout(nodes=tuple([node for node in ordered if node.id != answer] + [nodes[answer]]))


def _read(path: Path) -> dict[str, Any]:
    """`nodes` with their parents, and `answer` where it is named."""
    try:
        if path.suffix == ".graphml":
            return _of_graph(nx.read_graphml(path))
        text = path.read_text(encoding="utf-8")
        data = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        if isinstance(data, dict) and "edges" in data:
            return _of_graph(nx.node_link_graph(data, edges="edges")) | {"answer": data.get("answer")}
    except (OSError, ValueError, KeyError, yaml.YAMLError, nx.NetworkXException) as error:
        raise SimulationError(f"{path}: cannot be read as a layout ({first_line(error)}); give {FORMATS}") from error
    if not isinstance(data, dict) or not isinstance(data.get("nodes"), list):
        raise SimulationError(f"{path}: has no list `nodes`; give {FORMATS}")
    return data


def _of_graph(graph: "nx.Graph[Any]") -> dict[str, Any]:
    if not graph.is_directed():
        raise nx.NetworkXError("its edges have no direction")
    parents: dict[Any, list[str]] = {name: [] for name in graph}
    for parent, child in graph.edges():
        parents[child].append(str(parent))
    return {"nodes": [{**fields, "id": str(name), "parents": parents[name]} for name, fields in graph.nodes(data=True)]}


def _node(path: Path, number: int, fields: object) -> Node:
    name = fields.get("id", number) if isinstance(fields, Mapping) else number
    try:
        return Node.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise SimulationError(f"{path}: node '{name}': field '{field}': {first['msg']}") from error


def _in_order(path: Path, nodes: Mapping[str, Node]) -> list[str]:
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(nodes)
    graph.add_edges_from((parent, node.id) for node in nodes.values() for parent in node.parents)
    try:
        return list(nx.lexicographical_topological_sort(graph, key=list(nodes).index))
    except nx.NetworkXUnfeasible:
        circle = " → ".join(edge[0] for edge in nx.find_cycle(graph))
        raise SimulationError(f"{path}: its nodes form a cycle ({circle}); a layout has none, unroll the loop") from None


def _answer(path: Path, nodes: Mapping[str, Node], named: object) -> str:
    """The node that is the answer: the one that is named, else the only one that nothing is derived from."""
    if named is not None:
        if str(named) not in nodes:
            raise SimulationError(f"{path}: {unknown('answer', str(named), nodes)}")
        return str(named)
    used = {parent for node in nodes.values() for parent in node.parents}
    ends = [name for name in nodes if name not in used]
    if len(ends) > 1:
        raise SimulationError(
            f"{path}: nothing is derived from {', '.join(ends[:5])}; say which is the answer with `answer: NODE`"
        )
    return ends[0]


def every(layout: Layout, interval: int, settings: Mapping[str, object]) -> Layout:
    """The layout with a checker or vote at every so many nodes, counted from the first; merges are left as they are."""
    nodes = [
        Node.model_validate({**node.model_dump(), **settings}) if place % interval == 0 and node.op == "hop" else node
        for place, node in enumerate(layout.nodes, start=1)
    ]
    return Layout(nodes=tuple(nodes))
