"""What `qtrap run` costs: output tokens/s of LangGraph chains, traced and stored, over raw vLLM generating the same requests.

`python tests/benchmarks/run_overhead.py [--checkpoint C | --shape S] [--concurrency N] [--case TOKENS CHAINS TASKS]… [--json]`

Both sides have an engine of their own with the same arguments, both stay loaded, and they take turns (A B, B A, …): first a
whole arm of a run, through the runner, into a run directory; then `vllm.LLM` with exactly the requests that the run
made, at most as many in flight: `chat` gets the messages and renders them, as the run must; `ids` gets token ids that were made
beforehand. Ratios are taken within each repeat. The raw side knows all requests from the start, the run only those whose parents
are there: with as many chains as the engine takes requests, a slot that is free waits for its chain's next request, so a case can
have more chains in flight. All cases share the two engines; Ctrl-C leaves what is done. With `--profile` the client's
own time in the first case is profiled in a further run.
"""

import argparse
import asyncio
import cProfile
import json
import os
import pstats
import shlex
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, closing, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from qtrap_agents import runner
from qtrap_agents.analysis.serving import estimate
from qtrap_agents.backends.base import Backend
from qtrap_agents.backends.chat import prompt_ids
from qtrap_agents.backends.factory import open_arm, resolve_checkpoint, resolve_dtype
from qtrap_agents.backends.launch import Launch, engine_arguments, engine_environment, vllm_build, vllm_version
from qtrap_agents.backends.random_weights import write_checkpoint
from qtrap_agents.config import ArmConfig, EngineConfig, RunConfig, SamplingConfig, SuiteChoice
from qtrap_agents.environment import describe_environment
from qtrap_agents.shapes import load_shape
from qtrap_agents.store import RunDirectory
from qtrap_agents.types import Trace

ARM = "fp16"

Chat = list[dict[str, str]]


class Case(NamedTuple):
    """What is generated: new tokens of a hop at most, chains in flight, tasks."""

    max_tokens: int
    chains: int
    tasks: int


class Side(NamedTuple):
    """One window of one side."""

    requests: int
    tokens: int
    wall_s: float

    @property
    def tokens_per_s(self) -> float:
        """Output tokens per second."""
        return self.tokens / self.wall_s


class Quiet:
    """A `Progress` that says nothing."""

    def note(self, text: str) -> None:
        """Not shown."""

    def starting(self, arm: str) -> None:
        """Not shown."""

    def ready(self, arm: str, startup_s: float, total: int, done: int) -> None:
        """Not shown."""

    def advance(self, arm: str, failed: bool) -> None:
        """Not shown."""


class Raw:
    """vLLM's own offline interface with the engine arguments of the arm."""

    def __init__(self, launch: Launch) -> None:
        os.environ.update(engine_environment(launch) | {"VLLM_LOGGING_LEVEL": "ERROR"})
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"  # this process has used torch's threads: a fork of it can hang
        from vllm import LLM

        self.llm = LLM(**engine_arguments(launch))

    def close(self) -> None:
        """End the engine, which otherwise holds up the end of this process."""
        self.llm.llm_engine.engine_core.shutdown()

    def window(self, chats: Sequence[Chat], max_tokens: int, rendered: Sequence[list[int]] | None) -> Side:
        """Generate all requests greedily: from chat messages as they are, or from what was rendered beforehand."""
        from vllm import SamplingParams

        sampling = SamplingParams(temperature=0.0, max_tokens=max_tokens)
        begun = time.perf_counter()
        if rendered is None:
            outputs = self.llm.chat(list(chats), sampling, use_tqdm=False)
        else:
            outputs = self.llm.generate([{"prompt_token_ids": ids} for ids in rendered], sampling, use_tqdm=False)
        wall_s = time.perf_counter() - begun
        return Side(len(outputs), sum(len(output.outputs[0].token_ids) for output in outputs), wall_s)


