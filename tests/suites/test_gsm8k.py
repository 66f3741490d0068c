"""GSM8K annotations become premise DAGs; what does not is listed with a reason."""

import json
import os
from pathlib import Path

import pytest

from qtrap_agents.semantics import check_task
from qtrap_agents.suites.gsm8k import parse_gsm8k
from qtrap_agents.types import Task

TEST_SPLIT = Path(os.environ.get("QTRAP_GSM8K") or Path(__file__).parents[3] / "shared" / "data" / "gsm8k_test.jsonl")

EGGS = (
    "A farm hen house gives 16 eggs a day. The farmer eats three and bakes with four. She sells the rest at $2 an egg. "
    "How much does she earn a day?",
    "She sells 16 - 3 - 4 = <<16-3-4=9>>9 eggs a day.\nShe earns 9 * 2 = $<<9*2=18>>18 every day.\n#### 18",
)
HOUSE = (
    "Dan buys a house for $80,000 and puts in $50,000. Its value rises by 150%. What is his profit?",
    "He paid 80,000+50,000=$<<80000+50000=130000>>130,000\nThe value rose by 80,000*1.5=<<80000*1.5=120000>>120,000\n"
    "It is now worth 120,000+80,000=$<<120000+80000=200000>>200,000\n"
    "The profit is 200,000-130,000=$<<200000-130000=70000>>70,000\n#### 70,000",
)
BOOTS = (
    "One pair of heels costs $33, another costs twice as much. Boots cost $5 more than both. What do the boots cost?",
    "The second pair costs 33 * 2 = $<<33*2=66>>66.\nTogether they cost 66 + 33 = $<<66+33=99>>99.\n"
    "So the boots cost 99 + 5 = $104.\n#### 104",
)
FRACTIONS = (
    "A pump takes half of 1/2 a tank of 3 litres. How many litres of the 5% mixture are added in an hour?",
    "It takes 3*1/2=<<3*1/2=1.5>>1.5 litres.\nThat is ½ of it: <<1.5*.5=0.75>>.75 litres, "
    "or 5% of that, <<0.75*5%=0.0375>>0.0375.\n#### .0375",
)
TREATS = (
    "Five people get two treats each. There are 2 fewer brownies than 3 times the cupcakes. How many cupcakes are there?",
    "There are <<5*2=10>>10 treats\nb = 3c - 2, and b + c = 10, so 3c - 2 + c = 10\nWe get 4c = 12 and so c = 3\n#### 3",
)


def write(tmp_path: Path, *problems: tuple[str, str]) -> Path:
    path = tmp_path / "gsm8k.jsonl"
    rows = [json.dumps({"question": question, "answer": answer}) for question, answer in problems]
    path.write_text("\n".join(rows), encoding="utf-8")
    return path


def parse(tmp_path: Path, *problems: tuple[str, str]) -> list[Task]:
    tasks, rejected = parse_gsm8k(write(tmp_path, *problems))
    assert rejected == ()
    return list(tasks)


def rules(task: Task) -> list[str | None]:
    return [premise.rule for premise in task.premises]


def test_steps_are_of_kinds(tmp_path: Path) -> None:
    tasks = parse(tmp_path, EGGS, HOUSE, FRACTIONS)
    kinds = [[premise.kind for premise in task.premises] for task in tasks]
    assert kinds == [["minus", "times"], ["plus", "times", "plus", "minus"], ["several", "times", "several"]]


def solution(*lines: str) -> tuple[str, str]:
    return "How many?", "\n".join(lines)


def test_results_become_parents(tmp_path: Path) -> None:
    eggs, house = parse(tmp_path, EGGS, HOUSE)
    assert rules(eggs) == ["16 - 3 - 4", "s1 * 2"]
    assert eggs.premises[1].depends_on == ("s1",)
    assert (eggs.id, eggs.depth, eggs.answer) == ("gsm8k-00001", 2, 18)
    assert rules(house) == ["80000 + 50000", "80000 * 1.5", "s2 + 80000", "s3 - s1"]
    assert [premise.value for premise in house.premises] == [130000, 120000, 200000, 70000]


def test_the_hop_sees_the_sentence_with_its_result_left_out(tmp_path: Path) -> None:
    eggs, house = parse(tmp_path, EGGS, HOUSE)
    assert eggs.premises[1].instruction == "She earns {s1} * 2 = $___ every day."
    assert eggs.premises[1].text == "She earns 9 * 2 = $18 every day."
    assert house.premises[3].instruction == "The profit is {s3}-{s1}=$___"


def test_a_result_told_in_advance_is_left_out_too(tmp_path: Path) -> None:
    (task,) = parse(tmp_path, solution("They raised $174 because 83 plus 91 equals <<83+91=174>>174.", "#### 174"))
    assert task.premises[0].instruction == "They raised $___ because 83 plus 91 equals ___."


def test_an_unannotated_last_step_is_read_from_its_equation(tmp_path: Path) -> None:
    (boots,) = parse(tmp_path, BOOTS)
    assert rules(boots) == ["33 * 2", "s1 + 33", "s2 + 5"]
    assert boots.metadata == {"closed_by": "equation"}
    assert boots.premises[2].instruction == "So the boots cost {s2} + 5 = $___."


def test_fractions_percent_and_bare_decimals(tmp_path: Path) -> None:
    (task,) = parse(tmp_path, FRACTIONS)
    assert [premise.value for premise in task.premises] == [1.5, 0.75, 0.0375]
    assert rules(task) == ["3 * 1 / 2", "s1 * 0.5", "s2 * (5 / 100)"]
    assert task.premises[2].instruction == "litres, or 5% of that, ___."


