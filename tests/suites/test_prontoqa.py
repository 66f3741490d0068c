"""ProntoQA: proofs of both layouts become look-ups in the sentences, and our own are drawn at any depth."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from benchmarks_in_small import only_reason, only_task, prontoqa, prontoqa_original
from hypothesis import given, settings
from hypothesis import strategies as st

from qtrap_agents.premises import parse_value
from qtrap_agents.semantics import check_task, consequence, is_right
from qtrap_agents.suites import prontoqa_gen
from qtrap_agents.suites.catalog import KINDS
from qtrap_agents.suites.prontoqa import ontology, sentences, singular, statement
from qtrap_agents.suites.rows import Form, check, read
from qtrap_agents.suites.sources import Source, rows_of
from qtrap_agents.types import Task

DEV_FILE = Path(os.environ.get("QTRAP_PRONTOQA") or Path(__file__).parents[3] / "shared" / "data" / "prontoqa_dev.json")


def test_proof_steps_become_look_ups() -> None:
    task = only_task("prontoqa", prontoqa())
    assert task.id == "prontoqa-ProntoQA_1"
    assert [premise.value for premise in task.premises] == ["lorpus", "impus", "true"]
    assert [premise.depends_on for premise in task.premises] == [(), ("s1",), ("s2",)]
    assert task.premises[0].rule == "{'grimpus': 'lorpus', 'lorpus': 'impus', 'fompus': 'vumpus'}['grimpus']"
    assert task.premises[2].rule == "{'fompus': 'false', 'impus': 'true'}[s2]"
    assert [premise.instruction for premise in task.premises] == [
        "Pat is a grimpus. By the sentences above, every grimpus is a ___.",
        "Pat is a {s1}. By the sentences above, every {s1} is a ___.",
        "Pat is a {s2}. Is it true or false that Pat is not cold?",
    ]
    assert task.question.endswith("Pat is a grimpus.\nTrue or false: Pat is not cold.")
    assert is_right(parse_value("Yes.", "word"), task.premises[2])


def test_what_follows_from_a_wrong_kind_is_known() -> None:
    premises = only_task("prontoqa", prontoqa()).premises
    assert consequence(premises[1], {"s1": "fompus"}) == "vumpus"
    assert consequence(premises[1], {"s1": "vumpus"}) is None
    assert consequence(premises[2], {"s2": "fompus"}) == "false"


def test_the_original_layout_gives_the_same_task() -> None:
    (example,) = prontoqa_original().values()
    original = only_task("prontoqa", {"id": "ProntoQA_1", **example})
    assert original == only_task("prontoqa", prontoqa())


def test_a_file_of_the_original_generator(tmp_path: Path) -> None:
    path = tmp_path / "5hop_ProofsOnly_random.json"
    path.write_text(json.dumps(prontoqa_original() | {"example2": prontoqa_original()["example1"]}))
    found = read(KINDS["prontoqa"], rows_of(Source(path)), Form("prontoqa", "word"))
    assert [task.id for task in found.tasks] == ["prontoqa-example1", "prontoqa-example2"]


def test_a_kind_with_two_kinds_above_it_is_judged_on_the_proof_only() -> None:
    two = prontoqa()["context"] + " Each lorpus is a vumpus. Fompuses are impuses."
    task = only_task("prontoqa", prontoqa(context=two))
    assert task.premises[1].rule == "{'grimpus': 'lorpus', 'lorpus': 'impus'}[s1]"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"answer": "B"}, "answer that the context contradicts: it follows that 'Pat is not cold' is true"),
        ({"answer": "C"}, "field 'answer' missing or not A, B, True or False"),
        ({"question": "Is Pat cold?"}, "question that is no statement about a being"),
        ({"question": "True or false: Pat is loud."}, "proof that does not end in what is asked"),
        ({"question": "True or false: Rex is cold."}, "proof that is no chain of kinds"),
        ({"explanation": ["Pat is a grimpus.", "Pat is a lorpus.", "Pat is a grimpus."]}, "proof that is no chain of kinds"),
        ({"explanation": ["Pat is a lorpus.", "Pat is an impus."]}, "proof from a fact that the context does not have"),
        ({"explanation": ["Pat is a grimpus.", "Pat is an impus."]}, "proof from a rule that the context does not have"),
        ({"explanation": []}, "field 'explanation' missing"),
        ({"context": 7}, "field 'context' missing or not text"),
    ],
)
def test_rows_that_are_left_out(changes: dict[str, Any], reason: str) -> None:
    assert only_reason("prontoqa", prontoqa(**changes)).startswith(reason)


@pytest.mark.parametrize(
    ("sentence", "above", "has"),
    [
        ("Every wumpus is an impus", {"wumpus": ["impus"]}, {}),
        ("Butterflies are insects", {"butterfly": ["insect"]}, {}),
        ("Wumpuses are not luminous", {}, {"wumpus": {"luminous": False}}),
        ("Wumpuses are nervous", {}, {"wumpus": {"nervous": True}}),
        ("Each wumpus is not shy", {}, {"wumpus": {"shy": False}}),
        ("Max is a wumpus", {}, {}),
        ("Prime numbers are natural numbers", {}, {}),
    ],
)
def test_sentences(sentence: str, above: dict[str, list[str]], has: dict[str, dict[str, bool]]) -> None:
    assert ontology(sentences(f"{sentence}.")) == (above, has)


def test_words() -> None:
    assert [singular(word) for word in ("impuses", "felines", "foxes", "flies")] == ["impus", "feline", "fox", "fly"]
    assert statement("True or false: Max is not a Wumpus.") == ("Max", True, "wumpus")


@pytest.mark.skipif(not DEV_FILE.is_file(), reason=f"no ProntoQA file at {DEV_FILE}; set QTRAP_PRONTOQA to one")
def test_the_dev_file() -> None:
    found = read(KINDS["prontoqa"], rows_of(Source(DEV_FILE)), Form("prontoqa", "word"))
    assert (len(found.tasks), found.rejected) == (500, ())
    assert {task.depth for task in found.tasks} == {5}
    assert Counter(task.answer for task in found.tasks) == {"true": 258, "false": 242}
    assert all(check_task(task) == [] for task in found.tasks)


def draw(depth: int, seed: int = 0, index: int = 0, distractors: int = 1) -> Task:
    return prontoqa_gen.generate("prontoqa_gen", depth, seed, index, {"distractors": distractors})


@given(depth=st.integers(1, 40), seed=st.integers(0, 10**6), index=st.integers(0, 10**6), distractors=st.integers(0, 3))
@settings(deadline=None, max_examples=40)
def test_generated_tasks_are_sound(depth: int, seed: int, index: int, distractors: int) -> None:
    task = draw(depth, seed, index, distractors)
    check(task, "word")
    assert len(task.premises) == task.depth == depth
    assert task == draw(depth, seed, index, distractors)
    assert len({premise.value for premise in task.premises}) == depth


@pytest.mark.parametrize("depth", [1, 2, 8])
def test_half_of_the_generated_answers_are_true_whatever_the_statement_looks_like(depth: int) -> None:
    tasks = [draw(depth, seed, index) for seed in range(4) for index in range(50)]
    assert Counter(task.answer for task in tasks) == {"true": 100, "false": 100}
    assert len({task.question for task in tasks}) == len({task.id for task in tasks}) == 200
    negated = Counter((task.answer, " is not " in task.question.rpartition("\n")[2]) for task in tasks)
    assert min(negated.values()) > 30


def test_another_kind_has_the_property_the_other_way_round() -> None:
    for index in range(20):
        task = draw(4, index=index)
        world = ontology(sentences(task.question.partition("\n")[0]))
        asked = statement(task.question)
        assert sorted(has[asked.name] for has in world.has.values() if asked.name in has) == [False, True]
        kinds = {str(premise.value) for premise in task.premises[:-1]}
        others = set(world.above) - kinds
        assert len(others) == 4 + 1, "four distractors and the given kind"


def test_without_distractors_the_sentences_are_the_proof() -> None:
    task = draw(4, distractors=0)
    world = ontology(sentences(task.question.partition("\n")[0]))
    asked = statement(task.question)
    assert {upper for uppers in world.above.values() for upper in uppers} == {premise.value for premise in task.premises[:-1]}
    assert sum(asked.name in has for has in world.has.values()) == 1


def test_a_deep_chain_is_drawn() -> None:
    task = draw(300, distractors=0)
    assert task.depth == 300
    with pytest.raises(ValueError, match="larger than population"):
        draw(3000)