def run_config(case: Case, arm: ArmConfig, engine: EngineConfig, suite: str, depth: int) -> RunConfig:
    """One arm, one suite, chains of equal depth."""
    return RunConfig(
        name="overhead",
        suites=(SuiteChoice(name=suite),),
        arms=(arm,),
        depths=(depth,),
        tasks_per_depth=case.tasks,
        concurrency=case.chains,
        sampling=SamplingConfig(max_tokens=case.max_tokens),
        engine=engine,
        noise_floor=False,
        energy="none",
    )


async def run_window(config: RunConfig, backend: Backend, out: Path) -> tuple[Side, RunDirectory]:
    """A whole run on an arm that is ready."""

    @asynccontextmanager
    async def ready(*_: object) -> AsyncIterator[Backend]:
        yield backend

    plan = runner.prepare(config)
    run = runner.start(plan, out)
    runner.open_arm = ready  # type: ignore[assignment, attr-defined]
    await runner.execute(run, plan, Quiet())
    totals, traces = run.totals(ARM), list(run.outlines(ARM))
    errors = [trace.error for trace in traces if trace.error]
    if errors:
        raise SystemExit(f"the run had errors: {errors[0]}")
    return Side(
        sum(len(trace.hops) for trace in traces), sum(trace.completion_tokens for trace in traces), totals.wall_s or 0
    ), run


def requests(traces: Sequence[Trace]) -> list[Chat]:
    """The messages of all hops, in the order in which they were asked."""
    hops = sorted((hop for trace in traces for hop in trace.hops), key=lambda hop: hop.started_at)
    return [[{"role": item.role, "content": item.content} for item in hop.messages] for hop in hops]


async def measure(options: argparse.Namespace, checkpoint: str, folder: Path) -> dict[str, Any]:
    """Both sides in turns, case by case."""
    engine = EngineConfig(
        max_num_seqs=options.concurrency,
        max_model_len=options.max_model_len,
        enforce_eager=options.eager,
        check_logits=False,
        gpu_memory_utilization=options.memory,
    )
    arm = ArmConfig(name=ARM, checkpoint=checkpoint, engine_args=options.engine_args)
    configs = {case: run_config(case, arm, engine, options.suite, options.depth) for case in cases(options)}
    device = "cpu" if vllm_build() == "cpu" else "cuda"
    launch = Launch(arm, engine, resolve_checkpoint(checkpoint), device, resolve_dtype(engine, device))
    async with open_arm(arm, engine, folder / "engine.log") as backend:
        found: dict[Case, list[dict[str, Side]]] = {}
        with closing(Raw(launch)) as raw, suppress(asyncio.CancelledError):
            for number, (case, chosen) in enumerate(configs.items()):
                found[case] = []
                async for side in compared(options, case, chosen, backend, raw, folder / f"case-{number}"):
                    found[case].append(side)
        spent = await profiled(next(iter(configs.values())), backend, folder / "profile") if options.profile else []
    return result(options, [case._asdict() | of_case(sides) for case, sides in found.items() if sides], spent)


def cases(options: argparse.Namespace) -> list[Case]:
    """As asked for."""
    given = [Case(*numbers) for numbers in options.case]
    return given or [Case(options.max_tokens, options.concurrency, options.tasks)]


async def compared(
    options: argparse.Namespace, case: Case, config: RunConfig, backend: Backend, raw: Raw, folder: Path
) -> AsyncIterator[dict[str, Side]]:
    """The windows of a case, after one of each kind that nobody counts."""
    _, first = await run_window(config, backend, folder / "warm")
    chats = requests(list(first.traces(ARM)))
    ids = [prompt_ids(raw.llm.get_tokenizer(), chat) for chat in chats]
    windows = {kind: partial(raw.window, chats, case.max_tokens, given) for kind, given in (("chat", None), ("ids", ids))}
    windows["ids"]()
    for repeat in range(options.repeats):
        sides = await turn(config, backend, folder / str(repeat), windows, repeat % 2 == 1)
        shown = ", ".join(f"{kind} {side.tokens_per_s:,.0f}" for kind, side in sides.items())
        print(f"{case.max_tokens} tokens, {case.chains} chains: tokens/s: {shown}", file=sys.stderr, flush=True)
        yield sides


