"""The user's own functions and objects, named `module:function` in a configuration."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qtrap_agents.errors import QtrapError


def import_function(name: str, kind: str, error: type[QtrapError], folder: Path | None = None) -> Callable[..., Any]:
    """The function behind `module:function`; the working directory and the folder, where one is given, are searched too.

    Args:
        name: as the user wrote it.
        kind: what it is for, such as `workflow`; stands in the message.
        error: what to raise where it cannot be imported or is no function.
    """
    if folder is not None and str(folder) not in sys.path:
        sys.path.append(str(folder))
    found = import_object(name, kind, error)
    if not callable(found):
        raise error(f"{kind} '{name}' is not a function")
    imported: Callable[..., Any] = found
    return imported


def import_object(name: str, kind: str, error: type[QtrapError]) -> object:
    """The same for anything that a module holds."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    module, _, function = name.partition(":")
    try:
        found: object = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as failure:
        raise error(f"{kind} '{name}' cannot be imported: {failure}; give it as module:function") from failure
    except Exception as failure:  # whatever a module of the user's own does when it is imported
        reason = f"{type(failure).__name__}: {failure}".splitlines()[0]
        raise error(f"{kind} '{name}' cannot be imported: its module raised {reason}; correct it") from failure
    return found
