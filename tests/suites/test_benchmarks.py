"""The public datasets: their gold becomes premises, and what cannot be used is left out with a reason."""

import copy
from typing import Any

import pytest
from benchmarks_in_small import (
    MATHQA,
    PARSERS,
    PROOFWRITER,
    SAMPLES,
    STRATEGYQA,
    hotpotqa,
    hotpotqa_hub,
    musique,
    only_reason,
    only_task,
    reading,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from qtrap_agents.errors import SuiteError
from qtrap_agents.premises import parse_value
from qtrap_agents.semantics import check_task, execute, is_right
from qtrap_agents.suites.catalog import KINDS
from qtrap_agents.suites.mathqa import OPERATIONS
from qtrap_agents.types import Task


def tasks_of(kind: str) -> tuple[Task, ...]:
    return reading(kind, *SAMPLES[kind]).tasks


@pytest.mark.parametrize("kind", SAMPLES)
def test_gold_is_a_sound_graph_that_completions_can_state(kind: str) -> None:
    tasks = tasks_of(kind)
    assert tasks
    assert len({task.id for task in tasks}) == len(tasks)
    for task in tasks:
        known = {premise.id: premise.value for premise in task.premises}
        assert check_task(task) == []
        assert (task.suite, task.depth) == (kind, len(task.premises))
        for premise in task.premises:
            assert parse_value(str(premise.value), PARSERS[kind]) == premise.value
            assert is_right(premise.value, premise)
            if premise.rule is not None:
                assert execute(premise.rule, {parent: known[parent] for parent in premise.depends_on}) == premise.value
            assert all(f"{{{parent}}}" in premise.instruction for parent in premise.depends_on)


@pytest.mark.parametrize("kind", SAMPLES)
def test_what_a_kind_says_of_its_gold_is_true(kind: str) -> None:
    premises = [premise for task in tasks_of(kind) for premise in task.premises]
    assert ("with rules" in KINDS[kind].gold) == all(premise.rule is not None for premise in premises)
    assert ("answer only:" in KINDS[kind].gold) == all(task.depth == 1 for task in tasks_of(kind))


@pytest.mark.parametrize(
    ("kind", "summary"),
    [
        ("gsm8k", "1 of 2 rows left out: 1 no <<…>> annotation"),
        ("mathqa", "1 of 3 rows left out: 1 formula that does not lead to the chosen option"),
        ("musique", "1 of 2 rows left out: 1 unanswerable"),
        ("hotpotqa", "1 of 2 rows left out: 1 supporting fact outside the context"),
        ("strategyqa", "1 of 2 rows left out: 1 field 'answer' missing or not yes or no"),
        ("prontoqa", "1 of 2 rows left out: 1 answer that the context contradicts"),
        ("proofwriter", ""),
    ],
)
def test_what_is_left_out_is_counted(kind: str, summary: str) -> None:
    assert reading(kind, *SAMPLES[kind]).summary() == summary


@pytest.mark.parametrize("kind", SAMPLES)
def test_equal_ids_are_used_once(kind: str) -> None:
    row = SAMPLES[kind][0]
    found = reading(kind, row, row)
    own_ids = kind not in ("gsm8k", "mathqa")
    assert len(found.rejected) == (len(found.tasks) if own_ids else 0)
    assert {rejected.kind for rejected in found.rejected} <= {"id used twice"}


ODD = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just(float("nan"))
ODDER = ODD | st.lists(st.lists(ODD, max_size=3), max_size=3) | st.dictionaries(st.text(max_size=3), ODD, max_size=2)


def spoilt(data: st.DataObject, value: Any) -> Any:
    """The value with something odd, or nothing, in a place somewhere inside it."""
    if isinstance(value, dict) and value and data.draw(st.integers(0, 5)):
        name = data.draw(st.sampled_from(sorted(value)))
        rest = {key: inner for key, inner in value.items() if key != name}
        return rest if data.draw(st.booleans()) else rest | {name: spoilt(data, value[name])}
    if isinstance(value, list) and value and data.draw(st.integers(0, 3)):
        place = data.draw(st.integers(0, len(value) - 1))
        return [*value[:place], spoilt(data, value[place]), *value[place + 1 :]]
    return data.draw(ODDER)


@pytest.mark.parametrize("kind", SAMPLES)
@given(data=st.data())
@settings(deadline=None, max_examples=80)
def test_spoilt_rows_never_end_a_run(kind: str, data: st.DataObject) -> None:
    row = SAMPLES[kind][0]
    odd = spoilt(data, copy.deepcopy(row))
    found = reading(kind, odd if isinstance(odd, dict) else row | {"answer": odd})
    assert found.tasks or found.rejected
    assert all(check_task(task) == [] for task in found.tasks)


def test_mathqa_operations_become_rules() -> None:
    gain, wheel = tasks_of("mathqa")
    assert [premise.rule for premise in gain.premises] == ["40 * 25", "1300 - s1", "s2 / s1", "s3 * 100"]
    assert [premise.value for premise in gain.premises] == [1000, 300, 0.3, 30]
    assert [premise.depends_on for premise in gain.premises] == [(), ("s1",), ("s2", "s1"), ("s3",)]
    assert gain.premises[2].instruction == "divide: {s2} / {s1} ="
    assert (gain.answer, gain.metadata, gain.premises[1].kind) == (30, {"category": "gain"}, "subtract")
    squared = only_task("mathqa", mathqa("subtract(n0,n1)|power(#0,const_2)|", "1"))
    assert squared.premises[1].instruction == "power: ({s1}) ** 2 =", "the result may be negative"
    assert [premise.value for premise in wheel.premises] == [43.9823, 14.66]
    assert wheel.premises[1].rule == "round(s1 / 3, 2)"
    assert wheel.accept == wheel.premises[1].accept == (14.6608, 14.660766667)


def mathqa(formula: str, option: str = "5", problem: str = "2 and 3 .") -> dict[str, Any]:
    options = f"a ) 1 , b ) {option} , c ) 1 , 000"
    return {"Problem": problem, "options": options, "correct": "b", "linear_formula": formula, "category": "other"}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (mathqa("add(n0,n1)|", "6"), "formula that does not lead to the chosen option: it gives 5, the option is 6"),
        (mathqa("divide(n0,n1)|", "0.66"), "formula that does not lead to the chosen option"),
        (mathqa("divide(n1,n0)|", "3 / 4"), "formula that does not lead to the chosen option: it gives 1.5, the option is 0.75"),
        (mathqa("divide(n1,n0)|", "3 : 4"), "chosen option of several numbers"),
        (mathqa("divide(n0,const_1000)|divide(#0,const_1000)|multiply(#1,#1)|power(#2,n0)|", "4"), "formula that does not lead"),
        (mathqa("divide(n0,n1)|", "67 %"), "formula that does not lead to the chosen option"),
        (mathqa("divide(n1,n0)|", "1"), "formula that does not lead to the chosen option"),
        (mathqa("add(n0,n7)|"), "number that the problem does not have: n7 of 2 numbers"),
        (mathqa("add(n0,#1)|subtract(#0,n1)|"), "cyclic gold: step 0 uses #1, which is not before it"),
        (mathqa("add(n0,#0)|"), "cyclic gold: step 0 uses #0"),
        (mathqa("add(n0,n1"), "formula that cannot be read"),
        (mathqa("add(n0)|"), "formula that cannot be read: add with 1 operands"),
        (mathqa("add(n0,const_x)|"), "formula that cannot be read: operand 'const_x'"),
        (mathqa("|"), "formula that cannot be read: no operation"),
        (mathqa("sine(n0)|"), "operation sine not supported"),
        (mathqa("subtract(n0,n0)|divide(n1,#0)|"), "formula without a value"),
        (mathqa("factorial(const_1000)|"), "formula without a value"),
        (mathqa("choose(const_2000,n0)|"), "formula without a value"),
        (mathqa("permutation(n0,const_0_25)|"), "formula without a value"),
        (mathqa("add(n0,n1)|", "data inadequate"), "chosen option without a number"),
        (mathqa("add(n0,n1)|", "5 and 6"), "chosen option of several numbers"),
        (mathqa("add(n0,n1)|") | {"correct": "e"}, "chosen option without a number"),
    ],
)
def test_mathqa_problems_that_are_left_out(row: dict[str, Any], reason: str) -> None:
    assert only_reason("mathqa", row).startswith(reason)


