"""`qtrap fit`: runs in, the fitted error model and a record of what it rests on out."""

from collections.abc import Iterator, Sequence
from typing import Any

from qtrap_agents.analysis.statistics import Interval, wilson
from qtrap_agents.simulation.counts import ArmCounts, Observations
from qtrap_agents.simulation.fates import Fates, families_of, fates
from qtrap_agents.simulation.fit import CONSTANT, FEW, effective, fit
from qtrap_agents.simulation.model import ArmModel, ErrorModel, Repeats, TermTest
from qtrap_agents.simulation.observations import observe
from qtrap_agents.store import RunDirectory
from qtrap_agents.types import Record


class FamilyFit(Record):
    """One family on one arm: what was counted, and what the model makes of it.

    `own` slips of `right` hops on right parents; of `wrong` hops on wrong ones `recovered`, `inherited` and `compounded` are as
    observed, the rest cannot be judged. `fitted` are the model's rates for the same hops. `null_success` is constant hop success.
    """

    family: str
    right: int
    own: int
    wrong: int
    recovered: int
    inherited: int
    compounded: int
    fitted: Fates
    null_success: float | None
    few: bool

    @property
    def hops(self) -> int:
        """Hops that could be judged."""
        return self.right + self.recovered + self.inherited + self.compounded

    @property
    def unjudged(self) -> int:
        """Hops on wrong parents whose right consequence cannot be told."""
        return self.wrong - self.recovered - self.inherited - self.compounded

    @property
    def own_interval(self) -> Interval:
        """95 % Wilson interval of the counted own rate."""
        return wilson(self.own, self.right)


class ArmFit(Record):
    """One arm. `constant` tests constant hop success against free success at every depth; None where nothing can tell."""

    arm: str
    families: tuple[FamilyFit, ...]
    tests: tuple[TermTest, ...]
    constant: TermTest | None
    repeats: dict[str, Repeats]
    family_sd: float
    kind_sd: float


class FitReport(Record):
    """A fitted model with its evidence. `notes` say what was left out or is doubtful; `path` is its file."""

    model: ErrorModel
    arms: tuple[ArmFit, ...]
    notes: tuple[str, ...]
    path: str = ""


def fit_runs(
    runs: Sequence[RunDirectory],
    arms: Sequence[str] | None = None,
    covariates: Sequence[str] | None = None,
    faults: bool = True,
    command: str = "",
    date: str = "",
) -> FitReport:
    """Fit a model to runs of the same arms. Arguments and errors as of `observe` and `fit`."""
    seen = observe(runs, arms, faults)
    model = fit(seen, covariates, command, date)
    return FitReport(
        model=model,
        arms=tuple(_arm(name, counts, model) for name, counts in seen.arms.items()),
        notes=tuple(_notes(seen, model)),
    )


def fit_json(report: FitReport) -> dict[str, Any]:
    """Every figure with the counts behind it; rates between 0 and 1, the model itself as in its file."""
    return report.model_dump(mode="json", exclude={"arms"}) | {
        "arms": [
            arm.model_dump(mode="json", exclude={"families"})
            | {
                "families": [
                    family.model_dump(mode="json")
                    | {"hops": family.hops, "unjudged": family.unjudged, "own_interval": family.own_interval.model_dump()}
                    for family in arm.families
                ]
            }
            for arm in report.arms
        ]
    }


def _arm(name: str, counts: ArmCounts, model: ErrorModel) -> ArmFit:
    fitted = model.arms[name]
    cells = effective(counts, fitted.repeats, fitted.costs)
    families = families_of(fitted.slips, cells)
    return ArmFit(
        arm=name,
        families=tuple(_family(family, counts, fitted, fates(model, name, family, cells, counts)) for family in families),
        tests=tuple(test for test in fitted.tests if test.term != CONSTANT),
        constant=next((test for test in fitted.tests if test.term == CONSTANT), None),
        repeats=fitted.repeats,
        family_sd=fitted.slips.family_sd,
        kind_sd=fitted.slips.kind_sd,
    )


def _family(family: str, counts: ArmCounts, fitted: ArmModel, rates: Fates) -> FamilyFit:
    """Counts of the hops that the model takes together; where it tells temperatures apart, of this one."""
    plain, _, temperature = family.partition("@")
    apart = any(name.startswith("family:") and "@" in name for name in fitted.slips.terms)
    seen = dict.fromkeys(("right", "own", "recovered", "inherited", "compounded", "unjudged"), 0)
    for (name, drawn_at), found in counts.fates.items():
        if name == plain and (not apart or drawn_at == float(temperature or 0)):
            for fate, number in found.items():
                seen[fate] += number
    slips = seen["own"] + seen["compounded"]
    return FamilyFit(
        family=family,
        right=seen["right"] + seen["own"],
        own=seen["own"],
        wrong=seen["recovered"] + seen["inherited"] + seen["compounded"] + seen["unjudged"],
        recovered=seen["recovered"],
        inherited=seen["inherited"],
        compounded=seen["compounded"],
        fitted=rates,
        null_success=fitted.null_success.get(plain),
        few=slips < FEW,
    )


def _notes(seen: Observations, model: ErrorModel) -> Iterator[str]:
    """What a reader should know before trusting a number."""
    without = [name for name, family in model.families.items() if not family.rules]
    if without:
        yield (
            f"{', '.join(without)}: no gold rules, so a statement on wrong parents cannot be judged; "
            "where it is right it counts as masked"
        )
    for name, counts in seen.arms.items():
        few = [family for family in model.arms[name].few if "@" not in family]
        if few:
            yield f"{name}: fewer than {FEW} slips in {', '.join(few)}: these rates lean on the arm's other families"
        unjudged = sum(found["unjudged"] for found in counts.fates.values())
        if unjudged:
            yield f"{name}: {unjudged:,} hops on wrong parents cannot be judged, their rule has no value for what was stated"
        yield from _left_out(name, counts)
    if seen.baseline not in seen.arms:
        yield f"the baseline {seen.baseline} is not among the arms: {model.baseline} stands in for it"


def _left_out(name: str, counts: ArmCounts) -> Iterator[str]:
    if counts.together:
        yield f"{name}: {counts.together:,} premises are left out: stated by no call of their own, or in a workflow that revises"
    if counts.again:
        yield f"{name}: {counts.again:,} greedy hops were asked in another run in the same words and count once"
    if counts.injected:
        yield f"{name}: {counts.injected:,} hops after injected faults are among those on wrong parents"
