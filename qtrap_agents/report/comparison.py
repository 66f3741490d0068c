"""`qtrap compare`: run directories in, one record with every arm's summary, verified identity and cost out.

Reads stored traces only. What could make a comparison unfair (other sampling, other tasks, unfinished arms, other
activations) is never silent: it becomes a line in `RunComparison.warnings`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from qtrap_agents.analysis.statistics import Horizon, Interval, wilson
from qtrap_agents.analysis.summary import ArmSummary, Cell, Comparison, Cost, Failures, Paired, summarise
from qtrap_agents.config import EngineConfig
from qtrap_agents.errors import ConfigError, StoreError, unknown
from qtrap_agents.store import ArmTotals, RunDirectory
from qtrap_agents.types import ArmIdentity, Record, Task, Trace

IRRELEVANT = frozenset({"start_timeout_s", "request_timeout_s"})
"""Engine settings that change no result."""


class ArmFacts(Record):
    """What belongs to an arm beside its summary.

    `label` is what reports call it: its name, or `name@run` where several runs have an arm of that name. `done` of
    `total` tasks have a stored trace. `error_kinds` counts the messages of traces that ended in an error.
    """

    label: str
    arm: str
    run: str
    path: str
    done: int
    total: int
    error_kinds: dict[str, int]
    identity: ArmIdentity | None
    totals: ArmTotals

    @property
    def finished(self) -> bool:
        """True where every task of the run has a trace."""
        return self.done >= self.total


class RunComparison(Record):
    """Arms of one or several runs against a baseline. `facts` and `comparison.arms` have the same order and names.

    `tasks_per_depth` maps the path of a run to its configured number of tasks for each suite, depth and seed.
    """

    comparison: Comparison
    facts: tuple[ArmFacts, ...]
    warnings: tuple[str, ...]
    tasks_per_depth: dict[str, int]

    def arm_facts(self, label: str) -> ArmFacts:
        """The facts of that arm. Raises KeyError."""
        for facts in self.facts:
            if facts.label == label:
                return facts
        raise KeyError(label)

    @property
    def suites(self) -> tuple[str, ...]:
        """All suites, in the order in which they first appear."""
        cells = (cell for summary in self.comparison.arms for cell in summary.cells)
        return tuple(dict.fromkeys(cell.suite for cell in cells if cell.suite is not None))


class _Place(NamedTuple):
    run: RunDirectory
    run_name: str
    arm: str


class _Seen:
    """Counts the traces of an arm while somebody else reads them."""

    def __init__(self) -> None:
        self.tasks: set[str] = set()
        self.errors: Counter[str] = Counter()

    def watch(self, traces: Iterable[Trace]) -> Iterator[Trace]:
        for trace in traces:
            self.tasks.add(trace.task_id)
            if trace.error is not None:
                self.errors[trace.error] += 1
            yield trace


def compare_runs(runs: Sequence[RunDirectory], baseline: str | None = None, margin: float = 0.02) -> RunComparison:
    """Compare the arms of one or several runs.

    Args:
        baseline: label of the baseline arm, or its name where that is unambiguous; by default the first run's own.
        margin: non-inferiority margin as a difference of success (0.02 is two points).

    Raises:
        ConfigError: no such baseline, or the runs ask different questions under the same task id.
        StoreError: no arm has a stored trace, or a run cannot be read.
    """
    distinct = list({run.path.resolve(): run for run in runs}.values())
    tasks = [run.tasks() for run in distinct]
    places = _labelled(distinct)
    if not places:
        raise StoreError(f"{distinct[0].path}: no arm has a stored trace; `qtrap run --resume {distinct[0].path}` goes on")
    merged = _merged(distinct, tasks)
    chosen, doubt = _baseline(distinct, places, baseline)
    seen = {label: _Seen() for label in places}
    totals = {label: place.run.totals(place.arm) for label, place in places.items()}
    comparison = summarise(
        {label: seen[label].watch(place.run.traces(place.arm)) for label, place in places.items()},
        merged,
        chosen,
        {label: Cost(wall_s=total.wall_s, energy_j=total.energy_j) for label, total in totals.items()},
        margin,
    )
    sizes = {run.path: len(own) for run, own in zip(distinct, tasks, strict=True)}
    facts = tuple(_facts(label, place, sizes[place.run.path], seen[label], totals[label]) for label, place in places.items())
    warnings = [*doubt, *_progress_doubts(distinct, facts, sizes), *_run_doubts(distinct, tasks), *_arm_doubts(facts, chosen)]
    return RunComparison(
        comparison=comparison,
        facts=facts,
        warnings=tuple(dict.fromkeys(warnings)),
        tasks_per_depth={str(run.path): run.config.tasks_per_depth for run in distinct},
    )


def comparison_json(report: RunComparison) -> dict[str, Any]:
    """Every figure of the report with the counts behind it, as JSON types; shares and differences between −1 and 1."""
    comparison = report.comparison
    return {
        "baseline": comparison.baseline,
        "margin": comparison.margin,
        "warnings": list(report.warnings),
        "arms": [_arm_json(summary, report.arm_facts(summary.arm)) for summary in comparison.arms],
    }


def total_cell(cells: Iterable[Cell], suite: str | None) -> Cell:
    """The sum of cells over their depths; its `depth` is the deepest."""
    known = list(cells)
    return Cell(
        suite=suite,
        depth=max((cell.depth for cell in known), default=0),
        correct=sum(cell.correct for cell in known),
        judged=sum(cell.judged for cell in known),
        errors=sum(cell.errors for cell in known),
    )


def has_traces(run: RunDirectory, arm: str) -> bool:
    """True where the arm has at least one stored trace."""
    return next(run.traces(arm), None) is not None


def _labelled(runs: Sequence[RunDirectory]) -> dict[str, _Place]:
    """Label -> place of every arm that has traces."""
    ids = Counter(run.id for run in runs)
    places = [
        _Place(run, run.id if ids[run.id] == 1 else str(run.path), arm)
        for run in runs
        for arm in run.arms()
        if has_traces(run, arm)
    ]
    names = Counter(place.arm for place in places)
    return {place.arm if names[place.arm] == 1 else f"{place.arm}@{place.run_name}": place for place in places}


def _merged(runs: Sequence[RunDirectory], tasks: Sequence[Mapping[str, Task]]) -> dict[str, Task]:
    merged: dict[str, Task] = {}
    for run, own in zip(runs, tasks, strict=True):
        for task_id, task in own.items():
            known = merged.setdefault(task_id, task)
            if (known.question, known.answer, known.premises) != (task.question, task.answer, task.premises):
                raise ConfigError(
                    f"{run.path}: task '{task_id}' asks something else there than in {runs[0].path}; "
                    f"compare runs whose suites have the same parameters"
                )
    return merged


def _baseline(runs: Sequence[RunDirectory], places: Mapping[str, _Place], wanted: str | None) -> tuple[str, list[str]]:
    """The label of the baseline, and a warning where it is not the configured one."""
    if wanted is not None and wanted in places:
        return wanted, []
    if wanted is not None:
        several = [label for label, place in places.items() if place.arm == wanted]
        if several:
            raise ConfigError(f"baseline arm '{wanted}' is in several runs: choose {' or '.join(several)}")
        if any(wanted == arm.name for run in runs for arm in run.config.arms):
            raise StoreError(f"baseline arm '{wanted}' has no stored trace yet; finish its run with `qtrap run --resume RUN`")
        raise ConfigError(unknown("baseline arm", wanted, places))
    configured = runs[0].config.baseline_arm
    for label, place in places.items():
        if place.run is runs[0] and place.arm == configured:
            return label, []
    first = next(iter(places))
    return first, [f"the baseline arm '{configured}' has no stored trace yet: '{first}' stands in for it"]


def _facts(label: str, place: _Place, total: int, seen: _Seen, totals: ArmTotals) -> ArmFacts:
    return ArmFacts(
        label=label,
        arm=place.arm,
        run=place.run_name,
        path=str(place.run.path),
        done=len(seen.tasks),
        total=total,
        error_kinds=dict(seen.errors.most_common()),
        identity=place.run.identity(place.arm),
        totals=totals,
    )


def _progress_doubts(runs: Sequence[RunDirectory], facts: Sequence[ArmFacts], sizes: Mapping[Any, int]) -> Iterator[str]:
    """Arms that are not finished, or not begun."""
    done = {(facts.path, facts.arm): facts for facts in facts}
    for run in runs:
        for arm in run.config.arms:
            arm_facts = done.get((str(run.path), arm.name))
            label = arm_facts.label if arm_facts else arm.name
            finished = arm_facts.done if arm_facts else 0
            if finished < sizes[run.path]:
                yield (
                    f"{label} is unfinished: {finished:,} of {sizes[run.path]:,} tasks done; "
                    f"`qtrap run --resume {run.path}` finishes it"
                )


def _run_doubts(runs: Sequence[RunDirectory], tasks: Sequence[Mapping[str, Task]]) -> Iterator[str]:
    """Runs that differ in more than their arms."""
    for (left, left_tasks), (right, right_tasks) in combinations(zip(runs, tasks, strict=True), 2):
        pair = f"{left.id} and {right.id}"
        for field, values in _differences(left, right).items():
            yield f"{pair} differ in {field} ({values[0]!r}, {values[1]!r}): their arms differ in more than precision"
        left_keys, right_keys = (_keys(own) for own in (left_tasks, right_tasks))
        if left_keys != right_keys:
            common = len(left_keys & right_keys)
            yield (
                f"{pair} share {common:,} of {len(left_keys):,} and {len(right_keys):,} tasks: differences are paired on "
                f"these, all other figures of an arm are over its own tasks"
            )


def _keys(tasks: Mapping[str, Task]) -> set[tuple[str, int]]:
    return {(task.id, task.seed) for task in tasks.values()}


def _differences(left: RunDirectory, right: RunDirectory) -> dict[str, tuple[object, object]]:
    """Settings that two runs do not share, by their field in the configuration or the environment."""
    ours, theirs = _settings(left), _settings(right)
    return {name: (ours.get(name), theirs.get(name)) for name in ours if ours.get(name) != theirs.get(name)}


def _settings(run: RunDirectory) -> dict[str, object]:
    config, environment = run.config, run.environment()
    settings: dict[str, object] = {"workflow": config.workflow.name, "workflow.params": config.workflow.params}
    settings |= {f"sampling.{name}": value for name, value in config.sampling.model_dump().items()}
    engine = ((name, getattr(config.engine, name)) for name in EngineConfig.model_fields if name not in IRRELEVANT)
    settings |= {f"engine.{name}": value for name, value in engine}
    return settings | {name: environment.get(name) for name in ("cpu", "gpus")}


def _arm_doubts(facts: Sequence[ArmFacts], baseline: str) -> Iterator[str]:
    """Arms served differently from the baseline, or not known to be what they are called."""
    reference = next(facts.identity for facts in facts if facts.label == baseline)
    for arm in facts:
        if arm.identity is None:
            yield f"{arm.label}: nothing is known about what was served, it never became ready"
        elif reference is not None and arm.label != baseline:
            yield from _identity_doubts(arm.label, arm.identity, baseline, reference)


def _identity_doubts(label: str, identity: ArmIdentity, baseline: str, reference: ArmIdentity) -> Iterator[str]:
    fields = ("backend", "engine", "device", "activation_dtype", "kv_cache_dtype")
    for field in fields:
        ours, theirs = getattr(identity, field), getattr(reference, field)
        if ours != theirs and None not in (ours, theirs):
            yield f"{label} and {baseline} differ in {field.replace('_', ' ')} ({ours}, {theirs}), not in their weights alone"
    if identity.checksum is not None and identity.checksum == reference.checksum:
        yield f"{label} and {baseline} serve the same weights: their difference is the noise floor, not an effect of precision"


def _arm_json(summary: ArmSummary, facts: ArmFacts) -> dict[str, Any]:
    total = total_cell(summary.cells, None)
    return {
        "label": facts.label,
        "arm": facts.arm,
        "run": facts.run,
        "path": facts.path,
        "identity": facts.identity.model_dump(mode="json") if facts.identity else None,
        "n": summary.n,
        "errors": summary.errors,
        "error_kinds": facts.error_kinds,
        "done": facts.done,
        "total": facts.total,
        "finished": facts.finished,
        "success": _cell_json(total) | {"depth": None},
        "success_by_depth": [_cell_json(cell) for cell in summary.by_depth],
        "success_by_suite_and_depth": [_cell_json(cell) for cell in summary.cells],
        "horizon": horizon_json(summary.horizon),
        "suite_horizons": {suite: horizon_json(horizon) for suite, horizon in summary.suite_horizons.items()},
        "failures": _failures_json(summary.failures),
        "tokens": summary.tokens.model_dump(mode="json")
        | {"prompt_per_hop": summary.tokens.prompt_per_hop, "completion_per_hop": summary.tokens.completion_per_hop},
        "cost": facts.totals.model_dump(mode="json")
        | {"output_tokens_per_s": summary.output_tokens_per_s, "energy_per_correct_j": summary.energy_per_correct_j},
        "against_baseline": _paired_json(summary.against) if summary.against else None,
        "against_baseline_by_suite": {suite: _paired_json(paired) for suite, paired in summary.suites_against.items()},
    }


def _cell_json(cell: Cell) -> dict[str, Any]:
    interval = wilson(cell.correct, cell.judged) if cell.judged else None
    return cell.model_dump(mode="json") | {"success": cell.success, "interval": _interval_json(interval)}


def _interval_json(interval: Interval | None) -> dict[str, Any] | None:
    return interval.model_dump(mode="json") if interval else None


def horizon_json(horizon: Horizon) -> dict[str, Any]:
    """A horizon with its derived values."""
    return horizon.model_dump(mode="json") | {"null_estimate": horizon.null_estimate, "extrapolated": horizon.extrapolated}


def _failures_json(failures: Failures) -> dict[str, Any]:
    return failures.model_dump(mode="json", exclude={"blast_radii"}) | {
        "collapse_rate": failures.collapse_rate,
        "collapse_interval": _interval_json(failures.collapse_interval if failures.chains else None),
        "median_first_error": failures.median_first_error,
        "chains_with_first_error": sum(failures.first_errors.values()),
        "mean_blast_radius": failures.mean_blast_radius,
        "chains_with_blast_radius": len(failures.blast_radii),
        "amplification": failures.amplification,
    }


def _paired_json(paired: Paired) -> dict[str, Any]:
    counts = paired.counts
    return paired.model_dump(mode="json") | {
        "counts": counts.model_dump(mode="json") | {"n": counts.n, "discordant": counts.lost + counts.gained},
        "difference": counts.difference,
        "difference_interval": _interval_json(paired.difference if counts.n else None),
    }
