"""The numbers of `qtrap compare`: traces of several arms in, one record per arm and its comparison with the baseline out.

Traces are read one by one and each is read once; what stays in memory is one `Outcome` per task, some 400 bytes whatever
the length of the chain. Everything counted twice by mistake would flatter an arm, so a task that was attempted again
after a resume counts once, by its last attempt, while its tokens count for every attempt.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, median_low
from sys import intern
from typing import NamedTuple

from pydantic import Field

from qtrap_agents.analysis.collapse import Collapse, analyse
from qtrap_agents.analysis.costs import Cost, Ratio, Spending, TaskOf, against, per_correct
from qtrap_agents.analysis.effect import NoiseFloor, Paired, effects, noise_floor
from qtrap_agents.analysis.paired import PairedSample
from qtrap_agents.analysis.readings import Readings, readings
from qtrap_agents.analysis.roles import Checks, RoleCost, checks, merged, role_costs
from qtrap_agents.analysis.statistics import Horizon, Interval, horizon, wilson
from qtrap_agents.errors import ConfigError, SuiteError, unknown
from qtrap_agents.types import Record, Task, Trace

Key = tuple[str, int]
"""What pairs two arms: task id and seed."""


class Tokens(Record):
    """Tokens and hops of all attempts of an arm, those that ended in an error included."""

    hops: int = 0
    prompt: int = 0
    completion: int = 0

    def __add__(self, other: "Tokens") -> "Tokens":
        return Tokens(
            hops=self.hops + other.hops,
            prompt=self.prompt + other.prompt,
            completion=self.completion + other.completion,
        )

    @property
    def prompt_per_hop(self) -> float | None:
        """Mean prompt tokens per hop; None without hops."""
        return self.prompt / self.hops if self.hops else None

    @property
    def completion_per_hop(self) -> float | None:
        """Mean generated tokens per hop; None without hops."""
        return self.completion / self.hops if self.hops else None


class Chain(NamedTuple):
    """What is kept of a `Collapse`: its counts, and the position of the first error."""

    first_error: int | None
    collapsed: bool
    premises: int
    wrong: int
    missing: int
    own: int
    inherited: int
    compounded: int
    recovered: int
    downstream: int
    downstream_errors: int


class Outcome(NamedTuple):
    """What is kept of one trace. `correct` is None where an error kept it from being judged.

    `cluster` is the task id: outcomes of one task under several seeds depend on each other. `chain` is None for a trace
    that was not judged, and for tasks without gold premises.
    """

    cluster: str
    seed: int
    suite: str
    depth: int
    attempt: int
    correct: bool | None
    chain: Chain | None

    @property
    def key(self) -> Key:
        """What pairs it with another arm's."""
        return self.cluster, self.seed


class Cell(Record):
    """Success of an arm at one depth of one suite, or of all suites where `suite` is None."""

    suite: str | None
    depth: int
    correct: int
    judged: int
    errors: int

    @property
    def success(self) -> float | None:
        """Share of judged chains that were right; None where none was judged."""
        return self.correct / self.judged if self.judged else None

    @property
    def interval(self) -> Interval:
        """95 % Wilson interval of `success`."""
        return wilson(self.correct, self.judged)


class Failures(Record):
    """Where the judged chains of an arm went wrong; only chains whose task has gold premises (`chains` of them).

    `first_errors` maps the position of the first error (from 1, in topological order) to a number of chains;
    `blast_radii` has one entry per chain with anything downstream of its first error. `wrong` to `recovered` count
    premises, in the terms of `Collapse`.
    """

    chains: int
    collapsed: int
    first_errors: dict[int, int]
    blast_radii: tuple[float, ...]
    premises: int
    wrong: int
    missing: int
    own: int
    inherited: int
    compounded: int
    recovered: int

    @property
    def collapse_rate(self) -> float | None:
        """Share of chains with a collapse hop; None without chains."""
        return self.collapsed / self.chains if self.chains else None

    @property
    def collapse_interval(self) -> Interval:
        """95 % Wilson interval of `collapse_rate`."""
        return wilson(self.collapsed, self.chains)

    @property
    def median_first_error(self) -> int | None:
        """Lower median position of the first error among chains that have one; None where none has."""
        positions = list(Counter(self.first_errors).elements())
        return median_low(positions) if positions else None

    @property
    def mean_blast_radius(self) -> float | None:
        """Mean over `blast_radii`; None where that is empty."""
        return fmean(self.blast_radii) if self.blast_radii else None

    @property
    def amplification(self) -> float | None:
        """Wrong premises per own error over all chains; None without own errors."""
        return self.wrong / self.own if self.own else None


