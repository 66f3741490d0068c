"""`qtrap inspect` on a terminal. Status is a word and a mark, so colours are an extra; model text is never markup."""

import shlex
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from qtrap_agents.analysis.graph import JudgedPremise
from qtrap_agents.analysis.readings import is_unparsed
from qtrap_agents.analysis.roles import RoleCost
from qtrap_agents.report.format import NOTHING, joules, plain, shown
from qtrap_agents.report.inspection import DecisionView, HopView, PairView, PremisePair, TraceList, TraceRow, TraceView, outcome
from qtrap_agents.report.table import new_table, print_table
from qtrap_agents.report.wording import unparsed_words
from qtrap_agents.types import Hop

MARKS = {"match": "✓", "wrong": "✗", "missing": "∅", "unsupported": "?", "right": "✓", "error": "!", "not judged": "?"}
STYLES = {
    "match": "green", "wrong": "bold red", "missing": "bold magenta", "unsupported": "yellow",
    "right": "green", "error": "bold magenta", "not judged": "yellow",
}  # fmt: skip
_INDENT = 24
_VALUE = 40
_DECIDED = 8


def render_traces(found: TraceList, console: Console) -> None:
    """Print the list and how to open one trace."""
    if not found.rows:
        console.print(plain(f"no {'failed ' if found.failed else ''}traces fit"))
        return
    table = new_table(f"{found.total:,} {'failed ' if found.failed else ''}traces")
    for heading in ("task", "arm", "suite", "depth", "outcome", "first error", "origin", "collapse", "answer", "gold"):
        table.add_column(heading, overflow="fold")
    for row in found.rows:
        table.add_row(*_row_cells(row))
    print_table(table, console)
    if len(found.rows) < found.total:
        console.print(plain(f"the first {len(found.rows):,} of {found.total:,}; --limit shows more"))
    row = found.rows[0]
    console.print(plain(f"next: qtrap inspect {shlex.quote(found.run)} {row.task_id} --arm {row.arm}"), soft_wrap=True)


def render_trace(view: TraceView, console: Console, full: bool = False) -> None:
    """Print one trace as a tree of hops.

    Args:
        full: whole prompts and completions instead of what fits on a line.
    """
    console.print(_head(view))
    console.print(_field("question", view.task.question, console, full))
    tree = Tree(Text("hops", style="bold"))
    for said in view.in_order:
        if isinstance(said, HopView):
            _add_hop(tree, said, view.energies.get(said.hop.id), console, full)
        else:
            _add_decision(tree, said)
    for premise in view.unstated:
        tree.add(_premise_line(premise).append(" · no hop stated it"))
    console.print(tree)
    if len(view.roles) > 1:
        console.print(plain(f"cost by node: {' · '.join(map(_role_words, view.roles))}"))
    console.print(_answer_line(view))
    for line in _findings(view):
        console.print(plain(line), soft_wrap=line.startswith("next"))


def render_pair(view: PairView, console: Console, full: bool = False) -> None:
    """Print two arms side by side, and the prompts and completions where they first differ."""
    console.print(plain(f"{view.task.id}: {view.against} {view.against_outcome}, {view.arm} {view.outcome}", style="bold"))
    first = view.first_difference
    table = new_table()
    for heading in ("premise", "gold", view.against, view.arm, ""):
        table.add_column(plain(heading), overflow="fold")
    for pair in view.pairs:
        mark = Text("◀ first difference", style="bold red") if pair is first else Text("◁" if pair.differs else "", style="red")
        table.add_row(plain(pair.id), _value(pair.gold), *_sides(pair, console, full), mark)
    same = view.answer == view.against_answer
    answers = (_value(value) for value in (view.task.answer, view.against_answer, view.answer))
    table.add_row(plain("answer"), *answers, Text("" if same else "◁", style="red"))
    print_table(table, console)
    console.print(plain(view.words, style="" if first is None else "bold"))
    if first is not None:
        _render_difference(view, first, console, full)


