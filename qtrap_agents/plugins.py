"""The user's own functions, named `module:function` in a configuration."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qtrap_agents.errors import QtrapError


def import_function(name: str, kind: str, error: type[QtrapError]) -> Callable[..., Any]:
    """The function behind `module:function`; the working directory is searched too.

    Args:
        name: as the user wrote it.
        kind: what it is for, such as `workflow`; stands in the message.
        error: what to raise where it cannot be imported or is no function.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as failure:
        raise error(f"{kind} '{name}' cannot be imported: {failure}; give it as module:function") from failure
    if not callable(found):
        raise error(f"{kind} '{name}' is not a function")
    imported: Callable[..., Any] = found
    return imported
