"""The one seam between a workflow and whatever serves the model."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from qtrap_agents.measures import KernelTime, ServerStats
from qtrap_agents.types import ArmIdentity, Completion, Message, Sampling, Score


class Backend(Protocol):
    """An arm that is ready to answer. Obtained from `open_arm`, which also closes it."""

    @property
    def identity(self) -> ArmIdentity:
        """What is really being served."""

    async def complete(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """Answer one chat request. Any number may be in flight at once; the backend batches them.

        Raises:
            CompletionError: this request failed; others may still succeed.
            ArmDied: the arm is gone; every later call raises it too.
        """

    async def score(self, messages: Sequence[Message], token_ids: Sequence[int], top: int) -> Score:
        """The given continuation under this arm, token by token, with the `top` most probable tokens at each place.

        Taken without a prefix cache. Any number may be in flight. vLLM takes a `top` of up to 20, more with the arm's
        `engine_args: {max_logprobs: …}`, and texts that leave one token of the context free.

        Raises:
            CompletionError: this request failed (too long for the context, unknown token ids, `top` too large, logits not
                finite).
            ArmError: the arm gives no log-probabilities of prompts at all.
            ArmDied: the arm is gone.
        """

    async def stats(self) -> ServerStats | None:
        """What the engine itself has counted since it was started; None where the backend cannot tell.

        Raises:
            ArmDied: the arm is gone.
        """


@runtime_checkable
class Relay(Protocol):
    """A backend with an OpenAI-compatible server, which may know tools."""

    async def relay(self, body: dict[str, Any]) -> tuple[Completion, dict[str, Any]]:
        """Answer a whole chat request, tools included: the completion, and the assistant's message. Errors as in `complete`."""


@runtime_checkable
class Profiled(Protocol):
    """A backend that can look at its own kernels. What is asked between start and stop is profiled; nothing may be in flight."""

    async def start_profile(self) -> None:
        """Begin. Raises ArmDied, CompletionError where the profiler cannot run."""

    async def stop_profile(self) -> tuple[KernelTime, ...]:
        """End, and tell the time of every kernel since the start, longest first. Errors as in `start_profile`."""
