"""Premises from prose: what a text states, which gold premises these are, and what is left over."""

import asyncio
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtrap_agents.backends.scripted import ScriptedArm
from qtrap_agents.config import SamplingConfig, SuiteChoice, WorkflowChoice
from qtrap_agents.errors import ConfigError, ExtractionError
from qtrap_agents.extraction import extract, extract_all
from qtrap_agents.extraction.statements import MOST, Statement, statements
from qtrap_agents.suites.catalog import Suite, load_suite
from qtrap_agents.types import GoldPremise, Premise, Task, Value
from qtrap_agents.workflows.catalog import load_workflow
from qtrap_agents.workflows.drive import Course, drive
from qtrap_agents.workflows.hop import Context

PARSERS = ("int", "number", "word", "words:3", "text", "phrase", "boolean", "any")


def gold(name: str, value: Value, rule: str | None = None, *depends_on: str) -> GoldPremise:
    return GoldPremise(id=name, text="", value=value, rule=rule, depends_on=depends_on)


def make_task(*premises: GoldPremise, question: str = "?", answer: Value = 0) -> Task:
    return Task(
        id="t",
        suite="x",
        question=question,
        answer=premises[-1].value if premises else answer,
        premises=premises,
        depth=len(premises),
    )


EGGS = make_task(gold("s1", 9, "16 - 3 - 4"), gold("s2", 18, "s1 * 2", "s1"), gold("s3", 23, "s2 + 5", "s2"))
PROOF = make_task(
    gold("s1", "max is a yumpus"),
    gold("s2", "max is a dumpus", None, "s1"),
    question="Every yumpus is a dumpus. Max is a zumpus. Every zumpus is a yumpus. Is Max a dumpus?",
)


def values(text: str, task: Task = EGGS, parser: str = "number") -> dict[str, Value | None]:
    (found,) = extract_all([text], task, parser)
    return {premise.id: premise.value for premise in found.premises}


def read(text: str, parser: str = "number") -> list[Statement]:
    found = statements([text], parser)
    for statement in found:
        assert 0 <= statement.start < statement.end <= len(text)
    return found


@pytest.mark.parametrize(
    ("text", "value", "operands"),
    [
        ("3 * 4 = 12", 12, (3, 4)),
        ("That is $5 x 3 = $15 in all.", 15, (5, 3)),
        ("12/2=6 eggs", 6, (12, 2)),
        ("so 2+5 = 4+3 = 7", 7, (2, 5)),
        ("total = 9 * 2 = 18", 18, (9, 2)),
        ("20% of 50 is 10", 10, (20, 50)),
        ("3/4 of the 20 eggs = 15", 15, (3, 4, 20)),
        ("Half of 16 is 8.", 8, (0.5, 16)),
        ("twice 8 = 16", 16, (2, 8)),
        ("2 times 5 equals 10", 10, (2, 5)),
        ("$20/hour * 35 hours/week = $700/week", 700, (20, 35)),
        ("a 65-minute concert - 15-minute encore = 50 minutes", 50, (65, 15)),
        ("5 hours - 1 1/2 hours = 3 1/2 hours", 3.5, (5, 1.5)),
        ("12/60 = 1/5", 0.2, (12, 60)),
        ("5*(2+3)=25", 25, (5, 2, 3)),
        ("2(3 + 4) = 14", 14, (2, 3, 4)),
        ("93 (average) * 5 (tests) = 465", 465, (93, 5)),
        ("5 apples + the 3 pears = 8 fruits", 8, (5, 3)),
        ("**9 * 2 = 18**", 18, (9, 2)),
        ("3 * **4** = **12**", 12, (3, 4)),
        ("$\\frac{3}{4} \\times 1{,}200 = 900$", 900, (3, 4, 1200)),
        ("9 × 2 = 18", 18, (9, 2)),
        ("She gets <<48/2=24>>24.", 24, (48, 2)),
        ("48/2 = <<48/2=24>>24", 24, (48, 2)),
        ("Left over: <<10-4=6>>", 6, (10, 4)),
        ('{"s1": "6 * 7 = 42"}', 42, (6, 7)),
        ('[{"step": 1, "value": 3, "expression": "1 + 2"}]', 3, (1, 2)),
    ],
)
def test_one_calculation(text: str, value: Value, operands: tuple[Value, ...]) -> None:
    (found,) = read(text)
    assert (found.value, found.operands) == (value, operands)


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("10*5=50+20=70", [50, 70]),
        ("Step 1: Multiply 9 by 2 to get 18.\n2. Then add 3 to get 21.\n**Step 3:** 21 * 2 = 42\ns4 = 43", [18, 21, 42, 43]),
        ("She had 16 eggs. Three were eaten, so 13 are left. Therefore the total is 18, which means she gets 7.", [13, 7]),
        ("Therefore the total is 18.", [18]),
        ('{"s1": 41, "steps": [{"id": "s2", "result": 3}, 7], "answer": 18}', [41, 3, 7, 18]),
        ("Here it is:\n```json\n[1, 2.5]\n```\n", [1, 2.5]),
        ("1 hour = 60 minutes", []),
        ("3x + 2 = 8 and x + y = 10", []),
        ("x = 2", [2]),
        ("more than >= 200", []),
        ("18", [18]),
        ("", []),
        ("She likes 3 colours.", []),
        ("\\boxed{18}", [18]),
        ("It is 9.\n#### 18", [18]),
        ("The answer is 18.", [18]),
    ],
)
def test_what_is_a_statement(text: str, stated: list[Value]) -> None:
    assert [statement.value for statement in read(text)] == stated


