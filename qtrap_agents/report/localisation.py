"""`qtrap localise`: how often each localiser names the hop of an injected fault, and suspects in traces from elsewhere."""

import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from qtrap_agents.analysis.funnel import Share, Sums
from qtrap_agents.analysis.localise import Suspicion, review
from qtrap_agents.analysis.localisers import Accuracy, Benchmark, Faulty, Group, Search, benchmark, search
from qtrap_agents.errors import StoreError
from qtrap_agents.evidence import LOCATED, REPLIES, Replay, Reply
from qtrap_agents.report.diagnosis import share_json
from qtrap_agents.report.faultsets import faulty_chains, find_faults, inspect_command
from qtrap_agents.store import Groups, RunDirectory, first_problem
from qtrap_agents.types import Record, Trace


class Population(Sums):
    """Faulty chains by whether they are searched: `searched` are, for the others the fault changed nothing or the reason stands.

    `single_hop` chains have but one hop to name, `unjudged` ones ended in an error, `unknown` have no task in the run.
    """

    injected: int = 0
    searched: int = 0
    answer_right: int = 0
    single_hop: int = 0
    unjudged: int = 0
    unknown: int = 0


class Localisation(Record):
    """Every localiser on one set of injected faults."""

    run: str
    name: str
    arm: str
    population: Population
    benchmark: Benchmark
    warnings: tuple[str, ...]

    @property
    def missed(self) -> tuple[Search, ...]:
        """Chains whose faulty hop the replay does not name, though it has searched them."""
        return tuple(chain for chain in self.benchmark.searches if chain.searched and chain.distance("replay") != 0)

    def command(self, chain: Search) -> str:
        """What shows the faulty chain beside the recorded one."""
        return inspect_command(self.run, chain.task_id, f"{self.arm}:{chain.name}", self.arm)


class SuspectRow(Record):
    """One trace from elsewhere; `line` is its line in the file. `suspicion` is None where nothing contradicts itself."""

    line: int
    id: str
    task_id: str
    hops: int
    premises: int
    checked: int
    suspicion: Suspicion | None


class Suspects(Record):
    """What the traces of a file tell on their own; `problems` name the lines that are no traces."""

    path: str
    rows: tuple[SuspectRow, ...]
    problems: tuple[str, ...]

    @property
    def suspected(self) -> Share:
        """Share of the traces with a suspicion."""
        return Share(count=sum(row.suspicion is not None for row in self.rows), n=len(self.rows))

    @property
    def checkable(self) -> Share:
        """Share of the premises that could be checked."""
        return Share(count=sum(row.checked for row in self.rows), n=sum(row.premises for row in self.rows))


def localise(run: RunDirectory, name: str | None = None) -> Localisation:
    """Score every localiser on the faulty chains whose answer the fault changed, one chain at a time.

    Args:
        name: the set of faults, by default the only one of the run.

    Raises:
        StoreError: there is no such set, or a line of the evidence is damaged.
        SuiteError: the premises of a task are not in topological order.
    """
    chosen, tasks = find_faults(run, name), run.task_index()
    directory = run.faults_path(chosen)
    replies, swaps = Groups(directory / REPLIES, Reply), Groups(directory / LOCATED, Replay)
    fates, searches = Counter[str](), list[Search]()
    for task_id, made in faulty_chains(run, chosen).items():
        fate = "unknown" if task_id not in tasks else _fate(made.trace)
        found = None
        if fate == "searched":
            found = search(Faulty(tasks[task_id], made, replies.get(task_id, ()), swaps.get(task_id, ())))
            searches += [found] if found else []
        fates[fate if found or fate != "searched" else "unknown"] += 1
    result = Localisation(
        run=str(run.path),
        name=chosen,
        arm=run.config.baseline_arm,
        population=Population(injected=fates.total(), **fates),
        benchmark=benchmark(searches),
        warnings=(),
    )
    return result.model_copy(update={"warnings": tuple(_doubts(result))})


