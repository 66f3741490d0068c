"""`qtrap replay`: what the replays of an arm prove, out of stored evidence only.

Chains pass by one at a time with their evidence; of each failed one a small record stays.
"""

import shlex
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from qtrap_agents.analysis.causes import (
    Cause,
    ChainEvidence,
    Group,
    HopEvidence,
    Outcomes,
    ReplayAccumulator,
    ReplayProfile,
    origin_of,
)
from qtrap_agents.analysis.funnel import Share
from qtrap_agents.errors import StoreError, unknown
from qtrap_agents.evidence import REPLAYS, REPLIES, Replay, Reply
from qtrap_agents.report.diagnosis import share_json
from qtrap_agents.report.faultsets import inspect_command
from qtrap_agents.store import Groups, Lines, RunDirectory
from qtrap_agents.types import Record, Task, Trace


class ReplayReport(Record):
    """The replays of one arm. `left_out` counts chains with replays that cannot be judged, by reason."""

    run: str
    arm: str
    baseline: str
    profile: ReplayProfile
    left_out: dict[str, int]
    warnings: tuple[str, ...]

    def command(self, cause: Cause) -> str:
        """What shows the failed chain beside the replay that saved it, or beside the chain of the baseline."""
        against = f"{self.arm}:swap@{cause.causal_hop}" if cause.causal_hop else self.baseline
        return inspect_command(self.run, cause.task_id, self.arm, against)


class _Stored(NamedTuple):
    """Everything that is read."""

    tasks: Lines[Task]
    arm: Lines[Trace]
    baseline: Lines[Trace]
    replies: Groups[Reply]
    replays: Groups[Replay]


def replay_report(run: RunDirectory, arm: str, tasks: Collection[str] | None = None) -> ReplayReport:
    """What is proven so far about the failed chains of an arm.

    Args:
        tasks: only the chains of these tasks.

    Raises:
        StoreError: no such arm, nothing was replayed, or a line of the evidence is damaged.
        SuiteError: the premises of a task are not in topological order.
    """
    stored = _read(run, arm, tasks)
    seen, left_out = ReplayAccumulator(), Counter[str]()
    for task_id in dict.fromkeys((*stored.replies, *stored.replays)):
        if tasks is None or task_id in tasks:
            chain = _chain(stored, task_id)
            if isinstance(chain, str):
                left_out[chain] += 1
            else:
                seen.add(chain)
    profile = seen.profile()
    warnings = tuple(_doubts(run, arm, profile, left_out))
    baseline = run.config.baseline_arm
    return ReplayReport(
        run=str(run.path), arm=arm, baseline=baseline, profile=profile, left_out=dict(left_out), warnings=warnings
    )


