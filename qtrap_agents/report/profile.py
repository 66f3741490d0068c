"""`qtrap profile` as a record: where the time of each phase goes, and what that says about casting."""

from qtrap_agents.analysis.kernels import CLASSES, PhaseShares, shares_of
from qtrap_agents.bench_store import BenchDirectory
from qtrap_agents.errors import StoreError
from qtrap_agents.report.format import percent, significant
from qtrap_agents.report.provenance import Provenance, provenance


class ProfileReport(Provenance):
    """One profile. `phases` are ordered as they were measured; `done` of `total` are stored."""

    phases: tuple[PhaseShares, ...]
    done: int
    total: int

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader must know before the figures."""
        found = list(self.doubts)
        if self.done < self.total:
            found.insert(0, f"{self.done} of {self.total} phases measured; `qtrap profile --resume {self.path}` goes on")
        if any(phase.device == "cpu" for phase in self.phases):
            found.append("times on a CPU are of torch's operators, each without what it calls")
        return tuple(found)


def profile_report(directory: BenchDirectory) -> ProfileReport:
    """Read a stored profile.

    Raises:
        StoreError: nothing was profiled yet, or a file is damaged.
    """
    profiles, config = list(directory.profiles()), directory.config
    if not profiles:
        raise StoreError(f"{directory.path}: nothing was profiled; `qtrap profile --resume {directory.path}` goes on")
    known = {(item.arm, item.prompt_tokens, item.concurrency, item.repeat, item.phase) for item in profiles}
    return ProfileReport(
        **dict(provenance(directory)),
        phases=shares_of(profiles),
        done=len(known),
        total=2 * len(config.arms) * len(config.prompt_tokens) * len(config.concurrency) * config.repeats,
    )


def casting_sentence(phase: PhaseShares) -> str:
    """What the profile says about casting, in words."""
    where = f"{phase.arm}, {phase.phase}, {phase.concurrency} in flight"
    if phase.unpacking == "fused":
        return f"{where}: fused: products unpack in registers, cor_kernel is not defined"
    if phase.unpacking == "none" or phase.cor_kernel is None:
        return f"{where}: nothing is unpacked"
    ratio, share = phase.cor_kernel, phase.casting_share
    low, high = ratio.interval.low, ratio.interval.high
    ends = "" if low is None or high is None else f" [{significant(low)}, {significant(high)}]"
    return (
        f"{where}: cor_kernel {significant(ratio.value)}{ends}: of casting and products together {percent(share)} is casting "
        f"(n = {phase.n})"
    )


def profile_json(report: ProfileReport) -> dict[str, object]:
    """The whole report with derived values."""
    phases = [phase.model_dump(mode="json") | {"casting_share": phase.casting_share} for phase in report.phases]
    data = report.model_dump(mode="json", exclude={"phases"})
    return data | {"warnings": list(report.warnings), "classes": list(CLASSES), "phases": phases}
