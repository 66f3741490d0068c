"""One run directory: append-only, self-describing, safe against `kill -9` at any moment.

    run.yaml            the resolved configuration; with it alone the run can be repeated
    environment.json    versions, hardware, git state, command line
    tasks.jsonl         the tasks with their gold premises
    arms/<arm>/
        identity.json   what was really served
        attempts.jsonl  start, ready and end of every attempt: times, energy window
        traces.jsonl    one trace a line
        server.log      output of the process that served the arm
    arms/<arm>/scores.jsonl, replays/, faults/    experiments on the stored traces, see `qtrap_agents.evidence`

Only whole lines count: a line cut off by a kill is removed before the next one is written, so a resumed run repeats
nothing and counts nothing twice.
"""

import errno
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Literal, TypeVar

import yaml
from pydantic import ValidationError

from qtrap_agents.config import RunConfig, load_yaml
from qtrap_agents.errors import StoreError
from qtrap_agents.types import ArmIdentity, Record, Task, Trace

CONFIG, ENVIRONMENT, TASKS = "run.yaml", "environment.json", "tasks.jsonl"

Row = TypeVar("Row", bound=Record)


class AttemptEvent(Record):
    """One line of `attempts.jsonl`. `at` is Unix time in seconds; what does not belong to the event is None.

    `ready` tells `startup_s`; `end` tells why the attempt ended, the seconds between ready and end, and the energy of
    that window in joules with the meter that read it (None where nothing measured).
    """

    attempt: int
    event: Literal["start", "ready", "end"]
    at: float
    startup_s: float | None = None
    reason: Literal["finished", "interrupted", "failed"] | None = None
    wall_s: float | None = None
    energy_j: float | None = None
    meter: str | None = None


class ArmTotals(Record):
    """Times and energy of all attempts of an arm.

    `wall_s` adds up the windows between ready and end; a killed attempt has no end, so its window runs to its last
    stored trace. `energy_j` is None unless every attempt that stored traces was measured.
    """

    attempts: int
    startup_s: float | None
    wall_s: float | None
    energy_j: float | None
    meter: str | None


