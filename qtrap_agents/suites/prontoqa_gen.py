"""ProntoQA in our own words and at any depth: a made-up ontology, a being of one of its kinds, and a statement about it.

Hop as the model sees it, under the sentences: `Rex is a bakoril. By the sentences above, every bakoril is a ___.` →
`zumiril`; the last one asks whether the statement is true or false. Half of the answers are true, and whether the statement has
a "not" in it tells nothing. The sentences come in random order. Some are about kinds that Rex is not of, one of which is told
to have the property of the statement where Rex's has it not, and the reverse.
"""

import random
from collections.abc import Sequence
from itertools import pairwise

from qtrap_agents.suites.procedural import Params, chain_task, task_rng
from qtrap_agents.suites.prontoqa import Statement, ontology, premises_of, question, sentences
from qtrap_agents.types import Task

BEINGS = ("Rex", "Fae", "Wren", "Sam", "Stella", "Max", "Alex", "Polly")

PROPERTIES = (
    "bright", "sour", "wooden", "shy", "loud", "heavy", "red", "spicy", "happy", "cold", "smooth", "hollow",
    "brave", "lazy", "opaque", "sweet", "angry", "floral", "metallic", "earthy", "small", "liquid", "round", "nervous",
)  # fmt: skip

_SYLLABLES = [onset + vowel for onset in "bdfgklmnprstvz" for vowel in "aeiou"]
_NAMES = [f"{first}{second}ril" for first in _SYLLABLES for second in _SYLLABLES]


def generate(suite: str, depth: int, seed: int, index: int, params: Params) -> Task:
    """Task `index`: `depth` - 1 kinds above the given one and the answer; `params["distractors"]` (default 1) others for each."""
    rng = task_rng(suite, depth, seed, index)
    spare = int(params.get("distractors", 1)) * depth
    names = rng.sample(_NAMES, depth + spare)
    kinds, others = names[:depth], names[depth:]
    truth = (index + task_rng(suite, depth, seed, -1).randrange(2)) % 2 == 0
    asked = Statement(rng.choice(BEINGS), rng.random() < 0.5, rng.choice(PROPERTIES))
    has = truth != asked.negated
    said = [_above(rng, lower, upper) for lower, upper in pairwise(kinds)]
    said += [_above(rng, other, rng.choice(kinds + others[:place])) for place, other in enumerate(others)]
    said += [_has(rng, kinds[-1], asked.name, has), *(_has(rng, other, asked.name, not has) for other in others[-1:])]
    said += _properties(rng, [*kinds[:-1], *others[:-1]], asked.name)
    rng.shuffle(said)
    context = " ".join(f"{text[0].upper()}{text[1:]}." for text in (*said, f"{asked.being} is a {kinds[0]}"))
    premises = premises_of(asked, kinds, ontology(sentences(context)))
    task = chain_task(suite, depth, seed, index, question(context, asked), premises)
    return task.model_copy(update={"accept": premises[-1].accept})


def _above(rng: random.Random, lower: str, upper: str) -> str:
    return rng.choice((f"every {lower} is a {upper}", f"each {lower} is a {upper}", f"{lower}s are {upper}s"))


def _has(rng: random.Random, kind: str, name: str, has: bool) -> str:
    verb = "" if has else "not "
    return rng.choice((f"every {kind} is {verb}{name}", f"each {kind} is {verb}{name}", f"{kind}s are {verb}{name}"))


def _properties(rng: random.Random, kinds: Sequence[str], but: str) -> list[str]:
    """Half of the kinds have another property or lack it."""
    free = [name for name in PROPERTIES if name != but]
    return [_has(rng, kind, rng.choice(free), rng.random() < 0.5) for kind in kinds if rng.random() < 0.5]