async def turn(
    config: RunConfig, backend: Backend, out: Path, windows: Mapping[str, Callable[[], Side]], raw_first: bool
) -> dict[str, Side]:
    """One repeat: the run and both kinds of raw, in this order or backwards."""
    found: dict[str, Side] = {}
    for kind in sorted(("run", *windows), key=("run", *windows).index, reverse=raw_first):
        found[kind] = windows[kind]() if kind in windows else (await run_window(config, backend, out))[0]
    return found


async def profiled(config: RunConfig, backend: Backend, out: Path) -> list[dict[str, object]]:
    """Where the client spends its own time: functions by seconds of their own, waiting left out."""
    profile = cProfile.Profile()
    profile.enable()
    await run_window(config, backend, out)
    profile.disable()
    rows = pstats.Stats(profile).stats.items()  # type: ignore[attr-defined]
    own = sorted(((name, calls, seconds) for name, (_, calls, seconds, _, _) in rows), key=lambda row: -row[2])
    named = ((f"{Path(file).name}:{line} {function}", calls, seconds) for (file, line, function), calls, seconds in own)
    shown = [row for row in named if "poll" not in row[0]][:15]
    return [{"function": name, "calls": calls, "own_s": round(seconds, 3)} for name, calls, seconds in shown]


def of_case(sides: Sequence[dict[str, Side]]) -> dict[str, Any]:
    """The windows of a case and the ratios that follow."""
    ratios = {kind: estimate([side["run"].tokens_per_s / side[kind].tokens_per_s for side in sides]) for kind in ("chat", "ids")}
    windows = [{kind: side._asdict() | {"tokens_per_s": side.tokens_per_s} for kind, side in found.items()} for found in sides]
    return {"windows": windows, "ratios": {kind: ratio.model_dump(mode="json") for kind, ratio in ratios.items() if ratio}}


def provenance(*names: str) -> dict[str, Any]:
    """The command, the day, and these parts of the environment."""
    kept = describe_environment()
    return {
        "command": shlex.join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d"),
        "environment": {name: kept.get(name) for name in names},
    }


def result(options: argparse.Namespace, found: Sequence[dict[str, Any]], spent: list[dict[str, object]]) -> dict[str, Any]:
    """Everything that was measured, with where and how."""
    return {
        **provenance("cpu", "cores", "gpus", "packages"),
        "engine": vllm_version(),
        "options": {name: str(value) for name, value in vars(options).items()},
        "cases": list(found),
        "client_profile": spent,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="reference:small/fp16")
    parser.add_argument("--shape", help="random weights of this shape instead of a checkpoint")
    parser.add_argument("--weights", type=Path, help="folder in which random weights are kept")
    parser.add_argument("--suite", default="arith")
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--tasks", type=int, default=512)
    parser.add_argument("--concurrency", type=int, default=128)
    parser.add_argument("--max-tokens", type=int, default=4)
    parser.add_argument("--case", type=int, nargs=3, action="append", default=[], metavar=("TOKENS", "CHAINS", "TASKS"))
    parser.add_argument("--max-model-len", type=int, default=512)
    parser.add_argument("--memory", type=float, default=0.4, help="share of the GPU's memory for each of the two engines")
    parser.add_argument("--engine-args", type=json.loads, default={}, help="further arguments of both engines, as JSON")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--eager", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        checkpoint = options.checkpoint
        if options.shape:
            kept = (options.weights or Path(folder)) / f"{options.shape}-fp16"
            if not (kept / "config.json").is_file():
                write_checkpoint(load_shape(options.shape), "fp16", kept)
            checkpoint = str(kept)
        found = asyncio.run(measure(options, checkpoint, Path(folder)))
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        for case in found["cases"]:
            print(f"{case['max_tokens']} new tokens a hop, {case['chains']} chains in flight, {case['tasks']} tasks")
            for kind, ratio in case["ratios"].items():
                low, high = ratio["interval"]["low"] or 0.0, ratio["interval"]["high"] or float("inf")
                print(f"  run / raw ({kind}): {ratio['value']:.3f} [{low:.3f}, {high:.3f}], n = {ratio['n']}")
        for row in found["client_profile"]:
            print(f"{row['own_s']:8.3f} s {row['calls']:>10} {row['function']}")


if __name__ == "__main__":
    main()
