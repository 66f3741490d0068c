"""A precision plan: which hops of a chain run on which arm, and where votes and verifiers go. A readable file.

`qtrap plan` writes it, `qtrap run --plan FILE` executes it. Rules are read from above; the first that fits a hop counts.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field, ValidationInfo, field_validator, model_validator

from qtrap_agents.arms import ArmConfig, different_names, known_baseline
from qtrap_agents.errors import ConfigError, unknown
from qtrap_agents.strict_yaml import Misplaced, load_yaml, read_yaml
from qtrap_agents.types import Record

PLAN_ARM = "plan"
"""Name of the arm that a run serves a plan as; no part of a plan can be called so."""

Positions = tuple[int, int]
Unit = Literal["weight bytes", "J", "cost units"]


class Vote(Record):
    """The hop is drawn `k` times at a temperature and the most frequent value is handed on, as in the workflow `vote`."""

    k: int = Field(default=5, ge=2, le=99)
    temperature: float = Field(default=0.7, ge=0, le=2)


class Verify(Record):
    """The hop is drawn again until a value was stated twice, as in the workflow `verify_revise` with `check: recompute`."""

    max_revisions: int = Field(default=2, ge=0, le=10)
    temperature: float = Field(default=0.7, ge=0, le=2)


class Rule(Record):
    """Hops and the arm that answers them.

    A rule fits a hop of its `family` (a suite), of one of its `kinds` (see `GoldPremise.kind`) and between its `positions`,
    first and last, counted from 1; what it does not name may be anything.
    """

    family: str | None = None
    kinds: tuple[str, ...] = ()
    positions: Positions | None = None
    arm: str
    vote: Vote | None = None
    verify: Verify | None = None

    @field_validator("positions")
    @classmethod
    def _first_before_last(cls, value: Positions | None) -> Positions | None:
        if value is not None and not 1 <= value[0] <= value[1]:
            raise ValueError(f"must be [first, last], counted from 1, not [{value[0]}, {value[1]}]")
        return value

    @model_validator(mode="after")
    def _one_check(self) -> "Rule":
        if self.vote is not None and self.verify is not None:
            raise ValueError("a hop has a 'vote' or is checked by 'verify'; keep one of them")
        return self

    def fits(self, family: str, kind: str, position: int) -> bool:
        """Whether the rule is for a hop of that family and kind at that position, counted from 1."""
        first, last = self.positions or (1, position)
        return self.family in (None, family) and (not self.kinds or kind in self.kinds) and first <= position <= last


class Estimate(Record):
    """A predicted share of solved tasks.

    `low` and `high` are the 95 % interval that the uncertain parameters of the model leave; `mc_se` is the standard error of
    the Monte Carlo over `chains` simulated chains.
    """

    mean: float = Field(ge=0, le=1)
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)
    mc_se: float = Field(default=0.0, ge=0)
    chains: int = Field(ge=1)

    @model_validator(mode="after")
    def _in_order(self) -> "Estimate":
        if self.low > self.high:
            raise ValueError(f"'low' is above 'high' ({self.low:g}, {self.high:g})")
        return self


class Outlook(Record):
    """What the model predicts of one way to run the tasks: success, and cost of a task in the unit of the prediction."""

    success: Estimate
    cost: float = Field(ge=0)


class FrontPoint(Record):
    """One plan on the Pareto front: cost of a task, success with its 95 % interval; `label` says what it is."""

    cost: float
    success: float
    low: float
    high: float
    label: str = ""


class Prediction(Record):
    """What a plan was chosen for, and what the model expects of it.

    `unit` is that of all costs: `weight bytes` read for the tokens of a task (weight bytes of the arm that answers times
    generated tokens), `J`, or `cost units` that were given with `--cost`. `target` is the success that was asked for, `max_cost`
    the cost that was allowed. `model` is the name of the model file and `checksum` its SHA-256.
    """

    plan: Outlook
    baseline: Outlook
    arms: dict[str, Outlook] = Field(default_factory=dict)
    unit: Unit = "weight bytes"
    target: float | None = Field(default=None, ge=0, le=1)
    max_cost: float | None = Field(default=None, ge=0)
    model: str = ""
    checksum: str = ""
    front: tuple[FrontPoint, ...] = ()


class Way(NamedTuple):
    """How one hop is answered."""

    arm: str
    vote: Vote | None = None
    verify: Verify | None = None


class PrecisionPlan(Record):
    """A plan for the tasks of one suite at one depth.

    `arms` are the arms in full; `baseline` is the one that all-baseline runs on; `default` answers where no rule fits.
    """

    suite: str
    depth: int = Field(ge=1)
    arms: tuple[ArmConfig, ...] = Field(min_length=1)
    baseline: str
    default: str
    rules: tuple[Rule, ...] = ()
    predicted: Prediction | None = None

    @field_validator("arms")
    @classmethod
    def _arms_by_different_names(cls, value: tuple[ArmConfig, ...]) -> tuple[ArmConfig, ...]:
        if any(arm.name == PLAN_ARM for arm in value):
            raise ValueError(f"no arm of a plan can be called '{PLAN_ARM}', as the plan itself is")
        return different_names(value)

    @field_validator("baseline", "default")
    @classmethod
    def _is_an_arm(cls, value: str, info: ValidationInfo) -> str:
        known_baseline(value, info.data.get("arms", ()))
        return value

    @field_validator("rules")
    @classmethod
    def _rules_fit(cls, value: tuple[Rule, ...], info: ValidationInfo) -> tuple[Rule, ...]:
        for number, rule in enumerate(value):
            _check(number, rule, info.data)
        return value

    def way(self, family: str, kind: str, position: int) -> Way:
        """How a hop of that family and kind at that position, counted from 1, is answered."""
        for rule in self.rules:
            if rule.fits(family, kind, position):
                return Way(rule.arm, rule.vote, rule.verify)
        return Way(self.default)

    @property
    def parts(self) -> tuple[ArmConfig, ...]:
        """The arms that answer hops, in their order."""
        used = {self.default, *(rule.arm for rule in self.rules)}
        return tuple(arm for arm in self.arms if arm.name in used)


def _check(number: int, rule: Rule, plan: Mapping[str, object]) -> None:
    """Raises Misplaced where a rule names what the plan does not have. Fields that are wrong themselves are not in `plan`."""
    suite, depth, arms = plan.get("suite"), plan.get("depth"), plan.get("arms")
    if isinstance(arms, tuple) and rule.arm not in (names := [arm.name for arm in arms]):
        raise Misplaced((number, "arm"), unknown("arm", rule.arm, names))
    if isinstance(suite, str) and rule.family not in (None, suite):
        raise Misplaced((number, "family"), unknown("family", str(rule.family), [suite]))
    if isinstance(depth, int) and rule.positions is not None and rule.positions[1] > depth:
        raise Misplaced((number, "positions"), f"the last position is {rule.positions[1]}, the plan is for {depth} hops")


def load_plan(path: Path) -> PrecisionPlan:
    """Read a plan. Raises ConfigError, which names the file, the line, the field and the remedy."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; `qtrap plan MODEL` writes a plan")
    if not {"suite", "default"} & read_yaml(path)[0].keys():
        raise ConfigError(f"{path}: no precision plan; `qtrap plan MODEL` writes one")
    return load_yaml(path, PrecisionPlan)