def test_places_and_origins() -> None:
    text = "She sells 16 - 3 - 4 = 9 eggs.\nShe earns 9 * 2 = $18.\n#### 18"
    found = read(text)
    assert [text[statement.start : statement.end] for statement in found] == ["9", "$18", "18"]
    assert [statement.derived_from for statement in found] == [(), (0,), (1,)]
    assert [statement.text for statement in found] == ["She sells 16 - 3 - 4 = 9", "She earns 9 * 2 = $18", "#### 18"]


def test_places_in_json() -> None:
    text = 'Sure:\n{"s1": 4, "note": "4 of them", "s2": 4.50}'
    found = read(text)
    assert [(statement.name, text[statement.start : statement.end]) for statement in found] == [
        ("s1", "4"), ("note", "4 of them"), ("s2", "4.50"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("16-3-4 = 9. 9*2 = 18. 18+5 = 23.", {"s1": 9, "s2": 18, "s3": 23}),
        ("Step 7: 18+5 = 23\nStep 2: 9*2 = 18\nStep 1: 16-3-4 = 9", {"s3": 23, "s2": 18, "s1": 9}),
        ("16-3 = 13. 13-4 = 9. 9*2 = 18. 18+5 = 23.", {"x1": 13, "s1": 9, "s2": 18, "s3": 23}),
        ("(16-3-4)*2 = 18, and 18+5 = 23", {"s2": 18, "s3": 23}),
        ("16-3-4 = 9. 9*2 = 19. 18+5 = 23.", {"s1": 9, "s2": 19, "s3": 23}),
        ("16-3-4 = 10. 10*2 = 20. 20+5 = 25.\n#### 25", {"s1": 10, "s2": 20, "s3": 25}),
        ("16-3-4 = 9. 9*2 = 18. 18+5 = 23.\n#### 24", {"s1": 9, "s2": 18, "s3": 24}),
        ("9*2 = 19. No: 9*2 = 18.", {"s2": 18}),
        ("9*2 = 18, or rather 9*2 = 19.", {"s2": 19}),
        ('{"s1": 9, "s2": 17, "s3": 22}', {"s1": 9, "s2": 17, "s3": 22}),
        ('{"s2": 9, "s3": 18, "s4": 23}', {"s1": 9, "s2": 18, "s3": 23}),
        ("So she sells 9 eggs. Therefore she earns 18.", {"s1": 9, "s2": 18}),
        ("16-3-4 = 9. 9*4 = 36. 18+5 = 23", {"s1": 9, "x1": 36, "s3": 23}),
        ("1 + 2 = 3", {"x1": 3}),
        ("4 + 5 = 9", {"s1": 9}),
        ("10 - 1 = 9", {"x1": 9}),
        ("no idea", {}),
    ],
)
def test_alignment(text: str, expected: dict[str, Value]) -> None:
    assert values(text) == expected


