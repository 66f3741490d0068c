"""`qtrap bench` as a record: what was served, what each place cost, where an arm starts or stops paying."""

from qtrap_agents.analysis.serving import Crossing, Serving, summarise
from qtrap_agents.bench_store import BenchDirectory
from qtrap_agents.errors import StoreError
from qtrap_agents.report.format import significant
from qtrap_agents.report.provenance import Provenance, provenance


class BenchReport(Provenance):
    """One bench: `done` of `total` windows are stored."""

    meter: str | None
    serving: Serving
    done: int
    total: int

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader must know before the figures."""
        found = list(self.doubts)
        if self.done < self.total:
            found.insert(0, f"{self.done} of {self.total} windows measured; `qtrap bench --resume {self.path}` goes on")
        errors = sum(cell.errors for cell in self.serving.cells)
        if errors:
            found.append(f"{errors} requests failed; their windows count what was answered")
        return tuple(found)


def bench_report(directory: BenchDirectory) -> BenchReport:
    """Read a stored bench.

    Raises:
        StoreError: nothing was measured yet, or a file is damaged.
        ConfigError: the baseline was not measured.
    """
    windows, config = list(directory.windows()), directory.config
    if not windows:
        raise StoreError(f"{directory.path}: nothing was measured; `qtrap bench --resume {directory.path}` goes on")
    return BenchReport(
        **dict(provenance(directory)),
        meter=next((window.meter for window in windows if window.meter), None),
        serving=summarise(windows, config.baseline_arm),
        done=len({(window.arm, window.cell, window.repeat) for window in windows}),
        total=len(config.arms) * len(config.prompt_tokens) * len(config.concurrency) * config.repeats,
    )


def crossing_sentence(crossing: Crossing) -> str:
    """`awq stops paying in energy at about 90 in flight (between 64 and 128)`."""
    verb = "stops" if crossing.stops else "starts"
    doubt = "" if crossing.certain else "; the intervals at both ends do not rule out that it is elsewhere"
    return (
        f"{crossing.arm} {verb} paying in {crossing.quantity} at about {significant(crossing.concurrency, 2)} in flight "
        f"(between {crossing.below} and {crossing.above}, prompts of {crossing.prompt_tokens} tokens{doubt})"
    )


def bench_json(report: BenchReport) -> dict[str, object]:
    """The whole report with derived values."""
    data = report.model_dump(mode="json", exclude={"serving"})
    cells = [
        cell.model_dump(mode="json") | {"cor_latency": cell.cor_latency, "throughput": cell.throughput}
        for cell in report.serving.cells
    ]
    crossings = [crossing.model_dump(mode="json") for crossing in report.serving.crossings]
    arms = {"baseline": report.serving.baseline, "arms": list(report.serving.arms)}
    return data | arms | {"warnings": list(report.warnings), "cells": cells, "crossings": crossings}
