"""One run directory: append-only, self-describing, safe against `kill -9` at any moment.

    run.yaml            the resolved configuration; with it alone the run can be repeated
    environment.json    versions, hardware, git state, command line
    tasks.jsonl         the tasks with their gold premises
    arms/<arm>/
        identity.json   what was really served
        attempts.jsonl  start, ready and end of every attempt: times, energy window
        traces.jsonl    one trace a line
        readings.jsonl  the energy meter and the device, about twice a second, where something measures
        server.log      output of the process that served the arm
    arms/<baseline>+again/    the baseline served a second time: the noise floor
    arms/<arm>/scores.jsonl, replays/, faults/    experiments on the stored traces, see `qtrap_agents.evidence`

Only whole lines count: a line cut off by a kill is removed before the next one is written, so a resumed run repeats
nothing and counts nothing twice.
"""

import errno
import json
import os
import re
import time
import weakref
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any, Generic, Literal, TypeVar

import yaml
from pydantic import Field, ValidationError

from qtrap_agents.config import RunConfig, load_yaml
from qtrap_agents.errors import StoreError
from qtrap_agents.measures import READINGS, EnergyWindow, Reading, ServerStats, together
from qtrap_agents.types import (
    ArmIdentity,
    Completion,
    Decision,
    Hop,
    Message,
    Premise,
    Record,
    Task,
    TokenLogprob,
    Trace,
)

CONFIG, ENVIRONMENT, TASKS = "run.yaml", "environment.json", "tasks.jsonl"

Row = TypeVar("Row", bound=Record)
Found = TypeVar("Found", covariant=True)


class AttemptEvent(Record):
    """One line of `attempts.jsonl`. `at` is Unix time in seconds; what does not belong to the event is None.

    `ready` tells `startup_s`, and the watts of the idle device with the model loaded; its time is when work begins. `end`
    tells why the attempt ended, the seconds between ready and end, the energy of that window in joules with the meter that
    read it and the power that the device is made for (None where nothing measured), and what the engine itself counted.
    """

    attempt: int
    event: Literal["start", "ready", "end"]
    at: float
    startup_s: float | None = None
    idle_w: float | None = None
    reason: Literal["finished", "interrupted", "failed"] | None = None
    wall_s: float | None = None
    energy_j: float | None = None
    meter: str | None = None
    tdp_w: float | None = None
    server: ServerStats | None = None


class ArmTotals(Record):
    """Times and energy of all attempts of an arm.

    `wall_s` adds up the windows between ready and end; a killed attempt has no end, so its window runs to its last
    stored trace. `energy_j` is None unless every attempt that stored traces was measured. `server` adds up what the engine
    counted, None unless every attempt that stored traces tells.
    """

    attempts: int
    startup_s: float | None
    wall_s: float | None
    energy_j: float | None
    meter: str | None
    tdp_w: float | None = None
    server: ServerStats | None = None
    windows: tuple[EnergyWindow, ...] = ()


def _not_read(default: object) -> Any:
    """A field that keeps its default: no line has its alias."""
    return Field(default=default, validation_alias="-")


class _CompletionOutline(Completion, extra="ignore"):
    text: str = _not_read("")
    token_ids: tuple[int, ...] = _not_read(())
    logprobs: tuple[TokenLogprob, ...] | None = _not_read(None)


class _PremiseOutline(Premise, extra="ignore"):
    text: str = _not_read("")
    depends_on: tuple[str, ...] = _not_read(())


class _HopOutline(Hop, extra="ignore"):
    parents: tuple[str, ...] = _not_read(())
    messages: tuple[Message, ...] = _not_read(())
    completion: _CompletionOutline
    premises: tuple[_PremiseOutline, ...] = ()
    replaced: tuple[Premise, ...] = _not_read(())


class _DecisionOutline(Decision, extra="ignore"):
    node: str = _not_read("")
    parents: tuple[str, ...] = _not_read(())
    premises: tuple[_PremiseOutline, ...] = ()


class _Outline(Trace):
    """A trace of which only what is counted was read."""

    hops: tuple[_HopOutline, ...] = ()
    decisions: tuple[_DecisionOutline, ...] = ()


class LastSeen:
    """When every attempt of an arm was last seen at work, noted while its traces pass by.

    `ends` maps an attempt to the end of its last trace (Unix time in seconds); attempts without any hop are not in it.
    """

    def __init__(self) -> None:
        self.ends: dict[int, float] = {}

    def note(self, trace: Trace) -> None:
        """Take one more trace into account."""
        if trace.hops:
            end = trace.hops[0].started_at + trace.measurement.duration_s
            self.ends[trace.attempt] = max(self.ends.get(trace.attempt, 0.0), end)


