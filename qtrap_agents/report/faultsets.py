"""The sets of injected faults of a run, and shares as JSON: what the reports on faults and replays have in common."""

import shlex

from rich.text import Text

from qtrap_agents.analysis.funnel import Share
from qtrap_agents.errors import StoreError, unknown
from qtrap_agents.evidence import REPLAYS, Replay
from qtrap_agents.report.diagnosis_view import rate, share_words
from qtrap_agents.report.format import NOTHING, plain
from qtrap_agents.store import Lines, RunDirectory

_WIDEST_BAR = 20


def fault_sets(run: RunDirectory) -> tuple[str, ...]:
    """Names of the sets of faults that were injected, in alphabetical order."""
    return tuple(sorted(file.parent.name for file in (run.path / "faults").glob(f"*/{REPLAYS}")))


def find_faults(run: RunDirectory, wanted: str | None = None) -> str:
    """The name of a set of faults, by default the only one.

    Raises:
        StoreError: there is no such set, or there are several to choose from.
    """
    known = fault_sets(run)
    if not known:
        raise StoreError(f"{run.path}: no injected faults are stored; `qtrap inject {shlex.quote(str(run.path))}` makes them")
    if wanted is None and len(known) > 1:
        raise StoreError(f"{run.path}: several sets of faults are stored; choose one with --faults ({' or '.join(known)})")
    if wanted is not None and wanted not in known:
        raise StoreError(f"{run.path}: {unknown('set of faults', wanted, known)}")
    return wanted or known[0]


def faulty_chains(run: RunDirectory, name: str) -> Lines[Replay]:
    """The faulty chains of a set, by task id."""
    return Lines(run.faults_path(name) / REPLAYS, Replay)


def inspect_command(run: str, task_id: str, arm: str, against: str) -> str:
    """What shows two chains of a task side by side; either arm may be a replay such as `fp16:inject@hop_003:s3`."""
    return f"qtrap inspect {shlex.quote(run)} {shlex.quote(task_id)} --arm {shlex.quote(arm)} --against {shlex.quote(against)}"


def words_or_nothing(share: Share) -> str:
    """`12 of 40, 30.0 % [18.1, 45.4]`, or a dash where there is nothing to share."""
    return share_words(share) if share.n else NOTHING


def two_lines(share: Share) -> Text:
    """The count above, the share with its interval below; a dash where there is nothing to share."""
    return plain(f"{share.count:,} of {share.n:,}\n{rate(share)}" if share.n else NOTHING, keep_lines=True)


def bar(share: float | None, full: float = 1.0) -> str:
    """A bar of up to 20 blocks, which is as long as `full`; something never looks like nothing."""
    if not share or not full:
        return ""
    return "█" * round(_WIDEST_BAR * share / full) or "▏"
