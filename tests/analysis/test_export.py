import json
from xml.etree import ElementTree

import networkx as nx

from qtrap_agents.analysis.export import graphml, node_link_json
from qtrap_agents.analysis.graph import premise_graph
from qtrap_agents.types import Premise, Task

from .conftest import make_hop, make_trace


def test_node_link_json_gives_the_same_graph_back(diamond: Task) -> None:
    trace = make_trace(diamond, {"a": 5, "b": 7, "c": 50})
    document = json.loads(node_link_json(trace, diamond))
    assert {"nodes", "edges", "graph"} <= set(document)
    back, graph = nx.node_link_graph(document, edges="edges"), premise_graph(trace, diamond)
    assert {node: back.nodes[node] for node in back} == {node: graph.nodes[node] for node in graph}
    assert set(back.edges) == set(graph.edges)
    assert back.graph == graph.graph


def test_graphml_is_readable_and_leaves_out_what_is_unknown(diamond: Task) -> None:
    back = nx.parse_graphml(graphml(make_trace(diamond, {"a": 5, "b": 7, "c": 50}), diamond))
    assert back.nodes["b"] == {
        "status": "wrong", "origin": "own", "stated": "7", "gold": "6", "text": "b = 7", "hop_id": "h1",
    }  # fmt: skip
    assert back.nodes["d"] == {"status": "missing", "gold": "50", "text": ""}
    assert set(back.edges) == {("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")}
    assert back.graph["task"] == "toy-1"
    assert "answer" not in back.graph


def test_graphml_survives_what_xml_forbids(diamond: Task) -> None:
    trace = make_trace(diamond, {"a": 5})
    odd = Premise(id="x\x00", text="\x1b[1m <&> \ud800 ok", value="é\x07", depends_on=("a",))
    text = graphml(trace.model_copy(update={"hops": (*trace.hops, make_hop(5, odd))}), diamond)
    ElementTree.fromstring(text.encode())
    back = nx.parse_graphml(text)
    assert back.nodes["x\ufffd"]["text"] == "\ufffd[1m <&> \ufffd ok"
    assert back.nodes["x\ufffd"]["stated"] == "é\ufffd"
    assert ("a", "x\ufffd") in back.edges
