"""Every error that qtrap raises on purpose.

    QtrapError                  one sentence for the user; the CLI prints it and exits with 2
    ├── ConfigError             a file or option is wrong: names the file, the field and the remedy
    ├── SuiteError              a task suite or task file cannot be read or contradicts itself
    ├── ArmError                an arm cannot be served: checkpoint, port, start-up, identity
    │   └── ArmDied             the process that serves the arm ended or stopped answering in mid-run
    ├── CompletionError         one request failed; recorded on its trace, the run goes on
    │   └── TransientError      it may succeed when asked again
    ├── ExtractionError         the user's premise extractor failed; recorded on its trace, the run goes on
    ├── ToolError               a tool call of an agent failed: unknown tool or key, or the tool raised or hung
    ├── SimulationError         an error model, layout or plan is wrong, or cannot be fitted or reached
    └── StoreError              a run directory cannot be read, written or resumed

Anything else that escapes is a bug and keeps its traceback.
"""

import difflib
from collections.abc import Iterable

from qtrap_agents.types import Hop

_LONGEST_NAME = 100


class QtrapError(Exception):
    """Base of all expected errors. The message is one sentence that says what to do."""


class ConfigError(QtrapError):
    """A configuration file or a command-line option is wrong."""


class SuiteError(QtrapError):
    """A task suite is missing, malformed or inconsistent."""


class ArmError(QtrapError):
    """An arm cannot be served."""


class ArmDied(ArmError):
    """The process behind an arm ended or stopped answering; the run can be resumed."""


class CompletionError(QtrapError):
    """One request failed; belongs on the trace, never counted as a wrong answer."""


class TransientError(CompletionError):
    """One request failed for a reason that may be gone when it is asked again: a timeout, a busy server, a broken line."""


class ToolError(QtrapError):
    """A tool call of an agent has no value; belongs on the trace or goes back to the model, never ends a run."""


class ExtractionError(QtrapError):
    """The user's premise extractor raised or returned no premises; belongs on the trace, never counted as a wrong answer.

    `hops` are those whose answers it could not read: what they cost counts, and their text is kept.
    """

    hops: tuple[Hop, ...] = ()


class SimulationError(QtrapError):
    """An error model, a layout or a precision plan is wrong, cannot be fitted, or asks for what cannot be reached."""


class StoreError(QtrapError):
    """A run directory cannot be read, written or resumed."""


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """One sentence for an unknown name, with the nearest known one."""
    names = sorted(known)
    name = name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…"
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(names) or 'none'}."
    return f"unknown {kind} '{name}': {hint}"


def first_line(error: Exception) -> str:
    """What another library's error says, in one line; its class where it says nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)
