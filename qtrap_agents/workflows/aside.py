"""Where an app of the user's runs: an event loop and threads of its own, with its client pointed at the gateway.

The arm lives in the event loop of the run. An app may block its own (a synchronous client in an `async def` node does), so
it has another one; nodes that are plain functions get a thread each, and one that hangs holds nobody up, not even the end of
the process.
"""

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

from qtrap_agents.backends.gateway import HOST, Gateway
from qtrap_agents.workflows.marks import mark_requests


@cache
def gateway() -> Gateway:
    """The gateway of this process: one address for all arms, because an app reads it once."""
    return Gateway()


def _point_at_gateway() -> Callable[[], None]:
    """OPENAI_BASE_URL and OPENAI_API_BASE lead to the gateway, with a key where there is none, until the result is called."""
    direct = ",".join(filter(None, (os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), HOST)))
    settings = dict.fromkeys(("OPENAI_BASE_URL", "OPENAI_API_BASE"), gateway().base_url)
    settings |= dict.fromkeys(("NO_PROXY", "no_proxy"), direct)
    settings |= {"OPENAI_API_KEY": os.environ.get("OPENAI_API_KEY") or "none"}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)

    def undo() -> None:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    return undo


class _Attachment:
    """The environment and the marks of an app: there while anybody needs them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._undo = ExitStack()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if self._users == 0:
                self._undo.callback(_point_at_gateway())
                self._undo.callback(mark_requests(*gateway().netloc))
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self._undo.close()


attached = _Attachment()
"""In this block the app's client asks the gateway, and its requests are marked. Blocks may overlap, in any thread."""


@cache
def app_loop() -> asyncio.AbstractEventLoop:
    """The event loop of apps, in a thread that ends with the process: clients of an app belong to one loop for good."""
    loop = asyncio.new_event_loop()
    loop.set_default_executor(_Daemons())
    threading.Thread(target=loop.run_forever, name="qtrap-app", daemon=True).start()
    return loop


class _Daemons(ThreadPoolExecutor):
    """A thread for every call, which nobody waits for at the end of the process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Start it."""
        future: Future[Any] = Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=work, daemon=True).start()
        return future