def suspects(path: Path) -> Suspects:
    """Look for the first hop that contradicts itself in every trace of a JSONL file, one trace a line; no run is needed.

    Lines that are no traces are named in `problems`, the others are still looked at.

    Raises:
        StoreError: the file cannot be read, or holds no trace.
    """
    rows, problems = list[SuspectRow](), list[str]()
    for number, line in _lines(path):
        try:
            rows.append(_suspect_row(number, Trace.model_validate_json(line)))
        except ValidationError as error:
            problems.append(f"{path}:{number}: no trace: {first_problem(error)}")
    if not rows:
        reason = f" ({problems[0]})" if problems else ""
        raise StoreError(
            f"{path}: no traces in this file{reason}; write one trace a line, as in arms/<arm>/traces.jsonl of a run"
        )
    return Suspects(path=str(path), rows=tuple(rows), problems=tuple(problems))


def localisation_json(found: Localisation) -> dict[str, Any]:
    """Every figure with the counts behind it, and what each localiser named in each chain, as JSON types."""
    scores = found.benchmark
    return {
        "run": found.run,
        "name": found.name,
        "arm": found.arm,
        "warnings": list(found.warnings),
        "population": found.population.model_dump(mode="json"),
        "total": _group_json(scores.total),
        "suites": [_group_json(group) for group in scores.suites],
        "faults": [_group_json(group) for group in scores.faults],
        "chains": [chain.model_dump(mode="json") | {"command": found.command(chain)} for chain in scores.searches],
    }


def suspects_json(found: Suspects) -> dict[str, Any]:
    """All traces with what is suspected in them, as JSON types."""
    shares = {"suspected": share_json(found.suspected), "checkable": share_json(found.checkable)}
    return found.model_dump(mode="json") | shares


def _fate(trace: Trace) -> str:
    """The field of `Population` that a chain of a known task counts in."""
    if trace.error is not None or trace.score is None:
        return "unjudged"
    if trace.correct:
        return "answer_right"
    return "searched" if len(trace.hops) > 1 else "single_hop"


def _doubts(found: Localisation) -> Iterator[str]:
    seen, chains = found.population, found.benchmark.searches
    unfinished = sum(not chain.searched for chain in chains)
    if unfinished:
        yield (
            f"{unfinished:,} of {len(chains):,} chains are not searched to the end by the replay and are no part of its figures; "
            f"`qtrap localise {shlex.quote(found.run)} --faults {found.name}` goes on"
        )
    reasons = {"ended in an error": seen.unjudged, "have one hop only": seen.single_hop, "cannot be placed": seen.unknown}
    named = [f"{count:,} {words}" for words, count in reasons.items() if count]
    if named:
        yield f"faulty chains left out: {', '.join(named)}"
    if not chains:
        yield f"{found.name}: no fault changed the answer of a chain: nothing to find"


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror or error}; give a JSONL file of traces") from error


def _suspect_row(line: int, trace: Trace) -> SuspectRow:
    read = review(trace)
    facts = {"hops": read.hops, "premises": read.premises, "checked": read.checked}
    return SuspectRow(line=line, id=trace.id, task_id=trace.task_id, suspicion=read.suspicion, **facts)


def _group_json(group: Group) -> dict[str, Any]:
    return {
        "suite": group.suite,
        "fault": group.fault,
        "chains": group.chains,
        "reference_free_checkable_premises": share_json(group.checkable),
        "localisers": {accuracy.localiser: _accuracy_json(accuracy) for accuracy in group.accuracies},
    }


def _accuracy_json(accuracy: Accuracy) -> dict[str, Any]:
    return {
        **accuracy.tally.model_dump(mode="json"),
        "abstained": accuracy.abstained,
        "exact_share": share_json(accuracy.exact),
        "within_one_hop_share": share_json(accuracy.near),
        "precision": share_json(accuracy.precision),
        "expected_exact": accuracy.expected,
        "expected_within_one_hop": accuracy.expected_near,
        "constant": accuracy.constant,
    }
