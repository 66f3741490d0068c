"""How full a run keeps an engine that only sleeps: python tests/benchmarks/client_cost.py [--case TOKENS CHAINS TASKS]… [--json]

A child speaks the engine's protocol and computes nothing: it takes up to `--slots` requests at once between two steps of
`--step-ms`, and each stays for as many steps as it wants tokens. The share of the ideal is the tokens of a whole run (LangGraph
chains, tracing, storing) over what full slots would have made in the same time. What is missing is ours: hops wait for their
parents, the client works while slots stand empty, chains begin and end. A real engine adds what `run_overhead.py` tells.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

from run_overhead import ARM, Case, provenance, run_config, run_window

from qtrap_agents.analysis.serving import estimate
from qtrap_agents.backends.engine import EngineArm, connected
from qtrap_agents.backends.engine_desk import Line
from qtrap_agents.backends.engine_worker import Channel
from qtrap_agents.config import ArmConfig, EngineConfig
from qtrap_agents.types import ArmIdentity

CASES = (Case(32, 128, 2048), Case(32, 160, 2048), Case(128, 128, 512))
CHECKPOINT = "reference:small/fp16"
"""Not loaded: a run looks whether it is there."""
ANSWER = {"text": "7", "finish_reason": "length", "prompt_tokens": 1, "ttft_s": None, "logprobs": None}


class Sleeper:
    """The child's side of the channel."""

    def __init__(self, channel: Channel, slots: int, step_s: float) -> None:
        self._channel, self._slots, self._step_s = channel, slots, step_s
        self._waiting: deque[Line] = deque()
        self._at_work: dict[int, tuple[int, int]] = {}
        """By request: the step that ends it, and its tokens."""
        self._steps = 0

    def serve(self) -> NoReturn:
        """Step on as long as there is work. What a sleep is too long the next one makes up for, a pause is not made up for."""
        due = 0.0
        while True:
            self._take()
            if self._at_work:
                now = time.perf_counter()
                due = (now if now - due > self._step_s / 2 else due) + self._step_s
                time.sleep(max(0.0, due - now))
                self._step()

    def _take(self) -> None:
        """Read what has come, at least one line where nothing is at work, and fill free slots."""
        for line in self._channel.receive(wait=not (self._at_work or self._waiting)):
            if "stats" in line:
                self._channel.send([{"id": line["id"], "metrics": ""}])
            elif "messages" in line:
                self._waiting.append(line)
        while self._waiting and len(self._at_work) < self._slots:
            line = self._waiting.popleft()
            tokens = line["sampling"]["max_tokens"]
            self._at_work[line["id"]] = (self._steps + tokens, tokens)

    def _step(self) -> None:
        self._steps += 1
        done = {number: tokens for number, (end, tokens) in self._at_work.items() if end <= self._steps}
        for number in done:
            del self._at_work[number]
        if done:
            self._channel.send([{"id": number, "completion": completion(tokens)} for number, tokens in done.items()])


def completion(tokens: int) -> Line:
    """An answer of so many tokens."""
    return ANSWER | {"token_ids": [7] * tokens, "completion_tokens": tokens}


@asynccontextmanager
async def sleeping(slots: int, step_s: float, log: Path) -> AsyncIterator[EngineArm]:
    """An arm whose engine is a `Sleeper`."""
    command = [sys.executable, __file__, "--child", "{fd}", str(slots), str(step_s)]
    async with connected(ARM, command, os.environ, log, 60.0) as arm, arm.listening():
        arm.identity = ArmIdentity(backend="vllm", checkpoint="none: the engine sleeps")
        yield arm


async def measure(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """The share of every case, after one run that nobody counts; cases take turns."""
    step_s = options.step_ms / 1000
    cases = [Case(*numbers) for numbers in options.case] or list(CASES)
    arm_config, engine = ArmConfig(name=ARM, checkpoint=CHECKPOINT), EngineConfig(max_num_seqs=options.slots)
    config = partial(run_config, arm=arm_config, engine=engine, suite=options.suite, depth=options.depth)
    shares: dict[Case, list[float]] = {case: [] for case in cases}
    async with sleeping(options.slots, step_s, folder / "child.log") as arm:
        await run_window(config(cases[0]._replace(tasks=options.slots)), arm, folder / "warm")
        for repeat in range(options.repeats):
            for number, case in enumerate(cases):
                side, _ = await run_window(config(case), arm, folder / f"{repeat}-{number}")
                shares[case].append(side.tokens_per_s * step_s / options.slots)
                print(f"{case}: {shares[case][-1]:.3f}", file=sys.stderr, flush=True)
    found = {case: estimate(values) for case, values in shares.items()}
    return [
        case._asdict() | {"windows": shares[case], "share": figure.model_dump(mode="json") if figure else None}
        for case, figure in found.items()
    ]


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["--child"]:
        Sleeper(Channel(int(sys.argv[2])), int(sys.argv[3]), float(sys.argv[4])).serve()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", type=int, nargs=3, action="append", default=[], metavar=("TOKENS", "CHAINS", "TASKS"))
    parser.add_argument("--slots", type=int, default=128, help="requests that the engine takes at once")
    parser.add_argument("--step-ms", type=float, default=12.0, help="what a step takes: 12 ms is a 7B model on an H100")
    parser.add_argument("--suite", default="program")
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        cases = asyncio.run(measure(options, Path(folder)))
    if options.json:
        settings = {"slots": options.slots, "step_ms": options.step_ms, "suite": options.suite, "depth": options.depth}
        print(json.dumps({**provenance("cpu", "cores", "packages"), **settings, "cases": cases}, indent=1))
        return
    for case in cases:
        share = case["share"]
        bounds = f" [{share['interval']['low']:.3f}, {share['interval']['high']:.3f}]" if share["n"] > 1 else ""
        print(f"{case['max_tokens']} tokens a hop, {case['chains']} chains: {share['value']:.3f}{bounds}, n = {share['n']}")


if __name__ == "__main__":
    main()
