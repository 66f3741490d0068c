"""The reports on injected faults: propagation and localisers, on a run whose faults were really injected."""

import asyncio
import json
from pathlib import Path

import pytest
import scripts
from replayed import chain, draw, follow, injected
from scripts import printed

from qtrap_agents.analysis.funnel import Share
from qtrap_agents.errors import StoreError
from qtrap_agents.evidence import Replay
from qtrap_agents.experiments.inject import FaultPlan, draw_faults, run_faults
from qtrap_agents.experiments.locate import run_finder
from qtrap_agents.experiments.passes import Bench
from qtrap_agents.report.faultsets import bar, fault_sets, find_faults, two_lines
from qtrap_agents.report.localisation import Localisation, Suspects, localisation_json, localise, suspects, suspects_json
from qtrap_agents.report.localisation_view import render_localisation, render_suspects
from qtrap_agents.report.propagation import PropagationReport, propagation_json, propagation_report
from qtrap_agents.report.propagation_view import render_propagation
from qtrap_agents.store import Journal, RunDirectory, read_lines
from qtrap_agents.types import Premise

PLAN = FaultPlan(kinds=("off-by-one", "digit", "swap"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A right baseline with one fault in every chain, all of them searched."""
    chosen = scripts.config("solve", depths=[4, 8], tasks_per_depth=20)
    run = scripts.go(chosen, tmp_path_factory.mktemp("faults"))
    bench = Bench.set_up(run, scripts.Listener())
    asyncio.run(run_faults(run, bench, PLAN.name, draw_faults(run, PLAN).faults))
    asyncio.run(run_finder(run, bench, PLAN.name))
    return run


@pytest.fixture
def bare(tmp_path: Path) -> RunDirectory:
    """A small run without faults."""
    return scripts.go(scripts.config("solve", suites=["arith"], depths=[4], tasks_per_depth=3), tmp_path)


def stored(run: RunDirectory) -> list[Replay]:
    return list(read_lines(run.faults_path(PLAN.name) / "replays.jsonl", Replay))


def write(run: RunDirectory, name: str, *made: Replay) -> None:
    with Journal(run.faults_path(name) / "replays.jsonl") as journal:
        for item in made:
            journal.append(item)


def spread(report: PropagationReport) -> str:
    return printed(lambda console: render_propagation(report, console), 140)


def located(found: Localisation, limit: int = 10) -> str:
    return printed(lambda console: render_localisation(found, console, limit), 140)


def suspected(found: Suspects, limit: int = 20) -> str:
    return printed(lambda console: render_suspects(found, console, limit), 140)


def line(text: str, start: str) -> str:
    """The first line that begins so, blanks collapsed."""
    return next(" ".join(found.split()) for found in text.splitlines() if found.strip().startswith(start))


def test_propagation_is_that_of_the_stored_chains(run: RunDirectory) -> None:
    report = propagation_report(run)
    total, made = report.propagation.total.spread, stored(run)
    assert (total.faults, total.unjudged) == (len(made), 0)
    assert total.changed == sum(not item.trace.correct for item in made)
    assert (total.compounded, total.missing, total.own, total.unknown) == (0, 0, 0, 0)
    assert sum(share.n for share in report.propagation.total.by_distance.values()) == total.downstream.n
    assert report.warnings == ()


def test_propagation_on_a_terminal(run: RunDirectory) -> None:
    report = propagation_report(run)
    text, total = spread(report), report.propagation.total
    assert f"{total.spread.faults} faults in chains of solve ({PLAN.name})" in text
    near = total.by_distance[1]
    assert line(text[text.index("Premises in error by") :], "all ").startswith(f"all 1 {near.count} of {near.n}, ")
    assert "█" in text
    assert f"next: qtrap inspect {run.path} " in text
    assert "--arm solve:inject@hop_" in text


def test_propagation_as_json(run: RunDirectory) -> None:
    report = propagation_report(run, PLAN.name)
    data = json.loads(json.dumps(propagation_json(report), allow_nan=False))
    total = report.propagation.total
    assert data["total"]["recovery_share"]["count"] == total.spread.recovered
    assert data["total"]["by_distance"]["1"]["n"] == total.by_distance[1].n
    assert sum(cell["faults"] for cell in data["cells"]) == total.spread.faults
    assert {group["fault"] for group in data["faults"]} == set(PLAN.kinds)


def test_every_localiser_in_one_table(run: RunDirectory) -> None:
    found = localise(run)
    changed = sum(not item.trace.correct for item in stored(run))
    assert (found.population.injected, found.population.searched) == (len(stored(run)), changed)
    total = found.benchmark.total
    for localiser in ("replay", "first error", "reference-free"):
        assert total.of(localiser).exact == Share(count=changed, n=changed)
    assert total.of("best constant").tally.exact >= total.of("first").tally.exact
    text = located(found)
    assert f"Who names the faulty hop? {changed} of {len(stored(run))} chains whose answer the fault changed" in text
    assert line(text, "replay ").startswith(f"replay {changed}, 100.0 %")
    assert "the replay names the faulty hop of every chain that it searched" in text


def test_localisers_as_json(run: RunDirectory) -> None:
    found = localise(run)
    data = json.loads(json.dumps(localisation_json(found), allow_nan=False))
    assert data["total"]["localisers"]["replay"]["exact_share"]["share"] == 1.0
    assert len(data["chains"]) == data["total"]["chains"] == found.population.searched
    assert data["total"]["localisers"]["random"]["expected_exact"] == pytest.approx(
        sum(1 / chain["hops"] for chain in data["chains"]) / len(data["chains"])
    )


def test_chains_that_are_not_searched_are_said(bare: RunDirectory) -> None:
    tasks = bare.tasks()
    write(bare, "hand", *(injected(task, 2, 1) for task in tasks.values()))
    found = localise(bare)
    assert f"{len(tasks)} of {len(tasks)} chains are not searched to the end" in found.warnings[0]
    assert f"`qtrap localise {bare.path} --faults hand` goes on" in found.warnings[0]
    assert line(located(found), "replay ").startswith("replay not measured not measured")


def test_what_the_replay_misses_is_listed(bare: RunDirectory) -> None:
    task = next(iter(bare.tasks().values()))
    write(bare, "hand", injected(task, 2, 1))
    found = localise(bare)
    blind = found.benchmark.searches[0].model_copy(update={"searched": True, "named": {"replay": 4, "reference-free": None}})
    missed = found.model_copy(update={"benchmark": found.benchmark.model_copy(update={"searches": (blind, blind)})})
    text = located(missed, limit=1)
    assert "Chains whose faulty hop the replay does not name: 2" in text
    assert line(text, task.id).startswith(f"{task.id} digit 2 4 none")
    assert "the first 1 of 2; --show N shows more" in text
    assert f"--arm solve:{blind.name} --against solve" in text


def test_chains_that_tell_nothing_count_apart(bare: RunDirectory) -> None:
    one, two, three = bare.tasks().values()
    single = chain(one, follow(one, {})).hops[:1]
    right = injected(two, 2, two.premises[1].value)
    short = injected(one, 1, 1)
    write(
        bare,
        "hand",
        short.model_copy(update={"trace": short.trace.model_copy(update={"hops": single})}),
        right,
        injected(three, 2, 1, error="timeout"),
        injected(draw("track", 3), 2, "cup cup"),
    )
    found = localise(bare)
    seen = found.population
    assert (seen.injected, seen.searched, seen.single_hop, seen.answer_right, seen.unjudged, seen.unknown) == (4, 0, 1, 1, 1, 1)
    assert found.warnings == (
        "faulty chains left out: 1 ended in an error, 1 have one hop only, 1 cannot be placed",
        "hand: no fault changed the answer of a chain: nothing to find",
    )
    assert "not measured" in located(found)
    report = propagation_report(bare)
    assert report.left_out == {"their task is not among the tasks of the run": 1}
    assert report.warnings[1] == "1 chains ended in an error and count in no figure"


def test_tasks_without_rules_keep_their_curve(bare: RunDirectory) -> None:
    task = next(iter(bare.tasks().values()))
    lawless = task.model_copy(update={"premises": tuple(premise.model_copy(update={"rule": None}) for premise in task.premises)})
    (bare.path / "tasks.jsonl").write_text(lawless.model_dump_json() + "\n")
    write(bare, "hand", injected(task, 2, 1))
    report = propagation_report(bare)
    assert report.propagation.total.spread.hit == Share(count=2, n=2)
    assert report.warnings == ("arith: no executable rules: the origin of 2 wrong premises is unknown",)
    assert "2 unknown" in spread(report)


def test_which_faults_are_meant(bare: RunDirectory) -> None:
    with pytest.raises(StoreError, match=r"no injected faults are stored; `qtrap inject .*` makes them"):
        localise(bare)
    task = next(iter(bare.tasks().values()))
    write(bare, "one", injected(task, 2, 1))
    assert find_faults(bare) == "one"
    write(bare, "two", injected(task, 2, 1))
    assert fault_sets(bare) == ("one", "two")
    with pytest.raises(StoreError, match=r"several sets of faults are stored; choose one with --faults \(one or two\)"):
        propagation_report(bare)
    with pytest.raises(StoreError, match=r"unknown set of faults 'twoo': did you mean 'two'\?"):
        localise(bare, "twoo")
    assert localise(bare, "two").name == "two"


def test_suspects_need_no_run(tmp_path: Path) -> None:
    task = draw("arith", 4)
    traces = [chain(task, follow(task, {})), injected(task, 3, 1).trace, chain(task, follow(task, {"s2": None}))]
    path = tmp_path / "elsewhere.jsonl"
    lines = [trace.model_dump_json() for trace in traces]
    path.write_text("\n".join([lines[0], "no trace", "", lines[1], '{"id": "x"}', lines[2]]) + "\n")
    found = suspects(path)
    assert [(row.line, row.suspicion.hop if row.suspicion else None) for row in found.rows] == [(1, None), (4, 3), (6, 2)]
    assert found.problems[0].startswith(f"{path}:2: no trace: line: Invalid JSON")
    assert found.problems[1] == f"{path}:5: no trace: run_id: Field required"
    assert (found.suspected, found.checkable) == (Share(count=2, n=3), Share(count=12, n=12))
    text = suspected(found)
    assert line(text, "6 ").endswith("2 (hop_002) s2 it states nothing readable")
    assert "premises that could be checked without gold or a second arm: 12 of 12" in text
    assert "the first 1 of 2; --show N shows more" in suspected(found, limit=1)
    assert json.loads(json.dumps(suspects_json(found)))["suspected"]["count"] == 2


def test_what_is_no_file_of_traces(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"nowhere\.jsonl: cannot be read: No such file or directory; give a JSONL file"):
        suspects(tmp_path / "nowhere.jsonl")
    with pytest.raises(StoreError, match="cannot be read: Is a directory"):
        suspects(tmp_path)
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(StoreError, match=r"empty\.jsonl: no traces in this file; write one trace a line"):
        suspects(tmp_path / "empty.jsonl")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\n")
    with pytest.raises(StoreError, match=r"no traces in this file \(.*binary\.jsonl:1: no trace"):
        suspects(tmp_path / "binary.jsonl")


def test_text_from_elsewhere_cannot_steer_the_terminal(tmp_path: Path) -> None:
    task = draw("relate", 2)
    trace = chain(task, follow(task, {}))
    evil = Premise(id="x\x1b[2J", text="[red]2 + 2 = 5[/red]\x1b[2J", value=5)
    hop = trace.hops[0].model_copy(update={"premises": (evil,)})
    (tmp_path / "evil.jsonl").write_text(trace.model_copy(update={"hops": (hop,)}).model_dump_json() + "\n")
    text = suspected(suspects(tmp_path / "evil.jsonl"))
    assert "\x1b" not in text
    assert "it writes 2 + 2 = 5, which is 4" in text


def test_bars_and_cells() -> None:
    assert (bar(1.0), bar(0.5), bar(0.0), bar(None), bar(0.001)) == ("█" * 20, "█" * 10, "", "", "▏")
    assert bar(0.05, 0.1) == "█" * 10
    assert two_lines(Share(count=0, n=0)).plain == "–"
    assert two_lines(Share(count=1, n=2)).plain == "1 of 2\n50.0 % [9.5, 90.5]"
