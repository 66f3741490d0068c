"""`qtrap compare`: run directories in, one record with every arm's summary, verified identity and cost out.

Reads stored traces only. What could make a comparison unfair (other sampling, other tasks, unfinished arms, other
activations) is never silent: it becomes a line in `RunComparison.warnings`. The second serving of the baseline is no arm of
the comparison; it gives the noise floor that effects are held against.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

from qtrap_agents.analysis.agreement import HopAgreement
from qtrap_agents.analysis.effect import Contrast, NoiseFloor, Paired
from qtrap_agents.analysis.paired import METHODS
from qtrap_agents.analysis.readings import Readings
from qtrap_agents.analysis.statistics import Horizon, Interval, wilson
from qtrap_agents.analysis.summary import ArmSummary, Cell, Comparison, Failures, Key, compare_arms
from qtrap_agents.errors import ConfigError, StoreError, unknown
from qtrap_agents.report.prediction import PlanOutcome, Spent, outcome_json, plan_outcome
from qtrap_agents.report.served import ArmFacts, ArmReader, ServedArm, agreement, run_names, served_arms, settings
from qtrap_agents.store import Lines, RunDirectory
from qtrap_agents.types import ArmIdentity, Record, Task


class SecondServing(Record):
    """The baseline served once more. `fresh` is False where it was a server that had been running all the while.

    `time` and `energy` are what a task took, over what it took at first; None unless measured in both servings, of all tasks.
    """

    facts: ArmFacts
    hops: HopAgreement
    fresh: bool
    time: float | None = None
    energy: float | None = None


class RunComparison(Record):
    """Arms of one or several runs against a baseline. `facts` and `comparison.arms` have the same order and names.

    `tasks_per_depth` maps the path of a run to its configured number of tasks for each suite, depth and seed. `again` is
    what the noise floor was taken from; where it is None, `floor_hint` says how to have it measured. `plans` are the precision
    plans that were carried out, with what had been predicted of them.
    """

    comparison: Comparison
    facts: tuple[ArmFacts, ...]
    warnings: tuple[str, ...]
    tasks_per_depth: dict[str, int]
    again: SecondServing | None = None
    floor_hint: str = ""
    plans: tuple[PlanOutcome, ...] = ()

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
    served = {arm.label: arm for arm in served_arms(distinct)}
    if not served:
        raise StoreError(f"{distinct[0].path}: no arm has a stored trace; `qtrap run --resume {distinct[0].path}` goes on")
    tasks = {run.path: run.task_index() for run in distinct}
    keys = _keys(tasks) if len(distinct) > 1 else {}
    chosen, doubt = _baseline(distinct, served, baseline)
    read = _Reading(distinct, served, chosen, tasks)
    again = read.second_serving()
    return RunComparison(
        comparison=read.compared(margin),
        facts=tuple(read.facts.values()),
        warnings=tuple(dict.fromkeys((*doubt, *_doubts(read, keys, again)))),
        tasks_per_depth={str(run.path): run.config.tasks_per_depth for run in distinct},
        again=again,
        floor_hint="" if again else _floor_hint(served[chosen]),
        plans=read.plans(),
    )


class _Reading:
    """All arms of a comparison and the second serving of its baseline, each read once."""

    def __init__(
        self,
        runs: Sequence[RunDirectory],
        served: Mapping[str, ServedArm],
        baseline: str,
        tasks: Mapping[Path, Lines[Task]],
    ) -> None:
        by_seed = any(len(arm.places) > 1 for arm in served.values())
        second = served[baseline].again
        self.runs, self.served, self.baseline = runs, served, baseline
        self.readers = {label: ArmReader(arm, tasks, by_seed) for label, arm in served.items()}
        self.again = ArmReader(second, tasks, by_seed) if second is not None else None
        self.names = run_names(runs)
        self.sizes = {path: len(own) for path, own in tasks.items()}

    def compared(self, margin: float) -> Comparison:
        seen = {label: reader.seen for label, reader in self.readers.items()}
        costs = {label: reader.cost for label, reader in self.readers.items()}
        spending = {label: reader.spending for label, reader in self.readers.items()}
        return compare_arms(seen, self.baseline, costs, margin, self.again.seen if self.again else None, spending)

    @cached_property
    def facts(self) -> dict[str, ArmFacts]:
        """By label, in the order of the arms."""
        return {label: self._facts(reader) for label, reader in self.readers.items()}

    def plans(self) -> tuple[PlanOutcome, ...]:
        """The plans that were carried out; arms of a run that count as one with those of another are as in all of them."""
        found = []
        for run in self.runs:
            own = [(place, reader) for reader in self.readers.values() for place in reader.arm.places if place.run is run]
            spent = {place.arm: Spent(reader.cost, reader.spending) for place, reader in own}
            found.append(plan_outcome(run, self.names[run.path], spent))
        return tuple(one for one in found if one is not None)

    def second_serving(self) -> SecondServing | None:
        if self.again is None:
            return None
        first = self.served[self.baseline]
        fresh = not any(place.config.urls for place in first.places)
        at_first, facts = self.facts[self.baseline], self._facts(self.again)
        time, energy = _cost_ratios(facts, at_first) if facts.finished and at_first.finished else (None, None)
        return SecondServing(facts=facts, hops=agreement(first, self.again.arm), fresh=fresh, time=time, energy=energy)

    def _facts(self, reader: ArmReader) -> ArmFacts:
        return reader.facts(self.names[reader.arm.first.run.path], self.sizes)


def comparison_json(report: RunComparison) -> dict[str, Any]:
    """Every figure of the report with the counts behind it, as JSON types; shares and differences between −1 and 1."""
    comparison = report.comparison
    return {
        "baseline": comparison.baseline,
        "margin": comparison.margin,
        "warnings": list(report.warnings),
        "noise_floor": _noise_json(report),
        "noise_floor_hint": report.floor_hint or None,
        "plans": [outcome_json(found) for found in report.plans],
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


def _baseline(runs: Sequence[RunDirectory], served: Mapping[str, ServedArm], wanted: str | None) -> tuple[str, list[str]]:
    """The label of the baseline, and a warning where it is not the configured one."""
    if wanted is not None and wanted in served:
        return wanted, []
    if wanted is not None:
        several = [label for label, arm in served.items() if arm.first.arm == wanted]
        if several:
            raise ConfigError(f"baseline arm '{wanted}' is in several runs: choose {' or '.join(several)}")
        if any(wanted == arm.name for run in runs for arm in run.config.arms):
            raise StoreError(f"baseline arm '{wanted}' has no stored trace yet; finish its run with `qtrap run --resume RUN`")
        raise ConfigError(unknown("baseline arm", wanted, served))
    configured = runs[0].config.baseline_arm
    for label, arm in served.items():
        if any(place.run is runs[0] and place.arm == configured for place in arm.places):
            return label, []
    first = next(iter(served))
    return first, [f"the baseline arm '{configured}' has no stored trace yet: '{first}' stands in for it"]


def _floor_hint(baseline: ServedArm) -> str:
    """How the noise floor of this baseline can be had."""
    run, arm = baseline.first
    if arm != run.config.baseline_arm:
        return f"the run serves '{run.config.baseline_arm}' twice, not '{arm}'; a run with 'baseline: {arm}' measures it"
    if len(run.config.arms) < 2:
        return "a run with both arms in it measures it"
    switch = "" if run.config.noise_floor else " --noise-floor"
    return f"`qtrap run --resume {run.path}{switch}` measures it"


def _doubts(read: _Reading, keys: Mapping[Path, set[Key]], again: SecondServing | None) -> Iterator[str]:
    """What could make the comparison unfair."""
    yield from _progress_doubts(read)
    yield from _run_doubts(read.runs, keys, read.served.values())
    yield from _repeat_doubts(read.served.values())
    yield from _arm_doubts(read.facts, read.baseline)
    if again is not None:
        yield from _again_doubts(again.facts, read.facts[read.baseline])


def _progress_doubts(read: _Reading) -> Iterator[str]:
    """Arms that are not finished, or not begun; a second serving that has not begun is left to the floor's hint."""
    readers = [*read.readers.values(), *([read.again] if read.again else [])]
    known = {(path, reader.arm.first.arm): (reader.arm.label, done) for reader in readers for path, done in reader.done.items()}
    for run in read.runs:
        total = read.sizes[run.path]
        for arm in run.config.served_arms:
            label, done = known.get((run.path, arm.name), (arm.name, total if arm.name == run.config.again_arm else 0))
            if done < total:
                yield f"{label} is unfinished: {done:,} of {total:,} tasks done; `qtrap run --resume {run.path}` finishes it"


