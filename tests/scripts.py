"""Functions that answer for scripted arms (`script: scripts:solve`), and how tests run them."""

import asyncio
import io
import os
import re
import signal
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from qtrap_agents.config import RunConfig
from qtrap_agents.errors import ArmDied, CompletionError
from qtrap_agents.runner import execute, prepare, start
from qtrap_agents.semantics import execute as evaluate
from qtrap_agents.store import RunDirectory
from qtrap_agents.suites.program import OPERATIONS
from qtrap_agents.types import Completion, Message, Sampling, Trace
from qtrap_agents.world import related

TESTS = Path(__file__).parent
ARITH, PROGRAM = re.compile(r"arith: (\S+) ([-+*]) (\S+) ="), re.compile(r"program: (\S+) (\w+) (\S+) =")
RELATE, SUM = re.compile(r"relate: (\w+) (\w+) ="), re.compile(r"([-\d.]+(?: ?[-+*/] ?[\d.]+)+) ?= ?\$?___")


def solve(messages: Sequence[Message], sampling: Sampling) -> str:
    """The right answer to the last line of the prompt: arith, program, relate, and sums that end in `= ___`."""
    line = messages[-1].content.splitlines()[-1]
    found = re.search(r"modulo (\d+)", messages[0].content)
    modulus = int(found[1]) if found else 0
    if match := ARITH.fullmatch(line):
        return str(evaluate(f"({match[1]} {match[2]} {match[3]}) % {modulus}", {}))
    if match := PROGRAM.fullmatch(line):
        return str(evaluate(OPERATIONS[match[2]].format(a=match[1], b=match[3], modulus=modulus), {}))
    if match := RELATE.fullmatch(line):
        return related(match[1], match[2])
    if match := SUM.search(line):
        return str(evaluate(match[1], {}))
    raise ValueError(f"no rule for {line!r}")


def unlucky(messages: Sequence[Message], share: int = 8) -> bool:
    """True for one prompt in `share`, always the same ones."""
    return zlib.crc32(messages[-1].content.encode()) % share == 0


def noisy(messages: Sequence[Message], sampling: Sampling) -> str:
    """Off by one on unlucky prompts."""
    return str(int(solve(messages, sampling)) + unlucky(messages))


def refusing(messages: Sequence[Message], sampling: Sampling) -> str:
    """Unlucky prompts are refused."""
    if unlucky(messages):
        raise CompletionError("the context is full")
    return solve(messages, sampling)


def buggy(messages: Sequence[Message], sampling: Sampling) -> str:
    """A script with a bug of its own."""
    raise RuntimeError("list is empty")


def wordy(messages: Sequence[Message], sampling: Sampling) -> str:
    """Never states a value."""
    return "well, that is\nhard to say"


async def slow(messages: Sequence[Message], sampling: Sampling) -> str:
    """Takes its time, so that a run can be stopped in the middle."""
    await asyncio.sleep(0.02)
    return solve(messages, sampling)


async def patient(messages: Sequence[Message], sampling: Sampling) -> Completion:
    """Answers after a random-looking but repeatable delay, so that tasks end in another order than they began."""
    await asyncio.sleep(zlib.crc32(messages[-1].content.encode()) % 5 / 1000)
    return Completion(text=solve(messages, sampling), prompt_tokens=7, completion_tokens=2)


class Mortal:
    """Answers `lives` times and is dead then; with None it is immortal."""

    def __init__(self) -> None:
        self.lives: int | None = None

    def __call__(self, messages: Sequence[Message], sampling: Sampling) -> str:
        if self.lives is not None:
            self.lives -= 1
            if self.lives < 0:
                raise ArmDied("arm 'mortal': the engine died in mid-run")
        return solve(messages, sampling)


class Recorder:
    """Solves and remembers what it was asked, and how many requests were in flight at once."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.asked: list[tuple[tuple[Message, ...], Sampling]] = []
        self.in_flight = self.most_in_flight = 0

    async def __call__(self, messages: Sequence[Message], sampling: Sampling) -> str:
        self.asked.append((tuple(messages), sampling))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(0)
        self.in_flight -= 1
        return solve(messages, sampling)


mortal = Mortal()
first, second = Recorder(), Recorder()


class Listener:
    """A `Progress` that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.started: list[str] = []
        self.totals: dict[str, tuple[int, int]] = {}
        self.advanced: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()

    def note(self, text: str) -> None:
        self.notes.append(text)

    def starting(self, arm: str) -> None:
        self.started.append(arm)

    def ready(self, arm: str, startup_s: float, total: int, done: int) -> None:
        self.totals[arm] = (total, done)

    def advance(self, arm: str, failed: bool) -> None:
        self.advanced[arm] += 1
        self.failed[arm] += failed


def settings(arms: Iterable[str | dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """A small run. An arm is given in full or named like the function of this module that answers for it."""
    common = {"name": "small", "suites": ["arith", "program"], "depths": [2, 4], "tasks_per_depth": 5, "concurrency": 8}
    common["noise_floor"] = False
    return {**common, "arms": [scripted(arm) if isinstance(arm, str) else arm for arm in arms], **changes}


def scripted(name: str) -> dict[str, Any]:
    """An arm that a function of this module answers for."""
    return {"name": name, "backend": "scripted", "script": f"scripts:{name}"}


def config(*arms: str | dict[str, Any], **changes: Any) -> RunConfig:
    """The same as a record."""
    return RunConfig.model_validate(settings(arms, **changes))


def go(chosen: RunConfig, out: Path) -> RunDirectory:
    """A whole run in this process."""
    plan = prepare(chosen)
    run = start(plan, out)
    asyncio.run(execute(run, plan, Listener()))
    return run


def go_on(run: RunDirectory) -> Listener:
    """Finish a run."""
    listener = Listener()
    asyncio.run(execute(run, prepare(run.config), listener))
    return listener


def by_task(run: RunDirectory, arm: str) -> dict[str, Trace]:
    """The traces of an arm; every task must have exactly one."""
    traces = list(run.traces(arm))
    assert sorted(trace.task_id for trace in traces) == sorted(run.tasks())
    return {trace.task_id: trace for trace in traces}


def write_yaml(path: Path, content: Mapping[str, Any]) -> Path:
    """A configuration file."""
    path.write_text(yaml.safe_dump(dict(content), sort_keys=False), encoding="utf-8")
    return path


def printed(render: Callable[[Console], None], width: int = 120) -> str:
    """What a function prints on a terminal of that width, without colours."""
    console = Console(width=width, file=io.StringIO())
    render(console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def start_qtrap(*arguments: object, cwd: Path) -> "subprocess.Popen[str]":
    """`python -m qtrap_agents …` in a folder, with this module importable.

    SIGINT is reset: a shell that runs the tests in the background has it ignored, and children inherit that.
    """
    search = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [sys.executable, "-m", "qtrap_agents", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": search},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def qtrap(*arguments: object, cwd: Path, timeout_s: float = 240) -> "subprocess.CompletedProcess[str]":
    """The same, waited for."""
    with start_qtrap(*arguments, cwd=cwd) as process:
        stdout, stderr = process.communicate(timeout=timeout_s)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def wait_for_traces(folder: Path, count: int, process: "subprocess.Popen[str]", timeout_s: float = 120) -> None:
    """Until so many traces are stored."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        stored = sum(file.read_bytes().count(b"\n") for file in folder.glob("traces/*/arms/*/traces.jsonl"))
        if stored >= count:
            return
        time.sleep(0.02)
    raise TimeoutError(f"fewer than {count} traces after {timeout_s:g} s")
