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
from typing import Any

from qtrap_agents.analysis.critical import CriticalFit, StepPoint, Weighed, fit_critical, size_crossings
from qtrap_agents.analysis.indices import Figure
from qtrap_agents.analysis.serving import Serving
from qtrap_agents.errors import ConfigError

COMPUTED = {"cor_latency", "throughput"}
"""Fields of a cell that follow from the others."""


def read(path: Path) -> tuple[int, dict[str, int], Serving]:
    """Number of weights, bits of each arm, and the bench. Raises ConfigError where the baseline is not in 16 bits."""
    found = json.loads(path.read_text(encoding="utf-8"))
    identities, baseline = found["identities"], found["baseline"]
    if identities[baseline]["activation_dtype"] not in ("float16", "bfloat16"):
        raise ConfigError(f"{path}: baseline '{baseline}' is not in 16 bits; its number of weights is not known")
    cells = [{name: value for name, value in cell.items() if name not in COMPUTED} for cell in found["cells"]]
    serving = Serving.model_validate(
        {"baseline": baseline, "arms": found["arms"], "cells": cells, "crossings": found["crossings"]}
    )
    bits = {arm: identities[arm]["bits"] for arm in found["arms"] if arm != baseline}
    return identities[baseline]["weight_bytes"] // 2, bits, serving


def points(parameters: int, bits: int, serving: Serving, arm: str) -> list[StepPoint]:
    """One for each place that both arms were measured at."""
    base = {cell.place: cell.inter_token for cell in serving.of(serving.baseline)}
    return [
        StepPoint(cell.concurrency, Weighed(parameters, 16, bits), theirs.p50 - cell.inter_token.p50)
        for cell in serving.of(arm)
        if cell.inter_token is not None and (theirs := base.get(cell.place)) is not None
    ]


def compare(paths: Sequence[Path]) -> dict[str, Any]:
    """Arm -> fits and crossings. A size that comes in several files must have other arms in each."""
    benches = [read(path) for path in paths]
    arms = dict.fromkeys(arm for _, bits, _ in benches for arm in bits)
    found: dict[str, Any] = {}
    for arm in arms:
        known = [(parameters, bits[arm], serving) for parameters, bits, serving in benches if arm in bits]
        fits = fit_critical(arm, [point for bench in known for point in points(*bench, arm)])
        places = sorted({cell.concurrency for _, _, serving in known for cell in serving.of(arm)})
        crossings = size_crossings({parameters: serving for parameters, _, serving in known})
        found[arm] = {
            "sizes": sorted(parameters for parameters, _, _ in known),
            "forms": [as_json(fit, places, sorted(parameters for parameters, _, _ in known)) for fit in fits],
            "size_crossings": [crossing.model_dump(mode="json") for crossing in crossings if crossing.arm == arm],
            "batch_crossings": [
                {"parameters": parameters, **crossing.model_dump(mode="json")}
                for parameters, _, serving in known
                for crossing in serving.crossings
                if crossing.arm == arm and crossing.quantity == "time"
            ],
        }
    return found


def as_json(fit: CriticalFit, places: Sequence[int], sizes: Sequence[int]) -> Mapping[str, Any]:
    """The fit, and what it says of the places and sizes that were measured."""
    return {
        **fit.model_dump(mode="json", exclude={"arm", "seconds_per_byte", "break_even_bytes"}),
        "pays": fit.pays,
        "critical_parameters": {place: _dumped(fit.critical_parameters(place)) for place in places},
        "critical_batch": {size: _dumped(fit.critical_batch(size)) for size in sizes},
    }


def _dumped(figure: Figure | None) -> dict[str, Any] | None:
    return figure.model_dump(mode="json") if figure is not None else None


def main() -> None:
    """Read, fit, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("benches", type=Path, nargs="+")
    options = parser.parse_args()
    hardware = sorted({json.loads(path.read_text(encoding="utf-8"))["hardware"] for path in options.benches})
    about = {"command": f"python {shlex.join(sys.argv)}", "date": time.strftime("%Y-%m-%d"), "hardware": hardware}
    print(json.dumps({**about, "arms": compare(options.benches)}, indent=1))


if __name__ == "__main__":
    main()
