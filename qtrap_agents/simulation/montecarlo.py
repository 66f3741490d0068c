"""Vectorised Monte Carlo: many chains through a layout at once, node by node.

Chains come in blocks of `BLOCK`, each with a random stream of its own that follows from the seed and the number of the block:
results depend neither on how blocks are cut into pieces of work nor on who does them. Every node takes the same number of random
numbers whatever happens, so that two sets of rates meet the same luck. Memory is one byte for every node of a block's chains.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from qtrap_agents.simulation.layout import Layout
from qtrap_agents.simulation.model import Rates
from qtrap_agents.simulation.program import GRID, SEVERAL, Group, Program, Step, compile_program, outline_of

BLOCK = 8192
"""Chains that are simulated together; the last block of a simulation may have fewer."""

Singles = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

PROMPT, COMPLETION, JOULES = range(3)
RIGHT = 0
FAVOURITE = 1


class Tally(NamedTuple):
    """Sums over chains. Histograms are by place from 1; index 0 counts the chains without one.

    `right` of the `chains` gave the right answer, `silent` none at all because a call failed for good. `first_errors` is where
    the first wrong premise stood, `collapses` from where on nothing on the way to a wrong answer was right. `wrong` premises came
    from `own` slips on right parents; `recovered` chains had an error and the right answer. `blast` is the sum of the shares of
    premises downstream of the first error that are wrong, over `blasted` chains with any. `costs` are prompt tokens, generated
    tokens and joules (NaN where not measured), `seconds` the sum of the critical paths of mean latencies.
    """

    chains: int
    right: int
    silent: int
    recovered: int
    wrong: int
    own: int
    calls: int
    first_errors: Counts
    collapses: Counts
    blast: float
    blasted: int
    costs: Floats
    seconds: float

    @property
    def success(self) -> float:
        """Share of right answers."""
        return self.right / self.chains

    def __add__(self, other: object) -> "Tally":
        if not isinstance(other, Tally):
            return NotImplemented
        pairs: Iterable[tuple[Any, Any]] = zip(self, other, strict=True)
        return Tally._make(mine + its for mine, its in pairs)


def blocks_of(chains: int) -> range:
    """Numbers of the blocks that so many chains make."""
    return range(-(-chains // BLOCK))


def simulate(layouts: Sequence[Layout], rates: Rates, arm: str, chains: int, seed: int) -> Tally:
    """So many chains, one block after the other in this process.

    Args:
        arm: answers at every node that names none.

    Raises:
        SimulationError: as of `outline_of` and `compile_program`.
    """
    program = compile_program(outline_of(layouts), rates, arm)
    return total(run_block(program, chains, seed, block) for block in blocks_of(chains))


def total(tallies: Iterable[Tally]) -> Tally:
    """Sums in the order given, so that floating-point sums are always the same."""
    parts = iter(tallies)
    found = next(parts)
    for part in parts:
        found = found + part
    return found


def run_block(program: Program, chains: int, seed: int, block: int) -> Tally:
    """The block of that number, of a simulation of so many chains."""
    first = block * BLOCK
    numbers = np.arange(first, min(chains, first + BLOCK))
    stream = np.random.SeedSequence(seed, spawn_key=(block,))
    templates = numbers % program.layouts
    found = []
    for group, own in zip(program.groups, stream.spawn(len(program.groups)), strict=True):
        rows = np.full(program.layouts, -1, dtype=np.intp)
        rows[group.templates] = np.arange(len(group.templates))
        chosen = rows[templates]
        if (chosen := chosen[chosen >= 0]).size:
            found.append(_Block(group, chosen, np.random.Generator(np.random.SFC64(own))).run(program.depth))
    return total(found)


class _Block:
    """Chains of one group; `row` is the template of each of them."""

    def __init__(self, group: Group, row: Index, rng: np.random.Generator) -> None:
        self._group, self._row, self._rng, self._n = group, row, rng, row.size
        self._one = len(group.templates) == 1
        self._each = np.bincount(row, minlength=len(group.templates))
        self._all = np.arange(row.size)
        self._wrong = np.zeros((len(group.steps) + 1, row.size), dtype=np.bool_)
        self._clean = [True] * (len(group.steps) + 1)
        self._errors = np.zeros(row.size, dtype=np.int32)
        self._first = np.zeros(row.size, dtype=np.int32)
        self._run = np.zeros(row.size, dtype=np.int32)
        self._dead: Flags | None = None
        self._dynamic = any(step.before.any() for step in group.steps)
        self._own = 0
        self._calls = 0.0
        self._costs = np.zeros(3)
        self._mean_calls: list[float] = []
        self._all_on_way = [bool(step.on_way.all()) for step in group.steps]

    def run(self, depth: int) -> Tally:
        """All nodes, then the sums."""
        for place, step in enumerate(self._group.steps):
            self._clean[place] = not self._node(place, step)
        return self._tally(depth)

    def _of(self, numbers: Floats) -> Floats | float:
        """[chain] the number of its template."""
        return float(numbers[0]) if self._one else numbers[self._row]

    def _node(self, place: int, step: Step) -> bool:
        """Simulate one node for all chains; whether any of them is wrong there."""
        count = self._wrong_parents(step)
        if step.node.op == "merge":
            error = np.zeros(self._n, dtype=np.bool_) if count is None else count > 0
        else:
            error = self._asked(step, count)
        any_wrong = bool(error.any())
        if any_wrong:
            self._wrong[place] = error
            self._errors += error
            np.copyto(self._first, place + 1, where=error & (self._first == 0))
        self._note_collapse(place, step, error, any_wrong)
        return any_wrong

    def _wrong_parents(self, step: Step) -> npt.NDArray[np.int8] | None:
        """[chain] how many parents are in error; None where nobody's are."""
        if step.same_parents is not None:
            rows = [self._wrong[parent] for parent in step.same_parents if not self._clean[parent]]
        else:
            columns = step.parents.T
            if all(self._clean[parent] for parent in np.unique(columns).tolist()):
                return None
            rows = [self._wrong[column[self._row], self._all] for column in columns]
        if not rows:
            return None
        count = rows[0].astype(np.int8)
        for row in rows[1:]:
            count += row
        return count if count.any() else None

    def _asked(self, step: Step, count: npt.NDArray[np.int8] | None) -> Flags:
        """A node that asks the model: whether what it states is wrong."""
        luck = self._rng.random(self._n, dtype=np.float32)
        hit = None if count is None else np.flatnonzero(count)
        if step.node.op in SEVERAL:
            slip, calls = self._drawn_again(step, luck, None if count is None else count == 0)
            rest = self._rng.random(self._n, dtype=np.float32)
            self._spend(step, calls)
            again = None if hit is None else rest[hit]
        else:
            self._spend(step, 1.0)
            slip = luck < self._probability(step)
            again = None
        self._fail(step)
        self._own += int(np.count_nonzero(slip))
        if hit is None or count is None:
            return slip
        self._own -= int(np.count_nonzero(slip[hit]))
        rows, wrong = self._row[hit], count[hit]
        slipped = slip[hit]
        if again is None:
            p = step.wrong[rows]
            slipped = luck[hit] < p
            again = _rest(luck[hit], p)
        slip[hit] = again >= np.where(slipped, step.luck[rows, wrong], step.masks[rows, wrong])
        return slip

    def _probability(self, step: Step) -> Singles | np.float32:
        """[chain] of a slip in a greedy draw on right parents."""
        if self._dynamic and step.before.any():
            logit = step.logit[self._row] + step.before[self._row] * np.log2(1.0 + self._errors)
            found: Singles = expit(logit).astype(np.float32)
            return found
        return step.right[0] if self._one else step.right[self._row]

    def _drawn_again(self, step: Step, luck: Singles, right: Flags | None) -> tuple[Flags, Floats | float]:
        """Votes and checks: whether what stands in the end is a slip, and [chain] the calls. The difficulty is 1 − `luck`."""
        p = self._probability(step)
        if right is not None:
            p = np.where(right, p, step.wrong[self._row])
        chances = self._chances(step, luck, right)
        same = self._of(step.together[:, 0])
        if step.node.op == "vote":
            return self._vote(step, chances, luck, same), float(step.node.k)
        if step.node.op == "verify":
            return self._verify(step, luck < p, chances, luck, same)
        return self._judge(step, luck < p, chances, luck, same)

    def _chances(self, step: Step, luck: Singles, right: Flags | None) -> Floats:
        """[chain] probability of a slip in one draw at the temperature of the node."""
        at = np.cbrt(luck.astype(np.float64)) * (GRID - 1)
        low = np.minimum(at.astype(np.intp), GRID - 2)
        side = np.zeros(self._n, dtype=np.intp) if right is None else (~right).astype(np.intp)
        row = np.zeros(self._n, dtype=np.intp) if self._one else self._row
        below, above = step.tables[row, side, low], step.tables[row, side, low + 1]
        found: Floats = below + (above - below) * (at - low)
        return found

    def _slip(self, chances: Floats, luck: Singles, same: Floats | float) -> Flags:
        """[chain] one draw: of hops whose draws are all the same, what their difficulty says."""
        drawn = self._rng.random(self._n)
        return np.where(np.asarray(same) >= 1.0, luck < chances, drawn < chances)

    def _value(self, step: Step, slip: Flags, number: int) -> npt.NDArray[np.int16]:
        """[chain] what a draw states: the right consequence, the favourite wrong value, or one of its own."""
        favourite = self._rng.random(self._n) < np.sqrt(self._of(step.together[:, 1]))
        return np.where(slip, np.where(favourite, FAVOURITE, 2 + number), RIGHT).astype(np.int16)

    def _vote(self, step: Step, chances: Floats, luck: Singles, same: Floats | float) -> Flags:
        """The most frequent value; of equally frequent ones the one that was drawn first."""
        k = step.node.k
        drawn = np.stack([self._value(step, self._slip(chances, luck, same), number) for number in range(k)])
        counts = np.stack([(drawn == value).sum(axis=0) for value in (RIGHT, FAVOURITE)])
        alone = (drawn > FAVOURITE).any(axis=0)
        best = np.maximum(counts.max(axis=0), alone)
        earliest = np.argmax(
            ((drawn == RIGHT) & (counts[0] == best))
            | ((drawn == FAVOURITE) & (counts[1] == best))
            | ((drawn > FAVOURITE) & (best == 1)),
            axis=0,
        )
        won: Flags = drawn[earliest, self._all] != RIGHT
        return won

    def _verify(self, step: Step, greedy: Flags, chances: Floats, luck: Singles, same: Floats | float) -> tuple[Flags, Floats]:
        """The hop and a check; while they differ the hop again, until its value was drawn before or revisions are used up."""
        values = [self._value(step, greedy, 0)]
        stands, open_, calls = values[0], np.ones(self._n, dtype=np.bool_), np.ones(self._n)
        for revision in range(step.node.max_revisions + 1):
            if revision:
                again = self._value(step, self._slip(chances, luck, same), len(values))
                stands, calls = np.where(open_, again, stands), calls + open_
                open_ = open_ & ~_among(again, values)
                values.append(again)
            check = self._value(step, self._slip(chances, luck, same), len(values))
            calls = calls + open_
            open_ = open_ & (check != stands)
            values.append(check)
        return stands != RIGHT, calls

    def _judge(self, step: Step, greedy: Flags, chances: Floats, luck: Singles, same: Floats | float) -> tuple[Flags, Floats]:
        """A checker that says right or wrong; the hop again at an alarm, as long as revisions are left."""
        slip, open_, calls = greedy, np.ones(self._n, dtype=np.bool_), np.ones(self._n)
        detection, alarm = self._of(step.detection), self._of(step.false_alarm)
        for revision in range(step.node.max_revisions + 1):
            calls = calls + open_
            open_ = open_ & (self._rng.random(self._n) < np.where(slip, detection, alarm))
            if revision < step.node.max_revisions:
                slip, calls = np.where(open_, self._slip(chances, luck, same), slip), calls + open_
        return slip, calls

    def _spend(self, step: Step, calls: Floats | float) -> None:
        """Calls of a node, and what they cost."""
        tries = 1.0 if not step.node.failure else _tries(step.node.failure, step.node.retries)
        if isinstance(calls, float):
            by_template = calls * tries * self._each
        else:
            by_template = np.bincount(self._row, weights=calls, minlength=len(self._each)) * tries
        self._calls += float(by_template.sum())
        self._costs += by_template @ step.costs
        self._mean_calls.append(float(by_template.sum()) / self._n / (calls if isinstance(calls, float) else 1.0))

    def _fail(self, step: Step) -> None:
        if step.node.failure:
            failed = self._rng.random(self._n) < step.node.failure ** (step.node.retries + 1)
            self._dead = failed if self._dead is None else self._dead | failed

    def _note_collapse(self, place: int, step: Step, error: Flags, any_wrong: bool) -> None:
        """Where the run of errors on the way to the answer began that has lasted until here."""
        if not any_wrong and not self._run.any():
            return
        run = self._run * error
        np.copyto(run, place + 1, where=error & (run == 0))
        self._run = run if self._all_on_way[place] else np.where(step.on_way[self._row], run, self._run)

    def _tally(self, depth: int) -> Tally:
        failed, dead = self._wrong[len(self._group.steps) - 1], self._dead
        silent = 0 if dead is None else int(dead.sum())
        right = ~failed if dead is None else ~failed & ~dead
        collapsed = self._run if dead is None else np.where(dead, 0, self._run)
        blast, blasted = self._blast()
        return Tally(
            chains=self._n,
            right=int(right.sum()),
            silent=silent,
            recovered=int((right & (self._first > 0)).sum()),
            wrong=int(self._errors.sum()),
            own=self._own,
            calls=round(self._calls),
            first_errors=np.bincount(self._first, minlength=depth + 1),
            collapses=np.bincount(collapsed, minlength=depth + 1),
            blast=blast,
            blasted=blasted,
            costs=self._costs,
            seconds=self._seconds(),
        )

    def _blast(self) -> tuple[float, int]:
        """Sum of the shares downstream of the first error that are wrong, and the chains with anything there."""
        chosen = np.flatnonzero(self._first)
        if not chosen.size:
            return 0.0, 0
        row, first = self._row[chosen], self._first[chosen]
        wrong = self._wrong[:, chosen]
        reached = np.zeros_like(wrong)
        below, hit = np.zeros(chosen.size, dtype=np.int32), np.zeros(chosen.size, dtype=np.int32)
        every = np.arange(chosen.size)
        for place, step in enumerate(self._group.steps):
            derived = np.zeros(chosen.size, dtype=np.bool_)
            for column in step.parents.T:
                derived |= reached[int(column[0])] if step.same_parents is not None else reached[column[row], every]
            below += derived
            hit += derived & wrong[place]
            reached[place] = derived | (first == place + 1)
        some = below > 0
        return float((hit[some] / below[some]).sum()), int(some.sum())

    def _seconds(self) -> float:
        """Critical paths: draws of a vote are side by side, those of a check one after the other."""
        steps, ends = self._group.steps, np.zeros((len(self._group.steps) + 1, len(self._each)))
        asked = iter(self._mean_calls)
        rows = np.arange(len(self._each))
        for place, step in enumerate(steps):
            own = 0.0 if step.node.op == "merge" else step.latency_s * next(asked)
            begun = np.max([ends[column, rows] for column in step.parents.T], axis=0) if step.parents.size else 0.0
            ends[place] = begun + own
        return float(self._each @ ends[len(steps) - 1])


def _rest(luck: Singles, p: Singles | np.float32) -> Singles:
    """What is left of a uniform number once it is known on which side of p it fell: uniform again."""
    low = np.asarray(p, dtype=np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Singles = np.where(luck < low, luck / low, (luck - low) / (1 - low))
    return found


def _among(value: npt.NDArray[np.int16], others: Sequence[npt.NDArray[np.int16]]) -> Flags:
    found = np.zeros(value.shape, dtype=np.bool_)
    for other in others:
        found |= value == other
    return found


def _tries(failure: float, retries: int) -> float:
    """Mean number of calls until one does not fail or none is left."""
    return (1 - failure ** (retries + 1)) / (1 - failure)