class RunDirectory:
    """A run on disk. Create one with `create`, read one with `open`."""

    def __init__(self, path: Path, config: RunConfig):
        self.path = path
        self.config = config

    @classmethod
    def create(cls, parent: Path, config: RunConfig, tasks: Iterable[Task], environment: dict[str, object]) -> "RunDirectory":
        """A new directory `<parent>/<name>-<time>`; nothing that exists is ever overwritten. Raises StoreError."""
        try:
            path = _new_directory(parent, f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}")
            _write(path / TASKS, "".join(f"{task.model_dump_json()}\n" for task in tasks))
            _write(path / ENVIRONMENT, json.dumps(environment, indent=1) + "\n")
            _write(path / CONFIG, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
        except OSError as error:
            raise cannot_write(parent, error) from error
        return cls(path, config)

    @classmethod
    def open(cls, path: Path) -> "RunDirectory":
        """An existing run. Raises StoreError where it is none, ConfigError where its `run.yaml` was damaged."""
        if not (path / CONFIG).is_file():
            raise StoreError(f"{path}: not a run directory (no {CONFIG}); `qtrap list runs` shows the runs")
        return cls(path, load_yaml(path / CONFIG, RunConfig))

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

    def identity(self, arm: str) -> ArmIdentity | None:
        """What was served, or None where the arm never became ready."""
        path = self.arm_path(arm) / "identity.json"
        try:
            return ArmIdentity.model_validate_json(path.read_text()) if path.is_file() else None
        except (OSError, ValidationError) as error:
            raise StoreError(f"{path}: cannot be read: {_short(error)}") from error

    def attempts(self, arm: str) -> list[AttemptEvent]:
        """All events of an arm."""
        return list(read_lines(self.arm_path(arm) / "attempts.jsonl", AttemptEvent))

    def totals(self, arm: str) -> ArmTotals:
        """Times and energy of all attempts of an arm."""
        last_seen: dict[int, float] = {}
        for trace in self.traces(arm):
            if trace.hops:
                end = trace.hops[0].started_at + trace.measurement.duration_s
                last_seen[trace.attempt] = max(last_seen.get(trace.attempt, 0.0), end)
        return _totals(self.attempts(arm), last_seen)


class ArmWriter:
    """Appends to the files of one arm. Holds a lock, so that two processes never write to the same arm."""

    def __init__(self, run: RunDirectory, arm: str):
        self.path = run.arm_path(arm)
        with ExitStack() as files:
            try:
                files.enter_context(_lock(self.path / ".lock"))
                self._traces = files.enter_context(_LineFile(self.path / "traces.jsonl"))
                self._events = files.enter_context(_LineFile(self.path / "attempts.jsonl"))
            except OSError as error:
                raise cannot_write(self.path, error) from error
            self.attempt = 1 + max((event.attempt for event in run.attempts(arm)), default=0)
            self.done = set(run.stored(arm))
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

    def identity(self, identity: ArmIdentity) -> None:
        """Write down what is served. Raises StoreError."""
        try:
            _write(self.path / "identity.json", identity.model_dump_json(indent=1) + "\n")
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


class Lines(Mapping[str, Row]):
    """Random access to a JSONL file by one of its text fields; of several lines with one value the last counts.

    Only the places of the lines are kept in memory, a line is parsed whenever it is asked for. A missing file is empty.
    """

    def __init__(self, path: Path, model: type[Row], field: str = "task_id"):
        self.path, self._model = path, model
        self._places: dict[str, int] = {}
        if path.is_file():
            with path.open("rb") as file:
                self._index(file, re.compile(rb'"%s":("(?:[^"\\]|\\.)*")' % field.encode()), field)

    def _index(self, file: IO[bytes], pattern: re.Pattern[bytes], field: str) -> None:
        start = 0
        for number, line in enumerate(file, start=1):
            if line.endswith(b"\n"):
                if (found := pattern.search(line)) is None:
                    raise StoreError(f"{self.path}:{number}: damaged line (no '{field}'); delete that line to go on")
                self._places[json.loads(found[1])] = start
            start += len(line)

    def __getitem__(self, key: str) -> Row:
        place = self._places[key]
        try:
            with self.path.open("rb") as file:
                file.seek(place)
                return self._model.model_validate_json(file.readline())
        except (OSError, ValidationError) as error:
            raise StoreError(f"{self.path}: damaged line of '{key}' ({_short(error)}); delete that line to go on") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: object) -> bool:
        return key in self._places


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
                raise StoreError(f"{path}:{number}: damaged line ({_short(error)}); delete that line to go on") from error


def cannot_write(path: Path, error: OSError) -> StoreError:
    """One sentence for a failed write; what was stored before stays."""
    if error.errno == errno.ENOSPC:
        return StoreError(f"{path}: the disk is full; free some space and resume the run, nothing is lost")
    return StoreError(f"{path}: cannot be written: {error.strerror or error}")


def _new_directory(parent: Path, name: str) -> Path:
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


def _write(path: Path, text: str) -> None:
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
    walls = [_window(ready[attempt], ends.get(attempt), last_seen.get(attempt)) for attempt in ready]
    energies = [ends[attempt].energy_j if attempt in ends else None for attempt in last_seen]
    measured = [energy for energy in energies if energy is not None]
    startups = [event.startup_s for event in ready.values() if event.startup_s is not None]
    return ArmTotals(
        attempts=max((event.attempt for event in events), default=0),
        startup_s=sum(startups) if startups else None,
        wall_s=sum(walls) if walls else None,
        energy_j=sum(measured) if measured and len(measured) == len(energies) else None,
        meter=next((event.meter for event in ends.values() if event.meter), None),
    )


def _window(ready: AttemptEvent, end: AttemptEvent | None, last_seen: float | None) -> float:
    if end is not None and end.wall_s is not None:
        return end.wall_s
    return max(0.0, last_seen - ready.at) if last_seen is not None else 0.0


def _short(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc'])) or 'line'}: {first['msg']}"
    return str(error).splitlines()[0]
