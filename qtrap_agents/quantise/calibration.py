"""Calibration texts: hops of a suite as the model will see them, with gold answers, or a file of texts or chats."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from qtrap_agents.backends.scripted import ScriptedArm
from qtrap_agents.config import SamplingConfig, SuiteChoice, WorkflowChoice
from qtrap_agents.errors import ConfigError
from qtrap_agents.suites.catalog import Suite, load_suite
from qtrap_agents.types import GoldPremise, Message, Sampling, Task
from qtrap_agents.workflows.catalog import load_workflow
from qtrap_agents.workflows.drive import drive
from qtrap_agents.workflows.hop import Context

DEPTHS, SEED = (2, 4, 8), 20_261
"""Tasks of this seed are for calibration: runs begin at seed 0."""
SUFFIXES = (".jsonl", ".txt")
LONGEST = 100_000
"""Characters of one text; the quantiser takes the first 2,048 tokens of it."""
SPEAKERS = ("system", "user", "assistant")

Row = dict[str, Any]
"""`messages` of a chat, or a plain `text`."""


async def calibration_rows(sources: Sequence[str], samples: int) -> list[Row]:
    """`samples` texts, the same number from each source as far as it has them.

    Args:
        sources: files (`.jsonl` with `text`, `messages`, or `prompt` or `question` and `answer`; `.txt` with a blank line
            between texts), or names or paths of suites.

    Raises:
        ConfigError: a file cannot be read or holds no text. SuiteError: no such suite.
    """
    rows: list[Row] = []
    for number, source in enumerate(sources):
        share = samples // len(sources) + (number < samples % len(sources))
        path = Path(source)
        rows += file_rows(path)[:share] if path.suffix in SUFFIXES else await suite_rows(source, share)
    return rows


def file_rows(path: Path) -> list[Row]:
    """The texts of a file. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"--calibration {path}: no such file; give a text or jsonl file, or the name of a suite") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--calibration {path}: cannot be read as UTF-8 text: {error}") from error
    if path.suffix == ".jsonl":
        found = [_row(line, f"{path}:{number}") for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    else:
        found = [{"text": part.strip()[:LONGEST]} for part in text.split("\n\n") if part.strip()]
    if not found:
        raise ConfigError(f"--calibration {path}: holds no text")
    return found


def _row(line: str, place: str) -> Row:
    try:
        data = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{place}: not valid JSON ({error}); write one object a line") from error
    if isinstance(data, dict):
        if isinstance(text := data.get("text"), str) and text:
            return {"text": text[:LONGEST]}
        if _is_chat(data.get("messages")):
            return {"messages": [{name: message[name] for name in ("role", "content")} for message in data["messages"]]}
        asked = data.get("prompt", data.get("question"))
        if isinstance(asked, str) and isinstance(data.get("answer"), str):
            return _chat([Message(role="user", content=asked)], data["answer"])
    raise ConfigError(f"{place}: needs 'text', or 'messages' with 'role' and 'content', or 'prompt' (or 'question') and 'answer'")


def _is_chat(messages: object) -> bool:
    return isinstance(messages, list) and bool(messages) and all(map(_is_message, messages))


def _is_message(message: object) -> bool:
    return isinstance(message, Mapping) and message.get("role") in SPEAKERS and isinstance(message.get("content"), str)


async def suite_rows(name: str, count: int) -> list[Row]:
    """Hops of a suite: prompts of the `chain` workflow where every earlier hop was right, each with its gold answer.

    Raises:
        SuiteError: no such suite, or its file cannot be read. ConfigError: it has no tasks with gold premises.
    """
    suite, graph_for = load_suite(SuiteChoice(name=name)), load_workflow(WorkflowChoice(name="chain"))
    rows: list[Row] = []
    for task in _tasks(suite, count):
        seen: list[Row] = []
        arm = ScriptedArm("gold", _Gold(task, seen))
        course = await drive(graph_for, task, Context(backend=arm, suite=suite, sampling=SamplingConfig()))
        if course.error is None:
            rows += seen
        if len(rows) >= count:
            break
    if not rows:
        raise ConfigError(f"--calibration {name}: the suite has no tasks with gold premises; give a text or jsonl file")
    return rows[:count]


def _tasks(suite: Suite, count: int) -> Iterator[Task]:
    """Enough tasks, depths in turns, so that few of them are calibrated on each."""
    by_depth = [list(suite.tasks((depth,), (SEED,), count // len(DEPTHS) + 1)) for depth in DEPTHS]
    if suite.spec.kind != "procedural":
        by_depth = by_depth[:1]
    for group in itertools.zip_longest(*by_depth):
        yield from (task for task in group if task is not None and task.premises)


class _Gold:
    """Answers the hops of one chain with gold, and writes down the chats."""

    def __init__(self, task: Task, seen: list[Row]) -> None:
        self._left: Iterator[GoldPremise] = iter(task.premises)
        self._seen = seen

    def __call__(self, messages: Sequence[Message], sampling: Sampling) -> str:
        value = next(self._left).value
        answer = str(value) if sampling.json_schema is None else json.dumps({"value": value})
        self._seen.append(_chat(messages, answer))
        return answer


def _chat(messages: Sequence[Message], answer: str) -> Row:
    return {"messages": [message.model_dump() for message in (*messages, Message(role="assistant", content=answer))]}
