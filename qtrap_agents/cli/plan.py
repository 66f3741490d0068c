"""`qtrap plan`: which hops run on which arm, where votes and checkers go, for a success or within a cost."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qtrap_agents.cli.common import AsJson, show
from qtrap_agents.errors import ConfigError, SimulationError

if TYPE_CHECKING:
    from qtrap_agents.arms import ArmConfig
    from qtrap_agents.report.plan import Goal
    from qtrap_agents.simulation.costing import Costs
    from qtrap_agents.simulation.model import ErrorModel

Target = Annotated[float | None, typer.Option(help="Success to reach, as a share.", min=0, max=1)]
MaxJoules = Annotated[float | None, typer.Option(help="Joules of a task that are allowed.", min=0)]
MaxCost = Annotated[float | None, typer.Option(help="Cost of a task that is allowed, in the unit that is printed.", min=0)]
CostOption = Annotated[list[str] | None, typer.Option("--cost", help="Cost of a hop on an arm, as fp16=1 (for each arm).")]
Bench = Annotated[Path | None, typer.Option(help="Bench directory to take joules per token from.")]
RunOption = Annotated[Path | None, typer.Option("--run", help="Run directory that has the arms in full.")]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="Configuration of a run that has the arms in full.")]
Confident = Annotated[bool, typer.Option("--confident", help="The lower end of the interval has to reach the target.")]
Outcomes = Annotated[list[Path] | None, typer.Option("--outcome", help="Run of a plan to plot beside the front (repeatable).")]


def plan(
    model: Annotated[Path, typer.Argument(help="Model that `qtrap fit` wrote.")],
    suite: Annotated[str, typer.Option(help="Suite of the tasks.")],
    depth: Annotated[int, typer.Option(help="Depth in hops.", min=1)],
    target_success: Target = None,
    max_joules: MaxJoules = None,
    max_cost: MaxCost = None,
    workflow: Annotated[str, typer.Option(help="A plan is carried out as a chain.")] = "chain",
    arm: Annotated[list[str] | None, typer.Option(help="Arm to choose among (repeatable); by default all.")] = None,
    baseline: Annotated[str | None, typer.Option(help="By default that of the model.")] = None,
    cost: CostOption = None,
    bench: Bench = None,
    votes: Annotated[str, typer.Option(help="Samples that a vote may have, as 3,5.")] = "",
    verify: Annotated[bool, typer.Option("--verify", help="Hops may be drawn until a value was stated twice.")] = False,
    run: RunOption = None,
    config: ConfigOption = None,
    confident: Confident = False,
    draws: Annotated[int, typer.Option(help="Draws of the parameters for each prediction.", min=2)] = 100,
    seed: Annotated[int, typer.Option(help="Of all random numbers.")] = 0,
    out: Annotated[Path | None, typer.Option(help="File for the plan.")] = None,
    html: Annotated[Path | None, typer.Option(help="File for a page with the front.")] = None,
    outcome: Outcomes = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite --out and --html.")] = False,
    as_json: AsJson = False,
) -> None:
    """Find the cheapest mixture of arms for a success, or the best one for a cost."""
    from qtrap_agents.report import plan as planning
    from qtrap_agents.report.front_page import front_page
    from qtrap_agents.report.plan_view import render_plan
    from qtrap_agents.simulation.model_file import load_model

    for path in (out, html):
        if path is not None:
            planning.check_free(path, force)
    if outcome and html is None:
        raise ConfigError("--outcome plots runs beside the front; say where with --html FILE")
    fitted = load_model(model)
    goal = _goal(target_success, max_joules, max_cost, confident)
    base = baseline or fitted.baseline
    names = list(dict.fromkeys([*(arm or fitted.arms), base]))
    costs = _costs(fitted, suite, names, cost, bench)
    if max_joules is not None and costs.unit != "J":
        raise SimulationError("--max-joules needs measured joules and the model has none; give --bench, or --max-cost")
    report = planning.make_plan(
        fitted,
        planning.Place(suite, depth, workflow),
        goal,
        _arms(names, run, config),
        base,
        costs,
        _votes(votes),
        verify,
        draws,
        seed,
        model,
        lambda stage: print(f"qtrap: {stage}", file=sys.stderr),
    )
    outcomes = planning.outcomes_of(outcome or [])
    if out is not None:
        planning.save_plan(report.plan, out, force)
        print(f"next: qtrap run --plan {out}", file=sys.stderr)
    if html is not None:
        planning.save_page(front_page(report.plan, outcomes), html, force)
    show(as_json, planning.plan_json(report), lambda console: render_plan(report, console))


def _goal(success: float | None, joules: float | None, cost: float | None, confident: bool) -> "Goal":
    from qtrap_agents.report.plan import Goal

    if sum(given is not None for given in (success, joules, cost)) != 1:
        raise ConfigError("say what the plan is for: one of --target-success, --max-joules and --max-cost")
    if confident and success is None:
        raise ConfigError("--confident belongs to --target-success")
    return Goal(success, joules if joules is not None else cost, confident)


def _costs(model: "ErrorModel", suite: str, arms: Sequence[str], given: Sequence[str] | None, bench: Path | None) -> "Costs":
    from qtrap_agents.report.plan import bench_joules
    from qtrap_agents.simulation.costing import costs_of

    for name in arms:
        model.arm(name)
    model.family(suite)
    if given or bench is None:
        return costs_of(model, arms, suite, dict(map(_cost, given or ())))
    known = model.arm(arms[0]).costs.get(suite)
    joules, looked_up = bench_joules(bench, 0.0 if known is None else known.prompt_tokens)
    return costs_of(model, arms, suite, None, joules, looked_up)


def _cost(text: str) -> tuple[str, float]:
    name, _, number = text.partition("=")
    try:
        return name, float(number)
    except ValueError:
        raise ConfigError(f"--cost '{text}': give it as ARM=NUMBER, such as --cost fp16=1") from None


def _votes(text: str) -> list[int]:
    try:
        found = sorted({int(part) for part in text.split(",") if part.strip()})
    except ValueError:
        raise ConfigError(f"--votes '{text}': give numbers of samples, such as --votes 3,5") from None
    if any(not 2 <= k <= 99 for k in found):
        raise ConfigError(f"--votes '{text}': a vote has 2 to 99 samples")
    return found


def _arms(names: Sequence[str], run: Path | None, config: Path | None) -> "list[ArmConfig]":
    """The arms in full, from a run, a configuration or the named ones. Raises QtrapError."""
    from qtrap_agents.arms import ArmConfig, arm_by_name
    from qtrap_agents.config import RunConfig
    from qtrap_agents.store import RunDirectory
    from qtrap_agents.strict_yaml import load_yaml

    known: tuple[ArmConfig, ...] = ()
    if run is not None:
        known = RunDirectory.open(run).config.arms
    elif config is not None:
        known = load_yaml(config, RunConfig).arms
    try:
        return [arm_by_name(name, known) for name in names]
    except ConfigError as error:
        hint = "" if run or config else "; give --run RUN or --config FILE, which have the arms of the model in full"
        raise ConfigError(f"{str(error).rstrip('.')}{hint}") from error
