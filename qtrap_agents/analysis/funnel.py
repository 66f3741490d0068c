"""The funnel of one arm: positions → flips → flips inside a value → false premises → chains that recover or collapse.

One chain at a time passes through `observe`; what is kept are sums per family and depth, and the few clearest chains, so
memory grows with one chain and not with the run. The token level is read off the baseline's text (`divergence`), the
premises and answers are those of the arm's own run.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Literal, NamedTuple, Self

from qtrap_agents.analysis.collapse import Collapse, analyse
from qtrap_agents.analysis.divergence import Difference, HopDivergence
from qtrap_agents.analysis.graph import Verdict, last_statements, verdicts
from qtrap_agents.analysis.statistics import Interval, wilson
from qtrap_agents.semantics import same_value
from qtrap_agents.types import Hop, Record, Task, Trace, Value

CLEAREST = 10
"""How many of the clearest chains are kept."""

Fate = Literal["match", "own", "inherited", "compounded", "missing", "unknown"]
"""What became of a premise; `missing` whatever its origin, `unknown` a wrong one whose origin cannot be told."""

Explanation = Literal["value_flip", "other_flip", "no_flip", "shared", "other_words", "not_scored"]
"""What the token level says of a first error, see `FirstErrors`."""


class Share(Record):
    """A count out of `n`."""

    count: int
    n: int

    @property
    def share(self) -> float | None:
        """The share; None where n is 0."""
        return self.count / self.n if self.n else None

    @property
    def interval(self) -> Interval | None:
        """95 % Wilson interval, as if the n were independent; None where n is 0."""
        return wilson(self.count, self.n) if self.n else None

    def within(self, floor: "Share") -> bool | None:
        """True where this share does not exceed the upper end of a noise floor; None where one of them is empty."""
        high = floor.interval.high if floor.interval else None
        return None if self.share is None or high is None else self.share <= high


class Sums(Record):
    """Numbers that add up over chains, field by field."""

    def __add__(self, other: Self) -> Self:
        return type(self)(**{name: getattr(self, name) + getattr(other, name) for name in type(self).model_fields})


class Positions(Sums):
    """Positions of the baseline's text as one arm reads them.

    `value_…` are those inside a premise's value; `drop` and `kl` are sums in nats over all positions of the loss of the
    baseline token's log-probability and of the lower bound of the divergence.
    """

    positions: int = 0
    flips: int = 0
    value_positions: int = 0
    value_flips: int = 0
    drop: float = 0.0
    kl: float = 0.0

    @property
    def flip_share(self) -> Share:
        """Flips of all positions."""
        return Share(count=self.flips, n=self.positions)

    @property
    def value_flip_share(self) -> Share:
        """Flips inside values, of all positions inside values."""
        return Share(count=self.value_flips, n=self.value_positions)

    @property
    def mean_drop(self) -> float | None:
        """Nats a position; None without positions."""
        return self.drop / self.positions if self.positions else None

    @property
    def mean_kl(self) -> float | None:
        """Nats a position; None without positions."""
        return self.kl / self.positions if self.positions else None


class Premises(Sums):
    """Gold premises by what became of them on the arm's own run."""

    match: int = 0
    own: int = 0
    inherited: int = 0
    compounded: int = 0
    missing: int = 0
    unknown: int = 0

    @property
    def n(self) -> int:
        """All of them."""
        return self.match + self.false

    @property
    def false(self) -> int:
        """Wrong or missing ones."""
        return self.own + self.inherited + self.compounded + self.missing + self.unknown


class Hops(Sums):
    """Hops of the baseline by whether their positions could be compared, see `divergence.Aside`."""

    compared: int = 0
    not_scored: int = 0
    other_tokens: int = 0
    other_text: int = 0


class Harm(Sums):
    """Flips by what happened on the arm's own run at their hop.

    `harmful`: a premise of the hop is own, compounded or missing. `unknown`: none is, but one is wrong of unknown origin,
    or gold knows no premise of the hop. `harmless`: the rest, hops with inherited premises included.
    """

    harmless: int = 0
    harmful: int = 0
    unknown: int = 0

    @property
    def n(self) -> int:
        """All flips."""
        return self.harmless + self.harmful + self.unknown

    @property
    def share(self) -> Share:
        """Harmless flips of those of which it is known."""
        return Share(count=self.harmless, n=self.harmless + self.harmful)


