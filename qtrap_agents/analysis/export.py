"""The premise graph of one trace for other tools: node-link JSON (d3, networkx) and GraphML (Gephi, yEd, Cytoscape)."""

import json
import re
from collections.abc import Mapping

import networkx as nx

from qtrap_agents.analysis.graph import premise_graph
from qtrap_agents.types import Task, Trace

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def node_link_json(trace: Trace, task: Task) -> str:
    """The premise graph as node-link JSON; `networkx.node_link_graph(json.loads(text), edges="edges")` reads it back.

    Raises:
        SuiteError: the task's premises are not in topological order.
    """
    return json.dumps(nx.node_link_data(premise_graph(trace, task), edges="edges"), indent=2)


def graphml(trace: Trace, task: Task) -> str:
    """The premise graph as GraphML.

    GraphML has no null and one type per attribute: every attribute is a string, those that are None are left out, and
    characters that XML forbids become U+FFFD.

    Raises:
        SuiteError: the task's premises are not in topological order.
    """
    graph = premise_graph(trace, task)
    plain: nx.DiGraph[str] = nx.DiGraph()
    plain.graph.update(_strings(graph.graph))
    plain.add_nodes_from((_xml(node), _strings(attributes)) for node, attributes in graph.nodes(data=True))
    plain.add_edges_from((_xml(parent), _xml(child)) for parent, child in graph.edges())
    return "\n".join(nx.generate_graphml(plain))


def _strings(attributes: Mapping[str, object]) -> dict[str, str]:
    return {name: _xml(str(value)) for name, value in attributes.items() if value is not None}


def _xml(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