class Expense(Record):
    """Joules per task solved, over all tasks (residual included) and suite by suite (its hops alone), and against the baseline.

    `energy` and `time` divide what the common tasks took on this arm by what they took on the baseline; `time` is of the
    device, apportioned like the energy. `tdp` is the ratio that power limit × time shows in the place of energy. `suites` are
    the parts of the cost. What was not measured is None or missing.
    """

    per_correct: Ratio | None = None
    suites_per_correct: dict[str, Ratio] = Field(default_factory=dict)
    suites: dict[str, Cost] = Field(default_factory=dict)
    energy: Ratio | None = None
    time: Ratio | None = None
    tdp: float | None = None


class ArmSummary(Record):
    """One arm. `cells` are ordered by suite and depth; `against` is None for the baseline itself.

    `suites_against` compares suite by suite, because a suite that breaks hides among those that do not; its `p_holm` is
    adjusted over all arms and suites. `expense` is what the cost comes to for a task solved, and against the baseline. `roles`
    are the tokens by role of node, `checks` what the verdicts of a checker were worth, `readings` how many hops could not be
    parsed; all three count every attempt.
    """

    arm: str
    cells: tuple[Cell, ...]
    horizon: Horizon
    suite_horizons: dict[str, Horizon]
    failures: Failures
    tokens: Tokens
    cost: Cost
    against: Paired | None = None
    suites_against: dict[str, Paired] = Field(default_factory=dict)
    expense: Expense = Expense()
    roles: tuple[RoleCost, ...] = ()
    readings: Readings = Readings()
    checks: Checks | None = None

    @property
    def n(self) -> int:
        """Tasks run, those that ended in an error included."""
        return self.judged + self.errors

    @property
    def judged(self) -> int:
        """Tasks with a judged answer: the denominator of success."""
        return sum(cell.judged for cell in self.cells)

    @property
    def correct(self) -> int:
        """Tasks solved."""
        return sum(cell.correct for cell in self.cells)

    @property
    def errors(self) -> int:
        """Tasks whose last attempt ended in an error; no part of success."""
        return sum(cell.errors for cell in self.cells)

    @property
    def by_depth(self) -> tuple[Cell, ...]:
        """Success per depth over all suites, shallow first."""
        return pooled(self.cells)

    @property
    def calls_per_task(self) -> float | None:
        """Model calls of all attempts per task run; None without tasks."""
        return self.tokens.hops / self.n if self.n else None

    @property
    def output_tokens_per_s(self) -> float | None:
        """Generated tokens of all attempts per wall second; None where no time was measured."""
        return self.tokens.completion / self.cost.wall_s if self.cost.wall_s else None

    @property
    def energy_per_correct_j(self) -> float | None:
        """Joules of all attempts per task solved; None where not measured or nothing was solved."""
        if self.cost.energy_j is None or not self.correct:
            return None
        return self.cost.energy_j / self.correct

    @property
    def energy_per_task_j(self) -> float | None:
        """Joules of all attempts per task run; None where not measured."""
        return _divided(self.cost.energy_j, self.n)

    @property
    def energy_per_hop_j(self) -> float | None:
        """Joules of all attempts per hop; None where not measured."""
        return _divided(self.cost.energy_j, self.tokens.hops)

    @property
    def energy_per_token_j(self) -> float | None:
        """Joules of all attempts per generated token; None where not measured."""
        return _divided(self.cost.energy_j, self.tokens.completion)

    @property
    def tasks_per_s(self) -> float | None:
        """Tasks run per wall second; None where no time was measured."""
        return self.n / self.cost.wall_s if self.cost.wall_s else None


class Comparison(Record):
    """All arms of a comparison, in the order given, judged with one non-inferiority margin.

    `floor` is the noise floor over all tasks, None where it was not measured, `suite_floors` the same suite by suite.
    """

    baseline: str
    margin: float
    arms: tuple[ArmSummary, ...]
    floor: NoiseFloor | None = None
    suite_floors: dict[str, NoiseFloor] = Field(default_factory=dict)

    def arm(self, name: str) -> ArmSummary:
        """The summary of that arm. Raises KeyError."""
        for summary in self.arms:
            if summary.arm == name:
                return summary
        raise KeyError(name)


def observe(trace: Trace, task: Task) -> Outcome:
    """What the summary needs of one trace beside its tokens.

    Raises:
        SuiteError: the task's premises are not in topological order.
    """
    judged = trace.error is None and trace.score is not None
    return Outcome(
        cluster=intern(trace.task_id),
        seed=trace.seed,
        suite=intern(trace.suite),
        depth=trace.depth,
        attempt=trace.attempt,
        correct=trace.correct if judged else None,
        chain=_chain(analyse(trace, task)) if judged and task.premises else None,
    )


