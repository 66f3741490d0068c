"""MuSiQue: sub-questions with answers, composed over two to four hops.

Rows as in the original `musique_*.jsonl` and on hubs: `question`, `paragraphs` (`title`, `paragraph_text`,
`is_supporting`), `question_decomposition` (`question`, `answer`, `paragraph_support_idx`), `answer`, `answer_aliases`,
`answerable`. Sub-question k is the premise `sk`; `#1` in its text is the answer of the first one, its parent. How an answer
follows from a paragraph is not in the data, so premises have no rules: a wrong one is never called inherited.

The paragraphs stand above the question: the supporting ones only (`paragraphs: supporting`, two to four), or all twenty
(`paragraphs: all`, about 2,500 tokens).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from qtrap_agents.suites.rows import Form, Row, Unusable, aliases, gold, option, records_of, task_id, text_of
from qtrap_agents.types import GoldPremise, Task

GOLD = "answers of sub-questions, no rules"

_REFERENCE = re.compile(r"#([1-9][0-9]?)(?![0-9])")


def task(row: Row, form: Form) -> Task:
    """The task of a question. Raises Unusable."""
    fields = row.fields
    if fields.get("answerable") is False:
        raise Unusable("unanswerable")
    answer = gold(text_of(fields, "answer"), form.parser)
    also = aliases(fields.get("answer_aliases"), form.parser, answer)
    steps = records_of(fields, "question_decomposition")
    premises = [_premise(number, step, form) for number, step in enumerate(steps, 1)]
    if premises[-1].value not in (answer, *also):
        raise Unusable("last sub-question without the answer", f"it is answered {premises[-1].value!r}, the question {answer!r}")
    premises[-1] = premises[-1].model_copy(update={"value": answer, "accept": also})
    return Task(
        id=task_id(form, row, "id"),
        suite=form.suite,
        question=f"{_context(fields, form)}\n\nQuestion: {text_of(fields, 'question')}",
        answer=answer,
        accept=also,
        premises=tuple(premises),
        depth=len(premises),
    )


def _premise(number: int, step: Mapping[str, Any], form: Form) -> GoldPremise:
    question, answer = text_of(step, "question"), text_of(step, "answer")
    parents = tuple(dict.fromkeys(int(found) for found in _REFERENCE.findall(question)))
    if any(parent >= number for parent in parents):
        raise Unusable("cyclic gold", f"sub-question {number} asks for the answer of sub-question {max(parents)}")
    named = _REFERENCE.sub(r"s\1", question)
    return GoldPremise(
        id=f"s{number}",
        text=f"{named} {answer}",
        value=gold(answer, form.parser),
        depends_on=tuple(f"s{parent}" for parent in parents),
        instruction=_REFERENCE.sub(r"{s\1}", _asked(question)),
        kind="relation" if ">>" in question else "question",
    )


def _asked(question: str) -> str:
    """`Green >> performer` as a question in words."""
    subject, arrow, relation = question.partition(">>")
    return f"What is the {relation.strip()} of {subject.strip()}?" if arrow else question


def _context(fields: Mapping[str, Any], form: Form) -> str:
    paragraphs = records_of(fields, "paragraphs")
    if option(form, "paragraphs", ("supporting", "all")) == "supporting":
        paragraphs = [paragraph for paragraph in paragraphs if paragraph.get("is_supporting")]
    return shown([(text_of(paragraph, "title"), text_of(paragraph, "paragraph_text")) for paragraph in paragraphs])


def shown(paragraphs: Sequence[tuple[str, str]]) -> str:
    """Titles and texts as a hop sees them. Raises Unusable where there is none."""
    if not paragraphs:
        raise Unusable("no supporting paragraph")
    return "\n".join(f"[{title}] {text}" for title, text in paragraphs)
