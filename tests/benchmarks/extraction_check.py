"""Does extraction find what a text states? `python tests/benchmarks/extraction_check.py FILE [--json] [--worst N]`.

FILE is a GSM8K split. Its calculator marks `<<9*2=18>>` become the gold premises (`suites/gsm8k.py`) and are stripped from the
solutions, which are then read as any model's text. Where a mark stood is where its premise is stated.

    recall           gold premises that are found with their value at their place
    aligned right    aligned statements that stand at the place of the premise that they were aligned with
    marked steps     extracted statements that stand at the place of any gold premise
    true steps       extracted statements that stand there, or are a calculation of the solution that holds: not every step
                     of a solution has a mark

The final answer `####` is left out of all precisions: it is aligned by its mark. Then the same solutions are disturbed:

    shuffled         lines in random order
    numbered         each line begins with "Step n:", in random order and with random numbers
    paragraph        one paragraph, lines from the last to the first
    spoken           "9 times 2 is $18" for "9 * 2 = $18"
    perturbed        one result is another number: exactly that premise must be wrong, and the others as before

`invented` aligns the solutions of other problems: gold premises that such a text is said to state, right or wrong, other than
by its final answer. Intervals are Wilson's, 95 %.
"""

import argparse
import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qtrap_agents.analysis.statistics import wilson
from qtrap_agents.extraction import Alignment, extract_all
from qtrap_agents.extraction.arithmetic import evaluate
from qtrap_agents.extraction.statements import Statement
from qtrap_agents.premises import FRACTION, NUMBER, to_number
from qtrap_agents.semantics import same_value
from qtrap_agents.suites.gsm8k import parse_gsm8k
from qtrap_agents.types import Task, Value

Span = tuple[int, int]

_MARK = re.compile(r"<<([^<>]*)>>")


class Problem(NamedTuple):
    """A task, its solution without marks, and where each gold premise is stated; None where nothing states its value."""

    task: Task
    text: str
    places: tuple[Span | None, ...]


class Share(NamedTuple):
    """So many of so many."""

    hits: int
    n: int

    @property
    def words(self) -> str:
        """`98.10 % [97.60, 98.50] of 4,000`"""
        interval = wilson(self.hits, self.n)
        low, high = (100 * (end or 0.0) for end in (interval.low, interval.high))
        return f"{100 * self.hits / max(1, self.n):6.2f} % [{low:.2f}, {high:.2f}] of {self.n:,}"


class Result(NamedTuple):
    """Shares by name, and problems that went wrong: task id, what is wrong."""

    shares: dict[str, Share]
    worst: tuple[tuple[str, str], ...]


def problems(path: Path) -> list[Problem]:
    """All problems of a file with a premise DAG."""
    tasks, _ = parse_gsm8k(path)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    solutions = {row["question"].strip(): row["answer"] for row in rows}
    return [_problem(task, solutions[task.question]) for task in tasks]


def _problem(task: Task, solution: str) -> Problem:
    text, marks = _stripped(solution)
    places: list[Span | None] = []
    end = 0
    for premise in task.premises:
        if marks and same_value(marks[0][1], premise.value):
            place: Span | None = marks.pop(0)[0]
        else:
            place = _stated_at(text, premise.text, premise.value, end)
        places.append(place)
        end = place[1] if place else end
    return Problem(task, text, tuple(places))


def _stripped(solution: str) -> tuple[str, list[tuple[Span, Value | None]]]:
    """The solution without marks, and the place and result of each mark."""
    text, end = "", 0
    starts: list[tuple[int, str]] = []
    for match in _MARK.finditer(solution):
        text += solution[end : match.start()]
        starts.append((len(text), match[1].rpartition("=")[2]))
        end = match.end()
    text += solution[end:]
    return text, [(_number_at(text, start, "/" in result), _result(result)) for start, result in starts]


def _result(text: str) -> Value | None:
    match = FRACTION.search(text.replace(" ", ""))
    return to_number(match[0]) if match else None


def _number_at(text: str, start: int, fraction: bool) -> Span:
    match = (FRACTION if fraction else NUMBER).match(text, start)
    return match.span() if match else (start, start + 1)


def _stated_at(text: str, sentence: str, value: Value, end: int) -> Span | None:
    """Where a premise without a mark is stated: in its sentence, else anywhere, the last time before the final answer."""
    body = text.rpartition("####")[0]
    start = body.find(sentence, max(0, end - len(sentence)))
    for part in ((start, start + len(sentence)) if start >= 0 else (0, len(body)), (0, len(body))):
        spans = [match.span() for match in NUMBER.finditer(body, *part) if same_value(to_number(match[0]), value)]
        if spans:
            return spans[-1]
    return None


