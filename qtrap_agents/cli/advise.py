"""`qtrap advise`: for each task family whether an arm is safe, what it saves, and what to serve."""

from pathlib import Path
from typing import Annotated

import typer

from qtrap_agents.cli.common import AsJson, RunPath, show

Benches = Annotated[
    list[Path] | None,
    typer.Option("--bench", help="Bench directory (repeatable: the first tells the savings, all enter the critical scale)."),
]
Concurrency = Annotated[int | None, typer.Option("--concurrency", help="Your requests in flight; by default the run's.", min=1)]
IndexWeights = Annotated[str, typer.Option("--weights", help="Weights of accuracy, time and energy in the index.")]
Margin = Annotated[float, typer.Option("--margin", help="Non-inferiority margin in percentage points.", min=0.0, max=100.0)]


def advise(
    run: RunPath,
    bench: Benches = None,
    concurrency: Concurrency = None,
    weights: IndexWeights = "1,1,1",
    margin: Margin = 2.0,
    as_json: AsJson = False,
) -> None:
    """Advise what to serve, task family by task family: verdict, savings, dominance, index, critical scale and batch."""
    from qtrap_agents.analysis.indices import Weights
    from qtrap_agents.bench_store import BenchDirectory
    from qtrap_agents.report import advice, advice_view
    from qtrap_agents.store import RunDirectory

    chosen = Weights.parse(weights)
    benches = [BenchDirectory.open(path) for path in bench or ()]
    report = advice.advise(RunDirectory.open(run), benches, concurrency, chosen, margin / 100)
    show(as_json, advice.advice_json(report), lambda console: advice_view.render_advice(report, console))
