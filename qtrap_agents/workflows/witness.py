"""What LangGraph and LangChain tell of an app while it runs, through their own interfaces: callbacks and a checkpointer."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
)

from qtrap_agents.types import Completion, Message
from qtrap_agents.workflows.lineage import Lineage

ROLES = {"system": "system", "ai": "assistant", "AIMessageChunk": "assistant"}


@dataclass
class Sighting:
    """A model call as LangChain saw it: `ids` are the names that its response may have been given."""

    place: str | None
    messages: tuple[Message, ...]
    started_at: float
    began: float
    ended: float = 0.0
    ids: frozenset[str] = frozenset()
    model: str = ""
    completion: Completion | None = None


class Witness(BaseCallbackHandler):
    """Notes which nodes start and end, and every model call, whichever client makes it."""

    run_inline = True

    def __init__(self, lineage: Lineage) -> None:
        self._lineage = lineage
        self._runs: dict[UUID, str] = {}
        self._calls: dict[UUID, Sighting] = {}

    @property
    def seen(self) -> list[Sighting]:
        """The calls that were answered."""
        return [call for call in self._calls.values() if call.completion is not None]

    def only_place(self) -> str | None:
        """The innermost node that runs now; None where several do."""
        running = set(self._runs.values())
        inner = [place for place in running if not any(other.startswith(f"{place}|") for other in running)]
        return inner[0] if len(inner) == 1 else None

    def on_chain_start(
        self, serialized: dict[str, Any], inputs: Any, *, run_id: UUID, metadata: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """A node, or something inside of it."""
        self._lineage.started(metadata or {}, time.perf_counter())
        if place := (metadata or {}).get("langgraph_checkpoint_ns"):
            self._runs[run_id] = place

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **_: Any) -> None:
        """It came to its end."""
        self._runs.pop(run_id, None)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        """It failed."""
        self._runs.pop(run_id, None)

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        metadata: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """A chat model is asked."""
        place = (metadata or {}).get("langgraph_checkpoint_ns")
        asked = tuple(map(message_of, messages[0] if messages else ()))
        self._calls[run_id] = Sighting(place, asked, time.time(), time.perf_counter())

    def on_llm_start(
        self,
        serialized: dict[str, Any],
        prompts: list[str],
        *,
        run_id: UUID,
        metadata: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """A text model is asked."""
        place = (metadata or {}).get("langgraph_checkpoint_ns")
        asked = tuple(Message(role="user", content=prompt) for prompt in prompts)
        self._calls[run_id] = Sighting(place, asked, time.time(), time.perf_counter())

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **_: Any) -> None:
        """It has answered."""
        call = self._calls.get(run_id)
        if call is None or not response.generations or not response.generations[0]:
            return
        call.ended = time.perf_counter()
        generation = response.generations[0][0]
        message = generation.message if isinstance(generation, ChatGeneration) else None
        facts: dict[str, Any] = {**(response.llm_output or {}), **(message.response_metadata if message else {})}
        usage = getattr(message, "usage_metadata", None) or {}
        call.ids = frozenset(str(name) for name in (facts.get("id"), message.id if message else None) if name)
        call.model = str(facts.get("model_name") or facts.get("model") or "another model")
        call.completion = Completion(
            text=generation.text,
            finish_reason=str(facts.get("finish_reason") or "stop"),
            prompt_tokens=usage.get("input_tokens", 0),
            completion_tokens=usage.get("output_tokens", 0),
            latency_s=call.ended - call.began,
        )


def message_of(message: BaseMessage) -> Message:
    """A LangChain message; what a tool or a person says is the user's."""
    role = ROLES.get(message.type, "user")
    return Message.model_validate({"role": role, "content": text_of(message)})


def text_of(message: BaseMessage) -> str:
    """The text of a message, its parts joined."""
    content = message.content
    if isinstance(content, str):
        return content
    return "".join(part if isinstance(part, str) else str(part.get("text", "")) for part in content)


class Ledger(BaseCheckpointSaver[Any]):
    """A checkpointer that notes who wrote to which channel.

    It stands in for the app's own one, so that a run neither reads nor fills its database: what an app wants to remember
    within one task is kept by `inner`; an app without a checkpointer gets none, and nothing is kept.
    """

    def __init__(self, lineage: Lineage, inner: "BaseCheckpointSaver[Any] | None") -> None:
        super().__init__(serde=inner.serde if inner else None)
        self._lineage, self._inner = lineage, inner

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """What `inner` keeps."""
        return self._inner.get_tuple(config) if self._inner else None

    def put(
        self, config: RunnableConfig, checkpoint: Checkpoint, metadata: CheckpointMetadata, new_versions: ChannelVersions
    ) -> RunnableConfig:
        """Give it to `inner`."""
        if self._inner:
            return self._inner.put(config, checkpoint, metadata, new_versions)
        return {"configurable": {**config["configurable"], "checkpoint_id": checkpoint["id"]}}

    def put_writes(self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = "") -> None:
        """Note the channels, and give the writes to `inner`."""
        graph = str(config["configurable"].get("checkpoint_ns", ""))
        self._lineage.wrote(graph, task_id, task_path, (channel for channel, _ in writes))
        if self._inner:
            self._inner.put_writes(config, writes, task_id, task_path)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The same."""
        return self.get_tuple(config)

    async def aput(
        self, config: RunnableConfig, checkpoint: Checkpoint, metadata: CheckpointMetadata, new_versions: ChannelVersions
    ) -> RunnableConfig:
        """The same."""
        return self.put(config, checkpoint, metadata, new_versions)

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """The same."""
        self.put_writes(config, writes, task_id, task_path)

    def get_next_version(self, current: Any, channel: None) -> Any:
        """As `inner` numbers them."""
        return self._inner.get_next_version(current, channel) if self._inner else super().get_next_version(current, channel)
