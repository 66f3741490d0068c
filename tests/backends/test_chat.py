"""Tokens to text, piece by piece: the pieces of any text join to what the tokenizer says of the whole."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from qtrap_agents.backends.chat import TEXT_BLOCK, checksum, decode, text_pieces
from qtrap_agents.reference.tokenizer import build_tokenizer, vocabulary

END = "<end>"


def bytes_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, as byte-level BPE writes rare characters."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([END])
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token=END, clean_up_tokenization_spaces=True)


BYTES, WORDS = bytes_tokenizer(), build_tokenizer()


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_characters="\ufffd", exclude_categories=["Cs"])), st.text("aé😀 ", min_size=1))
def test_bytes_join_to_the_text(text: str, prompt: str) -> None:
    ids = BYTES(text)["input_ids"]
    found = text_pieces(BYTES, BYTES(prompt)["input_ids"], ids)
    assert "".join(found) == text
    assert len(found) == len(ids)


def test_a_character_belongs_to_its_last_token_and_a_special_token_adds_nothing() -> None:
    ids = BYTES("é ?😀")["input_ids"]
    assert text_pieces(BYTES, BYTES("a ")["input_ids"], [*ids, BYTES.eos_token_id]) == ("", "é", " ", "?", "", "", "", "😀", "")


def test_what_never_becomes_a_character_stays_visible() -> None:
    broken = BYTES("é")["input_ids"][:1] + BYTES("b")["input_ids"]
    assert text_pieces(BYTES, BYTES("a")["input_ids"], broken) == ("", "\ufffdb")


@pytest.mark.parametrize("length", [1, TEXT_BLOCK, TEXT_BLOCK + 1, 5 * TEXT_BLOCK])
def test_words_join_to_the_text(length: int) -> None:
    draw = random.Random(length)
    prompt, ids = ([draw.randrange(len(vocabulary())) for _ in range(count)] for count in (20, length))
    whole = decode(WORDS, prompt + ids)
    assert whole.endswith("".join(text_pieces(WORDS, prompt, ids)))
    assert decode(WORDS, prompt) + "".join(text_pieces(WORDS, prompt, ids)) == whole


def test_no_tokens_have_no_pieces() -> None:
    assert text_pieces(WORDS, [1, 2], []) == ()


def test_checksums_tell_prompts_apart() -> None:
    assert len({checksum(ids) for ids in ([], [1], [1, 2], [12], [2, 1])}) == 5
    assert checksum([1, 2]) == checksum((1, 2)) == "2b0e6c9b"