def test_a_linear_equation_is_solved(tmp_path: Path) -> None:
    (task,) = parse(tmp_path, TREATS)
    assert task.metadata == {"closed_by": "unknown"}
    assert task.premises[1].depends_on == ("s1",)
    assert task.premises[1].instruction == "3 * c - 2 + c = {s1}, so c = ___"


@pytest.mark.parametrize(
    ("problem", "closed_by", "rule"),
    [
        (solution("It needs <<54/8=6.75>>6.75 packs.", "Round up 6.75, so 7 packs.", "#### 7"), "rounding", "ceil(s1)"),
        (("How many cents?", "Each is $<<2/8=0.25>>0.25\n#### 25"), "cents", "s1 * 100"),
        (solution("<<2+3=5>>5 eggs", "<<5-1=4>>4 left, but that was not asked", "#### 5"), "earlier", "2 + 3"),
        (solution("<<2+3=5>>5", "(2 x 5) / 4 equals 2.5", "#### 2.5"), "equation", "(2 * s1) / 4"),
        (solution("<<2+3=5>>5", "5 hours - 1 1/2 hours = 3 1/2 hours", "#### 3.5"), "equation", "s1 - 1.5"),
    ],
)
def test_other_last_steps(tmp_path: Path, problem: tuple[str, str], closed_by: str, rule: str) -> None:
    (task,) = parse(tmp_path, problem)
    assert task.metadata["closed_by"] == closed_by
    assert task.premises[-1].rule == rule


@pytest.mark.parametrize(
    ("annotation", "rule", "value"),
    [
        ("$1,200 × 2=$2,400", "1200 * 2", 2400),
        ("10 x 3=30.00", "10 * 3", 30),
        ("2x3=6", "2 * 3", 6),
        ("3/4=3/4", "3 / 4", 0.75),
        ("100/3=33.33", "round(100 / 3, 2)", 33.33),
        ("20%*50=10", "(20 / 100) * 50", 10),
        ("+2=2", "+ 2", 2),
        ("-48+21+(-3)=-30", "-48 + 21 + (-3)", -30),
        ("7=7", "7", 7),
        ("5−2=3", "5 - 2", 3),
        ("007+1=8", "7 + 1", 8),
    ],
)
def test_spellings_of_annotations(tmp_path: Path, annotation: str, rule: str, value: float) -> None:
    (task,) = parse(tmp_path, solution(f"That is <<{annotation}>>{value}.", f"#### {value}"))
    assert (task.premises[0].rule, task.answer) == (rule, value)


def test_equal_numbers_are_told_apart_by_use(tmp_path: Path) -> None:
    given = ("Al has 5 bags of 5 eggs.", "<<5*5=25>>25\n<<25/5=5>>5\n<<5+5=10>>10\n#### 10")
    unstated = ("Al has bags.", "<<2+3=5>>5\n<<5*5=25>>25\n#### 25")
    first, second = parse(tmp_path, given, unstated)
    assert rules(first) == ["5 * 5", "s1 / 5", "s2 + 5"]
    assert rules(second) == ["2 + 3", "s1 * s1"]


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (solution("It is 5.", "#### 5"), "no <<…>> annotation"),
        (solution("<<2+3=5>>5"), "no number after '####'"),
        (solution("<<2+3=5>>5", "#### none"), "no number after '####'"),
        (solution("<<2+3=6>>6", "#### 6"), "the expression of <<2+3=6>> does not give 6"),
        (solution("<<2+3>>5", "#### 5"), "has no '='"),
        (solution("<<2+3=x>>5", "#### 5"), "the result of <<2+3=x>> is not a number"),
        (solution("<<2+3=5>>5", "#### 8"), "the last annotation gives 5, and no equation leads from it to 8"),
        (solution("<<2+3=5>>5", "4 + 4 = 8", "#### 8"), "no equation leads from it to 8"),
        (solution("<<9**9**9=5>>5", "#### 5"), "does not give 5"),
    ],
)
def test_what_cannot_be_parsed_has_a_reason(tmp_path: Path, problem: tuple[str, str], reason: str) -> None:
    tasks, rejected = parse_gsm8k(write(tmp_path, EGGS, problem))
    assert len(tasks) == 1
    assert rejected[0].line == 2
    assert reason in rejected[0].reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not valid JSON"),
        ("[]", "not an object: found list"),
        ('{"question": "?"}', "field 'answer' missing or not text"),
        ('{"question": 1, "answer": ""}', "field 'question' missing or not text"),
    ],
)
def test_broken_lines_are_left_out_and_named(tmp_path: Path, text: str, reason: str) -> None:
    path = write(tmp_path, EGGS)
    path.write_text(path.read_text(encoding="utf-8") + "\n\n" + text, encoding="utf-8")
    tasks, (broken,) = parse_gsm8k(path)
    assert [task.id for task in tasks] == ["gsm8k-00001"]
    assert broken.line == 3
    assert broken.reason.startswith(reason)


@pytest.mark.skipif(not TEST_SPLIT.is_file(), reason=f"no GSM8K file at {TEST_SPLIT}; set QTRAP_GSM8K to one")
def test_the_test_split() -> None:
    tasks, rejected = parse_gsm8k(TEST_SPLIT)
    unparsed = [problem for problem in rejected if not problem.reason.startswith("no <<")]
    assert len(tasks) + len(rejected) == 1319
    assert len(tasks) / (len(tasks) + len(unparsed)) >= 0.99, unparsed
    assert all(problem.reason for problem in rejected)
    assert all(check_task(task) == [] for task in tasks)
    assert all("___" in premise.instruction for task in tasks for premise in task.premises)
