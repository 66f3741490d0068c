"""Hops a second: ours, a loop over a networkx graph, and SimPy: python tests/benchmarks/simulation_speed.py [--json]

All three walk the same chain with the same rates (slips on right and on wrong parents, masks), in turns in one run; ratios are
taken within each repeat. Then ours alone at 10^6, 10^8 and 10^9 hops (up to 10^6 chains of 10^3 hops), each in a process of its
own: seconds, hops per second, peak memory.
"""

import argparse
import json
import math
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import networkx as nx
import simpy
from analysis_speed import peak_bytes

from qtrap_agents.analysis.serving import estimate
from qtrap_agents.environment import describe_environment
from qtrap_agents.simulation.layout import Layout, Node
from qtrap_agents.simulation.model import ArmModel, BetaRate, ErrorModel, Family, Slips
from qtrap_agents.simulation.montecarlo import simulate

OWN, WRONG, MASK = 0.01, 0.05, 0.02
DEPTH = 64
SCALES = ((10_000, 100), (1_000_000, 100), (1_000_000, 1_000))
"""Chains and hops of each."""


def model() -> ErrorModel:
    """One arm with these rates."""
    logit = math.log(OWN / (1 - OWN))
    slips = Slips(
        terms=("mean", "wrong_parents"),
        mean=(logit, math.log(WRONG / (1 - WRONG)) - logit),
        covariance=((0.0, 0.0), (0.0, 0.0)),
        family_sd=1.0,
        kind_sd=1.0,
    )
    family = Family(kinds={"k": 1.0}, mean_parents=1.0, rules=True, depths=(8,))
    return ErrorModel(
        made_by="benchmark",
        baseline="a",
        families={"f": family},
        arms={"a": ArmModel(slips=slips, hops={}, observed={})},
        masks={"f": BetaRate(a=MASK * 1e6, b=(1 - MASK) * 1e6)},
        luck={"f": BetaRate(a=1.0, b=1e9)},
    )


def layout(depth: int) -> Layout:
    """A chain."""
    return Layout(nodes=tuple(Node(id=str(n), parents=(str(n - 1),) if n else (), family="f", kind="k") for n in range(depth)))


def ours(chains: int) -> float:
    """Share of right answers."""
    return simulate([layout(DEPTH)], model().point(), "a", chains, seed=0).success


def states(rng: random.Random, wrong: bool) -> bool:
    """Whether a hop is wrong, given whether its parent is."""
    if not wrong:
        return rng.random() < OWN
    return rng.random() < WRONG or rng.random() >= MASK


def by_graph(chains: int) -> float:
    """A loop over the nodes of a networkx graph in topological order."""
    graph: nx.DiGraph[int] = nx.DiGraph()
    nx.add_path(graph, range(DEPTH))
    order, rng, right = list(nx.topological_sort(graph)), random.Random(0), 0
    for _ in range(chains):
        wrong: dict[int, bool] = {}
        for node in order:
            wrong[node] = states(rng, any(wrong[parent] for parent in graph.predecessors(node)))
        right += not wrong[order[-1]]
    return right / chains


def by_simpy(chains: int) -> float:
    """A SimPy process for every chain, an event for every hop."""
    environment, rng, right = simpy.Environment(), random.Random(0), []

    def chain() -> Iterator[Any]:
        wrong = False
        for _ in range(DEPTH):
            yield environment.timeout(1)
            wrong = states(rng, wrong)
        right.append(not wrong)

    for _ in range(chains):
        environment.process(chain())
    environment.run()
    return sum(right) / chains


WAYS: dict[str, tuple[Callable[[int], float], int]] = {
    "ours": (ours, 400_000),
    "networkx": (by_graph, 3_000),
    "simpy": (by_simpy, 3_000),
}
"""Each with the chains of one window."""


def compare(repeats: int) -> dict[str, Any]:
    """Hops per second of each way, in turns, and ratios within each repeat."""
    speeds: dict[str, list[float]] = {name: [] for name in WAYS}
    success: dict[str, float] = {}
    for repeat in range(repeats):
        for name in WAYS if repeat % 2 == 0 else reversed(WAYS):
            run, chains = WAYS[name]
            begun = time.perf_counter()
            success[name] = run(chains)
            speeds[name].append(chains * DEPTH / (time.perf_counter() - begun))
    ratios = {
        name: found.model_dump()
        for name in WAYS
        if name != "ours" and (found := estimate([a / b for a, b in zip(speeds["ours"], speeds[name], strict=True)]))
    }
    return {"hops_per_s": speeds, "success": success, "ours_over": ratios}


def scale(chains: int, depth: int) -> dict[str, float]:
    """One simulation in this process: seconds, hops per second, peak memory in MiB."""
    made, rates = layout(depth), model().point()
    begun = time.perf_counter()
    found = simulate([made], rates, "a", chains, seed=0)
    spent = time.perf_counter() - begun
    return {
        "hops": chains * depth,
        "seconds": spent,
        "hops_per_s": chains * depth / spent,
        "peak_mib": peak_bytes() / 2**20,
        "success": found.success,
    }


def scaling() -> list[dict[str, Any]]:
    """Every scale in a process of its own."""
    found = []
    for chains, depth in SCALES:
        command = [sys.executable, __file__, "--scale", str(chains), str(depth)]
        found.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--scale", type=int, nargs=2, metavar=("CHAINS", "DEPTH"), help="only this one, as JSON")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.scale:
        print(json.dumps(scale(*options.scale)))
        return
    environment = describe_environment()
    found = {
        "command": f"python tests/benchmarks/simulation_speed.py --repeats {options.repeats} --json",
        "date": time.strftime("%Y-%m-%d"),
        "cpu": environment.get("cpu"),
        "cores": environment.get("cores"),
        "packages": environment.get("packages"),
        "depth": DEPTH,
        **compare(options.repeats),
        "scaling": scaling(),
    }
    if options.json:
        print(json.dumps(found, indent=1))
        return
    for name, speeds in found["hops_per_s"].items():
        print(f"{name:9} {min(speeds):,.0f} to {max(speeds):,.0f} hops/s, success {found['success'][name]:.3f}")
    for name, ratio in found["ours_over"].items():
        span = f"[{ratio['interval']['low']:,.0f}, {ratio['interval']['high']:,.0f}]"
        print(f"ours over {name}: {ratio['value']:,.0f} {span}, n = {ratio['n']}")
    for row in found["scaling"]:
        print(f"{row['hops']:,} hops: {row['seconds']:.1f} s, {row['hops_per_s']:,.0f} hops/s, peak {row['peak_mib']:.0f} MiB")


if __name__ == "__main__":
    main()
