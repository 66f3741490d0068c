"""`qtrap tasks new`: a suite to begin with, commented, sound as it stands."""

import re
from pathlib import Path

from qtrap_agents.errors import SuiteError
from qtrap_agents.paths import shipped
from qtrap_agents.suites.catalog import FILE

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

_COMMON = """\
# A name for tables, and what the tasks ask of a model.
name: "NAME"
title: Stock of a small shop
skill: keeping count over several steps

# How the value is read from what the model writes: int, number, word, words (with `words: 6`), text, phrase, boolean or any.
parser: int

# What the model is told before every hop; `{start}` would be replaced by the parameter of that name.
system: >-
  You keep count of the stock of a shop. Answer with the number that the last line asks for, nothing else.

# Worked examples stand before every question as turns of the chat. Take them out for a model that needs none.
examples:
  - {prompt: "Boxes after 3 of 12 are sold: 12 - 3 =", answer: "9"}

# Tokens that a hop may write, and for each premise where one answer states them all (`--workflow cot`).
max_tokens: 12
cot_tokens_per_premise: 16

# output: json                 # a hop answers with {"value": …}, held to its schema where the arm can do so
# extractor: prose             # how premises are found in running text; or module:function of your own
"""

_JSONL = """\
# A suite of your own tasks. Write them into tasks.jsonl, then:
#   qtrap tasks validate ./tasks/NAME
#   qtrap run CONFIG --suite ./tasks/NAME
kind: jsonl
path: tasks.jsonl

# true: the question of the task stands above every instruction.
show_question: true

"""

_JSONL_FORM = """
# A line of tasks.jsonl is one task. Of a premise only `id` and `value` are needed:
#   id           lower case; later premises name it in depends_on, rule and instruction
#   value        what the step must state
#   depends_on   the premises that it is derived from; they stand before it
#   rule         an expression over them: what the step would rightly state if they were wrong (own or inherited error)
#   instruction  what the hop is told, with {id} where the value of a parent goes; else made from rule or text
#   text         the step in words;   kind: the sort of step, any word;   accept: other right values
# The last premise states the answer. `tools` of a task are for `--workflow react`:
#   "tools": {"calculator": {}, "table": {"pen/price": 3}, "store": {"k17": "pen"}, "my_module:my_function": {}}
"""

_TASKS = """\
{"id": "boxes", "question": "A shop has 40 boxes. It sells 12, then gets 3 crates of 8 boxes. How many boxes has it?", "answer": 52, "premises": [{"id": "sold", "value": 28, "rule": "40 - 12", "instruction": "Boxes after 12 of 40 are sold: 40 - 12 =", "kind": "minus"}, {"id": "crates", "value": 24, "rule": "3 * 8", "instruction": "Boxes in 3 crates of 8: 3 * 8 =", "kind": "times"}, {"id": "stock", "value": 52, "depends_on": ["sold", "crates"], "rule": "sold + crates", "instruction": "Boxes in all: {sold} + {crates} =", "kind": "plus"}]}
{"id": "shelves", "question": "72 jars stand on 6 shelves, equally many on each. 5 jars of one shelf are sold. How many are left there?", "answer": 7, "premises": [{"id": "shelf", "value": 12, "rule": "72 / 6", "instruction": "Jars on a shelf: 72 / 6 ="}, {"id": "left", "value": 7, "depends_on": ["shelf"], "rule": "shelf - 5", "instruction": "Jars left on it: {shelf} - 5 ="}]}
{"id": "till", "question": "The till holds 50 dollars. Three customers pay 9 dollars each, and 20 dollars go to the bank. What does it hold?", "answer": 57, "premises": [{"id": "paid", "value": 27, "text": "The customers pay 27 dollars.", "rule": "3 * 9"}, {"id": "till", "value": 77, "text": "The till holds 77 dollars then.", "depends_on": ["paid"], "rule": "50 + paid"}, {"id": "rest", "value": 57, "text": "57 dollars are left.", "depends_on": ["till"], "rule": "till - 20"}]}
"""  # noqa: E501 -- one task a line

