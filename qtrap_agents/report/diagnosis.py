"""`qtrap diagnose`: from the tiny error to the false premise to the collapsed chain, out of stored evidence only.

Traces and scores are read one chain at a time. What is missing or does not fit is left out, counted, and named in
`Diagnosis.warnings`; the rest is still reported.
"""

import gc
import shlex
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from qtrap_agents.analysis.divergence import diverge
from qtrap_agents.analysis.funnel import (
    Cell,
    ClearChain,
    Counts,
    Funnel,
    FunnelAccumulator,
    Positions,
    Premises,
    Share,
    median_distance,
)
from qtrap_agents.errors import StoreError, unknown
from qtrap_agents.evidence import TraceScore
from qtrap_agents.store import Lines, RunDirectory
from qtrap_agents.types import Record, Task, Trace


class Population(Record):
    """Chains by whether they are in the funnel: `compared` are, the others are left out for the reason given.

    `arm_only` and `baseline_only` have no trace of the other arm, `other_seed` pairs differ in their seed, and
    `arm_errors` and `baseline_errors` ended in an error and have no judged answer.
    """

    compared: int = 0
    arm_only: int = 0
    baseline_only: int = 0
    other_seed: int = 0
    arm_errors: int = 0
    baseline_errors: int = 0


class Diagnosis(Record):
    """One arm against the baseline; `baseline` is None where no baseline arm has a stored trace.

    `score_errors` counts why hops could not be scored, the most frequent reasons first.
    """

    run: str
    arm: str
    baseline: str | None
    population: Population
    funnel: Funnel
    score_errors: dict[str, int]
    warnings: tuple[str, ...]

    @property
    def token_level(self) -> bool:
        """True where at least one hop was read by both arms."""
        return self.funnel.total.hops.compared > 0

    @property
    def is_floor(self) -> bool:
        """True where the arm is the baseline itself: then its figures are the noise floor."""
        return self.arm == self.baseline

    def command(self, chain: ClearChain) -> str:
        """What opens a chain."""
        against = f" --against {self.baseline}" if self.baseline else ""
        return f"qtrap inspect {shlex.quote(self.run)} {chain.task_id} --arm {self.arm}{against}"


class _Evidence(NamedTuple):
    """What is stored of two arms; the scores are of the baseline's text."""

    tasks: Lines[Task]
    arm: Lines[Trace]
    baseline: Lines[Trace]
    scores: tuple[Lines[TraceScore], ...]


def diagnose(run: RunDirectory, arm: str, tasks: Collection[str] | None = None, warnings: Sequence[str] = ()) -> Diagnosis:
    """Follow the errors of an arm from token to chain.

    Args:
        tasks: only the chains of these tasks.
        warnings: what went wrong while the evidence was gathered, to be reported first.

    Raises:
        StoreError: no such arm or task, the arm has no stored trace, or a line of the evidence is damaged.
        SuiteError: the premises of a task are not in topological order.
    """
    found = _evidence(run, arm, tasks)
    fates, reasons, funnel = Counter[str](), Counter[str](), FunnelAccumulator()
    with _without_collector():
        for task_id in found.tasks if tasks is None else sorted(set(tasks)):
            base, own = found.baseline.get(task_id), found.arm.get(task_id)
            fate = _fate(base, own, bool(found.baseline))
            fates.update((fate,) if fate else ())
            if fate == "compared" and own is not None:
                scores = [lines.get(task_id) for lines in found.scores]
                reasons.update(_reasons(scores))
                funnel.add(found.tasks[task_id], base, own, diverge(base, *scores) if base else ())
    diagnosis = Diagnosis(
        run=str(run.path),
        arm=arm,
        baseline=run.config.baseline_arm if found.baseline else None,
        population=Population(**fates),
        funnel=funnel.funnel(),
        score_errors=dict(reasons.most_common()),
        warnings=(),
    )
    return diagnosis.model_copy(update={"warnings": tuple(dict.fromkeys([*warnings, *_doubts(run, diagnosis)]))})