def _row_cells(row: TraceRow) -> tuple[Text, ...]:
    word = "error" if row.error is not None else "not judged" if row.correct is None else "right" if row.correct else "wrong"
    first = f"{row.first_error.position} ({row.first_error.id}) {row.first_status}" if row.first_error else NOTHING
    collapse = f"{row.collapse_hop.position} ({row.collapse_hop.id})" if row.collapse_hop else NOTHING
    return (
        plain(row.task_id),
        plain(row.arm),
        plain(row.suite),
        Text(str(row.depth)),
        _marked(word),
        plain(first),
        plain(row.first_origin or NOTHING),
        plain(collapse),
        plain(row.error, _VALUE) if row.error else _value(row.answer),
        _value(row.gold),
    )


def _head(view: TraceView) -> Text:
    trace, hops = view.trace, len(view.hops)
    line = plain(f"{view.task.id} on {trace.arm}: ", style="bold").append_text(_marked(outcome(trace)))
    line.append(
        f" · {trace.workflow} · {hops:,} {'hop' if hops == 1 else 'hops'} · {1000 * trace.measurement.duration_s:,.1f} ms"
    )
    line.append(f" · {trace.prompt_tokens:,} + {trace.completion_tokens:,} tokens")
    return line if view.energy_j is None else line.append(f" · {joules(view.energy_j)} ({view.attribution})")


def _add_hop(tree: Tree, view: HopView, energy_j: float | None, console: Console, full: bool) -> None:
    hop, completion = view.hop, view.hop.completion
    parents = f" ← {', '.join(hop.parents)}" if hop.parents else ""
    label = _mark_of(view.premises).append_text(plain(f"{hop.id}{parents}", style="bold"))
    label.append(
        f" · {1000 * completion.latency_s:,.1f} ms · {completion.prompt_tokens:,} + {completion.completion_tokens:,} tokens"
    )
    if energy_j is not None:
        label.append(f" · {joules(energy_j)}")
    if completion.finish_reason != "stop":
        label.append(" · ended by ").append_text(plain(completion.finish_reason))
    if hop.premises and is_unparsed(hop):
        label.append(" · not parsed", style="bold magenta")
    if hop.arm is not None:
        label.append(" · answered by ").append_text(plain(hop.arm, style="bold"))
    branch = tree.add(label)
    for message in hop.messages:
        branch.add(_field("prompt" if message.role == "user" else message.role, message.content, console, full))
    branch.add(_field("completion", completion.text, console, full))
    for said in hop.replaced:
        if said not in hop.premises:
            branch.add(Text("replaced: ", style="bold").append_text(plain(f"the hop stated {said.id} = {shown(said.value)}")))
    for premise in view.premises:
        branch.add(_premise_line(premise))
    for name in view.restated:
        branch.add(plain(f"{name} stated again by a later hop, which counts"))


def _mark_of(premises: Sequence[JudgedPremise]) -> Text:
    """The mark of a hop: of its first premise in error, else of what it stated rightly, else of what cannot be judged."""
    if not premises:
        return Text()
    worst = next((premise.status for premise in premises if premise.is_error), None)
    match = any(premise.status == "match" for premise in premises)
    status = worst or ("match" if match else "unsupported")
    return Text(f"{MARKS[status]} ", style="" if match and worst is None else STYLES[status])


def _add_decision(tree: Tree, view: DecisionView) -> None:
    """A decision with its first premises; a vote of whole chains restates all of them."""
    made = view.decision
    branch = tree.add(plain(f"{made.id} ← {', '.join(made.parents)} · no model call", style="bold"))
    for premise in view.premises[:_DECIDED]:
        branch.add(_premise_line(premise))
    if len(view.premises) > _DECIDED:
        branch.add(plain(f"and {len(view.premises) - _DECIDED:,} more"))


def _role_words(role: RoleCost) -> str:
    calls = f"{role.calls:,} {'call' if role.calls == 1 else 'calls'}"
    tokens = f"{role.prompt_tokens:,} + {role.completion_tokens:,} tokens"
    return f"{role.role} {calls}, {tokens}, {1000 * role.latency_s:,.1f} ms"


def _field(name: str, text: str, console: Console, full: bool) -> Text:
    """A name and its text, on one line unless `full`."""
    limit = None if full else max(20, console.width - _INDENT - len(name))
    return Text(f"{name:<11} ", style="dim").append_text(plain(text, limit, keep_lines=full))


