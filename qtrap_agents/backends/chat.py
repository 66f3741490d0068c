"""Chat messages to prompt tokens, and the sentence for broken logits: the same for every backend of ours."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from qtrap_agents.errors import ArmError

NOT_FINITE = "the model's logits are not finite (NaN or infinite)"
NO_TEMPLATE = "the tokenizer has no chat template; add chat_template to the checkpoint's tokenizer_config.json"


def prompt_ids(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """Token ids of the rendered chat, ready for the assistant's turn.

    Raises:
        ArmError: the tokenizer has no chat template.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ArmError(NO_TEMPLATE)
    text = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def all_finite(logprobs: Iterable[float]) -> bool:
    """False if any value is NaN or infinite."""
    return all(map(math.isfinite, logprobs))