def _run_doubts(runs: Sequence[RunDirectory], keys: Mapping[Path, set[Key]], served: Iterable[ServedArm]) -> Iterator[str]:
    """Runs that differ in more than their arms."""
    together = [{place.run.path for place in arm.places} for arm in served]
    for left, right in combinations(runs, 2):
        pair = f"{left.id} and {right.id}"
        repeated = any({left.path, right.path} <= paths for paths in together)
        for field, values in _differences(left, right).items():
            if not (repeated and field == "sampling.seed"):
                yield f"{pair} differ in {field} ({values[0]!r}, {values[1]!r}): their arms differ in more than precision"
        left_keys, right_keys = keys[left.path], keys[right.path]
        if left_keys != right_keys:
            common = len(left_keys & right_keys)
            yield (
                f"{pair} share {common:,} of {len(left_keys):,} and {len(right_keys):,} tasks: differences are paired on "
                f"these, all other figures of an arm are over its own tasks"
            )


def _repeat_doubts(served: Iterable[ServedArm]) -> Iterator[str]:
    """Arms that are taken together over several runs."""
    for label, places in served:
        if len(places) > 1:
            yield (
                f"{label} is taken together over {len(places)} runs with different sampling seeds: differences are clustered by "
                f"task, but the intervals of success and H50 count repeated answers as independent and are too narrow"
            )
        checksums = {identity.checksum for place in places if (identity := place.run.identity(place.arm)) is not None}
        if len(checksums) > 1:
            yield f"{label} served different weights in the runs that are taken together"


