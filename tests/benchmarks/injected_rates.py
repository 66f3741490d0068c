"""Does a fitted model know what injected faults do? `python tests/benchmarks/injected_rates.py RUN [--with RUN…] [--json]`.

RUN has faults of `qtrap inject`: one wrong premise of known place and value in chains of the baseline that were right. What
became of the hops after it is counted, by family: shares of the hops on wrong parents that recovered, inherited and compounded.
Beside them stand two models, averaged over the kinds and parents of these hops:

- natural: fitted to the runs without any fault, from errors that the arms make by themselves;
- faults: fitted to the same and to the faults of every other task; it is held against the faults of the rest.

`agrees` where the count lies within the 95 % interval that the model predicts for so many hops, uncertain parameters and chance
together. Injected values are not those that an arm would state: where natural errors are masked more or less often, or lead to
prompts unlike any other, the natural model rightly says something else. Hops whose right consequence cannot be told, such as
those after a dropped premise, are left out.
"""

import argparse
import json
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qtrap_agents.analysis.statistics import Interval, wilson
from qtrap_agents.report.provenance import hardware
from qtrap_agents.simulation.counts import ArmCounts, Count, Observations
from qtrap_agents.simulation.fates import Draws, Estimate, draw_fates
from qtrap_agents.simulation.fit import effective, fit
from qtrap_agents.simulation.observations import observe, observe_faults
from qtrap_agents.store import RunDirectory

FATES = ("recovered", "inherited", "compounded")


class Rate(NamedTuple):
    """One fate in one family: counted, with its Wilson interval, and what the model has, with its parameters' interval.

    `predicted` is the 95 % interval of the count that the model predicts.
    """

    family: str
    fate: str
    counted: int
    n: int
    measured: Interval
    fitted: Estimate
    predicted: tuple[int, int]

    @property
    def agrees(self) -> bool:
        """Whether the count is among those predicted."""
        return self.predicted[0] <= self.counted <= self.predicted[1]


def rates(run: RunDirectory, others: Sequence[RunDirectory] = ()) -> dict[str, list[Rate]]:
    """All fates of all families that have faults, by model, which are fitted to this run and others. Errors as of `observe`."""
    seen, arm = observe([run, *others], faults=False), run.config.baseline_arm
    tasks = list(run.task_index())
    natural = _compared(seen, arm, observe_faults(run))
    known = observe_faults(run, set(tasks[::2]))
    add(seen.arms[arm], known)
    return {"natural": natural, "faults": _compared(seen, arm, observe_faults(run, set(tasks[1::2])))}


def add(counts: ArmCounts, more: ArmCounts) -> None:
    """Take the hops after faults among those of an arm."""
    for name in ("cells", "injected_masks", "luck"):
        known = getattr(counts, name)
        for key, count in getattr(more, name).items():
            before = known.get(key, Count())
            known[key] = Count(before.events + count.events, before.n + count.n)


def _compared(seen: Observations, arm: str, faulty: ArmCounts) -> list[Rate]:
    model = fit(seen)
    cells = effective(seen.arms[arm], model.arms[arm].repeats, model.arms[arm].costs)
    found: list[Rate] = []
    for family, fates in sorted(_by_family(faulty.fates).items()):
        if n := sum(fates[name] for name in FATES):
            drawn = draw_fates(model, arm, family, cells, faulty)
            found.extend(_rate(family, name, fates[name], n, drawn) for name in FATES)
    return found


def _by_family(fates: Mapping[tuple[str, float], Counter[str]]) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = {}
    for (family, _), counts in fates.items():
        found[family] = found.get(family, Counter()) + counts
    return found


def _rate(family: str, fate: str, count: int, n: int, drawn: Draws) -> Rate:
    draws = getattr(drawn, fate)
    counts = np.random.default_rng(1).binomial(n, draws)
    low, high = np.quantile(counts, [0.025, 0.975], method="inverted_cdf")
    return Rate(family, fate, count, n, wilson(count, n), Estimate.of(draws), (int(low), int(high)))