_PROCEDURAL = """\
# A suite whose tasks a function draws, at any depth: MODULE.py beside this file. Try it:
#   qtrap tasks validate ./tasks/NAME --depth 2 --depth 8
#   qtrap run CONFIG --suite ./tasks/NAME --depth 8
kind: procedural
generator: MODULE:generate

# Handed to the generator; a run may change them: suites: [{name: ./tasks/NAME, params: {start: 500}}]
params:
  start: 100

"""

_GENERATOR = '''\
"""Tasks of the suite NAME: the stock of a shop with two shelves, one movement a step."""

from qtrap_agents.semantics import execute
from qtrap_agents.suites.procedural import Params, chain_task, stated, task_rng
from qtrap_agents.types import GoldPremise, Task, Value


def generate(suite: str, depth: int, seed: int, index: int, params: Params) -> Task:
    """Task `index`: `depth` premises. The same arguments must always give the same task."""
    # The only source of chance: independent of how many tasks are drawn and in which order.
    rng = task_rng(suite, depth, seed, index)
    start = int(params.get("start", 100))
    question = f"A shop has {start} boxes."
    premises: list[GoldPremise] = []
    known: dict[str, Value] = {}
    for step in range(1, depth + 1):
        sold = rng.randrange(1, 10)
        if step >= 3 and step % 3 == 0:
            # A step with two parents: the last result and the one before it. This makes the premises a graph.
            before, last = f"s{step - 2}", f"s{step - 1}"
            parents, rule = (before, last), f"abs({last} - {before}) + {start}"
            instruction = f"abs({{{last}}} - {{{before}}}) + {start} ="
            words = f"The boxes are counted anew: the difference of the last two counts and {start}."
        else:
            # A step on the result before it, or on the start value. `{s1}` in an instruction is the stated value of s1.
            parents = (f"s{step - 1}",) if step > 1 else ()
            given, slot = (f"s{step - 1}", f"{{s{step - 1}}}") if step > 1 else (str(start), str(start))
            rule, instruction, words = f"{given} - {sold}", f"{slot} - {sold} =", f"{sold} are sold."
        # The rule is executed on the gold parents for the gold value, and later on wrong ones to see what was inherited.
        value = execute(rule, {parent: known[parent] for parent in parents})
        premises.append(stated(step, value, parents, rule, instruction, "count" if len(parents) == 2 else "sold"))
        known[f"s{step}"] = value
        question += f" s{step}: {words}"
    # The last premise is the answer.
    return chain_task(suite, depth, seed, index, f"{question} How many boxes are there?", premises)
'''


def write_template(name: str, kind: str, folder: Path) -> Path:
    """Write a suite into a new directory `folder/name`; `kind` is `jsonl` or `procedural`.

    Returns:
        The directory.

    Raises:
        SuiteError: the name is not one, it is that of a shipped suite, or something stands there already.
    """
    if not _NAME.fullmatch(name):
        raise SuiteError(f"suite '{name}': a name is made of letters, digits, '.', '_' and '-' and begins with a letter or digit")
    path = folder / name
    if path.exists():
        raise SuiteError(f"{path}: exists already and is not overwritten; choose another name")
    if (shipped("tasks") / name / FILE).exists():
        raise SuiteError(f"suite '{name}' is shipped with qtrap and would be hidden by yours; choose another name")
    try:
        path.mkdir(parents=True)
        for file, text in _files(name, kind).items():
            (path / file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise SuiteError(f"{path}: cannot be written: {error.strerror}; change into a directory of your own") from error
    return path


def _files(name: str, kind: str) -> dict[str, str]:
    """What stands in the directory. The module of a generator is called after the suite: modules need different names."""
    module = "suite_" + re.sub(r"\W", "_", name)
    if kind == "jsonl":
        texts = {FILE: _JSONL + _COMMON + _JSONL_FORM, "tasks.jsonl": _TASKS}
    else:
        texts = {FILE: _PROCEDURAL + _COMMON, f"{module}.py": _GENERATOR}
    return {file: text.replace("NAME", name).replace("MODULE", module) for file, text in texts.items()}
