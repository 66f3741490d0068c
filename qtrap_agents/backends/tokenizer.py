"""The tokenizer of a checkpoint alone, to see prompts as a model will: no weights are read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qtrap_agents.backends.chat import prompt_ids
from qtrap_agents.backends.checkpoint import has_tokenizer, resolve_checkpoint
from qtrap_agents.errors import ArmError
from qtrap_agents.types import Message


class Tokenizer:
    """Renders chats through the chat template of a checkpoint."""

    def __init__(self, name: str) -> None:
        """
        Args:
            name: a directory with a tokenizer, a hub id, or `reference:<size>/<arm>`.

        Raises:
            ArmError: there is no tokenizer, or it cannot be read.
        """
        self.name = name
        path = Path(name).expanduser()
        if path.is_dir() and not has_tokenizer(path):
            raise ArmError(f"checkpoint {path}: no tokenizer.json; save the model's tokenizer into this directory")
        source = path if path.is_dir() else resolve_checkpoint(name)
        from transformers import AutoTokenizer

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(source)
        except Exception as error:  # the library raises nearly everything: files, network, classes
            reason = str(error).strip().partition("\n")[0][:200]
            raise ArmError(
                f"checkpoint '{name}': its tokenizer cannot be read: {reason}; save it anew into the directory"
            ) from error

    def count(self, messages: Sequence[Message]) -> int:
        """Tokens of a rendered chat. Raises ArmError where there is no chat template."""
        return len(self._ids(messages))

    def render(self, messages: Sequence[Message]) -> tuple[str, int]:
        """A rendered chat as text, special tokens included, and its number of tokens. Errors as in `count`."""
        ids = self._ids(messages)
        return str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)), len(ids)

    def _ids(self, messages: Sequence[Message]) -> list[int]:
        return prompt_ids(self._tokenizer, [message.model_dump() for message in messages])
