"""A few rows of every public dataset in its published layout, in our own words, and how tests read them."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from qtrap_agents.suites.catalog import KINDS
from qtrap_agents.suites.rows import Form, Reading, Row, read
from qtrap_agents.types import Task, Value

Fields = Mapping[str, Any]

PARSERS = {
    "gsm8k": "number",
    "mathqa": "number",
    "musique": "phrase",
    "hotpotqa": "phrase",
    "strategyqa": "boolean",
    "prontoqa": "word",
    "proofwriter": "phrase",
}

GSM8K = [
    {
        "question": "A mill grinds 3 sacks an hour for 4 hours and 5 more at night. How many sacks is that?",
        "answer": "It grinds 3*4=<<3*4=12>>12 sacks by day.\nIn all it grinds 12+5=<<12+5=17>>17 sacks.\n#### 17",
    },
    {"question": "A mill has 2 wheels. How many?", "answer": "It has 2.\n#### 2"},
]

MATHQA = [
    {
        "Problem": "a dealer buys 40 lamps at rs . 25 each and sells all of them for rs . 1,300 . find his gain percent .",
        "Rationale": "cost 1000 , gain 300 , 300 / 1000 * 100 = 30 % answer : b",
        "options": "a ) 25 % , b ) 30 % , c ) 13 % , d ) 35 % , e ) none of these",
        "correct": "b",
        "annotated_formula": "multiply(divide(subtract(1300, multiply(40, 25)), multiply(40, 25)), const_100)",
        "linear_formula": "multiply(n0,n1)|subtract(n2,#0)|divide(#1,#0)|multiply(#2,const_100)|",
        "category": "gain",
    },
    {
        "Problem": "a wheel of radius 7 cm turns once in 3 seconds . how many cm does its rim move in one second ?",
        "Rationale": "2 * 3.14 * 7 / 3",
        "options": "a ) 14.66 , b ) 44 , c ) 7 , d ) 3 , e ) 21.99",
        "correct": "a",
        "annotated_formula": "divide(circumface(7), 3)",
        "linear_formula": "circumface(n0)|divide(#0,n1)|",
        "category": "geometry",
    },
    {
        "Problem": "what is 3 plus 4 ?",
        "Rationale": "7",
        "options": "a ) 8 , b ) 9 , c ) 10 , d ) 11 , e ) 12",
        "correct": "a",
        "annotated_formula": "add(3, 4)",
        "linear_formula": "add(n0,n1)|",
        "category": "general",
    },
]


def paragraph(idx: int, title: str, text: str, supporting: bool) -> dict[str, Any]:
    return {"idx": idx, "title": title, "paragraph_text": text, "is_supporting": supporting}


def musique(**changes: Any) -> dict[str, Any]:
    return {
        "id": "2hop__11_22",
        "paragraphs": [
            paragraph(0, "Tall Pines", "Tall Pines is the second album of Low Tide.", True),
            paragraph(1, "Otter", "An otter swims.", False),
            paragraph(2, "Low Tide", "Low Tide came from the harbour town of Marwick in 1994.", True),
        ],
        "question": "Where does the band that recorded Tall Pines come from?",
        "question_decomposition": [
            {"id": 11, "question": "Tall Pines >> performer", "answer": "Low Tide", "paragraph_support_idx": 0},
            {"id": 22, "question": "Where does #1 come from?", "answer": "Marwick", "paragraph_support_idx": 2},
        ],
        "answer": "Marwick",
        "answer_aliases": ["the town of Marwick", "Marwick"],
        "answerable": True,
    } | changes


MUSIQUE = [musique(), musique(id="2hop__11_23", answerable=False)]


def hotpotqa(**changes: Any) -> dict[str, Any]:
    """The layout of the original files."""
    return {
        "_id": "5a7a0693",
        "answer": "Marwick",
        "question": "Where does the band that recorded Tall Pines come from?",
        "supporting_facts": [["Tall Pines (album)", 0], ["Low Tide", 0], ["Low Tide", 1]],
        "context": [
            ["Otter", ["An otter swims."]],
            ["Low Tide", ["Low Tide was a band.", " It came from Marwick.", " It had four members."]],
            ["Tall Pines (album)", ["Tall Pines is the second album of Low Tide."]],
        ],
        "type": "bridge",
        "level": "hard",
    } | changes


def hotpotqa_hub() -> dict[str, Any]:
    """The same as hubs store it: objects of lists."""
    plain = hotpotqa()
    titles, sentences = zip(*plain["context"], strict=True)
    facts, numbers = zip(*plain["supporting_facts"], strict=True)
    del plain["_id"]
    return plain | {
        "id": "5a7a0693",
        "context": {"title": list(titles), "sentences": list(sentences)},
        "supporting_facts": {"title": list(facts), "sent_id": list(numbers)},
    }


HOTPOTQA = [hotpotqa(), hotpotqa(_id="x", supporting_facts=[["Newt", 0]])]

STRATEGYQA: list[dict[str, Any]] = [
    {
        "qid": "b8677742616fef051f00",
        "term": "Mayfly",
        "description": "an insect",
        "question": "Could a mayfly see spring and autumn of one year?",
        "answer": False,
        "facts": ["A grown mayfly lives for a day or two."],
        "decomposition": ["How long does a mayfly live?", "How long is it from spring to autumn?", "Is #1 longer than #2?"],
        "evidence": [[[["Mayfly-1"]], ["operation"], ["operation"]]],
    },
    {"qid": "c1", "term": "Otter", "description": "a mammal", "question": "Do otters swim?"},
]


def prontoqa(**changes: Any) -> dict[str, Any]:
    """The layout of Logic-LLM."""
    return {
        "id": "ProntoQA_1",
        "context": "Every fompus is cold. Each grimpus is a lorpus. Grimpuses are red. Lorpuses are impuses. Impuses are not "
        "cold. Fompuses are vumpuses. Pat is a grimpus.",
        "question": "Is the following statement true or false? Pat is not cold.",
        "options": ["A) True", "B) False"],
        "answer": "A",
        "explanation": [
            "Pat is a grimpus.",
            "Each grimpus is a lorpus.",
            "Pat is a lorpus.",
            "Lorpuses are impuses.",
            "Pat is an impus.",
            "Impuses are not cold.",
            "Pat is not cold.",
        ],
    } | changes


def prontoqa_original() -> dict[str, Any]:
    """The file of the original generator: an object of examples."""
    plain = prontoqa()
    test = {
        "question": plain["context"],
        "query": "True or false: Pat is not cold.",
        "chain_of_thought": plain["explanation"],
        "answer": "True",
    }
    return {"example1": {"in_context_example0": test, "test_example": test}}


PRONTOQA = [prontoqa(), prontoqa(id="ProntoQA_2", answer="B")]


def sentences(*texts: str, prefix: str) -> dict[str, Any]:
    return {f"{prefix}{number}": {"text": text, "representation": "()"} for number, text in enumerate(texts, 1)}


PROOFWRITER = [
    {
        "id": "AttNeg-OWA-D3-1",
        "maxD": 2,
        "NFact": 2,
        "NRule": 3,
        "theory": "The fox is cold. The fox sees the hen. If something is cold then it likes the hen. If something likes the hen "
        "and it sees the hen then it is kind. Kind things are not loud.",
        "triples": sentences("The fox is cold.", "The fox sees the hen.", prefix="triple"),
        "rules": sentences(
            "If something is cold then it likes the hen.",
            "If something likes the hen and it sees the hen then it is kind.",
            "Kind things are not loud.",
            prefix="rule",
        ),
        "questions": {
            "Q1": {
                "question": "The fox is cold.",
                "answer": True,
                "QDep": 0,
                "strategy": "proof",
                "proofsWithIntermediates": [{"representation": "(triple1)", "intermediates": []}],
            },
            "Q2": {
                "question": "The fox is loud.",
                "answer": False,
                "QDep": 3,
                "strategy": "inv-proof",
                "proofsWithIntermediates": [
                    {
                        "representation": "((((((triple1) -> (rule1 % int3)) triple2) -> (rule2 % int2))) -> (rule3 % int1))",
                        "intermediates": {
                            "int1": {"text": "The fox is not loud.", "representation": "()"},
                            "int2": {"text": "The fox is kind.", "representation": "()"},
                            "int3": {"text": "The fox likes the hen.", "representation": "()"},
                        },
                    }
                ],
            },
            "Q3": {"question": "The hen is big.", "answer": "Unknown", "QDep": 0, "strategy": "random", "proofs": "[(FAIL)]"},
        },
    }
]

STORED: dict[str, list[dict[str, Any]]] = {
    "hotpotqa": [hotpotqa_hub(), hotpotqa_hub() | {"id": "x", "supporting_facts": {"title": ["Newt"], "sent_id": [0]}}],
    "strategyqa": [{name: value for name, value in row.items() if name != "evidence"} for row in STRATEGYQA],
}
"""The rows as a hub has them where it cannot store the original layout."""

SAMPLES: dict[str, list[dict[str, Any]]] = {
    "gsm8k": GSM8K,
    "mathqa": MATHQA,
    "musique": MUSIQUE,
    "hotpotqa": HOTPOTQA,
    "strategyqa": STRATEGYQA,
    "prontoqa": PRONTOQA,
    "proofwriter": PROOFWRITER,
}


def reading(kind: str, *fields: Fields, **params: Value) -> Reading:
    """Rows of a dataset as its kind reads them."""
    rows = (Row(number, f"row {number}", row) for number, row in enumerate(fields, 1))
    return read(KINDS[kind], rows, Form(kind, PARSERS[kind], params))


def only_task(kind: str, fields: Fields, **params: Value) -> Task:
    """The task of the one row."""
    found = reading(kind, fields, **params)
    assert found.rejected == ()
    (task,) = found.tasks
    return task


def only_reason(kind: str, fields: Fields) -> str:
    """Why the one row is left out."""
    found = reading(kind, fields)
    assert found.tasks == ()
    (rejected,) = found.rejected
    return rejected.reason


def write_lines(path: Path, rows: Iterable[object]) -> Path:
    """JSON lines."""
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path
