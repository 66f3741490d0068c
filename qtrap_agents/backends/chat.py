"""Chat messages to prompt tokens, tokens to text, and the sentence for broken logits: the same for every backend of ours."""

import itertools
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from qtrap_agents.errors import ArmError

NOT_FINITE = "the model's logits are not finite (NaN or infinite)"
NO_TEMPLATE = "the tokenizer has no chat template; add chat_template to the checkpoint's tokenizer_config.json"
NO_SYSTEM_ROLE = "the chat template has no system role: the system message heads the first user message"
TOO_LONG = "the prompt is longer than the context"
GIVEN_UP = "the engine gave up on the request: an internal error, or a JSON schema that this tokenizer cannot write"

TEXT_CONTEXT = 8
TEXT_BLOCK = 16
HALF_CHARACTER = "\ufffd"

Ids = tuple[int, ...]


def prompt_ids(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """Token ids of the rendered chat, ready for the assistant's turn.

    Where the chat template refuses a system message, its text stands at the head of the first user message.

    Raises:
        ArmError: the tokenizer has no chat template.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ArmError(NO_TEMPLATE)
    chat = list(messages) if has_system_role(tokenizer) else without_system_role(messages)
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    fast = getattr(tokenizer, "backend_tokenizer", None)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"] if fast is None else _encoded(fast, text)
    return ids


@lru_cache(maxsize=8)
def has_system_role(tokenizer: Any) -> bool:
    """False where the chat template raises on a system message; one that leaves it out silently is taken at its word."""
    if not getattr(tokenizer, "chat_template", None):
        return True
    from jinja2 import TemplateError

    chat = [{"role": "system", "content": "1"}, {"role": "user", "content": "1"}]
    try:
        tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    except TemplateError:
        return False
    return True


def without_system_role(messages: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """The same chat with what the system says at the head of the first user message."""
    said = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
    chat = [dict(message) for message in messages if message["role"] != "system"]
    first = next((message for message in chat if message["role"] == "user"), None)
    if said and first is not None:
        first["content"] = f"{said}\n\n{first['content']}"
    return chat


def too_long(tokens: int, context: int) -> str:
    """The sentence for a prompt that leaves no room for an answer."""
    return f"{TOO_LONG}: it has {tokens} tokens, the model takes {context - 1} (engine.max_model_len)"


def _encoded(fast: Any, text: str) -> list[int]:
    """What `tokenizers` itself makes of a text: transformers' own call around it takes several times as long."""
    ids: list[int] = fast.encode(text, add_special_tokens=False).ids
    return ids


def all_finite(logprobs: Iterable[float]) -> bool:
    """False if any value is NaN or infinite."""
    return all(map(math.isfinite, logprobs))


def checksum(token_ids: Sequence[int]) -> str:
    """CRC-32 of token ids, 8 hexadecimal digits."""
    return f"{zlib.crc32(','.join(map(str, token_ids)).encode()):08x}"


def decode(tokenizer: Any, token_ids: Sequence[int]) -> str:
    """The text of tokens without the special ones, as vLLM writes it: spaces stay as they are."""
    text: str = tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


def text_pieces(tokenizer: Any, prompt: Sequence[int], token_ids: Sequence[int]) -> tuple[str, ...]:
    """What each token adds to the text that continues the prompt; joined they are the text. Special tokens add nothing."""
    pairs = list(windows(prompt, token_ids))
    return pieces(pairs, {window: decode(tokenizer, window) for window in distinct(pairs)})


def windows(prompt: Sequence[int], token_ids: Sequence[int]) -> Iterator[tuple[Ids, Ids]]:
    """For each token the ones just before it, without and with it: at least `TEXT_CONTEXT`, fewer where the prompt begins.

    What a token adds to a text, a leading space above all, shows only after other tokens. Neighbours share windows.
    """
    ids = (*prompt[-TEXT_CONTEXT:], *token_ids)
    first = len(ids) - len(token_ids)
    for index in range(len(token_ids)):
        end = first + index
        begin = max(0, end - index % TEXT_BLOCK - TEXT_CONTEXT)
        yield ids[begin:end], ids[begin : end + 1]


def distinct(pairs: Iterable[tuple[Ids, Ids]]) -> list[Ids]:
    """Every window once."""
    return list(dict.fromkeys(itertools.chain.from_iterable(pairs)))


def pieces(pairs: Iterable[tuple[Ids, Ids]], texts: Mapping[Ids, str]) -> tuple[str, ...]:
    """The differences of the texts of the windows. A character of several tokens belongs to the last of them."""
    return tuple(_added(texts[before], texts[after]) for before, after in pairs)


def _added(before: str, after: str) -> str:
    return "" if after.endswith(HALF_CHARACTER) else after[len(before.rstrip(HALF_CHARACTER)) :]
