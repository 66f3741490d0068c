"""HotpotQA: questions over two paragraphs, with the sentences that support the answer.

Both layouts are read. The original files: `context` as `[[title, [sentence, …]], …]`, `supporting_facts` as
`[[title, sentence index], …]`. Hubs: the same as objects of lists (`title` and `sentences`, `title` and `sent_id`).

The premises are the titles of the supporting paragraphs in the order in which they stand in the context, then the answer,
which depends on all of them. The data does not say how the answer follows, nor from which paragraph to which one goes.

The paragraphs stand above the question: all of them (`paragraphs: all`, usually ten, about 1,300 tokens), or the supporting
ones only (`paragraphs: supporting`, which leaves nothing to be found).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from qtrap_agents.suites.musique import shown
from qtrap_agents.suites.rows import Form, Row, Unusable, gold, list_of, option, records_of, task_id, text_of
from qtrap_agents.types import GoldPremise, Task, Value

GOLD = "titles of supporting paragraphs, answer; no rules"

Paragraph = tuple[str, list[str]]


def task(row: Row, form: Form) -> Task:
    """The task of a question. Raises Unusable."""
    answer = gold(text_of(row.fields, "answer"), form.parser)
    context, facts = _context(row.fields), _facts(row.fields)
    missing = facts.keys() - dict(context).keys()
    if missing:
        raise Unusable("supporting fact outside the context", f"no paragraph is called {min(missing)!r}")
    supporting = [paragraph for paragraph in context if paragraph[0] in facts]
    only = option(form, "paragraphs", ("all", "supporting")) == "supporting"
    paragraphs = [(title, " ".join(part.strip() for part in sentences)) for title, sentences in (supporting if only else context)]
    premises = [_premise(number, supporting, facts, form) for number in range(1, len(supporting) + 1)]
    premises.append(_last(text_of(row.fields, "answer"), answer, [premise.id for premise in premises]))
    return Task(
        id=task_id(form, row, "_id", "id"),
        suite=form.suite,
        question=f"{shown(paragraphs)}\n\nQuestion: {text_of(row.fields, 'question')}",
        answer=answer,
        premises=tuple(premises),
        depth=len(premises),
        metadata={name: str(row.fields[name]) for name in ("type", "level") if row.fields.get(name)},
    )


def _premise(number: int, supporting: Sequence[Paragraph], facts: Mapping[str, list[int]], form: Form) -> GoldPremise:
    title, sentences = supporting[number - 1]
    said = " ".join(sentences[index].strip() for index in facts[title] if 0 <= index < len(sentences))
    return GoldPremise(
        id=f"s{number}",
        text=f"[{title}] {said}".strip(),
        value=gold(title, form.parser),
        instruction=f"Paragraph {number} of the {len(supporting)} that the answer needs, in the order in which they stand above: "
        "what is its title?",
        kind="supporting",
    )


def _last(said: str, answer: Value, parents: Sequence[str]) -> GoldPremise:
    known = " and ".join(f"[{{{parent}}}]" for parent in parents)
    return GoldPremise(
        id=f"s{len(parents) + 1}",
        text=f"The answer is {said}.",
        value=answer,
        depends_on=tuple(parents),
        instruction=f"The paragraphs that are needed for the answer are {known}. What is the answer to the question?",
        kind="answer",
    )


def _context(fields: Mapping[str, Any]) -> list[Paragraph]:
    pairs = _pairs(fields, "context", "title", "sentences")
    if not all(isinstance(title, str) and isinstance(sentences, list | tuple) for title, sentences in pairs):
        raise Unusable("field 'context' not of titles and sentences")
    return [(title, [str(sentence) for sentence in sentences]) for title, sentences in pairs]


def _facts(fields: Mapping[str, Any]) -> dict[str, list[int]]:
    """Sentence numbers (from 0) by title."""
    found: dict[str, list[int]] = {}
    for title, index in _pairs(fields, "supporting_facts", "title", "sent_id"):
        if not isinstance(title, str) or not isinstance(index, int):
            raise Unusable("field 'supporting_facts' not of titles and numbers")
        found.setdefault(title, []).append(index)
    return found


def _pairs(fields: Mapping[str, Any], name: str, first: str, second: str) -> list[tuple[Any, Any]]:
    """A list of pairs, or of objects with these two fields, or an object of two lists. Raises Unusable."""
    value = fields.get(name)
    if isinstance(value, list | tuple) and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in value):
        return [(pair[0], pair[1]) for pair in list_of(fields, name)]
    return [(record.get(first), record.get(second)) for record in records_of(fields, name)]