@pytest.mark.parametrize(
    ("row", "answer", "rule"),
    [
        (mathqa("divide(n0,n1)|", "0.67"), 0.67, "round(2 / 3, 2)"),
        (mathqa("divide(n0,n1)|", "2/3"), 0.6667, "round(2 / 3, 4)"),
        (mathqa("multiply(n0,const_3_6)|", "rs . 7.2"), 7.2, "2 * 3.6"),
        (mathqa("multiply(n0,const_1000)|", "$ 2 , 000"), 2000, "2 * 1000"),
        (mathqa("power(n0,n1)|", "8"), 8, "2 ** 3"),
        (mathqa("choose(n1,n0)|", "3"), 3, "comb(3, 2)"),
        (mathqa("subtract(n0,n1)|", "- 1"), -1, "2 - 3"),
        (mathqa("multiply(n0,n1)|add(n0,n1)|"), 5, "2 + 3"),
        (mathqa("divide(n0,const_1000)|multiply(#0,const_1000)|", "2"), 2, "s1 * 1000"),
    ],
)
def test_mathqa_options_and_rounding(row: dict[str, Any], answer: float, rule: str) -> None:
    task = only_task("mathqa", row)
    assert task.answer == pytest.approx(answer)
    assert task.premises[-1].rule == rule