def table(found: Mapping[str, Sequence[Rate]]) -> Iterator[str]:
    """Lines of the table."""
    yield (
        f"{'model':9}{'family':10}{'fate':12}{'hops':>7}{'counted':>9}{'measured %':>24}{'model %':>24}{'predicted':>16}  agrees"
    )
    for model, compared in found.items():
        for rate in compared:
            yield (
                f"{model:9}{rate.family:10}{rate.fate:12}{rate.n:7,}{rate.counted:9,}"
                f"{_between(rate.counted / rate.n, rate.measured.low, rate.measured.high):>24}"
                f"{_between(rate.fitted.value, rate.fitted.low, rate.fitted.high):>24}"
                f"{f'{rate.predicted[0]:,} to {rate.predicted[1]:,}':>16}  {'yes' if rate.agrees else 'no'}"
            )
        yield f"{model}: {sum(rate.agrees for rate in compared)} of {len(compared)} agree"


def _between(value: float, low: float | None, high: float | None) -> str:
    return f"{100 * value:.2f} [{100 * (low or 0):.2f}, {100 * (1 if high is None else high):.2f}]"


def as_json(runs: Sequence[RunDirectory], found: Mapping[str, Sequence[Rate]]) -> dict[str, Any]:
    """All rates, and where they come from, without a path; the first run has the faults."""
    environment = runs[0].environment()
    packages = environment.get("packages")
    further = " --with " + " ".join(run.config.name.upper() for run in runs[1:]) if runs[1:] else ""
    return {
        "command": f"python tests/benchmarks/injected_rates.py {runs[0].config.name.upper()}{further} --json",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "hardware": hardware(environment),
        "versions": packages if isinstance(packages, dict) else {},
        "runs": [_run_json(run) for run in runs],
        "faults": [path.name for path in sorted((runs[0].path / "faults").iterdir()) if path.is_dir()],
        "arm": runs[0].config.baseline_arm,
        "agree": {model: f"{sum(rate.agrees for rate in rates)} of {len(rates)}" for model, rates in found.items()},
        "rates": {model: [_rate_json(rate) for rate in rates] for model, rates in found.items()},
    }


def _run_json(run: RunDirectory) -> dict[str, Any]:
    """What decides a run."""
    fields = {"name", "workflow", "suites", "depths", "tasks_per_depth", "seeds", "sampling"}
    checkpoints = {arm.name: arm.checkpoint for arm in run.config.arms}
    return run.config.model_dump(mode="json", include=fields) | {"arms": checkpoints}


def _rate_json(rate: Rate) -> dict[str, Any]:
    return {
        "family": rate.family,
        "fate": rate.fate,
        "count": rate.counted,
        "hops": rate.n,
        "measured": [_short(share) for share in (rate.counted / rate.n, rate.measured.low, rate.measured.high)],
        "model": [_short(share) for share in (rate.fitted.value, rate.fitted.low, rate.fitted.high)],
        "predicted_count": list(rate.predicted),
        "agrees": rate.agrees,
    }


def _short(share: float | None) -> float | None:
    return None if share is None else float(f"{share:.4g}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Fates of hops after injected faults, counted and as a model without them has them."
    )
    parser.add_argument("run", type=Path, help="run directory with injected faults")
    parser.add_argument("--with", type=Path, nargs="*", default=[], dest="others", help="further runs to fit the model to")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    run, *others = (RunDirectory.open(path) for path in (arguments.run, *arguments.others))
    found = rates(run, others)
    if not found["natural"]:
        sys.exit(f"{arguments.run}: no injected faults; `qtrap inject {shlex.quote(str(arguments.run))}` makes them")
    print(json.dumps(as_json([run, *others], found), indent=1) if arguments.json else "\n".join(table(found)))


if __name__ == "__main__":
    main()
