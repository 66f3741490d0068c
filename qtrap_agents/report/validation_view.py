"""`qtrap tasks validate` on a terminal: what is wrong first, then what there is, then what the model will see."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from qtrap_agents.report.format import NOTHING, plain, shown
from qtrap_agents.report.table import new_table, print_table
from qtrap_agents.validation import DepthCount, HopExample, TaskExample, Validation

MOST_PROBLEMS = 200
"""Problems that are printed; `--json` has all of them."""

_LONGEST_TEXT = 4_000


def validation_json(found: Validation) -> dict[str, Any]:
    """Everything as JSON types."""
    return found.model_dump(mode="json") | {"ok": found.ok}


def render_validation(found: Validation, console: Console) -> None:
    """Print the findings."""
    for problem in found.problems[:MOST_PROBLEMS]:
        console.print(Text(problem.where, style="bold").append(": ").append(plain(problem.message)), soft_wrap=True)
    if len(found.problems) > MOST_PROBLEMS:
        console.print(plain(f"… and {len(found.problems) - MOST_PROBLEMS:,} more problems; --json has all of them"))
    if found.problems:
        console.print()
    for line in _left_out(found):
        console.print(plain(line), soft_wrap=True)
    if found.depths:
        _render_depths(found.depths, found.checkpoint, console)
    for number, example in enumerate(found.examples, 1):
        _render_example(number, example, console)
    console.print(_verdict(found), soft_wrap=True)


def _left_out(found: Validation) -> Iterator[str]:
    for reason in found.left_out:
        yield f"left out: {reason.count:,} rows: {reason.reason}"
        for row in reason.rows:
            yield f"    {row}"
        if reason.count > len(reason.rows):
            yield f"    … and {reason.count - len(reason.rows):,} more"


def _render_depths(depths: Sequence[DepthCount], checkpoint: str | None, console: Console) -> None:
    table = new_table()
    for heading in ("depth", "tasks", "premises", *(("longest prompt",) if checkpoint else ())):
        table.add_column(heading, justify="right")
    for count in depths:
        longest = NOTHING if count.longest_prompt is None else f"{count.longest_prompt:,} tokens"
        cells = (f"{count.depth:,}", f"{count.tasks:,}", f"{count.premises:,}", longest)
        table.add_row(*(cells if checkpoint else cells[:-1]))
    print_table(table, console)


def _render_example(number: int, example: TaskExample, console: Console) -> None:
    head = f"example {number}: {example.task_id} · depth {example.depth} · answer {shown(example.answer)}"
    console.print(plain(head, style="bold"))
    for hop in example.hops:
        _render_hop(hop, console)
    rest = example.hops_in_all - len(example.hops)
    if rest:
        console.print(plain(f"  … and {rest:,} more {'hop' if rest == 1 else 'hops'}"))
    console.print()


def _render_hop(hop: HopExample, console: Console) -> None:
    """The prompt as rendered where there is a tokenizer, else its messages; and what is right."""
    tokens = "" if hop.tokens is None else f" · {hop.tokens:,} tokens"
    console.print(plain(f"  hop {hop.premise}{tokens}"))
    said = [("prompt", hop.rendered)] if hop.rendered is not None else [(one.role, one.content) for one in hop.messages]
    for role, text in said:
        _render_text(role, text, console)
    _render_text("right", shown(hop.right), console)


def _render_text(role: str, text: str, console: Console) -> None:
    for number, line in enumerate(plain(text, _LONGEST_TEXT, keep_lines=True).split("\n")):
        console.print(Text(f"    {role if number == 0 else '':>9}  ", style="dim").append(line), soft_wrap=True)


def _verdict(found: Validation) -> Text:
    tasks = f"{found.tasks:,} {'task' if found.tasks == 1 else 'tasks'}"
    if found.ok:
        return plain(f"{found.source}: {tasks}, no problems", style="green")
    problems = f"{len(found.problems):,} {'problem' if len(found.problems) == 1 else 'problems'}"
    return plain(f"{found.source}: {problems}; {tasks} without any", style="bold red")