def check(found: Sequence[Problem]) -> Result:
    """Recall and precision of the plain solutions."""
    recalled = right = aligned = marked = true_steps = extracted = gold = 0
    worst: list[tuple[str, str]] = []
    for problem in found:
        (alignment,) = extract_all([problem.text], problem.task, "number")
        places = {premise.id: place for premise, place in zip(problem.task.premises, problem.places, strict=True)}
        for premise in problem.task.premises:
            gold += 1
            if _is_recalled(alignment, premise.id, premise.value, places[premise.id]):
                recalled += 1
            else:
                worst.append((problem.task.id, f"not found: {premise.id} = {premise.value} in '{premise.text}'"))
        for pair in alignment.aligned:
            if pair.statement.kind != "answer":
                aligned += 1
                hit = _overlap((pair.statement.start, pair.statement.end), places[pair.premise_id])
                right += hit
                if not hit:
                    worst.append((problem.task.id, f"aligned wrongly: '{pair.statement.text}' as {pair.premise_id}"))
        for statement in (*(pair.statement for pair in alignment.aligned), *alignment.unaligned_statements):
            if statement.kind != "answer":
                extracted += 1
                hit = any(_overlap((statement.start, statement.end), place) for place in problem.places)
                marked += hit
                true_steps += hit or _holds(statement)
                if not hit and not _holds(statement):
                    worst.append((problem.task.id, f"no gold step: '{statement.text}'"))
    shares = {
        "recall": Share(recalled, gold),
        "aligned right": Share(right, aligned),
        "marked steps": Share(marked, extracted),
        "true steps": Share(true_steps, extracted),
    }
    return Result(shares, tuple(worst))


def _holds(statement: Statement) -> bool:
    """Whether a statement is a calculation that gives its value, to two decimals, or to a percentage."""
    computed = None if statement.expression is None else evaluate(statement.expression)
    values = (statement.value, *statement.readings)
    return computed is not None and any(isinstance(value, int | float) and abs(value - computed) < 0.005 for value in values)


def _is_recalled(alignment: Alignment, name: str, value: Value, place: Span | None) -> bool:
    values = {premise.id: premise.value for premise in alignment.premises}
    stands = any(
        pair.premise_id == name and (place is None or _overlap((pair.statement.start, pair.statement.end), place))
        for pair in alignment.aligned
    )
    return stands and same_value(values.get(name), value)


def _overlap(span: Span, place: Span | None) -> bool:
    return place is not None and span[0] < place[1] and place[0] < span[1]


def _lines(problem: Problem) -> list[str]:
    return [line for line in problem.text.rpartition("####")[0].split("\n") if line.strip()]


def _ending(problem: Problem) -> str:
    return "####" + problem.text.rpartition("####")[2]


def shuffled(problem: Problem, rng: random.Random) -> str:
    """Lines in random order."""
    lines = _lines(problem)
    return "\n".join([*rng.sample(lines, len(lines)), _ending(problem)])


def numbered(problem: Problem, rng: random.Random) -> str:
    """Random numbers before lines in random order."""
    lines = _lines(problem)
    labels = rng.sample(range(1, len(lines) + 10), len(lines))
    return "\n".join(
        [*(f"Step {label}: {line}" for label, line in zip(labels, rng.sample(lines, len(lines)), strict=True)), _ending(problem)]
    )


def paragraph(problem: Problem, rng: random.Random) -> str:
    """One paragraph, from the last line to the first."""
    return " ".join(f"{line.strip().rstrip('.')}." for line in reversed(_lines(problem))) + "\n" + _ending(problem)


def spoken(problem: Problem, rng: random.Random) -> str:
    """Words for the signs of arithmetic."""
    text = "\n".join(_lines(problem))
    for sign, words in (
        (r"\s*=\s*(?=\$?[0-9.])", " is "),
        (r"(?<=[0-9%)a-z])\s*[*×]\s*", " times "),
        (r"(?<=[0-9%)]) ?\+ ?", " plus "),
    ):
        text = re.sub(sign, words, text)
    return f"{text}\n{_ending(problem)}"


VARIANTS: dict[str, Callable[[Problem, random.Random], str]] = {
    "shuffled": shuffled,
    "numbered": numbered,
    "paragraph": paragraph,
    "spoken": spoken,
}


def values(alignment: Alignment, task: Task) -> dict[str, Value | None]:
    """Gold premise -> the stated value, None where none is stated."""
    stated = {premise.id: premise.value for premise in alignment.premises}
    return {premise.id: stated.get(premise.id) for premise in task.premises}


