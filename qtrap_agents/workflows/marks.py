"""Whose request is this? Marks on the HTTP requests of an app that knows nothing of us.

The job that an app runs for stands in a context variable, which asyncio tasks and LangGraph's threads inherit, and LangGraph
itself tells in which node they are. While marks are on, httpx (under whichever name OpenAI's client uses it) writes both into
the headers of every request to the gateway. A request to OpenAI's own address, made by a client from before the app was
traced, is sent to the gateway: what OPENAI_BASE_URL would have done.
"""

import functools
import importlib
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any
from urllib.parse import quote

from langgraph.config import get_config

from qtrap_agents.backends.gateway import BEGAN_HEADER, JOB_HEADER, PLACE_HEADER

LIBRARIES = ("httpx", "httpx2")
OPENAI_HOST = "api.openai.com"

JOB: ContextVar[str | None] = ContextVar("qtrap_job", default=None)
"""Token of the job that this context works for."""


def here() -> str | None:
    """Where in its graph the running code is, as LangGraph's checkpoint namespace; None outside of every node."""
    try:
        place = get_config().get("metadata", {}).get("langgraph_checkpoint_ns")
    except RuntimeError:
        return None
    return str(place) if place else None


def mark_requests(host: str, port: int) -> Callable[[], None]:
    """Mark requests to this address from now on; the returned function ends it."""
    found = [module for name in LIBRARIES if (module := _module(name)) is not None]
    originals = [(cls, cls.send) for module in found for cls in (module.Client, module.AsyncClient)]
    for cls, original in originals:
        cls.send = _marking(original, host, port)

    def undo() -> None:
        for cls, original in originals:
            cls.send = original

    return undo


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _marking(send: Callable[..., Any], host: str, port: int) -> Callable[..., Any]:
    @functools.wraps(send)
    def marked(client: Any, request: Any, **options: Any) -> Any:
        if (token := JOB.get()) is not None:
            _mark(request, token, host, port)
        return send(client, request, **options)

    return marked


def _mark(request: Any, token: str, host: str, port: int) -> None:
    if request.url.host == OPENAI_HOST:
        request.url = request.url.copy_with(scheme="http", host=host, port=port)
        request.headers["host"] = f"{host}:{port}"
    if (request.url.host, request.url.port) == (host, port):
        request.headers[JOB_HEADER] = token
        request.headers[BEGAN_HEADER] = repr(time.perf_counter())
        if (place := here()) is not None:
            request.headers[PLACE_HEADER] = quote(place)
