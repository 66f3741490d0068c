"""Findings about an arm in words: its horizon, its difference from the baseline, the verdict and what to do next."""

import math
import shlex
from collections.abc import Mapping

from qtrap_agents.analysis.effect import Contrast, Paired
from qtrap_agents.analysis.readings import Readings
from qtrap_agents.analysis.statistics import Horizon, Interval
from qtrap_agents.analysis.summary import ArmSummary
from qtrap_agents.report.comparison import RunComparison, SecondServing, total_cell
from qtrap_agents.report.format import NOT_MEASURED, NOTHING, hops, p_value, percent, percent_between, points_between, significant
from qtrap_agents.report.served import ArmFacts

KINDS = 3
"""Most kinds of errors that a sentence names."""

NOT_CONSTANT = 0.05
"""Below this p-value the null model of a constant hop success counts as rejected."""


def horizon_words(horizon: Horizon) -> str:
    """`20 [17, 24]` in hops, `> 32 (≥ 210)` where no chain failed, or why there is no estimate.

    `≈` marks an estimate outside the depths that were tried.
    """
    if not any(horizon.totals):
        return "not estimable: no judged task"
    if horizon.estimate is not None:
        about = "≈ " if horizon.extrapolated else ""
        return f"{about}{hops(horizon.estimate)} {_ends(horizon.interval)}"
    tried = [depth for depth, total in zip(horizon.depths, horizon.totals, strict=True) if total]
    if (low := horizon.interval.low) is not None:
        return f"> {max(tried)} (≥ {hops(low)})" if low > max(tried) else f"≥ {hops(low)} (no failure up to {max(tried)})"
    if (high := horizon.interval.high) is not None:
        return f"< {min(tried)} (≤ {hops(high)})" if high < min(tried) else f"≤ {hops(high)} (no success from {min(tried)} on)"
    return "not estimable: success does not fall with depth"


def null_words(horizon: Horizon) -> str:
    """The horizon under a constant hop success, and that success."""
    if horizon.null_estimate is None or horizon.hop_success is None:
        return NOTHING
    return f"{hops(horizon.null_estimate)} ({_fine_percent(horizon.hop_success)} a hop)"


def shape_words(horizon: Horizon) -> str:
    """The p-value of a constant hop success, and how hops change with depth where it is rejected."""
    if horizon.shape_p is None:
        return NOTHING
    course = f", {'worse' if horizon.shape > 1 else 'better'} with depth" if horizon.shape_p < NOT_CONSTANT else ""
    return p_value(horizon.shape_p) + course


def difference_words(contrast: Contrast) -> str:
    """`−12.3 points [−15.0, −9.8]`, or that there is nothing to pair."""
    if not contrast.counts.n:
        return "no common judged task"
    return points_between(contrast.counts.difference, contrast.difference.low, contrast.difference.high)


def flips_words(contrast: Contrast) -> str:
    """`12 / 3 of 480 pairs`, with the number of tasks where they have several pairs."""
    counts = contrast.counts
    if not counts.n:
        return NOTHING
    tasks = f" of {contrast.tasks:,} tasks" if contrast.tasks < counts.n else ""
    return f"{counts.lost:,} / {counts.gained:,} of {counts.n:,} pairs{tasks}"


def floor_words(paired: Paired) -> str:
    """Where the difference lies: inside what the baseline differs from itself, or beyond it."""
    if paired.inside_floor is None:
        return NOT_MEASURED if paired.counts.n else NOTHING
    return "inside" if paired.inside_floor else "beyond"


def floor_sentence(report: RunComparison) -> str:
    """What the baseline does to itself, or how to find out."""
    again, floor = report.again, report.comparison.floor
    if again is None:
        return f"noise floor: {NOT_MEASURED}; {report.floor_hint}"
    what = "in other batches, with a cold prefix cache" if again.fresh else "in other batches, by the same running server"
    head = f"noise floor: {report.comparison.baseline} served again {what}"
    if floor is None:
        return f"{head}: {NOT_MEASURED}, no common judged task yet"
    return f"{head}: {difference_words(floor)}, flips {flips_words(floor)}; {_hop_words(again)}{_cost_words(again)}"