def disturbed(found: Sequence[Problem], seed: int = 0) -> Result:
    """Gold premises that are found with their value in disturbed solutions, of those found in the plain ones."""
    rng = random.Random(seed)
    shares: dict[str, Share] = {}
    worst: list[tuple[str, str]] = []
    for name, variant in VARIANTS.items():
        hits = n = 0
        for problem in found:
            before = values(extract_all([problem.text], problem.task, "number")[0], problem.task)
            after = values(extract_all([variant(problem, rng)], problem.task, "number")[0], problem.task)
            for premise in problem.task.premises:
                if same_value(before[premise.id], premise.value):
                    n += 1
                    hits += same_value(after[premise.id], premise.value)
                    if not same_value(after[premise.id], premise.value):
                        worst.append((problem.task.id, f"{name}: {premise.id} is {after[premise.id]}, not {premise.value}"))
        shares[name] = Share(hits, n)
    return Result(shares, tuple(worst))


def perturbed(found: Sequence[Problem], seed: int = 0) -> Result:
    """Solutions with one other result. The answer line changes with the last premise, nothing else does."""
    rng = random.Random(seed)
    exact = own = others = n = kept = 0
    worst: list[tuple[str, str]] = []
    for problem in found:
        number = rng.randrange(len(problem.task.premises))
        place, premise = problem.places[number], problem.task.premises[number]
        if place is None or not any(character.isdigit() for character in problem.text[slice(*place)]):
            continue
        before = values(extract_all([problem.text], problem.task, "number")[0], problem.task)
        text, new = _with_fault(problem, number, place, rng)
        after = values(extract_all([text], problem.task, "number")[0], problem.task)
        rest = [name for name in before if name != premise.id]
        n += 1
        own += same_value(after[premise.id], new)
        kept += sum(after[name] == before[name] for name in rest)
        others += len(rest)
        good = same_value(after[premise.id], new) and all(after[name] == before[name] for name in rest)
        exact += good
        if not good:
            worst.append((problem.task.id, f"perturbed {premise.id} to {new}: {before} became {after}"))
    shares = {"perturbed, that premise wrong": Share(own, n), "perturbed, others as before": Share(kept, others)}
    return Result({**shares, "perturbed, exactly": Share(exact, n)}, tuple(worst))


def _with_fault(problem: Problem, number: int, place: Span, rng: random.Random) -> tuple[str, Value]:
    old = to_number(FRACTION.findall(problem.text[slice(*place)])[0]) or 0
    new = int(old) + rng.choice([-2, -1, 1, 2, 10])
    new = new if new > 0 else int(old) + 3
    dollar = "$" if problem.text[place[0]] == "$" else ""
    text = problem.text[: place[0]] + f"{dollar}{new}" + problem.text[place[1] :]
    last = number == len(problem.task.premises) - 1
    return (f"{text.rpartition('####')[0]}#### {new}" if last else text), new


def invented(found: Sequence[Problem], others: int = 5) -> Result:
    """Gold premises that the solution of another problem is said to state."""
    stated = right = n = 0
    worst: list[tuple[str, str]] = []
    for index, problem in enumerate(found):
        for step in range(1, others + 1):
            other = found[(index + 37 * step) % len(found)]
            (alignment,) = extract_all([other.text], problem.task, "number")
            claimed = {pair.premise_id: pair.statement for pair in alignment.aligned if pair.statement.kind != "answer"}
            for premise in problem.task.premises:
                n += 1
                stated += premise.id in claimed
                right += premise.id in claimed and same_value(claimed[premise.id].value, premise.value)
                if premise.id in claimed:
                    worst.append(
                        (
                            problem.task.id,
                            f"invented: '{claimed[premise.id].text}' as {premise.id} = {premise.value}: {premise.rule}",
                        )
                    )
    return Result({"invented": Share(stated, n), "invented, as right": Share(right, n)}, tuple(worst))


def run(path: Path) -> Iterator[Result]:
    """All checks."""
    found = problems(path)
    yield check(found)
    yield disturbed(found)
    yield perturbed(found)
    yield invented(found)


def as_json(results: Sequence[Result]) -> dict[str, Any]:
    """Counts, shares and intervals."""
    shares = {name: share for result in results for name, share in result.shares.items()}
    return {
        name: {**share._asdict(), "share": share.hits / max(1, share.n), "interval": wilson(share.hits, share.n).model_dump()}
        for name, share in shares.items()
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Recall and precision of premise extraction on GSM8K solutions without marks.")
    parser.add_argument("file", type=Path, help="a GSM8K split, such as test.jsonl")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worst", type=int, default=5, help="examples of each check that are listed")
    options = parser.parse_args()
    results = list(run(options.file))
    if options.json:
        print(json.dumps(as_json(results), indent=2))
        return
    for result in results:
        for name, share in result.shares.items():
            print(f"{name:32}{share.words}")
        for task_id, words in result.worst[: options.worst]:
            print(f"    {task_id}: {words}")


if __name__ == "__main__":
    main()