class Flips(Sums):
    """What became of the flips. `asked` are those at hops where the arm was asked in the same words as the baseline, so
    that the flip could do its harm; `answer_right` those in chains that the arm solved.
    """

    everywhere: Harm = Harm()
    asked: Harm = Harm()
    answer_right: int = 0

    @property
    def answer_right_share(self) -> Share:
        """Flips in chains that the arm solved, of all."""
        return Share(count=self.answer_right, n=self.everywhere.n)


class FirstErrors(Sums):
    """First errors of the arm's chains by what the token level says of them.

    Where both arms were asked in the same words: `value_flip` a flip inside the value of that premise, `other_flip` one
    elsewhere in the text of its hop, `no_flip` none, `shared` none needed, the baseline stated the same. `other_words`:
    the arms were not asked the same; `not_scored`: the hop has no positions. `confirmed` are those with a flip where the
    arm's own text leaves the baseline's at a flipped position, with the very token that the scoring predicts.
    """

    value_flip: int = 0
    other_flip: int = 0
    no_flip: int = 0
    shared: int = 0
    other_words: int = 0
    not_scored: int = 0
    confirmed: int = 0

    @property
    def n(self) -> int:
        """All first errors."""
        return self.comparable + self.shared + self.other_words + self.not_scored

    @property
    def comparable(self) -> int:
        """Those that a flip would have to explain."""
        return self.value_flip + self.other_flip + self.no_flip

    @property
    def explained(self) -> Share:
        """Those with a flip at the same hop."""
        return Share(count=self.value_flip + self.other_flip, n=self.comparable)


class Chains(Sums):
    """Chains that both arms ended without an error, by what the arm made of them.

    `scored` have at least one compared hop; `flipped` and `value_flipped` of them a flip, and one inside a value.
    `false` have a wrong or missing premise: `recovered` of them a right answer, `collapsed` a collapse hop.
    """

    n: int = 0
    scored: int = 0
    flipped: int = 0
    value_flipped: int = 0
    value_flipped_false: int = 0
    false: int = 0
    recovered: int = 0
    collapsed: int = 0
    right: int = 0
    baseline_right: int = 0


class Counts(Sums):
    """Everything that is counted in one cell of the funnel.

    `arm` and `floor` read the same text: `floor` is the second reading of the baseline itself. `self_flips` of
    `self_positions` are not the first choice of the baseline when it reads its own text. `read` gold premises stand in
    compared hops of the baseline, `hit` are those of them with a flip inside the value.
    """

    chains: Chains = Chains()
    hops: Hops = Hops()
    arm: Positions = Positions()
    floor: Positions = Positions()
    self_positions: int = 0
    self_flips: int = 0
    flips: Flips = Flips()
    read: int = 0
    hit: Premises = Premises()
    premises: Premises = Premises()
    first_errors: FirstErrors = FirstErrors()

    @property
    def self_flip_share(self) -> Share:
        """Self flips of all positions that the baseline read."""
        return Share(count=self.self_flips, n=self.self_positions)


class Cell(Record):
    """The counts of one family at one depth; None stands for all of them."""

    suite: str | None
    depth: int | None
    counts: Counts


class ClearChain(Record):
    """A chain in which one flip inside one value is the whole story.

    The baseline was right; the arm was asked in the same words at hop `hop_id` (number `hop`, from 1), where at
    `position` (from 0) of the baseline's text its first choice is another token. Its premise there is its only own error,
    all later errors are inherited, and the chain collapsed there. `drop` is the loss of the baseline token's
    log-probability in nats, `other_flips` the flips elsewhere in the chain. Pieces are texts of tokens, None where no
    stored text has the token. `confirmed`: the arm's own text has the flipped token at that position.
    """

    task_id: str
    suite: str
    depth: int
    hop_id: str
    hop: int
    position: int
    token_id: int
    piece: str
    arm_token_id: int
    arm_piece: str | None = None
    arm_logprob: float
    drop: float
    premise: str
    gold: Value
    baseline_value: Value | None
    arm_value: Value | None
    collapse_hop: str
    other_flips: int
    confirmed: bool


