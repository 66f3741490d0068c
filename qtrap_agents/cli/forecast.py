"""`qtrap simulate`: Monte Carlo over any workflow with a fitted error model."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qtrap_agents.cli.common import AsJson, parameter, show
from qtrap_agents.errors import ConfigError

if TYPE_CHECKING:
    from qtrap_agents.report.forecast import Place
    from qtrap_agents.simulation.layout import Layout

Dags = Annotated[Path | None, typer.Option("--dag", help="A graph of your own: YAML with nodes, node-link JSON, or GraphML.")]
Params = Annotated[list[str] | None, typer.Option("--param", help="Parameter of the workflow, as k=5 (repeatable).")]
Detection = Annotated[
    float | None, typer.Option(help="--verify-every with a judge: share of faulty statements it finds.", min=0, max=1)
]
FalseAlarm = Annotated[
    float | None, typer.Option(help="--verify-every with a judge: share of the others it sends back.", min=0, max=1)
]


def simulate(
    model: Annotated[Path, typer.Argument(help="Model that `qtrap fit` wrote.")],
    suite: Annotated[list[str] | None, typer.Option("--suite", help="Suite (repeatable); by default all of the model.")] = None,
    dag: Dags = None,
    workflow: Annotated[str, typer.Option(help="chain, map_reduce, vote or verify_revise.")] = "chain",
    param: Params = None,
    depth: Annotated[list[int] | None, typer.Option("--depth", help="Depth (repeatable); by default 8, 32, 128.", min=1)] = None,
    arm: Annotated[list[str] | None, typer.Option("--arm", help="Arm of the model (repeatable); by default all.")] = None,
    n: Annotated[int, typer.Option("--n", help="Chains for each arm, suite and depth.", min=1)] = 100_000,
    draws: Annotated[int, typer.Option(help="Draws of the parameters.", min=0)] = 200,
    tasks: Annotated[int | None, typer.Option(help="Predict also a run of so many tasks.", min=1)] = None,
    verify_every: Annotated[int | None, typer.Option(help="A checker at every so many hops.", min=1)] = None,
    vote_every: Annotated[int | None, typer.Option(help="A vote at every so many hops.", min=1)] = None,
    k: Annotated[int, typer.Option("--k", help="Samples of --vote-every.", min=1, max=99)] = 5,
    temperature: Annotated[float, typer.Option(help="Of the draws of --vote-every and --verify-every.", min=0)] = 0.7,
    detection: Detection = None,
    false_alarm: FalseAlarm = None,
    seed: Annotated[int, typer.Option(help="Of all random numbers.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes on this machine.", min=1)] = 1,
    ray: Annotated[str | None, typer.Option("--ray", help="Address of a Ray cluster, or local.")] = None,
    as_json: AsJson = False,
) -> None:
    """Predict success, collapse and cost at depths and topologies that nobody has run."""
    from qtrap_agents.report import forecast, forecast_view
    from qtrap_agents.report.progress import HopProgress
    from qtrap_agents.simulation.model_file import load_model
    from qtrap_agents.simulation.montecarlo import BLOCK
    from qtrap_agents.simulation.sweep import work_for

    fitted = load_model(model)
    arms = arm or list(fitted.arms)
    for name in arms:
        fitted.arm(name)
    places = (
        _own(dag, suite, depth) if dag else _of_suites(suite or list(fitted.families), workflow, param, depth or [8, 32, 128])
    )
    if vote_every:
        places = _every(places, vote_every, {"op": "vote", "k": k, "temperature": temperature})
    if verify_every:
        places = _every(places, verify_every, _checker(temperature, detection, false_alarm))
    hops = forecast.hops_to_simulate(places, arms, n, draws, BLOCK)
    what = str(dag) if dag else f"workflow {workflow}"
    with work_for(workers, ray) as work, HopProgress(hops) as progress:
        report = forecast.simulate_all(fitted, places, arms, what, n, draws, seed, tasks, work, progress.advance)
    show(as_json, forecast.forecast_json(report), lambda console: forecast_view.render_forecast(report, console))


def _own(dag: Path, suite: list[str] | None, depth: list[int] | None) -> "list[Place]":
    from qtrap_agents.report.forecast import Place
    from qtrap_agents.simulation.dag import load_dag

    if suite or depth:
        raise ConfigError("--dag names the families of its nodes itself; leave --suite and --depth out")
    return [Place(name=dag.stem, depth=None, layouts=(load_dag(dag),))]


def _of_suites(suites: list[str], workflow: str, param: list[str] | None, depths: list[int]) -> "list[Place]":
    from qtrap_agents.config import SuiteChoice, WorkflowChoice
    from qtrap_agents.report.forecast import Place
    from qtrap_agents.simulation.layouts import layouts_of

    choice = WorkflowChoice(name=workflow, params=dict(parameter(one) for one in param or ()))
    return [
        Place(name=suite, depth=depth, layouts=layouts_of(SuiteChoice(name=suite), choice, depth))
        for suite in suites
        for depth in sorted(set(depths))
    ]


def _every(places: "list[Place]", interval: int, settings: Mapping[str, object]) -> "list[Place]":
    from qtrap_agents.simulation.dag import every

    def changed(layout: "Layout") -> "Layout":
        return every(layout, interval, settings)

    return [place.model_copy(update={"layouts": tuple(map(changed, place.layouts))}) for place in places]


def _checker(temperature: float, detection: float | None, false_alarm: float | None) -> dict[str, object]:
    if detection is None and false_alarm is None:
        return {"op": "verify", "temperature": temperature}
    return {"op": "judge", "temperature": temperature, "detection": detection, "false_alarm": false_alarm}
