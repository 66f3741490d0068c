"""StrategyQA: yes-or-no questions whose steps are implicit.

Rows as in the original `strategyqa_train.json` (`qid`, `term`, `description`, `question`, `answer`, `facts`,
`decomposition`), and without the last two as on some hubs. The sub-questions of `decomposition` have no answers in the data,
so the only premise is the answer. They are kept in the task's metadata as `sub_questions`, one a line with `#1` for the answer
of the first, and stand under the question with `sub_questions: shown`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from qtrap_agents.suites.rows import Form, Row, Unusable, option, task_id, text_of
from qtrap_agents.types import GoldPremise, Task, Value

GOLD = "answer only: sub-questions have no answers in the data"

_ANSWERS = {"true": "true", "yes": "true", "false": "false", "no": "false"}


def task(row: Row, form: Form) -> Task:
    """The task of a question. Raises Unusable."""
    question, answer = text_of(row.fields, "question"), _answer(row.fields)
    steps = _sub_questions(row.fields)
    if steps and option(form, "sub_questions", ("hidden", "shown")) == "shown":
        question = "\n".join([question, "Questions on the way:", *steps])
    metadata: dict[str, Value] = {"sub_questions": "\n".join(steps)} if steps else {}
    premise = GoldPremise(id="s1", text=f"{question} {answer}", value=answer, instruction="Is this true or false?", kind="answer")
    return Task(
        id=task_id(form, row, "qid", "id"),
        suite=form.suite,
        question=question,
        answer=answer,
        premises=(premise,),
        depth=1,
        metadata=metadata,
    )


def _answer(fields: Mapping[str, Any]) -> str:
    answer = _ANSWERS.get(str(fields.get("answer")).strip().casefold())
    if answer is None:
        raise Unusable("field 'answer' missing or not yes or no")
    return answer


def _sub_questions(fields: Mapping[str, Any]) -> Sequence[str]:
    steps = fields.get("decomposition") or ()
    if not isinstance(steps, list | tuple) or not all(isinstance(step, str) for step in steps):
        raise Unusable("field 'decomposition' not a list of questions")
    return [f"{number}. {step.strip()}" for number, step in enumerate(steps, 1)]