@pytest.mark.parametrize(
    ("name", "operands", "value"),
    [
        ("triangle_area_three_edges", (3, 4, 5), 6),
        ("surface_rectangular_prism", (1, 2, 3), 22),
        ("quadrilateral_area", (10, 2, 4), 30),
        ("volume_cone", (3, 4), 37.699111848),
        ("volume_sphere", (3,), 113.097335544),
        ("original_price_before_loss", (20, 80), 100),
        ("original_price_before_gain", (25, 125), 100),
        ("p_after_gain", (25, 100), 125),
        ("reminder", (17, 5), 2),
        ("permutation", (5, 2), 20),
        ("lcm", (4, 6), 12),
        ("cube_edge_by_volume", (27,), 3),
        ("stream_speed", (12, 8), 2),
    ],
)
def test_mathqa_operations(name: str, operands: tuple[int, ...], value: float) -> None:
    assert execute(OPERATIONS[name].format(*operands), {}) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(
    "options", ["['a ) 2 cm', 'b ) 5 cm', 'c ) 1 cm']", "a ) a ) 2 , b ) b ) 5 , c ) c ) 1", "a ) 2 cm 2 , b ) 5 cm ^ 2 , c ) 1"]
)
def test_mathqa_options_are_spelled_in_many_ways(options: str) -> None:
    assert only_task("mathqa", mathqa("add(n0,n1)|") | {"options": options}).answer == 5


def test_musique_sub_questions_become_premises() -> None:
    task = only_task("musique", musique())
    assert task.id == "musique-2hop__11_22"
    assert [premise.value for premise in task.premises] == ["low tide", "marwick"]
    assert [premise.depends_on for premise in task.premises] == [(), ("s1",)]
    assert [premise.instruction for premise in task.premises] == [
        "What is the performer of Tall Pines?",
        "Where does {s1} come from?",
    ]
    assert task.accept == task.premises[-1].accept == ("town of marwick",)
    assert is_right(parse_value("The town of Marwick.", "phrase"), task.premises[-1])
    assert "An otter swims" not in task.question
    assert task.question.endswith("Question: Where does the band that recorded Tall Pines come from?")
    everything = only_task("musique", musique(), paragraphs="all")
    assert "[Otter] An otter swims." in everything.question
    with pytest.raises(SuiteError, match="parameter 'paragraphs' must be one of supporting, all, not 'none'"):
        reading("musique", musique(), paragraphs="none")