class RunDirectory:
    """A run on disk. Create one with `create`, read one with `open`."""

    def __init__(self, path: Path, config: RunConfig):
        self.path = path
        self.config = config

    @classmethod
    def create(cls, parent: Path, config: RunConfig, tasks: Iterable[Task], environment: dict[str, object]) -> "RunDirectory":
        """A new directory `<parent>/<name>-<time>`; nothing that exists is ever overwritten. Raises StoreError."""
        try:
            path = new_directory(parent, f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}")
            write_whole(path / TASKS, "".join(f"{task.model_dump_json()}\n" for task in tasks))
            write_whole(path / ENVIRONMENT, json.dumps(environment, indent=1) + "\n")
            write_whole(path / CONFIG, as_yaml(config))
        except OSError as error:
            raise cannot_write(parent, error) from error
        return cls(path, config)

    @classmethod
    def open(cls, path: Path) -> "RunDirectory":
        """An existing run. Raises StoreError where it is none, ConfigError where its `run.yaml` was damaged."""
        if not (path / CONFIG).is_file():
            raise StoreError(f"{path}: not a run directory (no {CONFIG}); `qtrap list runs` shows the runs")
        return cls(path, load_yaml(path / CONFIG, RunConfig))

    def reconfigured(self, config: RunConfig) -> "RunDirectory":
        """The run under another configuration, which replaces the one that was written down. Raises StoreError."""
        try:
            write_whole(self.path / CONFIG, as_yaml(config))
        except OSError as error:
            raise cannot_write(self.path, error) from error
        return RunDirectory(self.path, config)

    @property
    def id(self) -> str:
        """Name of the directory."""
        return self.path.name

    def arm_path(self, arm: str) -> Path:
        """Directory of an arm."""
        return self.path / "arms" / arm

    def arms(self) -> tuple[str, ...]:
        """Arms with stored traces, in the order of the configuration."""
        return tuple(arm.name for arm in self.config.arms if (self.arm_path(arm.name) / "traces.jsonl").is_file())

    def tasks(self) -> dict[str, Task]:
        """All tasks by id."""
        return {task.id: task for task in read_lines(self.path / TASKS, Task)}

    def task_index(self) -> "Lines[Task]":
        """The same without holding them in memory."""
        return Lines(self.path / TASKS, Task, "id")

    def stored(self, arm: str) -> "Lines[Trace]":
        """The latest trace of every task of an arm, by task id, without holding them in memory."""
        return Lines(self.arm_path(arm) / "traces.jsonl", Trace)

    def stored_outlines(self, arm: str) -> "Lines[Trace]":
        """The same without any text, see `outlines`."""
        return Lines(self.arm_path(arm) / "traces.jsonl", _Outline)

    def scores_path(self, arm: str, again: bool = False) -> Path:
        """Where the baseline's text under an arm is kept; `again` for the second pass of the baseline itself."""
        return self.arm_path(arm) / ("scores-again.jsonl" if again else "scores.jsonl")

    def replays_path(self, arm: str) -> Path:
        """Directory of the replays on the failed chains of an arm."""
        return self.path / "replays" / arm

    def faults_path(self, name: str) -> Path:
        """Directory of a set of injected faults."""
        return self.path / "faults" / name

    def environment(self) -> dict[str, object]:
        """What was recorded about the machine."""
        try:
            data: dict[str, object] = json.loads((self.path / ENVIRONMENT).read_text())
        except (OSError, ValueError) as error:
            raise StoreError(f"{self.path / ENVIRONMENT}: cannot be read: {error}") from error
        return data

    def traces(self, arm: str) -> Iterator[Trace]:
        """Stored traces of an arm, one at a time."""
        return read_lines(self.arm_path(arm) / "traces.jsonl", Trace)

    def outlines(self, arm: str) -> Iterator[Trace]:
        """The same without any text: values, scores, sampling, tokens counted and times, in about half the time."""
        return read_lines(self.arm_path(arm) / "traces.jsonl", _Outline)

    def identity(self, arm: str) -> ArmIdentity | None:
        """What was served, or None where the arm never became ready."""
        path = self.arm_path(arm) / "identity.json"
        try:
            return ArmIdentity.model_validate_json(path.read_text()) if path.is_file() else None
        except (OSError, ValidationError) as error:
            raise StoreError(f"{path}: cannot be read: {first_problem(error)}") from error

    def attempts(self, arm: str) -> list[AttemptEvent]:
        """All events of an arm."""
        return list(read_lines(self.arm_path(arm) / "attempts.jsonl", AttemptEvent))

    def readings(self, arm: str) -> Iterator[Reading]:
        """The energy meter and the device while the arm was served, in order of time; none where nothing measured."""
        return read_lines(self.arm_path(arm) / READINGS, Reading)

    def totals(self, arm: str, seen: "LastSeen | None" = None) -> ArmTotals:
        """Times and energy of all attempts of an arm. Its traces are read, unless `seen` has watched all of them."""
        if seen is None:
            seen = LastSeen()
            for trace in self.outlines(arm):
                seen.note(trace)
        return _totals(self.attempts(arm), seen.ends)


