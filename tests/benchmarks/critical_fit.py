"""The critical scale and batch of arXiv 2602.13595 beside measured crossings: python tests/benchmarks/critical_fit.py BENCH.json…

Each file is what `qtrap bench … --json` printed, of one model size. For every arm the three forms of the formula (see
`qtrap_agents.analysis.critical`) are fitted to the time between two tokens at all sizes and numbers in flight together, and
asked where the arm begins to pay; beside them stands between which sizes, and at which number in flight, it really does.
A cell is one point: its time between two tokens is the median over the requests of all its repeats.
"""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic_core import to_jsonable_python

from qtrap_agents.analysis.critical import CriticalFit, StepPoint, Weighed, fit_critical, size_crossings
from qtrap_agents.analysis.serving import Serving
from qtrap_agents.errors import ConfigError
from qtrap_agents.report.advice import ELEMENT_BITS

NATIVE_BITS = 16
COMPUTED = {"cor_latency", "throughput"}
"""Fields of a cell that follow from the others."""


class Bench(NamedTuple):
    """One report: number of weights, bits of each arm, cells and crossings."""

    parameters: int
    bits: Mapping[str, int]
    serving: Serving
    hardware: str

    def points(self, arm: str) -> list[StepPoint]:
        """One for each place that both arms were measured at."""
        weights = Weighed(self.parameters, NATIVE_BITS, self.bits[arm])
        base = {cell.place: cell.inter_token for cell in self.serving.of(self.serving.baseline)}
        return [
            StepPoint(cell.concurrency, weights, theirs.p50 - cell.inter_token.p50)
            for cell in self.serving.of(arm)
            if cell.inter_token is not None and (theirs := base.get(cell.place)) is not None
        ]


def read(path: Path) -> Bench:
    """Raises ConfigError where the baseline is not in 16 bits."""
    found = json.loads(path.read_text(encoding="utf-8"))
    identities, baseline = found["identities"], found["baseline"]
    if ELEMENT_BITS.get(identities[baseline]["activation_dtype"]) != NATIVE_BITS:
        raise ConfigError(f"{path}: baseline '{baseline}' is not in 16 bits; its number of weights is not known")
    cells = [{name: value for name, value in cell.items() if name not in COMPUTED} for cell in found["cells"]]
    serving = Serving.model_validate(
        {"baseline": baseline, "arms": found["arms"], "cells": cells, "crossings": found["crossings"]}
    )
    bits = {arm: identities[arm]["bits"] for arm in found["arms"] if arm != baseline}
    return Bench(identities[baseline]["weight_bytes"] * 8 // NATIVE_BITS, bits, serving, found["hardware"])


def compare(benches: Sequence[Bench]) -> dict[str, Any]:
    """Arm -> fits and crossings. A size that comes in several benches must have other arms in each."""
    arms = dict.fromkeys(arm for bench in benches for arm in bench.bits)
    return {arm: _of_arm(arm, [bench for bench in benches if arm in bench.bits]) for arm in arms}


def _of_arm(arm: str, benches: Sequence[Bench]) -> dict[str, Any]:
    sizes = sorted(bench.parameters for bench in benches)
    places = sorted({cell.concurrency for bench in benches for cell in bench.serving.of(arm)})
    fits = fit_critical(arm, [point for bench in benches for point in bench.points(arm)])
    crossings = size_crossings({bench.parameters: bench.serving for bench in benches})
    return {
        "sizes": sizes,
        "forms": [as_json(fit, places, sizes) for fit in fits],
        "size_crossings": [crossing.model_dump(mode="json") for crossing in crossings if crossing.arm == arm],
        "batch_crossings": [
            {"parameters": bench.parameters, **crossing.model_dump(mode="json")}
            for bench in benches
            for crossing in bench.serving.crossings
            if crossing.arm == arm and crossing.quantity == "time"
        ],
    }


def as_json(fit: CriticalFit, places: Sequence[int], sizes: Sequence[int]) -> Mapping[str, Any]:
    """The fit, and what it says of the places and sizes that were measured."""
    return {
        **fit.model_dump(mode="json", exclude={"arm", "seconds_per_byte", "break_even_bytes"}),
        "pays": fit.pays,
        "critical_parameters": {place: to_jsonable_python(fit.critical_parameters(place)) for place in places},
        "critical_batch": {size: to_jsonable_python(fit.critical_batch(size)) for size in sizes},
    }


def main() -> None:
    """Read, fit, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("benches", type=Path, nargs="+")
    options = parser.parse_args()
    benches = [read(path) for path in options.benches]
    about = {"command": f"python {shlex.join(sys.argv)}", "date": time.strftime("%Y-%m-%d")}
    hardware = sorted({bench.hardware for bench in benches})
    print(json.dumps({**about, "hardware": hardware, "arms": compare(benches)}, indent=1))


if __name__ == "__main__":
    main()