def step(number: int, question: str, answer: str) -> dict[str, Any]:
    return {"id": number, "question": question, "answer": answer, "paragraph_support_idx": 0}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"answerable": False}, "unanswerable"),
        ({"question_decomposition": [step(1, "Where is #2?", "Marwick"), step(2, "Who is #1?", "Marwick")]}, "cyclic gold"),
        ({"question_decomposition": [step(1, "Where?", "Elsewhere")]}, "last sub-question without the answer"),
        ({"question_decomposition": []}, "field 'question_decomposition' missing"),
        ({"question_decomposition": [{"question": "Where?"}]}, "field 'answer' missing or not text"),
        ({"paragraphs": [{"title": "x", "paragraph_text": "y", "is_supporting": False}]}, "no supporting paragraph"),
        ({"answer": "The answer is: Marwick"}, "value that the parser does not read"),
    ],
)
def test_musique_rows_that_are_left_out(changes: dict[str, Any], reason: str) -> None:
    assert only_reason("musique", musique(**changes)).startswith(reason)


def test_an_answer_that_is_only_an_alias_counts() -> None:
    task = only_task("musique", musique(answer="Town of Marwick", answer_aliases=["Marwick"]))
    assert (task.answer, task.accept, task.premises[-1].value) == ("town of marwick", ("marwick",), "town of marwick")


@pytest.mark.parametrize("row", [hotpotqa(), hotpotqa_hub()], ids=("original", "hub"))
def test_hotpotqa_facts_become_premises(row: dict[str, Any]) -> None:
    task = only_task("hotpotqa", row)
    assert task.id == "hotpotqa-5a7a0693"
    assert [premise.value for premise in task.premises] == ["low tide", "tall pines album", "marwick"]
    assert [premise.depends_on for premise in task.premises] == [(), (), ("s1", "s2")]
    assert task.premises[0].text == "[Low Tide] Low Tide was a band. It came from Marwick."
    assert task.metadata == {"type": "bridge", "level": "hard"}
    assert task.question.startswith("[Otter] An otter swims.\n[Low Tide] Low Tide was a band. It came from Marwick. It had")
    assert only_task("hotpotqa", row, paragraphs="supporting").question.startswith("[Low Tide]")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"supporting_facts": [["Newt", 0]]}, "supporting fact outside the context: no paragraph is called 'Newt'"),
        ({"supporting_facts": []}, "field 'supporting_facts' missing"),
        ({"supporting_facts": [["Low Tide", "1"]]}, "field 'supporting_facts' not of titles and numbers"),
        ({"context": [["Low Tide", "no list"]]}, "field 'context' not of titles and sentences"),
        ({"context": {}}, "field 'context' missing"),
    ],
)
def test_hotpotqa_rows_that_are_left_out(changes: dict[str, Any], reason: str) -> None:
    assert only_reason("hotpotqa", hotpotqa(**changes)).startswith(reason)


def test_a_sentence_number_beyond_its_paragraph_is_passed_over() -> None:
    task = only_task("hotpotqa", hotpotqa(supporting_facts=[["Low Tide", 9], ["Tall Pines (album)", 0]]))
    assert [premise.text for premise in task.premises[:2]] == [
        "[Low Tide]",
        "[Tall Pines (album)] Tall Pines is the second album of Low Tide.",
    ]


def test_strategyqa_has_its_answer_and_keeps_its_sub_questions() -> None:
    task = only_task("strategyqa", STRATEGYQA[0])
    assert (task.id, task.answer, task.depth) == ("strategyqa-b8677742616fef051f00", "false", 1)
    sub_questions = "1. How long does a mayfly live?\n2. How long is it from spring to autumn?\n3. Is #1 longer than #2?"
    assert task.metadata == {"sub_questions": sub_questions}
    assert "How long" not in task.question
    assert only_task("strategyqa", STRATEGYQA[0], sub_questions="shown").question.endswith(sub_questions)
    short = {"qid": "x", "question": "Do otters swim?", "answer": "Yes", "facts": "They do."}
    assert (only_task("strategyqa", short).answer, only_task("strategyqa", short).metadata) == ("true", {})
    assert only_reason("strategyqa", short | {"decomposition": "no list"}).startswith("field 'decomposition'")


