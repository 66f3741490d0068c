"""The causal-hop finder on chains with injected faults: it sees the chain and the baseline arm, never the fault's place.

Every hop of a faulty chain is asked of the baseline in the same words; from every hop whose premise then differs, the chain
goes on (precision swap). The earliest hop whose swap restores the answer is the one it names.
"""

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

from qtrap_agents.analysis.causes import states_the_same
from qtrap_agents.backends.base import Backend
from qtrap_agents.errors import StoreError
from qtrap_agents.evidence import LOCATED, REPLAYS, REPLIES, Change, Replay, Reply
from qtrap_agents.experiments.branch import Known, replay
from qtrap_agents.experiments.passes import Bench
from qtrap_agents.experiments.replays import HOPS_PER_JOB, ask_again
from qtrap_agents.store import Journal, Lines, RunDirectory
from qtrap_agents.types import Task, Trace

FAULTY = "faulty"
"""The source of replies to, and replays of, chains with an injected fault."""


class Located(NamedTuple):
    """What the finder asked and tried on one chain."""

    replies: tuple[Reply, ...]
    replays: tuple[Replay, ...]


async def run_finder(run: RunDirectory, bench: Bench, name: str) -> None:
    """Search every chain whose answer the fault changed, unless that is stored already.

    Raises:
        StoreError: there are no such faults in the run.
        ArmError: the baseline cannot be served or died; the next call does the rest.
    """
    directory, baseline = run.faults_path(name), run.config.baseline_arm
    faulty, tasks = Lines(directory / REPLAYS, Replay), run.task_index()
    if not faulty:
        raise StoreError(f"{directory}: no injected faults there; `qtrap inject {run.path}` makes them")
    searched = Lines(directory / REPLIES, Reply)
    todo = [task_id for task_id in faulty if task_id not in searched and faulty[task_id].trace.score == 0]

    async def one(backend: Backend, task_id: str) -> Located:
        return await _search(bench, backend, tasks[task_id], faulty[task_id].trace)

    if not todo:
        return
    with ExitStack() as files:
        replays = files.enter_context(Journal(directory / LOCATED))
        replies = files.enter_context(Journal(directory / REPLIES))

        def keep(located: Located) -> None:
            for made in located.replays:
                replays.append(made)
            for reply in located.replies:
                replies.append(reply)

        concurrency = max(1, bench.plan.config.concurrency // HOPS_PER_JOB)
        title = f"{baseline}: finder"
        await bench.work_off(baseline, title, directory / "finder.log", todo, one, keep, concurrency)


async def _search(bench: Bench, backend: Backend, task: Task, chain: Trace) -> Located:
    """Ask all hops, then try the swap of each one that differs."""
    replies = await asyncio.gather(*(ask_again(bench.plan, backend, task, FAULTY, chain.arm, hop) for hop in chain.hops))
    replays = await asyncio.gather(*(_swap(bench, backend, task, chain, reply) for reply in _differing(chain, replies)))
    return Located(tuple(replies), tuple(replays))


def _differing(chain: Trace, replies: Sequence[Reply]) -> list[Reply]:
    pairs = zip(chain.hops, replies, strict=True)
    return [reply for hop, reply in pairs if reply.completion and not states_the_same(hop.premises, reply.premises)]


async def _swap(bench: Bench, backend: Backend, task: Task, chain: Trace, reply: Reply) -> Replay:
    words = next(hop.messages for hop in chain.hops if hop.id == reply.hop_id)
    assert reply.completion is not None
    swapped = {reply.hop_id: Known(words, reply.completion)}
    changes = [Change(kind="swap", hop_id=reply.hop_id, arm=chain.arm)]
    return await replay(bench.plan, backend, task, chain, chain.arm, changes, swapped, source=FAULTY)
