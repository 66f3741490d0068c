"""`qtrap profile` on a terminal: one table of shares by kernel class, the sentences on casting, the longest kernels."""

from rich.console import Console

from qtrap_agents.analysis.kernels import CLASSES, KernelClass, PhaseShares, class_of
from qtrap_agents.report.bench_view import render_arms, render_head
from qtrap_agents.report.format import NOT_MEASURED, milliseconds, percent, percent_between, plain, significant
from qtrap_agents.report.profile import ProfileReport, casting_sentence
from qtrap_agents.report.table import new_table, print_table

NOTE = (
    "shares are of all kernel time, with 95 % intervals over repeats; busy: kernel time over the wall time of the same work "
    "without the profiler; cor_kernel: casting kernels over matrix products"
)
_NAME = 90


def render_profile(report: ProfileReport, console: Console, kernels: bool = False) -> None:
    """Print the whole report.

    Args:
        kernels: also the longest kernels of every phase by name.
    """
    render_head(report, report.warnings, console)
    render_arms(report, console)
    table = new_table("Where the time goes")
    for heading in ("arm", "phase", "in flight", "prompt + new", *CLASSES, "kernel time", "busy", "cor_kernel"):
        table.add_column(heading, overflow="fold")
    for phase in report.phases:
        table.add_row(*map(plain, _cells(phase, report)))
    print_table(table, console)
    for phase in report.phases:
        console.print(plain(casting_sentence(phase)))
    console.print(plain(NOTE, style="dim"))
    for phase in report.phases if kernels else ():
        _render_kernels(phase, console)


def _cells(phase: PhaseShares, report: ProfileReport) -> tuple[str, ...]:
    cor = phase.unpacking if phase.cor_kernel is None else significant(phase.cor_kernel.value)
    return (
        report.marked(phase.arm),
        phase.phase,
        str(phase.concurrency),
        f"{phase.prompt_tokens} + {1 if phase.phase == 'prefill' else phase.new_tokens}",
        *(_share(phase, kind) for kind in CLASSES),
        milliseconds(sum(phase.time_s.values())),
        NOT_MEASURED if phase.busy is None else percent(phase.busy.value),
        cor,
    )


def _share(phase: PhaseShares, kind: KernelClass) -> str:
    share = phase.shares.get(kind)
    if share is None:
        return percent(phase.time_s[kind] / (sum(phase.time_s.values()) or 1.0))
    return percent_between(share.value, share.interval.low, share.interval.high)


def _render_kernels(phase: PhaseShares, console: Console) -> None:
    table = new_table(f"{phase.arm}, {phase.phase}, {phase.concurrency} in flight: the longest kernels")
    for heading in ("kernel", "class", "calls", "time"):
        table.add_column(heading, overflow="fold")
    for kernel in phase.top:
        table.add_row(*map(plain, (kernel.name[:_NAME], class_of(kernel.name), f"{kernel.calls:,}", milliseconds(kernel.time_s))))
    print_table(table, console)