def diagnosis_json(diagnosis: Diagnosis) -> dict[str, Any]:
    """Every figure with the counts behind it, as JSON types; shares between 0 and 1, distances in hops."""
    funnel = diagnosis.funnel
    return {
        "run": diagnosis.run,
        "arm": diagnosis.arm,
        "baseline": diagnosis.baseline,
        "warnings": list(diagnosis.warnings),
        "token_level_measured": diagnosis.token_level,
        "is_noise_floor": diagnosis.is_floor,
        "population": diagnosis.population.model_dump(mode="json"),
        "score_errors": diagnosis.score_errors,
        "total": _counts_json(funnel.total),
        "suites": [_cell_json(cell) for cell in funnel.suites],
        "cells": [_cell_json(cell) for cell in funnel.cells],
        "distances": {
            "first_flip_to_first_error": _distance_json(funnel.flip_to_error),
            "first_error_to_collapse": _distance_json(funnel.error_to_collapse),
        },
        "clear_chains": funnel.clear,
        "clearest": [chain.model_dump(mode="json") | {"command": diagnosis.command(chain)} for chain in funnel.clearest],
    }


def _evidence(run: RunDirectory, arm: str, tasks: Collection[str] | None) -> _Evidence:
    known = [config.name for config in run.config.arms]
    if arm not in known:
        raise StoreError(unknown("arm", arm, known))
    index, own = run.task_index(), run.stored(arm)
    for task_id in tasks or ():
        if task_id not in index:
            raise StoreError(f"{run.path}: {unknown('task', task_id, index)}")
    if not own:
        raise StoreError(f"arm '{arm}' has no stored trace yet; `qtrap run --resume {run.path}` goes on")
    baseline = run.config.baseline_arm
    paths = (run.scores_path(baseline), run.scores_path(baseline, again=True), run.scores_path(arm, again=arm == baseline))
    return _Evidence(index, own, run.stored(baseline), tuple(Lines(path, TraceScore) for path in paths))