def _keys(tasks: Mapping[Path, Lines[Task]]) -> dict[Path, set[Key]]:
    """Task ids and seeds of every run, read task by task. Raises ConfigError where one id means two questions."""
    first: dict[str, Path] = {}
    keys: dict[Path, set[Key]] = {path: set() for path in tasks}
    for path, own in tasks.items():
        for task_id, task in own.items():
            keys[path].add((task_id, task.seed))
            known = first.setdefault(task_id, path)
            if known != path and not _same_question(task, tasks[known][task_id]):
                raise ConfigError(
                    f"{path}: task '{task_id}' asks something else there than in {known}; "
                    f"compare runs whose suites have the same parameters"
                )
    return keys


def _same_question(left: Task, right: Task) -> bool:
    return (left.question, left.answer, left.premises) == (right.question, right.answer, right.premises)


def _differences(left: RunDirectory, right: RunDirectory) -> dict[str, tuple[object, object]]:
    """Settings that two runs do not share, by their field in the configuration or the environment."""
    ours, theirs = settings(left), settings(right)
    return {name: (ours.get(name), theirs.get(name)) for name in ours if ours.get(name) != theirs.get(name)}


def _arm_doubts(facts: Mapping[str, ArmFacts], baseline: str) -> Iterator[str]:
    """Arms served differently from the baseline, or not known to be what they are called."""
    reference = facts[baseline].identity
    for arm in facts.values():
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
    if (identity.structured, reference.structured) in ((True, False), (False, True)):
        held, free = (label, baseline) if identity.structured else (baseline, label)
        yield f"{held} was held to the JSON schema of the suite and {free} was not: they differ in more than their weights"
    same = all(getattr(identity, field) == getattr(reference, field) for field in ("checksum", "quantisation", "kv_cache_dtype"))
    if identity.checksum is not None and same:
        yield f"{label} and {baseline} serve the same weights: their difference is the noise floor, not an effect of precision"


def _cost_ratios(again: ArmFacts, at_first: ArmFacts) -> list[float | None]:
    """Seconds and joules of a task in the second serving over those in the first."""
    pairs = ((again.totals.wall_s, at_first.totals.wall_s), (again.totals.energy_j, at_first.totals.energy_j))
    return [ours * at_first.done / (theirs * again.done) if ours and theirs else None for ours, theirs in pairs]


