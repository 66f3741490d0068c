"""The small world that the procedural suites and the reference models share: names, objects and relations.

Everything here is a pure function of the constants below. Changing them changes what the shipped reference models
had to memorise, so they must then be retrained.
"""

import random
from functools import cache

WORLD_SEED = 20_260

ENTITY_COUNT = 256

LOOKUP_NAMES = 64
"""Tables are filled with the first so many entities."""

RELATIONS = (
    "mentor", "rival", "neighbour", "guardian", "deputy", "debtor", "tailor", "doctor",
    "cousin", "partner", "driver", "lawyer", "pupil", "captain", "cook", "tenant",
    "editor", "agent", "scribe", "banker", "pilot", "nurse", "herald", "witness",
)  # fmt: skip

OBJECTS = (
    "key", "cup", "pen", "map", "hat", "coin", "ring", "book", "lamp", "rope", "bell", "comb", "knife", "drum", "shoe", "fan",
)  # fmt: skip

_ONSETS = ["b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z"]
_VOWELS = ["a", "e", "i", "o", "u"]


@cache
def entities() -> tuple[str, ...]:
    """The names of all entities: pronounceable, distinct, no other word of the world among them."""
    syllables = [onset + vowel for onset in _ONSETS for vowel in _VOWELS]
    names = [first + second for first in syllables for second in syllables if first != second]
    random.Random(WORLD_SEED).shuffle(names)
    taken = set(RELATIONS) | set(OBJECTS)
    return tuple(name for name in names if name not in taken)[:ENTITY_COUNT]


@cache
def relation_table() -> dict[str, dict[str, str]]:
    """relation -> entity -> entity. Each relation is a permutation: two wrong names never merge into a right one."""
    tables = {}
    for index, relation in enumerate(RELATIONS):
        targets = list(entities())
        random.Random(WORLD_SEED + 1 + index).shuffle(targets)
        tables[relation] = dict(zip(entities(), targets, strict=True))
    return tables


def related(entity: str, relation: str) -> str:
    """Who stands in `relation` to `entity`. Raises KeyError for names outside the world."""
    return relation_table()[relation][entity]
