"""Tokenizer of the reference models: one token a word of the world, one token a digit.

A WordPiece vocabulary, so `417` is `4 ##1 ##7` and decodes back without spaces.
"""

from functools import cache

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from qtrap_agents.world import OBJECTS, RELATIONS, entities

PAD, BOS, EOS, UNK, USER, ASSISTANT = "<pad>", "<s>", "</s>", "<unk>", "<|user|>", "<|assistant|>"
SPECIAL = (PAD, BOS, EOS, UNK, USER, ASSISTANT)
MARKS = (":", ";", ",", "=", "+", "-", "*", "/", "(", ")", "[", "]", "<", ">", "%", "?", ".")
WORDS = ("arith", "relate", "lookup", "track", "program", "start", "all", "modulo", "given", "what", "is", "then")
OPERATIONS = ("plus", "minus", "times", "max", "min", "swap", "rotate", "flip")
VOCABULARY_SIZE = 384

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}<|user|>{{ message['content'] }}"
    "{% elif message['role'] == 'assistant' %}<|assistant|>{{ message['content'] }}{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""System messages are left out: the reference models were trained without any."""


@cache
def vocabulary() -> dict[str, int]:
    """token -> id. Ids beyond the words, up to `VOCABULARY_SIZE`, are unused."""
    digits = tuple("0123456789")
    continued = tuple(f"##{digit}" for digit in digits)
    steps = ("s",)
    tokens = (*SPECIAL, *digits, *continued, *MARKS, *WORDS, *OPERATIONS, *steps, *OBJECTS, *RELATIONS, *entities())
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The fast tokenizer with its chat template."""
    core = Tokenizer(models.WordPiece(vocabulary(), unk_token=UNK, continuing_subword_prefix="##"))
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    core.add_special_tokens(list(SPECIAL))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        additional_special_tokens=[USER, ASSISTANT],
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
