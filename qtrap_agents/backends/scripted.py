"""The scripted arm: a Python function answers. For tests, teaching and edge cases that no model produces on demand."""

import inspect
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from qtrap_agents.config import ArmConfig
from qtrap_agents.errors import ArmError, CompletionError, QtrapError
from qtrap_agents.measures import ServerStats
from qtrap_agents.plugins import import_function
from qtrap_agents.types import ArmIdentity, Completion, Message, Sampling, Score

Script = Callable[[Sequence[Message], Sampling], Any]


class ScriptedArm:
    """Answers with what the function returns: text, or a whole Completion.

    Scores come from the script's attribute `score`, a function of messages, token ids and `top` that returns a Score.
    """

    def __init__(self, name: str, script: Script) -> None:
        self._name = name
        self._script = script
        self.identity = ArmIdentity(backend="scripted", checkpoint=name, source="a Python function", engine="scripted")

    async def complete(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """Call the function, awaiting it where it is async.

        Raises:
            CompletionError: it raised something of its own; errors of ours pass through.
        """
        started = time.perf_counter()
        answer = await _call(self._script, messages, sampling)
        return _as_completion(answer, messages, time.perf_counter() - started)

    async def score(self, messages: Sequence[Message], token_ids: Sequence[int], top: int) -> Score:
        """Call the script's `score` in the same way.

        Raises:
            ArmError: it has none. CompletionError: it raised something of its own or returned no Score.
        """
        function = getattr(self._script, "score", None)
        if function is None:
            raise ArmError(f"scripted arm '{self._name}' gives no log-probabilities; give its function an attribute 'score'")
        answer = await _call(function, messages, token_ids, top)
        if not isinstance(answer, Score):
            raise CompletionError(f"the script's score returned {type(answer).__name__}; return a Score")
        return answer

    async def stats(self) -> ServerStats | None:
        """None: there is no engine."""
        return None


@asynccontextmanager
async def open_scripted(config: ArmConfig) -> AsyncIterator[ScriptedArm]:
    """Import `script: module:function`.

    Raises:
        ArmError: there is no such module or function.
    """
    yield ScriptedArm(config.script or "", load_script(config.name, config.script or ""))


def load_script(arm: str, script: str) -> Script:
    """The function behind `module:function`."""
    return import_function(script, f"arm '{arm}': script", ArmError)


async def _call(function: Callable[..., Any], *arguments: object) -> object:
    try:
        answer = function(*arguments)
        return await answer if inspect.isawaitable(answer) else answer
    except QtrapError:
        raise
    except Exception as error:
        raise CompletionError(f"the script raised {type(error).__name__}: {error}") from error


def _as_completion(answer: object, messages: Sequence[Message], latency_s: float) -> Completion:
    """Text becomes a Completion; its tokens are counted as words, since there is no tokenizer."""
    if isinstance(answer, Completion):
        return answer
    if not isinstance(answer, str):
        raise CompletionError(f"the script returned {type(answer).__name__}; return text or a Completion")
    words = sum(len(message.content.split()) for message in messages)
    return Completion(text=answer, prompt_tokens=words, completion_tokens=len(answer.split()), latency_s=latency_s)
