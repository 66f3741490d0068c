"""`qtrap inject`: how far the injected faults of a run went, out of stored evidence only."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from qtrap_agents.analysis.propagation import Group, Propagation, PropagationAccumulator
from qtrap_agents.evidence import Replay
from qtrap_agents.report.diagnosis import share_json
from qtrap_agents.report.faultsets import faulty_chains, find_faults, inspect_command
from qtrap_agents.store import RunDirectory
from qtrap_agents.types import Record


class PropagationReport(Record):
    """A set of injected faults. `left_out` counts stored chains that cannot be placed, by reason; `command` opens one chain."""

    run: str
    name: str
    arm: str
    propagation: Propagation
    left_out: dict[str, int]
    command: str | None
    warnings: tuple[str, ...]


def propagation_report(run: RunDirectory, name: str | None = None) -> PropagationReport:
    """Follow the faults of a set through the chains of the baseline, one chain at a time.

    Args:
        name: the set of faults, by default the only one of the run.

    Raises:
        StoreError: there is no such set, or a line of it is damaged.
        SuiteError: the premises of a task are not in topological order.
    """
    chosen, tasks = find_faults(run, name), run.task_index()
    seen, left_out, example = PropagationAccumulator(), Counter[str](), None
    for task_id, made in faulty_chains(run, chosen).items():
        if task_id not in tasks:
            left_out["their task is not among the tasks of the run"] += 1
        elif not seen.add(tasks[task_id], made):
            left_out["their task has no gold for the premise that was changed"] += 1
        elif example is None and made.trace.score == 0:
            example = made
    report = PropagationReport(
        run=str(run.path),
        name=chosen,
        arm=run.config.baseline_arm,
        propagation=seen.propagation(),
        left_out=dict(left_out),
        command=_command(run, example) if example else None,
        warnings=(),
    )
    return report.model_copy(update={"warnings": tuple(_doubts(report))})


def propagation_json(report: PropagationReport) -> dict[str, Any]:
    """Every figure with the counts behind it, as JSON types; shares between 0 and 1, distances in edges."""
    found = report.propagation
    return report.model_dump(mode="json", exclude={"propagation"}) | {
        "total": _group_json(found.total),
        "suites": [_group_json(group) for group in found.suites],
        "faults": [_group_json(group) for group in found.faults],
        "cells": [_group_json(group) for group in found.cells],
    }


def _command(run: RunDirectory, made: Replay) -> str:
    return inspect_command(str(run.path), made.task_id, f"{made.source}:{made.name}", made.source)


def _doubts(report: PropagationReport) -> Iterator[str]:
    for reason, count in report.left_out.items():
        yield f"{count:,} chains are left out: {reason}"
    total = report.propagation.total.spread
    if total.unjudged:
        yield f"{total.unjudged:,} chains ended in an error and count in no figure"
    if not total.faults:
        yield f"{report.name}: no chain with a judged answer"
    for group in report.propagation.suites:
        if group.spread.unknown:
            yield f"{group.suite}: no executable rules: the origin of {group.spread.unknown:,} wrong premises is unknown"


def _group_json(group: Group) -> dict[str, Any]:
    spread = group.spread
    return {
        "suite": group.suite,
        "depth": group.depth,
        "fault": group.fault,
        **spread.model_dump(mode="json"),
        "downstream": spread.downstream.n,
        "answer_wrong_share": share_json(spread.changed_share),
        "recovery_share": share_json(spread.recovery),
        "premise_recovery_share": share_json(spread.premise_recovery),
        "downstream_error_share": share_json(spread.hit),
        "amplification": spread.amplification,
        "by_distance": {str(distance): share_json(share) for distance, share in group.by_distance.items()},
    }