def test_proofwriter_conclusions_become_premises() -> None:
    given, proved, unknown = tasks_of("proofwriter")
    assert [task.id for task in (given, proved, unknown)] == [f"proofwriter-AttNeg-OWA-D3-1-Q{number}" for number in (1, 2, 3)]
    assert [premise.value for premise in proved.premises] == ["fox likes hen", "fox is kind", "fox is not loud", "false"]
    assert [premise.depends_on for premise in proved.premises] == [(), ("s1",), ("s2",), ("s3",)]
    assert proved.premises[1].instruction == (
        "{s1}. The fox sees the hen. If something likes the hen and it sees the hen then it is kind. What follows?"
    )
    assert proved.premises[3].instruction == "It follows that: {s3}. Is this true, false or unknown: The fox is loud."
    assert proved.metadata == {"QDep": 3, "strategy": "inv-proof"}
    assert [(task.answer, task.depth) for task in (given, unknown)] == [("true", 1), ("unknown", 1)]


def theory(representation: str, **said: str) -> dict[str, Any]:
    """A theory with one question, proved like that."""
    intermediates = {name: {"text": text} for name, text in said.items()}
    proof: dict[str, Any] = {"representation": representation, "intermediates": intermediates or []}
    asked = {"question": "The fox is kind.", "answer": True, "QDep": 1, "proofsWithIntermediates": [proof]}
    return PROOFWRITER[0] | {"questions": {"Q1": asked, "Q2": None}}


def test_a_dag_is_kept_and_the_shortest_proof_taken() -> None:
    shared = "(triple1) -> (rule1 % int2)"
    long = theory(
        f"((({shared}) (({shared}) -> (rule3 % int3))) -> (rule2 % int1))", int1="A is b.", int2="C is d.", int3="E is f."
    )
    task = only_task("proofwriter", long)
    assert [premise.depends_on for premise in task.premises] == [(), ("s1",), ("s1", "s2"), ("s3",)]
    asked = long["questions"]["Q1"]
    short = theory("((triple2) -> (rule2 % int1))", int1="A is b.")["questions"]["Q1"]["proofsWithIntermediates"]
    both = long | {"questions": {"Q1": asked | {"proofsWithIntermediates": [*asked["proofsWithIntermediates"], *short]}}}
    assert only_task("proofwriter", both).depth == 2


def test_what_a_closed_world_takes_to_be_false_is_told() -> None:
    task = only_task(
        "proofwriter", theory("((triple1 naf1) -> (rule2 % int1))", int1="The fox is kind.", naf1="The fox is not wet.")
    )
    assert task.premises[0].instruction.startswith("The fox is cold. The fox is not wet. If something likes")
    bare = only_task("proofwriter", theory("((NAF) -> (rule2 % int1))", int1="The fox is kind."))
    assert bare.premises[0].instruction.startswith("If something likes")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (theory("((triple1) -> (rule1 % int1))"), "conclusion without a sentence: 'int1'"),
        (theory("((triple9) -> (rule1 % int1))", int1="x"), "proof from a fact or rule without a sentence: 'triple9'"),
        (theory("((triple1) -> (rule9 % int1))", int1="x"), "proof from a fact or rule without a sentence: 'rule9'"),
        (theory("((int1) -> (rule1 % int1))", int1="x"), "proof from a fact or rule without a sentence: 'int1'"),
        (theory("((triple1) -> rule1"), "proof that cannot be read"),
        (theory("((triple1"), "proof that cannot be read"),
        (theory("(triple1))"), "proof that cannot be read"),
        (theory("(" * 5000), "proof that cannot be read"),
        (theory("(triple1)") | {"questions": {"Q1": {"question": "?", "answer": "maybe"}}}, "field 'answer' missing"),
        (theory("(triple1)") | {"questions": None}, "field 'questions' missing"),
        (theory("(triple1)") | {"theory": ""}, "field 'theory' missing"),
    ],
)
def test_proofwriter_rows_that_are_left_out(row: dict[str, Any], reason: str) -> None:
    assert only_reason("proofwriter", row).startswith(reason)


def test_mathqa_rows_have_no_ids_of_their_own() -> None:
    assert [task.id for task in reading("mathqa", MATHQA[2], MATHQA[0]).tasks] == ["mathqa-00002"]
