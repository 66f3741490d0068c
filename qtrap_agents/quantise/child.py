"""A child process whose log is followed while it works: pip, or the quantiser."""

import asyncio
import os
import re
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from qtrap_agents.backends.process import Child, owned_child

POLL_S = 0.2
LINE_END = re.compile(rb"[\r\n]+")

Show = Callable[[str], str | None]
"""What a line of the log means to the user; None for nothing."""


async def follow(command: Sequence[str], log: Path, show: Show, tell: Callable[[str], None]) -> Child:
    """Run a command to its end in its own process group, output to `log`, what `show` makes of its lines to `tell`.

    Its group ends with this process, however that ends, and with the task that waits for it. A thing said twice in a row is
    told once. Threads that wait leave their core to others: a small model is many times slower where they do not.
    """
    ours, theirs = socket.socketpair()
    guarded = [sys.executable, "-m", "qtrap_agents.backends.guard", "{fd}", *command]
    with ours:
        async with owned_child(guarded, {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}, log, theirs) as child:
            reading = asyncio.create_task(_read(child, show, tell))
            try:
                await child.process.wait()
                await reading
            finally:
                reading.cancel()
                with suppress(asyncio.CancelledError):
                    await reading
            return child


async def _read(child: Child, show: Show, tell: Callable[[str], None]) -> None:
    """Tell what is new in the log until the process has ended and all is read."""
    rest, told = b"", ""
    with child.log.open("rb") as stream:
        stream.seek(child.log_start)
        while True:
            ended = child.ended
            *lines, rest = LINE_END.split(rest + stream.read())
            for line in lines:
                text = show(line.decode(errors="replace"))
                if text is not None and text != told:
                    tell(text)
                    told = text
            if ended:
                return
            await asyncio.sleep(POLL_S)
