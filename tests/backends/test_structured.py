"""Answers held to a JSON schema by a real engine, by a random model that would never write JSON of itself."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from qtrap_agents.backends.base import Backend
from qtrap_agents.backends.chat import GIVEN_UP, NO_SYSTEM_ROLE, has_system_role, prompt_ids
from qtrap_agents.backends.factory import holds_to
from qtrap_agents.config import ArmConfig, SuiteChoice
from qtrap_agents.errors import ArmError, CompletionError
from qtrap_agents.semantics import RuleError, normalise
from qtrap_agents.suites.catalog import Suite, load_suite
from qtrap_agents.types import Completion, Message, Sampling, Value
from qtrap_agents.workflows.reading import read_value, value_form

from .conftest import ENGINE, Arms, arm_of

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
WITHOUT_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}assistant: "
)
"""As the templates of some well-known models: they raise on a system message."""
SYSTEM, USER = Message(role="system", content="Be brief."), Message(role="user", content="how many?")
CONTEXT = 1024
LONG = ENGINE.model_copy(update={"max_model_len": CONTEXT})


def speller_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, so that any text can be written, JSON above all."""
    letters = [PAD, BOS, EOS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    core = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([PAD, BOS, EOS])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token=PAD, bos_token=BOS, eos_token=EOS)
    tokenizer.chat_template = WITHOUT_SYSTEM
    return tokenizer


@pytest.fixture(scope="module")
def speller(tmp_path_factory: pytest.TempPathFactory) -> ArmConfig:
    """A random model of bytes: at a temperature of 1 almost any byte is as likely as any other."""
    path = tmp_path_factory.mktemp("speller")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=384,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).half().save_pretrained(path)
    speller_tokenizer().save_pretrained(path)
    return ArmConfig(name="speller", checkpoint=str(path), backend="vllm")


def in_json(parser: str, words: int | None = None) -> Suite:
    """A suite with that parser, answered in JSON."""
    suite = load_suite(SuiteChoice(name="arith"))
    changes: dict[str, Any] = {"parser": parser, "words": words, "output": "json"}
    return suite.model_copy(update={"spec": suite.spec.model_copy(update=changes)})


def schema_of(suite: Suite) -> str:
    form = value_form(suite)
    assert form is not None
    return form.schema


async def drawn(arm: Backend, schema: str | None, count: int = 24) -> list[Completion]:
    """So many different answers."""
    wanted = [Sampling(temperature=1.0, seed=seed, max_tokens=600, json_schema=schema) for seed in range(count)]
    return await asyncio.gather(*[arm.complete((SYSTEM, USER), sampling) for sampling in wanted])


CASES: list[tuple[str, int | None, Any]] = [
    ("int", None, int),
    ("number", None, (int, float)),
    ("boolean", None, bool),
    ("text", None, str),
    ("words", 2, list),
]


def check_every_answer(arms: Arms, arm: Backend) -> None:
    """Every answer that was not cut off is JSON of the right type, and its value is read."""
    for parser, words, kind in CASES:
        suite = in_json(parser, words)
        answers = arms.run(drawn(arm, schema_of(suite)))
        whole = [answer for answer in answers if answer.finish_reason != "length"]
        assert len(whole) > len(answers) / 2
        for answer in whole:
            stated = json.loads(answer.text)
            assert list(stated) == ["value"]
            assert isinstance(stated["value"], kind)
            assert kind in (str, list) or read_value(answer.text, suite) == as_value(stated["value"])
        assert {read_value(answer.text, suite) for answer in answers if answer.finish_reason == "length"} <= {None}
    free = arms.run(drawn(arm, None, 4))
    assert not any(answer.text.startswith("{") for answer in free)


def as_value(stated: bool | int | float) -> Value | None:
    """What is read from a JSON value: nothing from numbers of more than 40 characters or beyond 1e300."""
    if isinstance(stated, bool):
        return str(stated).lower()
    try:
        return normalise(stated) if len(json.dumps(stated)) <= 40 else None
    except RuleError:
        return None


@pytest.mark.vllm
def test_every_answer_of_an_engine_is_json_of_the_right_type(arms: Arms, speller: ArmConfig) -> None:
    arm = arms.open(speller, LONG)
    check_every_answer(arms, arm)
    assert arms.run(holds_to("speller", arm, schema_of(in_json("int"))))
    assert NO_SYSTEM_ROLE in arm.identity.notes
    told = rf"the prompt is longer than the context: it has \d+ tokens, the model takes {CONTEXT - 1} \(engine\.max_model_len\)"
    with pytest.raises(CompletionError, match=told):
        arms.run(arm.complete((Message(role="user", content="x" * CONTEXT),), Sampling()))


@pytest.mark.vllm
@pytest.mark.slow
def test_every_answer_of_a_server_is_json_of_the_right_type(arms: Arms, speller: ArmConfig) -> None:
    arm = arms.open(speller.model_copy(update={"name": "speller-server", "transport": "server"}), LONG)
    check_every_answer(arms, arm)
    assert arms.run(holds_to("speller", arm, schema_of(in_json("int"))))
    assert NO_SYSTEM_ROLE in arm.identity.notes
    with pytest.raises(CompletionError, match=r"the prompt is longer than the context: .*1024 tokens"):
        arms.run(arm.complete((Message(role="user", content="x" * CONTEXT),), Sampling()))


@pytest.mark.vllm
def test_a_tokenizer_without_braces_is_refused_at_once(arms: Arms, checkpoints: dict[str, Path]) -> None:
    """The reference models have no token for `{`: the engine ends such a request, and that is no answer."""
    arm = arms.open(arm_of(checkpoints, "sym", "engine"))
    with pytest.raises(ArmError, match=f"arm 'sym': the first request with a JSON schema failed: {GIVEN_UP}"):
        arms.run(holds_to("sym", arm, schema_of(in_json("int"))))
    assert arms.run(arm.complete((USER,), Sampling(max_tokens=4))).completion_tokens == 4


def test_transformers_holds_nothing_to_a_schema(arms: Arms, checkpoints: dict[str, Path]) -> None:
    arm = arms.open(arm_of(checkpoints, "fp16", "hf"))
    assert not arms.run(holds_to("fp16", arm, schema_of(in_json("int"))))


def rendered(tokenizer: PreTrainedTokenizerFast, *messages: Message) -> str:
    ids = prompt_ids(tokenizer, [message.model_dump() for message in messages])
    return str(tokenizer.decode(ids))


def test_a_template_without_a_system_role_gets_its_words_in_the_first_user_message() -> None:
    tokenizer = speller_tokenizer()
    turns = (USER, Message(role="assistant", content="two"), USER)
    assert not has_system_role(tokenizer)
    assert rendered(tokenizer, SYSTEM, *turns) == ("user: Be brief.\n\nhow many?\nassistant: two\nuser: how many?\nassistant: ")
    assert rendered(tokenizer, *turns).startswith("user: how many?\n")


def test_a_template_with_a_system_role_is_left_alone() -> None:
    tokenizer = speller_tokenizer()
    tokenizer.chat_template = WITHOUT_SYSTEM.partition("{% endif %}")[2]
    assert has_system_role(tokenizer)
    assert rendered(tokenizer, SYSTEM, USER) == "system: Be brief.\nuser: how many?\nassistant: "