def _chain(collapse: Collapse) -> Chain:
    return Chain(
        first_error=collapse.first_error.position if collapse.first_error is not None else None,
        collapsed=collapse.collapse_hop is not None,
        premises=collapse.premises,
        wrong=collapse.wrong,
        missing=collapse.missing,
        own=collapse.own,
        inherited=collapse.inherited,
        compounded=collapse.compounded,
        recovered=len(collapse.recovered),
        downstream=collapse.downstream,
        downstream_errors=collapse.downstream_errors,
    )


class ArmAccumulator:
    """Collects the outcomes of one arm while its traces pass by."""

    def __init__(self) -> None:
        self.outcomes: dict[Key, Outcome] = {}
        self.tokens = Tokens()
        self.roles: dict[str, RoleCost] = {}
        self.readings = Readings()
        self.checks: Checks | None = None

    def add(self, trace: Trace, task: Task) -> None:
        """Count one more attempt; of several at the same task and seed the last attempt stays. Errors as of `observe`."""
        self.tokens += Tokens(hops=len(trace.hops), prompt=trace.prompt_tokens, completion=trace.completion_tokens)
        self.roles = merged(self.roles, role_costs(trace.hops))
        self.readings += readings(trace.hops)
        if (found := checks(trace, task)) is not None:
            self.checks = found + (self.checks or Checks())
        outcome = observe(trace, task)
        known = self.outcomes.get(outcome.key)
        if known is None or outcome.attempt >= known.attempt:
            self.outcomes[outcome.key] = outcome

    @property
    def solved(self) -> Counter[TaskOf]:
        """How often each task was solved, by its suite and id."""
        return Counter((outcome.suite, outcome.cluster) for outcome in self.outcomes.values() if outcome.correct)

    def summary(
        self,
        arm: str,
        cost: Cost,
        against: Paired | None = None,
        suites_against: Mapping[str, Paired] | None = None,
        expense: Expense | None = None,
    ) -> ArmSummary:
        """The arm so far."""
        cells = _cells(self.outcomes.values())
        suites = dict.fromkeys(cell.suite for cell in cells if cell.suite is not None)
        return ArmSummary(
            arm=arm,
            cells=cells,
            horizon=_horizon(pooled(cells)),
            suite_horizons={suite: _horizon([cell for cell in cells if cell.suite == suite]) for suite in suites},
            failures=_failures(self.outcomes.values()),
            tokens=self.tokens,
            cost=cost,
            against=against,
            suites_against=dict(suites_against or {}),
            expense=expense or Expense(),
            roles=tuple(self.roles.values()),
            readings=self.readings,
            checks=self.checks,
        )


def accumulate(traces: Iterable[Trace], tasks: Mapping[str, Task], seen: ArmAccumulator | None = None) -> ArmAccumulator:
    """Read the traces of one arm, once.

    Args:
        tasks: task id -> task, for every trace; looked up once for each.
        seen: what was read of that arm before, in other runs.

    Raises:
        SuiteError: a trace names a task that is not in `tasks`.
    """
    seen = seen if seen is not None else ArmAccumulator()
    for trace in traces:
        task = tasks.get(trace.task_id)
        if task is None:
            raise SuiteError(f"trace '{trace.id}' answers task '{trace.task_id}', which is not among the tasks given")
        seen.add(trace, task)
    return seen


def compare_arms(
    arms: Mapping[str, ArmAccumulator],
    baseline: str,
    costs: Mapping[str, Cost] | None = None,
    margin: float = 0.02,
    again: ArmAccumulator | None = None,
    spending: Mapping[str, Spending] | None = None,
) -> Comparison:
    """Compare each arm with the baseline.

    Args:
        costs: arm -> measured cost; an arm without one is reported as not measured.
        margin: non-inferiority margin as a difference of success (0.02 is two points).
        again: the baseline served once more, from which the noise floor is taken; it is no arm of the comparison.
        spending: arm -> its cost task by task.

    Raises:
        ConfigError: the baseline is none of the arms.
    """
    if baseline not in arms:
        raise ConfigError(unknown("baseline arm", baseline, arms))
    others = {arm: seen for arm, seen in arms.items() if arm != baseline}
    suites = sorted({outcome.suite for outcome in arms[baseline].outcomes.values()})
    floors = {suite: _floor(arms[baseline], again, suite) for suite in (None, *suites)}
    samples = {(arm, suite): paired_sample(arms[baseline], seen, suite) for arm, seen in others.items() for suite in floors}
    overall = effects({key: samples[key] for key in samples if key[1] is None}, margin, floors)
    by_suite = effects({key: found for key, found in samples.items() if key[1] is not None and found.counts.n}, margin, floors)
    known = costs or {}
    summaries = (
        seen.summary(
            arm,
            known.get(arm, Cost()),
            overall.get((arm, None)),
            {suite: paired for (name, suite), paired in by_suite.items() if name == arm and suite is not None},
            _expense(arm, baseline, seen, known, spending or {}),
        )
        for arm, seen in arms.items()
    )
    return Comparison(
        baseline=baseline,
        margin=margin,
        arms=tuple(summaries),
        floor=floors[None],
        suite_floors={suite: floor for suite in suites if (floor := floors[suite]) is not None},
    )


