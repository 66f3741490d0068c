"""`qtrap bench` as a record: what was served, what each place cost, where an arm starts or stops paying."""

from collections.abc import Sequence

from qtrap_agents.analysis.serving import Crossing, Serving, summarise
from qtrap_agents.bench_store import BenchDirectory
from qtrap_agents.errors import StoreError
from qtrap_agents.report.format import significant
from qtrap_agents.report.served import marked
from qtrap_agents.types import ArmIdentity, Record


class BenchReport(Record):
    """One bench. `parameters` is the shape's number of weights, None where the bench names no shape."""

    path: str
    shape: str | None
    command: str
    hardware: str
    started_utc: str
    versions: dict[str, str]
    meter: str | None
    serving: Serving
    identities: dict[str, ArmIdentity]
    done: int
    total: int

    def marked(self, arm: str) -> str:
        """What tables call the arm."""
        return marked(arm, self.identities.get(arm))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader must know before the figures."""
        found = []
        if self.done < self.total:
            found.append(f"{self.done} of {self.total} windows measured; `qtrap bench --resume {self.path}` goes on")
        for arm, identity in self.identities.items():
            verification = identity.verification
            if verification is not None and verification.status != "verified":
                found.append(f"{arm}: {verification.status}: {verification.reason}")
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
    windows = list(directory.windows())
    if not windows:
        raise StoreError(f"{directory.path}: nothing was measured; `qtrap bench --resume {directory.path}` goes on")
    config, environment = directory.config, directory.environment()
    serving = summarise(windows, config.baseline_arm)
    named = {arm.name: directory.identity(arm.name) for arm in config.arms}
    packages = environment.get("packages")
    return BenchReport(
        path=str(directory.path),
        shape=config.shape,
        command=str(environment.get("command", "")),
        hardware=hardware(environment),
        started_utc=str(environment.get("started_utc", "")),
        versions={str(name): str(version) for name, version in packages.items()} if isinstance(packages, dict) else {},
        meter=next((window.meter for window in windows if window.meter), None),
        serving=serving,
        identities={arm: identity for arm, identity in named.items() if identity is not None},
        done=len({(window.arm, window.cell, window.repeat) for window in windows}),
        total=len(config.arms) * len(config.prompt_tokens) * len(config.concurrency) * config.repeats,
    )


def hardware(environment: dict[str, object]) -> str:
    """GPUs, or the CPU and its cores."""
    gpus = environment.get("gpus")
    if isinstance(gpus, Sequence) and gpus:
        return ", ".join(map(str, gpus))
    return f"{environment.get('cpu', 'unknown CPU')}, {environment.get('cores', '?')} cores"


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
