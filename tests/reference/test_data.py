"""Training hops are the hops that suites show, word for word, and their answers are right."""

import re
from collections.abc import Callable

import pytest
import torch

from qtrap_agents.config import SuiteChoice
from qtrap_agents.reference.data import FAMILIES, HopSampler
from qtrap_agents.reference.tokenizer import ASSISTANT, EOS, UNK, VOCABULARY_SIZE, build_tokenizer, vocabulary
from qtrap_agents.semantics import execute
from qtrap_agents.suites.catalog import load_suite
from qtrap_agents.types import Value
from qtrap_agents.world import OBJECTS, RELATIONS, entities, related

TOKENIZER = build_tokenizer()
ROWS = 200


def sampled(family: str) -> list[tuple[list[int], list[int]]]:
    """Prompt and answer token ids of sampled hops."""
    batch = HopSampler(3, "cpu").batch(family, ROWS)
    rows = []
    for tokens, answer in zip(batch.tokens, batch.answer, strict=True):
        first = int(answer.nonzero()[0])
        rows.append((tokens[:first].tolist(), tokens[answer == 1].tolist()))
    return rows


def prompt_text(ids: list[int]) -> str:
    return str(TOKENIZER.decode(ids, skip_special_tokens=True))


def suite_prompts(family: str) -> list[str]:
    """What the chain workflow shows of the first steps: those have no parents, so no slots."""
    tasks = load_suite(SuiteChoice(name=family)).tasks([1], [5], ROWS)
    return [task.premises[0].instruction for task in tasks]


def shape(text: str) -> str:
    """The grammar of a prompt: numbers, names, relations and objects by their class."""
    spaced = " ".join(re.sub(r"([:;,=])", r" \1 ", text).split())
    words = []
    for word in spaced.split():
        kinds = {"N": word.isdigit(), "E": word in entities(), "R": word in RELATIONS, "O": word in OBJECTS}
        words.append(next((kind for kind, fits in kinds.items() if fits), word))
    return " ".join(words)


def solve_arith(text: str) -> Value:
    left, operator, right = re.fullmatch(r"arith : (\d+) ([-+*]) (\d+) =", text).groups()  # type: ignore[union-attr]
    return execute(f"({left} {operator} {right}) % 1000", {})


def solve_program(text: str) -> Value:
    left, name, right = re.fullmatch(r"program : (\d+) (\w+) (\d+) =", text).groups()  # type: ignore[union-attr]
    results = {"plus": int(left) + int(right), "minus": int(left) - int(right), "times": int(left) * int(right)}
    results |= {"max": max(int(left), int(right)), "min": min(int(left), int(right))}
    return results[name] % 100


def solve_relate(text: str) -> Value:
    entity, relation = re.fullmatch(r"relate : (\w+) (\w+) =", text).groups()  # type: ignore[union-attr]
    return related(entity, relation)


def solve_lookup(text: str) -> Value:
    rows, key = re.fullmatch(r"lookup : (.*) ; (\w+) =", text).groups()  # type: ignore[union-attr]
    return dict(row.split() for row in rows.split(" , "))[key]


def solve_track(text: str) -> Value:
    row, move = re.fullmatch(r"track : (.*) ; (.*) =", text).groups()  # type: ignore[union-attr]
    name, *places = move.split()
    return execute(f"{name}({', '.join([repr(row), *places])})", {})


SOLVERS: dict[str, Callable[[str], Value]] = {
    "arith": solve_arith, "program": solve_program, "relate": solve_relate, "lookup": solve_lookup, "track": solve_track,
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_sampled_answers_are_right(family: str) -> None:
    for prompt, answer in sampled(family):
        assert prompt_text(answer) == str(SOLVERS[family](prompt_text(prompt)))
        assert answer[-1] == vocabulary()[EOS]


@pytest.mark.parametrize("family", FAMILIES)
def test_sampled_prompts_have_the_grammar_of_the_suite(family: str) -> None:
    shown = {shape(prompt) for prompt in suite_prompts(family)}
    trained = {shape(prompt_text(prompt)) for prompt, _ in sampled(family)}
    assert shown <= trained


@pytest.mark.parametrize("family", FAMILIES)
def test_chat_template_gives_the_tokens_of_training(family: str) -> None:
    for prompt, _ in sampled(family)[:20]:
        chat = [{"role": "user", "content": prompt_text(prompt)}]
        text = TOKENIZER.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert TOKENIZER.encode(str(text), add_special_tokens=False) == prompt
        assert prompt[-1] == vocabulary()[ASSISTANT]


@pytest.mark.parametrize("family", FAMILIES)
def test_suite_prompts_have_no_unknown_word(family: str) -> None:
    for prompt in suite_prompts(family):
        assert vocabulary()[UNK] not in TOKENIZER.encode(prompt, add_special_tokens=False)


def test_recall_answers_are_in_the_table() -> None:
    batch = HopSampler(4, "cpu").batch("recall", 50)
    for tokens, answer in zip(batch.tokens, batch.answer, strict=True):
        text = prompt_text(tokens.tolist())
        table = dict(row.split() for row in text.split(" : ")[1].split(" ; ")[0].split(" , "))
        asked = prompt_text(tokens[answer == 1].tolist()).split()
        assert len(asked) == 5
        assert set(asked) <= set(table.values())


def test_same_seed_same_hops() -> None:
    first, second = (HopSampler(9, "cpu").batch("track", 20) for _ in range(2))
    assert torch.equal(first.tokens, second.tokens)
    assert not torch.equal(first.tokens, HopSampler(10, "cpu").batch("track", 20).tokens)


def test_vocabulary_fits_the_embedding() -> None:
    assert max(vocabulary().values()) < VOCABULARY_SIZE
    assert len(set(vocabulary().values())) == len(vocabulary())