class ArmWriter:
    """Appends to the files of one arm. Holds a lock, so that two processes never write to the same arm.

    `done` are the tasks that need no further trace; with `retry_errors`, those that ended in an error are not among them.
    """

    def __init__(self, run: RunDirectory, arm: str, retry_errors: bool = False):
        self.path = run.arm_path(arm)
        with ExitStack() as files:
            try:
                files.enter_context(_lock(self.path / ".lock"))
                self._traces = files.enter_context(_LineFile(self.path / "traces.jsonl"))
                self._events = files.enter_context(_LineFile(self.path / "attempts.jsonl"))
                self._readings = files.enter_context(_LineFile(self.path / READINGS))
            except OSError as error:
                raise cannot_write(self.path, error) from error
            self.attempt = 1 + max((event.attempt for event in run.attempts(arm)), default=0)
            stored = run.stored(arm)
            self.done = {task for task in stored if not retry_errors or stored[task].error is None}
            self._files = files.pop_all()

    def __enter__(self) -> "ArmWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def trace(self, trace: Trace) -> None:
        """Append a trace. Raises StoreError; a line that did not fit is removed again."""
        self._traces.append(trace)

    def event(self, event: AttemptEvent) -> None:
        """Append an attempt event. Raises StoreError."""
        self._events.append(event)

    def reading(self, reading: Reading) -> None:
        """Append a reading; one that does not fit is left out."""
        with suppress(StoreError):
            self._readings.append(reading)

    def identity(self, identity: ArmIdentity) -> None:
        """Write down what is served. Raises StoreError."""
        try:
            write_whole(self.path / "identity.json", identity.model_dump_json(indent=1) + "\n")
        except OSError as error:
            raise cannot_write(self.path, error) from error


class Journal:
    """Appends records to one file of its own, under a lock; what a kill cut off is removed first. Raises StoreError."""

    def __init__(self, path: Path):
        with ExitStack() as files:
            try:
                files.enter_context(_lock(path.with_name(f".{path.name}.lock")))
                self._lines = files.enter_context(_LineFile(path))
            except OSError as error:
                raise cannot_write(path, error) from error
            self._files = files.pop_all()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def append(self, record: Record) -> None:
        """Append one line. Raises StoreError; a line that did not fit is removed again."""
        self._lines.append(record)


class _Places(Mapping[str, Found], Generic[Row, Found]):
    """The places of the lines of a JSONL file, by one of its text fields.

    Only these are kept in memory, a line is parsed whenever it is asked for. A missing file is empty. The file stays open
    as long as this object lives, and what is appended to it meanwhile is not seen.
    """

    def __init__(self, path: Path, model: type[Row], field: str = "task_id"):
        self.path, self._model = path, model
        self._starts = array("Q", [0])
        self._numbers: dict[str, list[int]] = {}
        if path.is_file():
            with path.open("rb") as file:
                self._index(file, re.compile(rb'"%s":("(?:[^"\\]|\\.)*")' % field.encode()), field)
                self._file = os.dup(file.fileno())
            weakref.finalize(self, os.close, self._file)

    def _index(self, file: IO[bytes], pattern: re.Pattern[bytes], field: str) -> None:
        for number, line in enumerate(file, start=1):
            self._starts.append(self._starts[-1] + len(line))
            if line.endswith(b"\n"):
                if (found := pattern.search(line)) is None:
                    raise StoreError(f"{self.path}:{number}: damaged line (no '{field}'); delete that line to go on")
                self._numbers.setdefault(json.loads(found[1]), []).append(number)

    def __iter__(self) -> Iterator[str]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def __contains__(self, key: object) -> bool:
        return key in self._numbers

    def _row(self, number: int) -> Row:
        start, end = self._starts[number - 1 : number + 1]
        try:
            return self._model.model_validate_json(os.pread(self._file, end - start, start))
        except (OSError, ValidationError) as error:
            raise _damaged(self.path, number, error) from error


class Lines(_Places[Row, Row]):
    """Random access to a JSONL file by one of its text fields; of several lines with one value the last counts."""

    def __getitem__(self, key: str) -> Row:
        return self._row(self._numbers[key][-1])