class ChainFacts(NamedTuple):
    """One chain: its counts, hops from first flip to first error and from there to the collapse hop (None: not both)."""

    counts: Counts
    flip_to_error: int | None
    error_to_collapse: int | None
    clear: ClearChain | None


class Funnel(Record):
    """All chains of an arm. `cells` are ordered by family and depth, `suites` pool the depths.

    `flip_to_error` and `error_to_collapse` map a distance in hops (of the baseline's chain) to a number of chains; an
    error before the first flip has a negative distance. `clear` chains were found, of which `clearest` are kept: fewest
    other flips first, then the largest loss of log-probability.
    """

    cells: tuple[Cell, ...]
    suites: tuple[Cell, ...]
    total: Counts
    flip_to_error: dict[int, int]
    error_to_collapse: dict[int, int]
    clear: int
    clearest: tuple[ClearChain, ...]


class FunnelAccumulator:
    """Collects the facts of chains while they pass by."""

    def __init__(self) -> None:
        self._cells: dict[tuple[str, int], Counts] = {}
        self._distances: tuple[Counter[int], Counter[int]] = (Counter(), Counter())
        self._pieces: dict[int, str] = {}
        self._clear = 0
        self._clearest: list[tuple[tuple[int, float, str], ClearChain]] = []

    def add(self, task: Task, base: Trace | None, arm: Trace, hops: Sequence[HopDivergence]) -> None:
        """One more chain, see `observe`."""
        facts = observe(task, base, arm, hops)
        key = (task.suite, task.depth)
        self._cells[key] = self._cells.get(key, Counts()) + facts.counts
        for seen, distance in zip(self._distances, (facts.flip_to_error, facts.error_to_collapse), strict=True):
            seen.update(() if distance is None else (distance,))
        for hop in hops:
            for token_id, piece in zip(hop.token_ids, hop.pieces, strict=False):
                self._pieces.setdefault(token_id, piece)
        if facts.clear is not None:
            self._keep(facts.clear)

    def _keep(self, chain: ClearChain) -> None:
        self._clear += 1
        self._clearest.append(((chain.other_flips, -chain.drop, chain.task_id), chain))
        self._clearest = heapq.nsmallest(CLEAREST, self._clearest, key=lambda item: item[0])

    def funnel(self) -> Funnel:
        """The funnel so far."""
        cells = [Cell(suite=suite, depth=depth, counts=counts) for (suite, depth), counts in sorted(self._cells.items())]
        suites = {suite: [cell.counts for cell in cells if cell.suite == suite] for suite, _ in sorted(self._cells)}
        flip_to_error, error_to_collapse = (dict(sorted(seen.items())) for seen in self._distances)
        return Funnel(
            cells=tuple(cells),
            suites=tuple(Cell(suite=suite, depth=None, counts=_sum(counts)) for suite, counts in suites.items()),
            total=_sum(cell.counts for cell in cells),
            flip_to_error=flip_to_error,
            error_to_collapse=error_to_collapse,
            clear=self._clear,
            clearest=tuple(
                chain.model_copy(update={"arm_piece": self._pieces.get(chain.arm_token_id)}) for _, chain in self._clearest
            ),
        )


def median_distance(distances: Mapping[int, int]) -> float | None:
    """Median of distances that are given with their numbers; None without any."""
    known = list(Counter(distances).elements())
    return float(median(known)) if known else None


def observe(task: Task, base: Trace | None, arm: Trace, hops: Sequence[HopDivergence]) -> ChainFacts:
    """The facts of one chain that neither arm ended with an error.

    Args:
        base: the baseline's trace, None where there is none: then the token level is empty.
        arm: the arm's own trace.
        hops: the baseline's text under the arm.

    Raises:
        SuiteError: the task's premises are not in topological order.
    """
    return _Chain(task, base, arm, hops).facts()


class _Stated(NamedTuple):
    """Who stated a premise last, as the `number`-th hop from 1."""

    number: int
    hop: Hop
    value: Value | None