def _expense(
    arm: str, baseline: str, seen: ArmAccumulator, costs: Mapping[str, Cost], spending: Mapping[str, Spending]
) -> Expense:
    own, base = spending.get(arm, Spending()), spending.get(baseline, Spending())
    cost, theirs = costs.get(arm, Cost()), costs.get(baseline, Cost())
    solved, suites = seen.solved, sorted({suite for suite, _ in own.seconds})
    by_suite = {suite: per_correct(own, solved, 0.0, suite) for suite in suites}
    return Expense(
        per_correct=per_correct(own, solved, cost.residual_j or 0.0),
        suites_per_correct={suite: ratio for suite, ratio in by_suite.items() if ratio is not None},
        suites={suite: own.suite(suite) for suite in suites},
        energy=against(own.joules, base.joules) if arm != baseline else None,
        time=against(own.seconds, base.seconds) if arm != baseline else None,
        tdp=_divided(cost.tdp_proxy_j, theirs.tdp_proxy_j or 0.0) if arm != baseline else None,
    )


def _divided(amount: float | None, number: float) -> float | None:
    return amount / number if amount is not None and number else None


def paired_sample(baseline: ArmAccumulator, arm: ArmAccumulator, suite: str | None = None) -> PairedSample:
    """Outcomes on the tasks and seeds that both arms were judged on, of one suite or of all, by task."""
    return PairedSample.of(
        (outcome.cluster, outcome.correct, other.correct)
        for key, outcome in baseline.outcomes.items()
        if suite in (None, outcome.suite)
        and outcome.correct is not None
        and (other := arm.outcomes.get(key)) is not None
        and other.correct is not None
    )


def _floor(baseline: ArmAccumulator, again: ArmAccumulator | None, suite: str | None) -> NoiseFloor | None:
    return noise_floor(paired_sample(baseline, again, suite)) if again is not None else None


def pooled(cells: Iterable[Cell]) -> tuple[Cell, ...]:
    """The same counts per depth over all suites, shallow first."""
    groups: dict[int, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.depth, []).append(cell)
    return tuple(
        Cell(
            suite=None,
            depth=depth,
            correct=sum(cell.correct for cell in group),
            judged=sum(cell.judged for cell in group),
            errors=sum(cell.errors for cell in group),
        )
        for depth, group in sorted(groups.items())
    )


def _cells(outcomes: Iterable[Outcome]) -> tuple[Cell, ...]:
    groups: dict[tuple[str, int], Counter[bool | None]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.suite, outcome.depth), Counter())[outcome.correct] += 1
    return tuple(
        Cell(suite=suite, depth=depth, correct=seen[True], judged=seen[True] + seen[False], errors=seen[None])
        for (suite, depth), seen in sorted(groups.items())
    )


def _horizon(cells: Sequence[Cell]) -> Horizon:
    return horizon(
        [cell.depth for cell in cells],
        [cell.correct for cell in cells],
        [cell.judged for cell in cells],
    )


def _failures(outcomes: Iterable[Outcome]) -> Failures:
    chains = [outcome.chain for outcome in outcomes if outcome.chain is not None]
    first_errors = Counter(chain.first_error for chain in chains if chain.first_error is not None)
    return Failures(
        chains=len(chains),
        collapsed=sum(chain.collapsed for chain in chains),
        first_errors=dict(sorted(first_errors.items())),
        blast_radii=tuple(chain.downstream_errors / chain.downstream for chain in chains if chain.downstream),
        premises=sum(chain.premises for chain in chains),
        wrong=sum(chain.wrong for chain in chains),
        missing=sum(chain.missing for chain in chains),
        own=sum(chain.own for chain in chains),
        inherited=sum(chain.inherited for chain in chains),
        compounded=sum(chain.compounded for chain in chains),
        recovered=sum(chain.recovered for chain in chains),
    )
