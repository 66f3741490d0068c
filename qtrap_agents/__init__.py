"""qtrap_agents: find the hop where a quantised agent chain turns a tiny error into logic collapse.

In a notebook: `import qtrap_agents as qtrap`, then the functions of `qtrap_agents.api`, such as `qtrap.run` and `qtrap.trace`.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

API = ("compare", "load_suite", "open_arm", "open_run", "premise_graph", "run", "trace")
"""What is taken from `qtrap_agents.api` when it is first asked for: importing the package loads nothing."""


def __getattr__(name: str) -> Any:
    if name not in API:
        raise AttributeError(f"module 'qtrap_agents' has no attribute '{name}'")
    return getattr(importlib.import_module("qtrap_agents.api"), name)


def __dir__() -> list[str]:
    return [*globals(), *API]