class _Chain:
    """One chain with what several figures need."""

    def __init__(self, task: Task, base: Trace | None, arm: Trace, hops: Sequence[HopDivergence]) -> None:
        self.task, self.base, self.arm, self.hops = task, base, arm, hops
        self.collapse: Collapse = analyse(arm, task)
        self.judged = {verdict.gold.id: verdict for verdict in verdicts(task, last_statements(arm))}
        self.stated, self.own_stated = _statements(base), _statements(arm)
        self.numbers = {hop.hop_id: number for number, hop in enumerate(hops, start=1)}

    def facts(self) -> ChainFacts:
        first, collapse = self.collapse.first_error, self.collapse.collapse_hop
        flip = next((number for number, hop in enumerate(self.hops, start=1) if hop.flips), None)
        error = None if first is None else self._number(first.id)
        end = None if collapse is None else self._number(collapse.id)
        return ChainFacts(
            counts=self._counts(),
            flip_to_error=None if flip is None or error is None else error - flip,
            error_to_collapse=None if error is None or end is None else end - error,
            clear=self._clear(),
        )

    def _number(self, premise: str) -> int | None:
        """The hop that states a premise: in the baseline's chain, or else in the arm's own."""
        stated = self.stated.get(premise) or self.own_stated.get(premise)
        return stated.number if stated else None

    def _counts(self) -> Counts:
        scored = [hop for hop in self.hops if hop.self_flips is not None]
        return Counts(
            chains=self._chains(),
            hops=Hops(**Counter((hop.aside or "compared").replace(" ", "_") for hop in self.hops)),
            arm=_positions((hop, hop.arm) for hop in self.hops),
            floor=_positions((hop, hop.floor) for hop in self.hops),
            self_positions=sum(len(hop.self_flips or ()) for hop in scored),
            self_flips=sum(sum(hop.self_flips or ()) for hop in scored),
            flips=self._flips(),
            read=sum(self._hop(stated.hop).arm is not None for name, stated in self.stated.items() if name in self.judged),
            hit=_fates(self.judged[name] for name in self._hit() if name in self.judged),
            premises=_fates(self.judged.values()),
            first_errors=self._first_errors(),
        )

    def _chains(self) -> Chains:
        false, right = self.collapse.first_error is not None, self.arm.correct
        hit = bool(self._hit())
        return Chains(
            n=1,
            scored=any(hop.arm is not None for hop in self.hops),
            flipped=any(hop.flips for hop in self.hops),
            value_flipped=hit,
            value_flipped_false=hit and false,
            false=false,
            recovered=false and right,
            collapsed=self.collapse.collapse_hop is not None,
            right=right,
            baseline_right=self.base is not None and self.base.correct,
        )

    def _hop(self, hop: Hop) -> HopDivergence:
        return self.hops[self.numbers[hop.id] - 1]

    def _hit(self) -> tuple[str, ...]:
        """Premises with a flip inside the value that the baseline stated."""
        found = (hop.premises[index] for hop in self.hops for index in hop.flips)
        return tuple(dict.fromkeys(name for name in found if name is not None))

    def _flips(self) -> Flips:
        own = {hop.id: hop.messages for hop in self.arm.hops}
        asked = {hop.id for hop in self.base.hops if own.get(hop.id) == hop.messages} if self.base else set()
        everywhere, there = Counter[str](), Counter[str]()
        for hop in self.hops:
            if hop.flips:
                harm = self._harm(hop.hop_id)
                everywhere[harm] += len(hop.flips)
                there[harm] += len(hop.flips) * (hop.hop_id in asked)
        right = everywhere.total() if self.arm.correct else 0
        return Flips(everywhere=Harm(**everywhere), asked=Harm(**there), answer_right=right)

    def _harm(self, hop_id: str) -> Literal["harmless", "harmful", "unknown"]:
        """What is wrong, on the arm's own run, with the premises that the baseline stated at a hop."""
        names = (name for name, stated in self.stated.items() if stated.hop.id == hop_id)
        fates = {_fate(self.judged[name]) for name in names if name in self.judged}
        if fates & {"own", "compounded", "missing"}:
            return "harmful"
        return "harmless" if fates and "unknown" not in fates else "unknown"

    def _first_errors(self) -> FirstErrors:
        first = self.collapse.first_error
        if first is None:
            return FirstErrors()
        explanation = self._explanation(first.id)
        flip = explanation in ("value_flip", "other_flip")
        confirmed = flip and self._departure(first.id) is not None
        return FirstErrors(**{explanation: 1}, confirmed=confirmed)

    def _explanation(self, premise: str) -> Explanation:
        if self.base is None:
            return "not_scored"
        ours, theirs = self._own_hop(premise), self.stated.get(premise)
        if ours is None or theirs is None or ours.messages != theirs.hop.messages:
            return "other_words"
        hop = self._hop(theirs.hop)
        if hop.arm is None:
            return "not_scored"
        stated = self.judged[premise].stated
        if same_value(stated, theirs.value) or (stated is None and theirs.value is None):
            return "shared"
        if any(hop.premises[index] == premise for index in hop.flips):
            return "value_flip"
        return "other_flip" if hop.flips else "no_flip"

    def _own_hop(self, premise: str) -> Hop | None:
        """The hop of the arm's own run that stated a premise, or the one that should have."""
        if premise in self.own_stated:
            return self.own_stated[premise].hop
        theirs = self.stated.get(premise)
        return next((hop for hop in self.arm.hops if theirs and hop.id == theirs.hop.id), None)

    def _departure(self, premise: str) -> int | None:
        """The position where the arm's own text leaves the baseline's by taking the flipped token; None: nowhere."""
        ours, theirs = self._own_hop(premise), self.stated[premise]
        hop = self._hop(theirs.hop)
        own_ids = ours.completion.token_ids if ours else ()
        pairs = enumerate(zip(own_ids, hop.token_ids, strict=False))
        place = next((index for index, (own, known) in pairs if own != known), None)
        if place is None or hop.arm is None:
            return None
        return place if hop.arm[place].flip and hop.arm[place].top_id == own_ids[place] else None

    def _clear(self) -> ClearChain | None:
        facts = self.collapse
        first, end = facts.first_error, facts.collapse_hop
        if first is None or end is None or first.id != end.id or self.base is None or not self.base.correct:
            return None
        if facts.own != 1 or facts.compounded or facts.missing or facts.origin_unknown:
            return None
        return self._clear_at(self.judged[first.id]) if self._explanation(first.id) == "value_flip" else None

    def _clear_at(self, premise: Verdict) -> ClearChain:
        theirs = self.stated[premise.gold.id]
        hop = self._hop(theirs.hop)
        place = next(index for index in hop.flips if hop.premises[index] == premise.gold.id)
        differences: Sequence[Difference] = hop.arm or ()
        return ClearChain(
            task_id=self.task.id,
            suite=self.task.suite,
            depth=self.task.depth,
            hop_id=hop.hop_id,
            hop=theirs.number,
            position=place,
            token_id=hop.token_ids[place],
            piece=hop.pieces[place],
            arm_token_id=differences[place].top_id,
            arm_logprob=differences[place].top_logprob,
            drop=differences[place].drop,
            premise=premise.gold.id,
            gold=premise.gold.value,
            baseline_value=theirs.value,
            arm_value=premise.stated,
            collapse_hop=hop.hop_id,
            other_flips=sum(len(other.flips) for other in self.hops) - 1,
            confirmed=self._departure(premise.gold.id) == place,
        )


def _statements(trace: Trace | None) -> dict[str, _Stated]:
    """The last statement of every premise."""
    hops = trace.hops if trace else ()
    return {premise.id: _Stated(number, hop, premise.value) for number, hop in enumerate(hops, 1) for premise in hop.premises}


def _positions(readings: Iterable[tuple[HopDivergence, tuple[Difference, ...] | None]]) -> Positions:
    found = [(name, difference) for hop, read in readings for name, difference in zip(hop.premises, read or (), strict=False)]
    in_values = [difference for name, difference in found if name is not None]
    return Positions(
        positions=len(found),
        flips=sum(difference.flip for _, difference in found),
        value_positions=len(in_values),
        value_flips=sum(difference.flip for difference in in_values),
        drop=sum(difference.drop for _, difference in found),
        kl=sum(difference.kl for _, difference in found),
    )


def _fates(premises: Iterable[Verdict]) -> Premises:
    return Premises(**Counter[str](map(_fate, premises)))


def _fate(premise: Verdict) -> Fate:
    if premise.status != "wrong":
        return "missing" if premise.status == "missing" else "match"
    return premise.origin or "unknown"


def _sum(counts: Iterable[Counts]) -> Counts:
    return sum(counts, Counts())