def _premise_line(premise: JudgedPremise) -> Text:
    line = plain(f"{premise.id} = {shown(premise.stated)}", 200).append(" · ")
    line.append_text(_marked(premise.status))
    if premise.origin is not None:
        line.append(f" ({premise.origin})")
    if premise.is_error:
        line.append(" · gold ").append_text(_value(premise.gold))
    return line


def _answer_line(view: TraceView) -> Text:
    if view.trace.error is not None:
        return Text("error: ", style="bold magenta").append_text(plain(view.trace.error, 2_000))
    line = Text("answer ").append_text(_value(view.trace.answer)).append(" · ").append_text(_marked(outcome(view.trace)))
    return line.append(" · gold ").append_text(_value(view.task.answer))


def _findings(view: TraceView) -> list[str]:
    """First error, collapse and what to look at next."""
    facts, lines = view.collapse, []
    if view.readings.unparsed:
        lines.append(f"hops not parsed: {unparsed_words(view.readings)}")
    lines += _unaligned(view)
    if facts.judged and facts.first_error is not None:
        lines.append(f"first error: {facts.first_error.id} (premise {facts.first_error.position} of {facts.premises})")
        lines.append(f"errors: {facts.own} own, {facts.inherited} inherited, {facts.compounded} compounded")
        if facts.blast_radius is not None:
            lines.append(f"blast radius: {facts.downstream_errors} of {facts.downstream} premises downstream")
    if facts.recovered:
        lines.append(f"recovered: {', '.join(facts.recovered)}")
    if facts.collapse_hop is not None:
        lines.append(f"logic collapse from {facts.collapse_hop.id} on")
    if view.others:
        lines.append("other arms: " + ", ".join(f"{arm} {result}" for arm, result in view.others.items()))
        other = next((arm for arm, result in view.others.items() if result == "right"), next(iter(view.others)))
        lines.append(f"next: qtrap inspect {shlex.quote(view.run)} {view.task.id} --arm {view.trace.arm} --against {other}")
    return lines


def _unaligned(view: TraceView) -> list[str]:
    """What was stated without gold, and gold that nothing stated, where one text states several premises."""
    extra, lacking = ([premise.id for premise in found] for found in (view.unsupported, view.unstated))
    if not view.trace.hops or not (extra or lacking):
        return []
    words = [f"{len(extra):,} stated and not in gold ({_some(extra)})"] if extra else []
    words += [f"{len(lacking):,} of gold and not stated ({_some(lacking)})"] if lacking else []
    return [f"premises not aligned: {'; '.join(words)}"]


def _some(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def _sides(pair: PremisePair, console: Console, full: bool) -> list[Text]:
    return [_side(premise, hop, full) for premise, hop in ((pair.against, pair.against_hop), (pair.arm, pair.hop))]


def _side(premise: JudgedPremise | None, hop: Hop | None, full: bool) -> Text:
    if premise is None:
        return Text(NOTHING)
    line = _value(premise.stated).append(" ").append_text(_marked(premise.status))
    if premise.origin is not None:
        line.append(f" ({premise.origin})")
    if full and hop is not None:
        for name, text in _texts(hop):
            line.append(f"\n{name}: ", style="dim").append_text(plain(text, keep_lines=True))
    return line


def _render_difference(view: PairView, pair: PremisePair, console: Console, full: bool) -> None:
    """Prompts and completions of both arms at one premise; equal ones once."""
    theirs, ours = (dict(_texts(hop)) if hop else {} for hop in (pair.against_hop, pair.hop))
    tree = Tree(plain(pair.id, style="bold"))
    for name in dict.fromkeys((*theirs, *ours)):
        if theirs.get(name) == ours.get(name):
            tree.add(_field(f"{name}, both", ours[name], console, full))
            continue
        for arm, texts in ((view.against, theirs), (view.arm, ours)):
            tree.add(_field(f"{name}, {arm}", texts.get(name, NOTHING), console, full))
    console.print(tree)


def _texts(hop: Hop) -> Sequence[tuple[str, str]]:
    prompt = "\n".join(message.content for message in hop.messages)
    return (("prompt", prompt), ("completion", hop.completion.text))


def _marked(word: str) -> Text:
    return Text(f"{MARKS[word]} {word}", style=STYLES[word])


def _value(value: int | float | str | None) -> Text:
    return Text("nothing", style="dim") if value is None else plain(str(value), _VALUE)