def _hop_words(again: SecondServing) -> str:
    found = again.hops
    if not found.same_words:
        return "no hop was asked in the same words"
    share = percent_between(found.rate, found.interval.low, found.interval.high)
    return f"{found.differing:,} of {found.same_words:,} hops asked in the same words state another value ({share})"


def _cost_words(again: SecondServing) -> str:
    """What the same weights cost in another serving: ratios of arms as near to 1 say nothing of the arms."""
    known = [(again.time, "time"), (again.energy, "energy")]
    words = " and ".join(f"{significant(ratio, 2)} of the {word}" for ratio, word in known if ratio is not None)
    return f"; a task took {words} of the first serving" if words else ""


def verdict_words(paired: Paired) -> str:
    """The verdict, with the tasks still needed where it is open."""
    if paired.verdict != "undecided" or not paired.counts.n or paired.further_tasks is None:
        return paired.verdict
    return f"undecided, about {_round_up(paired.further_tasks):,} further tasks needed"


def verdict_sentence(report: RunComparison, summary: ArmSummary) -> str:
    """One plain sentence: what became of this arm."""
    facts, against = report.arm_facts(summary.arm), summary.against
    if not summary.judged:
        kinds = facts.error_kinds
        reason = f", most often: {next(iter(kinds))}" if kinds else ""
        return f"{summary.arm}: no verdict: all {summary.n:,} tasks ended in an error{reason}"
    if against is None:
        alone = "" if len(report.facts) > 1 else ", the only arm: nothing to compare"
        head = f"{summary.arm} (baseline{alone}): success {percent(total_cell(summary.cells, None).success)}"
        head += f" of {summary.judged:,} tasks"
    elif not against.counts.n:
        return f"{summary.arm}: no verdict: no judged task in common with {report.comparison.baseline}"
    else:
        head = f"{summary.arm}: {verdict_words(against)}: success {difference_words(against)}"
    return "; ".join(
        [
            head,
            *_inside_floor(report, summary),
            *_suites_by_verdict(summary),
            f"horizon {horizon_sentence(summary.horizon)}",
            *_suite_words(summary),
            _first_words(summary),
            *_error_words(summary, facts.error_kinds),
        ]
    )


def horizon_sentence(horizon: Horizon) -> str:
    """The horizon with its unit, to stand in a sentence."""
    words = horizon_words(horizon)
    if words.startswith("not") or "(" in words:
        return words.replace(" (", " hops (", 1)
    return words.replace(" [", " hops [", 1)


def next_command(report: RunComparison) -> str:
    """What to type next: look at the failures of the worst arm, or draw more tasks where the verdict is open."""
    summaries = [summary for summary in report.comparison.arms if summary.n > summary.correct]
    compared = [summary for summary in summaries if summary.against is not None] or summaries
    if compared:
        worst = min(compared, key=_difference)
        facts = report.arm_facts(worst.arm)
        open_verdict = worst.against is not None and worst.against.verdict == "undecided"
        if open_verdict and (more := _more_tasks(report, worst, facts)):
            return more
        return f"qtrap inspect {shlex.quote(facts.path)} --arm {facts.arm} --failed"
    deepest = max((cell.depth for summary in report.comparison.arms for cell in summary.cells), default=1)
    return f"qtrap run {shlex.quote(report.facts[0].path)}/run.yaml --depth {4 * deepest}"


def _difference(summary: ArmSummary) -> float:
    difference = summary.against.counts.difference if summary.against else None
    return -1.0 if difference is None else difference