def first_hops(causes: Collection[Cause]) -> dict[tuple[int, int], Share]:
    """Causal hops at positions 1, 2, 3–4, 5–8 and so on, of all hops of replayed failed chains at these positions."""
    found: Counter[int] = Counter()
    hops: Counter[int] = Counter()
    for cause in causes:
        if cause.rescue != "incomplete":
            hops.update(_octave(place) for place in range(1, cause.hops + 1))
            found.update([_octave(cause.position)] if cause.position else ())
    return {(last // 2 + 1, last): Share(count=found[last], n=hops[last]) for last in sorted(hops)}


def replays_json(report: ReplayReport) -> dict[str, Any]:
    """Every figure with the counts behind it, and the cause of every failed chain, as JSON types."""
    profile = report.profile
    causal = [cause for cause in profile.causes if cause.causal_hop]
    return {
        "run": report.run,
        "arm": report.arm,
        "baseline": report.baseline,
        "warnings": list(report.warnings),
        "left_out": report.left_out,
        "total": _group_json(profile.total),
        "suites": [_group_json(group) for group in profile.suites],
        "cells": [_group_json(group) for group in profile.cells],
        "causal_hops": {
            "n": len(causal),
            "by_origin": profile.origins,
            "by_tenth": {"chains_of_ten_hops_and_more": sum(profile.tenths), "counts": list(profile.tenths)},
            "by_position": {f"{first}-{last}": share_json(share) for (first, last), share in first_hops(profile.causes).items()},
            "by_kind": {suite: _kinds_json(kinds) for suite, kinds in profile.kinds.items()},
        },
        "swaps_needed_at_most": {str(swaps): count for swaps, count in profile.swaps.items()},
        "chains": [_cause_json(report, cause) for cause in profile.causes],
    }


def _read(run: RunDirectory, arm: str, tasks: Collection[str] | None) -> _Stored:
    known = [config.name for config in run.config.arms]
    if arm not in known:
        raise StoreError(f"{run.path}: {unknown('arm', arm, known)}")
    directory = run.replays_path(arm)
    replies, replays = Groups(directory / REPLIES, Reply), Groups(directory / REPLAYS, Replay)
    again = f"qtrap replay {shlex.quote(str(run.path))} --arm {arm}"
    if not replies and not replays:
        raise StoreError(f"{directory}: no replays are stored; `{again}` makes them")
    for task_id in tasks or ():
        if task_id not in replies and task_id not in replays:
            command = f"{again} --task {shlex.quote(task_id)}"
            raise StoreError(f"{directory}: no replay of task '{task_id}' is stored; `{command}` makes them")
    return _Stored(run.task_index(), run.stored(arm), run.stored(run.config.baseline_arm), replies, replays)


def _chain(stored: _Stored, task_id: str) -> ChainEvidence | str:
    """A chain with its evidence, or why it cannot be judged."""
    if task_id not in stored.tasks:
        return "their task is not among the tasks of the run"
    if task_id not in stored.arm or task_id not in stored.baseline:
        return "their trace is not stored on both arms"
    ours, theirs = stored.arm[task_id], stored.baseline[task_id]
    if ours.error is not None or ours.score is None:
        return "their trace ended in an error"
    return ChainEvidence(
        task=stored.tasks[task_id],
        arm=ours,
        baseline=theirs,
        replies=stored.replies.get(task_id, ()),
        replays=stored.replays.get(task_id, ()),
    )


def _doubts(run: RunDirectory, arm: str, profile: ReplayProfile, left_out: Mapping[str, int]) -> Iterator[str]:
    for reason, count in left_out.items():
        yield f"{count:,} replayed chains are left out: {reason}"
    open_ones = [cause.task_id for cause in profile.causes if cause.rescue == "incomplete"]
    if open_ones:
        yield (
            f"{len(open_ones):,} of {len(profile.causes):,} failed chains are not replayed to the end ({_named(open_ones)}); "
            f"`qtrap replay {shlex.quote(str(run.path))} --arm {arm}` goes on"
        )
    early = [cause.task_id for cause in profile.causes if cause.causal_hop and not cause.complete]
    if early:
        yield f"an earlier causal hop may yet be found in {len(early):,} chains not replayed to the end ({_named(early)})"
    if not profile.total.outcomes.healthy:
        yield "no healthy chain was replayed to the end: the noise floor of saved chains is not measured"
    suites = {cause.suite for cause in profile.causes if cause.causal_hop and origin_of(cause) == "unknown"}
    for suite in sorted(suites):
        yield f"{suite}: no executable rules: the origin of some causal hops is unknown"


def _named(task_ids: list[str]) -> str:
    return ", ".join(task_ids[:3]) + (", …" if len(task_ids) > 3 else "")


def _octave(position: int) -> int:
    """The last position of the range 1, 2, 3–4, 5–8 and so on that a position lies in."""
    return 1 << (position - 1).bit_length()


def _group_json(group: Group) -> dict[str, Any]:
    return {
        "suite": group.suite,
        "depth": group.depth,
        "hops": _hops_json(group.hops),
        "chains": _outcomes_json(group.outcomes),
    }


def _hops_json(hops: HopEvidence) -> dict[str, Any]:
    swapped, again = hops.hops("swapped").share, hops.hops("again").share
    reverse, floor = hops.hops("reverse").share, hops.hops("baseline_again").share
    return {
        "baseline_answers_hops_of_arm_otherwise": share_json(swapped) | {"inside_noise_floor": swapped.within(again)},
        "arm_again_noise_floor": share_json(again),
        "arm_answers_hops_of_baseline_otherwise": share_json(reverse) | {"inside_noise_floor": reverse.within(floor)},
        "baseline_again_noise_floor": share_json(floor),
        "teacher_forced_own_errors": share_json(hops.own),
        "free_running_errors": share_json(hops.all_errors),
        "inherited_difference": hops.inherited,
    }


def _outcomes_json(outcomes: Outcomes) -> dict[str, Any]:
    one, floor = outcomes.saved_by_one, outcomes.harmed_share
    return {
        **outcomes.model_dump(mode="json"),
        "saved_by_one_swap": share_json(one) | {"inside_noise_floor": one.within(floor)},
        "saved_by_one_repair": share_json(outcomes.saved_by_repair),
        "causal_hop_is_first_error": share_json(outcomes.causal_first_errors),
        "healthy_harmed_by_one_swap": share_json(floor),
        "baseline_broken_by_one_hop": share_json(outcomes.broken_share),
    }


def _kinds_json(kinds: Mapping[str, Share]) -> dict[str, Any]:
    return {kind: share_json(share) for kind, share in kinds.items()}


def _cause_json(report: ReplayReport, cause: Cause) -> dict[str, Any]:
    return cause.model_dump(mode="json") | {
        "origin_of_causal_hop": origin_of(cause) if cause.causal_hop else None,
        "swaps_are_an_upper_bound": cause.swaps is not None and cause.swaps > 1,
        "command": report.command(cause),
    }
