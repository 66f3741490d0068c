"""The cost of the arms as rows of a table: throughput, latencies and energy, each with what it does not say."""

from collections.abc import Callable, Sequence

from qtrap_agents.analysis.costs import Ratio
from qtrap_agents.analysis.summary import ArmSummary
from qtrap_agents.measures import Spread
from qtrap_agents.report.format import (
    NOT_MEASURED,
    NOTHING,
    change,
    change_between,
    joules,
    joules_between,
    milliseconds,
    percent,
    seconds,
    significant,
)  # fmt: skip
from qtrap_agents.report.served import ArmFacts

Figure = Callable[[ArmSummary, ArmFacts], str]


def cost_figures(arms: Sequence[ArmSummary]) -> list[tuple[str, Figure]]:
    """The rows; those of energy in full where it was measured on one arm at least."""
    measured = any(arm.cost.energy_j is not None for arm in arms)
    return [
        ("  model calls a task", lambda arm, _: _number(arm.calls_per_task)),
        *_role_figures(arms),
        ("  tokens a hop, in + out", _tokens),
        ("  output tokens/s", lambda arm, _: _number(arm.output_tokens_per_s)),
        ("  tasks/s", lambda arm, _: _number(arm.tasks_per_s)),
        ("  device time, against baseline", lambda arm, _: _against(arm, arm.expense.time)),
        ("  first token p50 (server mean)", _first_token),
        ("  between tokens p50 (server mean)", _between_tokens),
        ("  energy per correct task", _per_correct),
        *(_energy_figures(arms) if measured else []),
        ("  start + run", lambda _, facts: f"{seconds(facts.totals.startup_s)} + {seconds(facts.totals.wall_s)}"),
    ]


def _role_figures(arms: Sequence[ArmSummary]) -> list[tuple[str, Figure]]:
    """Calls a task and tokens a call for every role of node, where there is more than one; what a checker found."""
    roles = list(dict.fromkeys(role.role for arm in arms for role in arm.roles))
    rows = [(f"    {role}", _role(role)) for role in roles] if len(roles) > 1 else []
    return [*rows, ("  errors found, false alarms", _checks)] if any(arm.checks for arm in arms) else rows


def _role(name: str) -> Figure:
    def figure(arm: ArmSummary, _: ArmFacts) -> str:
        spent = next((role for role in arm.roles if role.role == name), None)
        if spent is None or not arm.n:
            return NOTHING
        tokens = f"{spent.prompt_tokens / spent.calls:,.1f} + {spent.completion_tokens / spent.calls:,.1f} tokens"
        return f"{significant(spent.calls / arm.n)} calls, {tokens}"

    return figure


def _checks(arm: ArmSummary, _: ArmFacts) -> str:
    """Of the statements in error that were checked, and of the right ones."""
    found = arm.checks
    if found is None:
        return NOTHING
    unread = f", {found.unreadable:,} unreadable" if found.unreadable else ""
    return f"{found.detected:,} of {found.faulty:,}, {found.false_alarms:,} of {found.checked - found.faulty:,}{unread}"


def _energy_figures(arms: Sequence[ArmSummary]) -> list[tuple[str, Figure]]:
    suites = list(dict.fromkeys(suite for arm in arms for suite in arm.expense.suites))
    return [
        *([(f"    {suite}", _suite_per_correct(suite)) for suite in suites] if len(suites) > 1 else []),
        ("  energy per task", lambda arm, _: joules(arm.energy_per_task_j)),
        ("  energy per hop", lambda arm, _: joules(arm.energy_per_hop_j)),
        ("  energy per output token", lambda arm, _: joules(arm.energy_per_token_j)),
        ("  energy, against baseline", lambda arm, _: _against(arm, arm.expense.energy)),
        ("  tdp_proxy, against baseline", lambda arm, _: NOTHING if arm.expense.tdp is None else change(arm.expense.tdp)),
        ("  idle power, its share", _idle),
        ("  residual (no hop in flight)", _residual),
        ("  meter, attribution", lambda arm, _: f"{arm.cost.meter or 'none'}, {arm.cost.attribution or NOTHING}"),
    ]


def _tokens(arm: ArmSummary, _: ArmFacts) -> str:
    prompt, completion = arm.tokens.prompt_per_hop, arm.tokens.completion_per_hop
    return NOTHING if prompt is None or completion is None else f"{prompt:,.1f} + {completion:,.1f}"


def _number(number: float | None) -> str:
    return NOT_MEASURED if number is None else significant(number)


def _against(arm: ArmSummary, ratio: Ratio | None) -> str:
    if arm.against is None:
        return NOTHING
    return NOT_MEASURED if ratio is None else change_between(ratio.value, ratio.interval.low, ratio.interval.high)


def _first_token(arm: ArmSummary, _: ArmFacts) -> str:
    server = arm.cost.server
    return _latencies(arm.cost.ttft, server.ttft_s if server else None)


def _between_tokens(arm: ArmSummary, _: ArmFacts) -> str:
    server = arm.cost.server
    return _latencies(arm.cost.inter_token, server.inter_token_s if server else None)


def _latencies(client: Spread | None, server_s: float | None) -> str:
    """The client's median, and the engine's own mean where it tells."""
    return milliseconds(client.p50 if client else None) + (f" ({milliseconds(server_s)})" if server_s is not None else "")


def _per_correct(arm: ArmSummary, _: ArmFacts) -> str:
    if arm.cost.energy_j is None:
        return NOT_MEASURED
    return _ratio(arm.expense.per_correct)


def _suite_per_correct(suite: str) -> Figure:
    def figure(arm: ArmSummary, _: ArmFacts) -> str:
        if suite not in arm.expense.suites:
            return NOTHING
        return NOT_MEASURED if arm.cost.energy_j is None else _ratio(arm.expense.suites_per_correct.get(suite))

    return figure


def _ratio(ratio: Ratio | None) -> str:
    if ratio is None:
        return "no task solved"
    return joules_between(ratio.value, ratio.interval.low, ratio.interval.high)


def _idle(arm: ArmSummary, _: ArmFacts) -> str:
    if arm.cost.idle_w is None:
        return NOT_MEASURED
    return f"{significant(arm.cost.idle_w)} W, {percent(arm.cost.idle_share)}"


def _residual(arm: ArmSummary, _: ArmFacts) -> str:
    cost = arm.cost
    if cost.residual_j is None or not cost.energy_j:
        return NOT_MEASURED
    return f"{joules(cost.residual_j)}, {percent(cost.residual_j / cost.energy_j)}"