def _more_tasks(report: RunComparison, summary: ArmSummary, facts: ArmFacts) -> str | None:
    """Draw enough tasks for a verdict; None where the number is unknown or the baseline is in another run."""
    paired = summary.against
    if paired is None or not paired.counts.n or not paired.further_tasks:
        return None
    if report.arm_facts(report.comparison.baseline).path != facts.path:
        return None
    now = report.tasks_per_depth[facts.path]
    wanted = math.ceil(now * (1 + paired.further_tasks / paired.tasks))
    return f"qtrap run {shlex.quote(facts.path)}/run.yaml --limit {_round_up(wanted)}"


def _inside_floor(report: RunComparison, summary: ArmSummary) -> list[str]:
    """That there is no effect beyond noise, over all tasks or in some suites."""
    floor, against = report.comparison.floor, summary.against
    if floor is not None and against is not None and against.inside_floor:
        return [f"inside the noise floor ({100 * floor.limit:.1f} points)"]
    suites = [suite for suite, paired in summary.suites_against.items() if paired.inside_floor]
    several = len(summary.suites_against) > 1
    return [f"inside the noise floor in {' and '.join(suites)}"] if suites and several else []


def _suites_by_verdict(summary: ArmSummary) -> list[str]:
    """`danger in relate`, `safe in arith and lookup`: where there are several suites."""
    found = {suite: paired.verdict for suite, paired in summary.suites_against.items()}
    if len(found) < 2:
        return []
    groups = {word: [suite for suite, verdict in found.items() if verdict == word] for word in ("danger", "undecided", "safe")}
    return [f"{word} in {' and '.join(suites)}" for word, suites in groups.items() if suites]


def _suite_words(summary: ArmSummary) -> list[str]:
    """The suite that breaks first, where there are several and one has an estimate."""
    known = {suite: fit for suite, fit in summary.suite_horizons.items() if fit.estimate is not None or fit.interval.low is None}
    fitted = {suite: fit.estimate or fit.interval.high for suite, fit in known.items()}
    numbers = {suite: number for suite, number in fitted.items() if number is not None}
    if len(summary.suite_horizons) < 2 or not numbers:
        return []
    shortest = min(numbers, key=lambda suite: numbers[suite])
    return [f"shortest in {shortest}: {horizon_sentence(summary.suite_horizons[shortest])}"]


def _first_words(summary: ArmSummary) -> str:
    if not summary.failures.chains:
        return "no gold premises to judge"
    first = summary.failures.median_first_error
    return "no false premise" if first is None else f"first false premise at hop {first} (median)"


def _error_words(summary: ArmSummary, error_kinds: Mapping[str, int]) -> list[str]:
    if not summary.errors:
        return []
    kinds = [f"{count:,} × {kind}" for kind, count in list(error_kinds.items())[:KINDS]]
    more = [f"{len(error_kinds) - KINDS:,} more kinds"] if len(error_kinds) > KINDS else []
    told = f" ({', '.join([*kinds, *more])})" if kinds else ""
    return [f"{summary.errors:,} of {summary.n:,} tasks ended in an error and count in no figure of success{told}"]


def unparsed_words(found: Readings) -> str:
    """`12 of 800 (1.5 %), 3 cut off`."""
    if not found.hops:
        return NOTHING
    cut = f", {found.cut_off:,} cut off" if found.unparsed else ""
    return f"{found.unparsed:,} of {found.hops:,} ({percent(found.share)}){cut}"


def _ends(interval: Interval) -> str:
    low = NOTHING if interval.low is None else hops(interval.low)
    return f"[{low}, {'∞' if interval.high is None else hops(interval.high)}]"


def _fine_percent(share: float) -> str:
    """Enough decimals to tell hop successes near one from each other."""
    decimals = max(1, min(4, math.ceil(-math.log10(1 - share)) - 1)) if share < 1 else 1
    return f"{100 * share:.{decimals}f} %"


def _round_up(number: int) -> int:
    """Two significant digits, upwards: an estimate deserves no more."""
    unit: int = 10 ** max(0, len(str(number)) - 2)
    return -(-number // unit) * unit