class Groups(_Places[Row, tuple[Row, ...]]):
    """The same with all lines of one value together, in the order of the file."""

    def __getitem__(self, key: str) -> tuple[Row, ...]:
        return tuple(self._row(number) for number in self._numbers[key])


class _LineFile:
    """A file that grows by whole lines."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _drop_partial_line(path)
        self._path, self._file = path, path.open("ab", buffering=0)

    def __enter__(self) -> "_LineFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, record: Record) -> None:
        line = record.model_dump_json().encode() + b"\n"
        start = os.fstat(self._file.fileno()).st_size
        try:
            written = self._file.write(line)
            if written != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._file.fileno(), start)
            raise cannot_write(self._path.parent, error) from error


def read_lines(path: Path, model: type[Row]) -> Iterator[Row]:
    """Whole lines of a JSONL file as records; a last line without its newline was cut off by a kill and is left out.

    Raises:
        StoreError: names the file and the line that is damaged.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                yield model.model_validate_json(line)
            except ValidationError as error:
                raise _damaged(path, number, error) from error


def cannot_write(path: Path, error: OSError) -> StoreError:
    """One sentence for a failed write; what was stored before stays."""
    if error.errno == errno.ENOSPC:
        return StoreError(f"{path}: the disk is full; free some space and resume the run, nothing is lost")
    return StoreError(f"{path}: cannot be written: {error.strerror or error}")


def _damaged(path: Path, number: int, error: OSError | ValidationError) -> StoreError:
    return StoreError(f"{path}:{number}: damaged line ({first_problem(error)}); delete that line to go on")


def new_directory(parent: Path, name: str) -> Path:
    """A directory that was not there before: `<parent>/<name>`, or with a number at its end. Raises OSError."""
    for suffix in ("", *(f"-{number}" for number in range(2, 1000))):
        path = parent / f"{name}{suffix}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            if path.is_dir():
                continue
            raise
        return path
    raise FileExistsError(errno.EEXIST, f"1000 runs are called {name}")


def as_yaml(config: Record) -> str:
    """A configuration as the YAML that `load_yaml` reads."""
    text: str = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return text


def write_whole(path: Path, text: str) -> None:
    """Write a whole file or nothing."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _lock(path: Path) -> IO[bytes]:
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise StoreError(f"{path.parent}: another process is writing here; wait for it or stop it") from None
    return file


def _drop_partial_line(path: Path) -> None:
    if not path.is_file():
        return
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        while size > 0:
            start = max(0, size - 65536)
            file.seek(start)
            newline = file.read(size - start).rfind(b"\n")
            if newline >= 0:
                size = start + newline + 1
                break
            size = start
        file.truncate(size)


def _totals(events: list[AttemptEvent], last_seen: dict[int, float]) -> ArmTotals:
    ready = {event.attempt: event for event in events if event.event == "ready"}
    ends = {event.attempt: event for event in events if event.event == "end"}
    windows = tuple(_energy_window(event, ends.get(attempt), last_seen.get(attempt)) for attempt, event in ready.items())
    at_work = [ends.get(attempt) for attempt in last_seen]
    energies = [None if end is None else end.energy_j for end in at_work]
    startups = [event.startup_s for event in ready.values() if event.startup_s is not None]
    return ArmTotals(
        attempts=max((event.attempt for event in events), default=0),
        startup_s=sum(startups) if startups else None,
        wall_s=sum(window.wall_s for window in windows) if windows else None,
        energy_j=_all_added(energies),
        meter=next((event.meter for event in ends.values() if event.meter), None),
        tdp_w=next((event.tdp_w for event in ends.values() if event.tdp_w), None),
        server=together([None if end is None else end.server for end in at_work]),
        windows=windows,
    )


def _all_added(parts: list[float | None]) -> float | None:
    known = [part for part in parts if part is not None]
    return sum(known) if known and len(known) == len(parts) else None


def _energy_window(ready: AttemptEvent, end: AttemptEvent | None, last_seen: float | None) -> EnergyWindow:
    return EnergyWindow(
        attempt=ready.attempt,
        begun_at=ready.at,
        wall_s=_window(ready, end, last_seen),
        energy_j=end.energy_j if end is not None else None,
        idle_w=ready.idle_w,
    )


def _window(ready: AttemptEvent, end: AttemptEvent | None, last_seen: float | None) -> float:
    if end is not None and end.wall_s is not None:
        return end.wall_s
    return max(0.0, last_seen - ready.at) if last_seen is not None else 0.0


def first_problem(error: Exception) -> str:
    """The first thing that is wrong, by its field."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc'])) or 'line'}: {first['msg']}"
    return str(error).splitlines()[0]