def test_equal_values_are_told_apart_by_their_operands() -> None:
    task = make_task(gold("s1", 5, "10 / 2"), gold("s2", 5, "2 + 3"), gold("s3", 25, "s1 * s2", "s1", "s2"))
    (found,) = extract_all(["2 + 3 = 5. 10 / 2 = 5. 5 * 5 = 25"], task, "number")
    assert [(pair.premise_id, pair.statement.operands) for pair in found.aligned] == [
        ("s2", (2, 3)), ("s1", (10, 2)), ("s3", (5, 5)),
    ]  # fmt: skip


def test_what_could_not_be_aligned_is_told() -> None:
    (found,) = extract_all(["16-3-4 = 9. 7*7 = 49. 49+1 = 50."], EGGS, "number")
    assert [premise.id for premise in found.premises] == ["s1", "x1", "x2"]
    assert [statement.value for statement in found.unaligned_statements] == [49, 50]
    assert found.unaligned_gold == ("s2", "s3")
    assert found.premises[2].depends_on == ("x1",)


def test_texts_of_one_conversation_are_aligned_together() -> None:
    first, second, third = extract_all(["16-3-4 = 9", "I see.", "9*2 = 18, then 18 + 5 = 23 and 23 - 1 = 22"], EGGS, "number")
    assert [premise.id for premise in first.premises] == ["s1"]
    assert second.premises == ()
    assert [(premise.id, premise.depends_on) for premise in third.premises] == [("s2", ("s1",)), ("s3", ("s2",)), ("x1", ("s3",))]
    assert first.unaligned_gold == third.unaligned_gold == ()
    assert [pair.statement.source for pair in third.aligned] == [2, 2]


def test_without_gold_statements_are_premises_of_their_own() -> None:
    task = make_task(answer=18)
    assert values("9*2 = 18\n#### 18", task) == {"x1": 18, "answer": 18}


def test_a_number_of_the_question_is_no_premise_of_its_own() -> None:
    task = make_task(gold("s1", 9, "16 - 7"), question="There are 16 eggs, 7 are eaten. How many are left?")
    assert values("In total there are 16 eggs.\n16 - 7 = 9", task) == {"s1": 9}


@pytest.mark.parametrize(
    "text",
    [
        "Max is a zumpus. So Max is a yumpus. Therefore, Max is a dumpus.",
        "Max is a zumpus and every zumpus is a yumpus, so Max is a yumpus.\nEvery yumpus is a dumpus. Thus Max is a dumpus!",
        "Step 1: Max is a yumpus because Max is a zumpus.\nStep 2: Max is a dumpus.\n",
    ],
)
def test_proofs(text: str) -> None:
    found = values(text, PROOF, "text")
    assert found == {"s1": "max is a yumpus", "s2": "max is a dumpus"}


def test_names_and_truth_values() -> None:
    film = make_task(gold("s1", "christopher nolan"), gold("s2", "london", None, "s1"))
    text = "The director of Inception is Christopher Nolan. He was born in the city. The place is London.\nAnswer: London"
    (found,) = extract_all([text], film, "phrase")
    stated = {premise.id: premise for premise in found.premises}
    assert (stated["s1"].value, stated["s2"].value) == ("christopher nolan", "london")
    truth = make_task(gold("s1", "true"), gold("s2", "false"))
    assert values("1. Yes.\n2. No, it is not.", truth, "boolean") == {"s1": "true", "s2": "false"}


@pytest.mark.parametrize("parser", PARSERS)
@settings(deadline=None)
@given(text=st.text() | st.text(alphabet='19 =+-*/%$.,()x<>#"{}[]:\\\nso is of s', max_size=80))
def test_no_text_raises(parser: str, text: str) -> None:
    for task in (EGGS, PROOF, make_task()):
        (found,) = extract_all([text], task, parser)
        assert all(premise.value is not None for premise in found.premises)
        assert len({premise.id for premise in found.premises}) == len(found.premises)


