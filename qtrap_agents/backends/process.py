"""A child process of ours: its own process group, its log, its last words, and its certain end."""

import asyncio
import logging
import os
import re
import signal
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

logger = logging.getLogger(__name__)

LOG_TAIL_BYTES = 32_768
SHOWN_LINES = 4
TERM_GRACE_S = 3.0

CAUSES: tuple[tuple[str, str], ...] = (
    (
        r"out of memory|OutOfMemoryError|can't allocate memory|Cannot allocate memory|is less than desired|is less than requested"
        r"|No available memory for the cache blocks|larger than the available KV cache memory",
        "not enough memory: lower engine.kv_cache_gib, max_num_seqs, max_model_len or gpu_memory_utilization",
    ),
    (
        r"SafetensorError|HeaderTooLarge|MetadataIncompleteBuffer|InvalidHeader",
        "a safetensors file of the checkpoint is corrupt: copy it again",
    ),
    (
        r"Repository Not Found|LocalEntryNotFoundError|OfflineModeIsEnabled|is not a valid model identifier|couldn't connect to",
        "the checkpoint is not in the local hub cache and the hub cannot be reached: give a local directory",
    ),
    (
        r"Failed to find a kernel that can implement",
        "no kernel of this vLLM can run these packed weights here: use backend: transformers or another machine",
    ),
    (
        r"were not initialized from checkpoint|size mismatch|exceeds dimension size|no module or parameter named"
        r"|Attempted to load weight",
        "the weights do not fit config.json: the checkpoint is incomplete or of another model",
    ),
    (r"address already in use", "the port is taken: choose another 'port' or leave it out"),
)

NOISE = re.compile(
    r"^\s*$|^\s{4,}|^\s*File \"|^\s*\[Previous line|^Traceback|^During handling|^The above exception|Completed \|"
    r"|^\[rank\d+\]:\[W|^\[W\d|resource_tracker|Warning: |^torch\.distributed"
)
RAISED = re.compile(r"^[\w.]*(Error|Exception)(: .*)?$|^\s*Value error, ")
SECOND_HAND = re.compile(r"[Ss]ee (root cause above|stack trace|the stack trace)|check the stack trace|initialization failed")
PREFIX = re.compile(r"^(\(\w+[^)]*pid=\d+\) ?)?((?P<level>DEBUG|INFO|WARNING|ERROR)\s+[\d:. -]+(\[[^\]]*\])? ?)?")


class Child(NamedTuple):
    """A running child and the file that its stdout and stderr go to."""

    process: asyncio.subprocess.Process
    log: Path
    log_start: int

    @property
    def ended(self) -> bool:
        """True once the process has been reaped."""
        return self.process.returncode is not None

    def last_words(self) -> str:
        """Why it ended, in one line: a known cause with its remedy, the signal, and the last lines of its log."""
        lines = last_lines(self.log, self.log_start)
        cause = next((told for pattern, told in CAUSES if any(re.search(pattern, line) for line in lines)), None)
        status = self.process.returncode
        if cause is None and status is not None and status < 0:
            cause = f"killed by {signal.Signals(-status).name}"
        shown = " | ".join(lines[-SHOWN_LINES:]) or "nothing"
        return f"{cause + '; ' if cause else ''}last log lines ({self.log}): {shown}"


@asynccontextmanager
async def owned_child(
    command: Sequence[str], environment: Mapping[str, str], log: Path, lifeline: socket.socket
) -> AsyncIterator[Child]:
    """Start `command` in its own session, output to `log`; end its whole group on leaving.

    The child inherits `lifeline` (its number replaces `{fd}` in the command) and must end when the far end closes. The
    session of its own keeps Ctrl-C in the terminal away from it.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        start = output.tell()
        process = await asyncio.create_subprocess_exec(
            *[part.format(fd=lifeline.fileno()) if part == "{fd}" else part for part in command],
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=dict(environment),
            pass_fds=(lifeline.fileno(),),
            start_new_session=True,
        )
    lifeline.close()
    try:
        yield Child(process, log, start)
    finally:
        await end_group(process)


async def end_group(process: asyncio.subprocess.Process) -> None:
    """SIGTERM to the group, SIGKILL after a grace of three seconds; returns when the child is reaped."""
    _signal_group(process.pid, signal.SIGTERM)
    try:
        async with asyncio.timeout(TERM_GRACE_S):
            await process.wait()
    except (TimeoutError, asyncio.CancelledError) as error:
        _signal_group(process.pid, signal.SIGKILL)
        await process.wait()
        if isinstance(error, asyncio.CancelledError):
            raise
    _signal_group(process.pid, signal.SIGKILL)


def last_lines(log: Path, start: int = 0) -> list[str]:
    """The telling lines at the end of a log: what was raised first-hand, else errors, else anything.

    Without progress bars, stack frames, vLLM's prefixes and repetitions.
    """
    try:
        with log.open("rb") as stream:
            stream.seek(max(start, log.stat().st_size - LOG_TAIL_BYTES))
            text = stream.read().decode(errors="replace")
    except OSError:
        return []
    told = [(level, line) for level, line in map(_without_prefix, text.splitlines()) if not NOISE.search(line)]
    errors = [line for level, line in told if level in {None, "ERROR"}]
    raised = list(dict.fromkeys(line for line in errors if RAISED.match(line)))
    first_hand = [line for line in raised if not SECOND_HAND.search(line)]
    return first_hand or raised or errors or [line for _, line in told]


def _without_prefix(line: str) -> tuple[str | None, str]:
    """The level vLLM logged the line at, and its text."""
    prefix = PREFIX.match(line)
    return (prefix["level"], line[prefix.end() :].rstrip()[:300]) if prefix else (None, line)


def _signal_group(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
