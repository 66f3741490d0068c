"""Teacher forcing: the baseline's own text, read by the baseline twice and by an arm, token by token.

Three passes, each appended to a file of its own and shared by whoever needs it later: the baseline's text under the
baseline, the same once more in another order and in smaller batches after a fresh start (the noise floor), and under the arm.
"""

import random
from collections.abc import Awaitable, Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from qtrap_agents.backends.base import Backend
from qtrap_agents.errors import ArmError, CompletionError, ConfigError, unknown
from qtrap_agents.evidence import HopScore, TraceScore
from qtrap_agents.experiments.passes import Bench
from qtrap_agents.store import Lines
from qtrap_agents.types import Hop, Trace

NO_TOKEN_IDS = "the arm did not tell the token ids of its text"


class _Pass(NamedTuple):
    arm: str
    journal: Path
    title: str
    again: bool = False


async def force(bench: Bench, arm: str, top: int = 8, tasks: Collection[str] | None = None) -> tuple[str, ...]:
    """Score the stored text of the baseline on the baseline, on the baseline again, and on `arm`.

    What is stored already is not scored again. With the baseline as `arm` there are the first two passes only.

    Args:
        top: how many of the most probable tokens are kept at each position, at least 1.
        tasks: only the chains of these tasks; by default all that the arm and the baseline have both run.

    Returns:
        Warnings, one sentence each: passes that could not be made because an arm can no longer be served.

    Raises:
        ConfigError: the run has no such arm or task.
        StoreError: nothing more can be written; what is stored stays, and the next call does the rest.
    """
    baseline = bench.run.config.baseline_arm
    bench.arm(arm)
    traces = bench.run.stored(baseline)
    if not traces:
        return (f"token level: not measured: the baseline arm '{baseline}' has no stored trace whose text could be scored",)
    chosen = _chosen(bench, traces, arm, tasks)
    for step in _passes(bench, baseline, arm):
        try:
            await _score(bench, step, traces, chosen, top)
        except (ArmError, ConfigError) as error:
            return (f"token level: not measured in full: {step.title} stopped: {error}",)
    return ()


def _passes(bench: Bench, baseline: str, arm: str) -> list[_Pass]:
    run = bench.run
    passes = [
        _Pass(baseline, run.scores_path(baseline), f"{baseline} reads its text"),
        _Pass(baseline, run.scores_path(baseline, again=True), f"{baseline} reads it again", again=True),
    ]
    return passes if arm == baseline else [*passes, _Pass(arm, run.scores_path(arm), f"{arm} reads {baseline}'s text")]


def _chosen(bench: Bench, traces: Collection[str], arm: str, tasks: Collection[str] | None) -> list[str]:
    if tasks is not None:
        known = bench.run.task_index()
        for task_id in tasks:
            if task_id not in known:
                raise ConfigError(f"{bench.run.path}: {unknown('task', task_id, known)}")
    own = bench.run.stored(arm)
    return [task_id for task_id in traces if task_id in own and (tasks is None or task_id in tasks)]


async def _score(bench: Bench, step: _Pass, traces: Lines[Trace], chosen: Sequence[str], top: int) -> None:
    done = Lines(step.journal, TraceScore)
    jobs = [task_id for task_id in chosen if task_id not in done]
    concurrency = bench.plan.config.concurrency
    if step.again:
        random.Random(len(jobs)).shuffle(jobs)
        concurrency = max(1, concurrency // 2)
    await bench.serve(step.arm, step.title, step.journal, jobs, _reader(traces, top), concurrency)


def _reader(traces: Lines[Trace], top: int) -> Callable[[Backend, str], Awaitable[TraceScore]]:
    async def read(backend: Backend, task_id: str) -> TraceScore:
        trace = traces[task_id]
        hops = [await _read_hop(backend, hop, top) for hop in trace.hops]
        return TraceScore(task_id=task_id, seed=trace.seed, source=trace.arm, hops=tuple(hops))

    return read


async def _read_hop(backend: Backend, hop: Hop, top: int) -> HopScore:
    token_ids = hop.completion.token_ids
    if not token_ids:
        return HopScore(hop_id=hop.id, score=None, error=NO_TOKEN_IDS)
    try:
        return HopScore(hop_id=hop.id, score=await backend.score(hop.messages, token_ids, top))
    except CompletionError as error:
        return HopScore(hop_id=hop.id, score=None, error=str(error))