GARBAGE = (
    "1+1=2 ", "7", "=", "1+", "(", "((1)", "* ", "<<1+1=2>>", "{", "[[", "[1,", "s1=", "Step 1: 3\n", "so it is 7. ", "1/2 ",
    "so ", "is ", "1 is ", "1 + is ", "\\frac{1}{2}", "\\boxed{", "1 1/2 ", '{"a":1}\n', "{\n", "half of ", "**", "```json\n[",
    "of 1 ", "- 1", "the answer is 3 ", "(a", " ", "\n", "50% of ", "a. ", "1 = ", "max is a yumpus. ",
)  # fmt: skip


def test_garbage_takes_linear_time() -> None:
    start = time.process_time()
    for garbage in GARBAGE:
        text = (garbage * 20_000)[:20_000]
        for parser in ("number", "text", "word"):
            extract_all([text], EGGS, parser)
    assert time.process_time() - start < 60


def test_only_so_many_statements_are_read_and_the_answer_still_counts() -> None:
    text = "".join(f"{number} + 1 = {number + 1}. " for number in range(3 * MOST)) + "\n#### 23"
    found = statements([text], "number")
    assert len(found) == MOST + 1
    assert found[-1].kind == "answer"


SUITE = load_suite(SuiteChoice(name="arith"))

EXTRACTORS = """
from qtrap_agents.types import Premise

def good(text, task):
    return [Premise(id=task.premises[-1].id, text=text, value=23)]

def failing(text, task):
    raise ValueError("no idea")

def nonsense(text, task):
    return ["s1"]

def nothing(text, task):
    return None
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a suite and extractors of the user's own beside it."""
    (tmp_path / "own_extractors.py").write_text(EXTRACTORS)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "own_extractors", raising=False)
    return tmp_path / "suite.yaml"


def suite(extractor: str, source: Path = SUITE.source) -> Suite:
    return SUITE.model_copy(update={"spec": SUITE.spec.model_copy(update={"extractor": extractor}), "source": source})


def run_cot(answer: str, chosen: Suite) -> Course:
    context = Context(ScriptedArm("test", lambda messages, sampling: answer), chosen, SamplingConfig())
    return asyncio.run(drive(load_workflow(WorkflowChoice(name="cot")), EGGS, context))


def test_the_suite_chooses_its_extractor(own: Path) -> None:
    text = "16-3-4 = 9\ns2 = 18"
    assert [premise.id for premise in extract(text, EGGS, suite("steps")).premises] == ["s2"]
    assert extract(text, EGGS, suite("steps")).unaligned_gold == ("s1", "s3")
    assert [premise.id for premise in extract(text, EGGS, suite("prose")).premises] == ["s1", "s2"]
    assert extract(text, EGGS, suite("own_extractors:good", own)).premises == (Premise(id="s3", text=text, value=23),)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("failing", "extractor 'own_extractors:failing' raised ValueError: no idea"),
        ("nonsense", "extractor 'own_extractors:nonsense' returned str; it must return Premise records"),
        ("nothing", "extractor 'own_extractors:nothing' raised TypeError"),
    ],
)
def test_a_wrong_extractor_is_an_error_of_its_trace(own: Path, name: str, message: str) -> None:
    chosen = suite(f"own_extractors:{name}", own)
    with pytest.raises(ExtractionError, match=message):
        extract("9", EGGS, chosen)
    course = run_cot("9", chosen)
    assert str(course.error).startswith(message)
    assert course.answer is None
    assert [(hop.completion.text, hop.premises) for hop in course.hops] == [("9", ())]


def test_an_extractor_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="extractor 'nowhere:f' cannot be imported"):
        extract("9", EGGS, suite("nowhere:f"))


def test_cot_reads_prose() -> None:
    course = run_cot(
        "She sells 16 - 3 - 4 = 9 eggs.\nShe earns 9 * 2 = $19.\nWith the tip it is 19 + 5 = 24.\n#### 24", suite("prose")
    )
    assert course.error is None
    assert course.answer == 24
    assert [(premise.id, premise.value) for premise in course.hops[0].premises] == [("s1", 9), ("s2", 19), ("s3", 24)]
    assert course.hops[0].messages[-1].content.endswith("write the answer on the last line as `#### value`.")
