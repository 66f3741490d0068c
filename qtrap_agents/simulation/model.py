"""The fitted error model: how often a hop slips, what a wrong parent does to its children, what hops cost. A readable file.

A hop **slips** where it does not state the right consequence of what it was given. That is one yes or no for every hop,
whatever its parents, and a logit model of it (one for each arm, families and kinds partially pooled) gives the own errors
(slips on right parents) and the compounded ones (slips on wrong parents). What a wrong parent does otherwise is a property of
the task, the same for all arms: its right consequence may equal gold all the same (**masked**, as in `min` or `max`), and a slip
may hit gold by luck. So with slip rates p0 on right and p1 on wrong parents, mask rate m and luck l:

    own        p0
    recovered  (1 - p1) m + p1 l
    inherited  (1 - p1) (1 - m)
    compounded p1 (1 - l)

Repeated draws of one hop (votes, checkers that recompute) are not independent: a model errs again where its weights are wrong.
Each hop has a difficulty u, uniform on [0, 1]; drawn greedily it slips where u > 1 - p; drawn at a temperature, with the
probability that is the u-quantile of a Beta distribution with mean p and intra-hop correlation `correlation`.

Behind the deepest chains that were fitted nobody has seen whether hops go on slipping as often. There the logit of a slip on
right parents **drifts**: for every doubling of the position by a number drawn from N(0, drift_sd²) for each arm and family. That
leaves the middle of a prediction and widens its interval (a model discrepancy: Kennedy and O'Hagan 2001,
doi:10.1111/1467-9868.00294).
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from qtrap_agents.errors import SimulationError, unknown
from qtrap_agents.types import Record

Floats = npt.NDArray[np.float64]

MODEL_VERSION = 1

DRIFT_SD = 0.25
"""On the logit, for every doubling of the position. Chosen by looking at chains of 16 to 64 hops after a fit of up to 8."""

Covariate = Literal["position", "parents", "wrong_parents", "errors_before", "prompt"]
"""What a slip may depend on beside arm, family and kind; see `covariate`."""


def covariate(name: Covariate, value: float) -> float:
    """The scale on which a covariate enters the logit; 0 stands for the first hop, one parent, no error, 32 prompt tokens.

    A hop with a parent in error has `wrong_parents` = 1 and 0 for all others, and no kind: there a position or a number of errors
    only tells for how long it has been so.

    Args:
        value: position from 1; number of parents; 1.0 where a parent is in error; number of earlier premises of the chain in
            error; prompt tokens that the family's hops have at that position, see `HopCost`.
    """
    if name == "position":
        return math.log2(max(value, 1.0))
    if name == "parents":
        return value - 1.0
    if name == "errors_before":
        return math.log2(1.0 + value)
    if name == "prompt":
        return math.log2(max(value, 1.0) / 32.0)
    return value


class BetaRate(Record):
    """A rate as a Beta(a, b) posterior. `events` of `n` observations are in it, the rest is prior."""

    a: float
    b: float
    events: int = 0
    n: int = 0

    @property
    def mean(self) -> float:
        """Posterior mean."""
        return self.a / (self.a + self.b)


class Slips(Record):
    """A logit model of slips with normal posterior: `terms` name the coefficients.

    Terms are `mean`, `family:<family>`, `family:<family>@<temperature>` for hops that were drawn at a temperature,
    `kind:<family>/<kind>`, covariates by name, and `<covariate>:<family>` for what a slope is more in a family. `family_sd`
    and `kind_sd` are the spreads of the pooled effects: what a family or kind without a term of its own may have.
    """

    terms: tuple[str, ...]
    mean: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    family_sd: float
    kind_sd: float


class Repeats(Record):
    """Several draws of one hop at a temperature, in one family of one arm.

    `correlation` of slips between two draws of the same hop; `agreement`, the probability that two slips of one hop state the
    same value. `hops` were drawn more than once; 0 means that nothing was observed and 1.0 is an assumption.
    """

    correlation: float = 1.0
    agreement: float = 1.0
    hops: int = 0


class HopCost(Record):
    """Mean cost of one hop of a family on an arm; None where not measured.

    A hop at position n has `prompt_tokens + prompt_growth · (n − 1)` prompt tokens.
    """

    hops: int
    prompt_tokens: float
    completion_tokens: float
    latency_s: float | None = None
    energy_j: float | None = None
    prompt_growth: float = 0.0


class Checking(Record):
    """What a checker that judges statements (`check: model`) was worth: detections of faulty ones, alarms at others."""

    detection: BetaRate
    false_alarm: BetaRate


class TermTest(Record):
    """Likelihood-ratio test of one thing more than constant hop success within arm and family."""

    term: str
    statistic: float
    df: int
    p: float
    p_holm: float
    kept: bool


class ArmModel(Record):
    """Everything fitted for one arm.

    `observed` slips of `hops`, by family; `few` are the families with fewer slips than a rate can be told from: their intervals
    are wide and come from the pooled arm. `failures` are requests that ended in an error. `null_success` is constant hop success
    by family, the null model, fitted to whole chains.
    """

    slips: Slips
    hops: dict[str, int]
    observed: dict[str, int]
    few: tuple[str, ...] = ()
    repeats: dict[str, Repeats] = Field(default_factory=dict)
    costs: dict[str, HopCost] = Field(default_factory=dict)
    checking: Checking | None = None
    failures: BetaRate = BetaRate(a=0.5, b=0.5)
    weight_bytes: int | None = None
    null_success: dict[str, float] = Field(default_factory=dict)
    tests: tuple[TermTest, ...] = ()


class Family(Record):
    """What the tasks of a family look like: shares of the kinds, parents a hop, whether gold rules tell consequences."""

    kinds: dict[str, float]
    mean_parents: float
    rules: bool
    depths: tuple[int, ...]

    @property
    def deepest(self) -> int:
        """Depth of the deepest chains that were fitted; 0 without any."""
        return max(self.depths, default=0)


class ErrorModel(Record):
    """A fitted model of several arms.

    `masks` are by `<family>/<kind>/<parents>/<wrong parents>`, by `<family>/<kind>` and by `<family>`: the most specific one
    that is there counts. `luck` is by `<family>/<parents>/<wrong parents>` and by `<family>`.
    """

    version: int = MODEL_VERSION
    made_by: str
    command: str = ""
    date: str = ""
    runs: tuple[str, ...] = ()
    baseline: str
    families: dict[str, Family]
    arms: dict[str, ArmModel]
    masks: dict[str, BetaRate]
    luck: dict[str, BetaRate]
    drift_sd: float = Field(default=DRIFT_SD, ge=0)

    def arm(self, name: str) -> ArmModel:
        """Raises SimulationError with the nearest name."""
        if name not in self.arms:
            raise SimulationError(f"{unknown('arm', name, self.arms)} The model was fitted on {', '.join(self.arms)}.")
        return self.arms[name]

    def family(self, name: str) -> Family:
        """Raises SimulationError with the nearest name."""
        if name not in self.families:
            raise SimulationError(
                f"{unknown('family', name, self.families)} The model was fitted on {', '.join(self.families)}; "
                "fit it on a run with that suite"
            )
        return self.families[name]

    def beyond(self, depth: int, families: Iterable[str]) -> str | None:
        """What to say of a depth behind the deepest chains of these families; None where it was fitted."""
        deepest = max((self.family(family).deepest for family in families), default=0)
        if depth <= deepest:
            return None
        told = f"depth {depth} lies beyond the deepest chain of the fit ({deepest}): an extrapolation"
        if self.drift_sd:
            told += f"; slips may drift there, by ±{1.96 * self.drift_sd:.2f} on the logit for every doubling"
        return told

    def point(self) -> "Rates":
        """All parameters at their posterior means."""
        return Rates(
            self,
            {name: np.array(arm.slips.mean) for name, arm in self.arms.items()},
            {name: rate.mean for name, rate in self.masks.items()},
            {name: rate.mean for name, rate in self.luck.items()},
        )

    def draw(self, rng: np.random.Generator) -> "Rates":
        """One draw of all parameters from their posterior; always in the same order, so that a seed gives the same draw."""
        coefficients = {
            name: rng.multivariate_normal(np.array(arm.slips.mean), np.array(arm.slips.covariance), method="eigh")
            for name, arm in sorted(self.arms.items())
        }
        masks = {name: float(rng.beta(rate.a, rate.b)) for name, rate in sorted(self.masks.items())}
        luck = {name: float(rng.beta(rate.a, rate.b)) for name, rate in sorted(self.luck.items())}
        drifts = {
            (arm, family): float(rng.normal(0.0, self.drift_sd)) for arm in sorted(self.arms) for family in sorted(self.families)
        }
        return Rates(self, coefficients, masks, luck, drifts)


@dataclass(frozen=True)
class Rates:
    """One set of values for all parameters: `coefficients` by arm, in the order of its terms, `drifts` by arm and family."""

    model: ErrorModel
    coefficients: Mapping[str, Floats]
    masks: Mapping[str, float]
    lucks: Mapping[str, float]
    drifts: Mapping[tuple[str, str], float] = field(default_factory=dict)
    _by_term: dict[str, dict[str, float]] = field(default_factory=dict, repr=False)

    def _terms(self, arm: str) -> dict[str, float]:
        if arm not in self._by_term:
            terms = self.model.arm(arm).slips.terms
            self._by_term[arm] = dict(zip(terms, self.coefficients[arm].tolist(), strict=True))
        return self._by_term[arm]

    def slip_logit(self, arm: str, family: str, kind: str = "", temperature: float = 0.0) -> float:
        """Logit of a slip at the first hop, one right parent; add `slope` times each covariate.

        A family that was never drawn at this temperature has its greedy rate; an unknown kind the rate of its family. A slip on
        wrong parents is `slip_logit` without a kind and the slope of `wrong_parents`.

        Raises:
            SimulationError: the arm or family is not in the model.
        """
        self.model.family(family)
        terms = self._terms(arm)
        drawn = f"family:{family}@{temperature:g}"
        by_family = terms.get(drawn if temperature and drawn in terms else f"family:{family}", 0.0)
        return terms["mean"] + by_family + terms.get(f"kind:{family}/{kind}", 0.0)

    def slope(self, arm: str, name: Covariate, family: str = "") -> float:
        """Coefficient of a covariate in a family; 0 where it is not in the model of the arm."""
        terms = self._terms(arm)
        return terms.get(name, 0.0) + terms.get(f"{name}:{family}", 0.0)

    def drift(self, arm: str, family: str) -> float:
        """What every doubling behind the fitted depths adds to the logit of a slip on right parents."""
        return self.drifts.get((arm, family), 0.0)

    def mask(self, family: str, kind: str, parents: int, wrong: int) -> float:
        """Probability that the right consequence of so many wrong parents among all of them equals gold."""
        for key in (f"{family}/{kind}/{parents}/{wrong}", f"{family}/{kind}", family):
            if key in self.masks:
                return self.masks[key]
        return 0.0

    def luck(self, family: str, parents: int = 0, wrong: int = 0) -> float:
        """Probability that a slip states gold where so many of all parents are wrong; by default the family's own."""
        return self.lucks.get(f"{family}/{parents}/{wrong}", self.lucks.get(family, 0.0))

    def repeats(self, arm: str, family: str) -> Repeats:
        """How repeated draws hang together; taken as equal where nothing was observed."""
        return self.model.arm(arm).repeats.get(family, Repeats())