def _again_doubts(again: ArmFacts, baseline: ArmFacts) -> Iterator[str]:
    """A second serving that was another model."""
    ours, theirs = (facts.identity.checksum if facts.identity else None for facts in (again, baseline))
    if ours != theirs:
        yield (
            f"{again.label} and {baseline.label} served different weights ({(ours or 'unknown')[:8]}, "
            f"{(theirs or 'unknown')[:8]}): their difference is no noise floor"
        )


def _arm_json(summary: ArmSummary, facts: ArmFacts) -> dict[str, Any]:
    total = total_cell(summary.cells, None)
    return {
        "label": facts.label,
        "arm": facts.arm,
        "run": facts.run,
        "path": facts.path,
        "repeats": list(facts.repeats),
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
        "parsing": _parsing_json(summary.readings),
        "tokens": summary.tokens.model_dump(mode="json")
        | {"prompt_per_hop": summary.tokens.prompt_per_hop, "completion_per_hop": summary.tokens.completion_per_hop},
        "calls_per_task": summary.calls_per_task,
        "roles": [role.model_dump(mode="json") for role in summary.roles],
        "checks": summary.checks.model_dump(mode="json") if summary.checks else None,
        "cost": _cost_json(summary, facts),
        "against_baseline": _paired_json(summary.against) if summary.against else None,
        "against_baseline_by_suite": {suite: _paired_json(paired) for suite, paired in summary.suites_against.items()},
    }


def _cost_json(summary: ArmSummary, facts: ArmFacts) -> dict[str, Any]:
    """What it took, what that makes of a task, a hop and a token, and how that compares."""
    names = ("output_tokens_per_s", "tasks_per_s", "energy_per_correct_j", "energy_per_task_j", "energy_per_hop_j")
    cost, server = summary.cost, summary.cost.server
    return {
        **facts.totals.model_dump(mode="json"),
        **cost.model_dump(mode="json"),
        "idle_share": cost.idle_share,
        "tdp_proxy_j": cost.tdp_proxy_j,
        "server_ttft_s": server.ttft_s if server else None,
        "server_inter_token_s": server.inter_token_s if server else None,
        **{name: getattr(summary, name) for name in (*names, "energy_per_token_j")},
        "expense": summary.expense.model_dump(mode="json"),
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


def _parsing_json(found: Readings) -> dict[str, Any]:
    interval = found.interval if found.hops else None
    return found.model_dump(mode="json") | {"share": found.share, "interval": _interval_json(interval)}


def _paired_json(paired: Paired) -> dict[str, Any]:
    verdict = {"verdict", "p_holm", "further_tasks", "inside_floor"}
    return _contrast_json(paired) | paired.model_dump(mode="json", include=verdict)


def _floor_json(floor: NoiseFloor | None) -> dict[str, Any] | None:
    return None if floor is None else _contrast_json(floor) | {"limit": floor.limit}


def _contrast_json(contrast: Contrast) -> dict[str, Any]:
    counts, intervals = contrast.counts, contrast.intervals
    known = {"interval": intervals.interval, "score": intervals.score, "bootstrap": intervals.bootstrap}
    shown = {
        name: interval.model_dump(mode="json") | {"method": METHODS[name]} if interval is not None and counts.n else None
        for name, interval in known.items()
    }
    return {
        "counts": counts.model_dump(mode="json") | {"n": counts.n, "discordant": counts.lost + counts.gained},
        "tasks": contrast.tasks,
        "difference": counts.difference,
        "difference_interval": shown.pop("interval"),
        "intervals": shown,
        "design_effect": intervals.design_effect,
        "p": contrast.p,
        "p_unit": contrast.unit,
    }


def _noise_json(report: RunComparison) -> dict[str, Any] | None:
    again, comparison = report.again, report.comparison
    if again is None:
        return None
    hops = again.hops
    return {
        **again.facts.model_dump(mode="json"),
        "fresh": again.fresh,
        "cost_ratio": {"time": again.time, "energy": again.energy},
        "against_baseline": _floor_json(comparison.floor),
        "against_baseline_by_suite": {suite: _floor_json(floor) for suite, floor in comparison.suite_floors.items()},
        "hops": hops.model_dump(mode="json") | {"rate": hops.rate, "interval": _interval_json(hops.interval)},
    }