@contextmanager
def _without_collector() -> Iterator[None]:
    """Records hold no reference cycles: while millions of them come and go, looking for cycles is half of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _fate(base: Trace | None, own: Trace | None, paired: bool) -> str | None:
    """The field of `Population` that a chain counts in; None where it has no trace at all."""
    if own is None or (paired and base is None):
        return "arm_only" if own else "baseline_only" if base else None
    if base is not None and base.seed != own.seed:
        return "other_seed"
    if not _judged(own):
        return "arm_errors"
    return "compared" if base is None or _judged(base) else "baseline_errors"


def _judged(trace: Trace) -> bool:
    return trace.error is None and trace.score is not None


def _reasons(scores: Sequence[TraceScore | None]) -> Iterator[str]:
    """Why hops have no score."""
    for score in scores:
        if score is not None:
            yield from (hop.error for hop in score.hops if hop.error is not None)


def _doubts(run: RunDirectory, diagnosis: Diagnosis) -> Iterator[str]:
    """What is missing, and what was left out."""
    if diagnosis.baseline is None:
        configured = run.config.baseline_arm
        yield (
            f"the baseline arm '{configured}' has no stored trace: only the premises and answers of {diagnosis.arm} are "
            f"reported; `qtrap run --resume {run.path}` runs it"
        )
    yield from _population_doubts(diagnosis)
    if diagnosis.baseline is not None:
        yield from _token_doubts(run, diagnosis)
    yield from _suite_doubts(diagnosis.funnel.suites)


def _population_doubts(diagnosis: Diagnosis) -> Iterator[str]:
    seen, arm, baseline = diagnosis.population, diagnosis.arm, diagnosis.baseline
    reasons = {
        f"have a trace of {arm} only": seen.arm_only,
        f"have a trace of {baseline} only": seen.baseline_only,
        "have another seed on each arm": seen.other_seed,
        f"ended in an error on {arm}": seen.arm_errors,
        f"ended in an error on {baseline}": seen.baseline_errors,
    }
    named = [f"{count:,} {words}" for words, count in reasons.items() if count]
    if named:
        yield f"{seen.compared:,} chains are compared; left out: {', '.join(named)}"


def _token_doubts(run: RunDirectory, diagnosis: Diagnosis) -> Iterator[str]:
    counts, arm, baseline = diagnosis.funnel.total, diagnosis.arm, diagnosis.baseline
    reason = next(iter(diagnosis.score_errors), None)
    why = f", mostly because {reason}" if reason else ""
    if not diagnosis.token_level:
        yield f"token level: not measured: no stored score of {baseline}'s text is comparable{why}"
    elif counts.hops.not_scored:
        yield f"{counts.hops.not_scored:,} hops have no score of both arms and count in no token-level figure{why}"
    if counts.hops.other_tokens:
        yield (
            f"{counts.hops.other_tokens:,} hops are cut into other tokens by {arm} than by {baseline} and are set aside: "
            f"token ids of different tokenizers cannot be aligned"
        )
    if counts.hops.other_text:
        yield f"{counts.hops.other_text:,} hops have scores of another text than the stored one and are set aside"
    if diagnosis.token_level and not counts.floor.positions:
        yield f"the noise floor of the token level is not measured: {baseline} has not read its text a second time"
    if run.config.sampling.temperature > 0:
        yield (
            f"answers were sampled at temperature {run.config.sampling.temperature:g}: a flip may be {baseline}'s own dice, "
            f"and the noise floor shows how many are"
        )


def _suite_doubts(suites: Sequence[Cell]) -> Iterator[str]:
    for cell in suites:
        premises = cell.counts.premises
        if not premises.n:
            yield f"{cell.suite}: no gold premises: only tokens and answers are judged"
        if premises.unknown:
            yield f"{cell.suite}: no executable rules: the origin of {premises.unknown:,} wrong premises is unknown"


def _cell_json(cell: Cell) -> dict[str, Any]:
    return {"suite": cell.suite, "depth": cell.depth} | _counts_json(cell.counts)


def _counts_json(counts: Counts) -> dict[str, Any]:
    measured = counts.hops.compared > 0
    chains, first = counts.chains, counts.first_errors
    return {
        "hops": counts.hops.model_dump(mode="json"),
        "arm": _positions_json(counts.arm, counts.floor) if measured else None,
        "noise_floor": _positions_json(counts.floor) if counts.floor.positions else None,
        "self_flips": share_json(counts.self_flip_share) if counts.self_positions else None,
        "flips": counts.flips.model_dump(mode="json")
        | {
            "harmless_share": share_json(counts.flips.everywhere.share),
            "asked_harmless_share": share_json(counts.flips.asked.share),
            "answer_right_share": share_json(counts.flips.answer_right_share),
        },
        "premises_with_a_value_flip": _premises_json(counts.hit) if measured else None,
        "premises_hit": share_json(Share(count=counts.hit.n, n=counts.read)) if measured else None,
        "premises": _premises_json(counts.premises),
        "first_errors": first.model_dump(mode="json") | {"explained_share": share_json(first.explained)},
        "chains": chains.model_dump(mode="json") | {"shares": _chain_shares(counts)},
    }


def _positions_json(read: Positions, floor: Positions | None = None) -> dict[str, Any]:
    shares: Mapping[str, Any] = {
        "flip_share": share_json(read.flip_share, floor.flip_share if floor else None),
        "value_flip_share": share_json(read.value_flip_share, floor.value_flip_share if floor else None),
        "mean_drop_nats": read.mean_drop,
        "mean_kl_nats": read.mean_kl,
    }
    return {**read.model_dump(mode="json"), **shares}


def _premises_json(premises: Premises) -> dict[str, Any]:
    shares = {name: share_json(Share(count=count, n=premises.n)) for name, count in premises}
    return premises.model_dump(mode="json") | {
        "n": premises.n,
        "false": premises.false,
        "shares": shares | {"false": share_json(Share(count=premises.false, n=premises.n))},
    }


def _chain_shares(counts: Counts) -> dict[str, Any]:
    chains = counts.chains
    scored = {name: getattr(chains, name) for name in ("flipped", "value_flipped")}
    judged = {name: getattr(chains, name) for name in ("false", "recovered", "collapsed", "right", "baseline_right")}
    return {name: share_json(Share(count=count, n=chains.scored)) for name, count in scored.items()} | {
        name: share_json(Share(count=count, n=chains.n)) for name, count in judged.items()
    }


def share_json(share: Share, floor: Share | None = None) -> dict[str, Any]:
    """A share with its counts and interval, and whether it is inside a noise floor where there is one to compare with."""
    interval = share.interval.model_dump(mode="json") if share.interval else None
    found = {"count": share.count, "n": share.n, "share": share.share, "interval": interval}
    return found if floor is None else found | {"inside_noise_floor": share.within(floor)}


def _distance_json(distances: Mapping[int, int]) -> dict[str, Any]:
    counts = {str(distance): number for distance, number in distances.items()}
    return {"median": median_distance(distances), "n": sum(distances.values()), "chains_by_distance": counts}
