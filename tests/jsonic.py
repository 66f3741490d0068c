"""Functions that answer in JSON for scripted arms (`script: jsonic:right`), and a suite that asks for it."""

import json
from collections.abc import Sequence
from pathlib import Path

import scripts
import yaml

from qtrap_agents.types import Completion, Message, Sampling

SUITE = {
    "name": "sums",
    "title": "Arithmetic in JSON",
    "skill": "exact computation",
    "kind": "procedural",
    "generator": "qtrap_agents.suites.arith:generate",
    "params": {"modulus": 100},
    "parser": "int",
    "system": "All numbers are modulo {modulus}.",
    "output": "json",
    "examples": [{"prompt": "arith: 9 + 9 =", "answer": "18"}, {"prompt": "arith: {modulus} - 1 =", "answer": "99"}],
}


def write_suite(folder: Path) -> str:
    """The suite on disk, as a run names it."""
    (folder / "sums").mkdir()
    path = folder / "sums" / "suite.yaml"
    path.write_text(yaml.safe_dump(SUITE), encoding="utf-8")
    return str(path)


def right(messages: Sequence[Message], sampling: Sampling) -> str:
    """Solves the line above what the hop is told about JSON; 0 where that has words in the place of a number."""
    assert sampling.json_schema is not None
    line = messages[-1].content.splitlines()[0]
    try:
        said = scripts.solve([*messages[:-1], Message(role="user", content=line)], sampling)
    except ValueError:
        said = "0"
    return json.dumps({"value": int(said)})


def sloppy(messages: Sequence[Message], sampling: Sampling) -> str | Completion:
    """On unlucky prompts prose, or an object that is cut off."""
    if not scripts.unlucky(messages, 4):
        return right(messages, sampling)
    if scripts.unlucky(messages, 8):
        return Completion(text='{"value": 4', finish_reason="length", prompt_tokens=9, completion_tokens=5)
    return "that is hard to say, 17 perhaps"
