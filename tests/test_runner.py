"""Whole runs on scripted arms: nothing lost, nothing counted twice, errors kept apart from wrong answers."""

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import scripts
from scripts import Listener, by_task, go, go_on

from qtrap_agents import runner
from qtrap_agents.backends.scripted import ScriptedArm
from qtrap_agents.config import RunConfig
from qtrap_agents.energy import Meter, NoMeter
from qtrap_agents.errors import ArmDied, ArmError, ConfigError, QtrapError, StoreError, SuiteError
from qtrap_agents.measures import Reading, ServerStats
from qtrap_agents.runner import batches, execute, legs, prepare, start
from qtrap_agents.store import AttemptEvent, RunDirectory
from qtrap_agents.types import Completion, Message, Sampling, Task, Trace

GSM8K = {
    "Tom buys 3 boxes of 12 eggs and breaks 6. How many are left?": (
        "He buys 3*12=<<3*12=36>>36 eggs.\n36-6=<<36-6=30>>30 are left.\n#### 30"
    ),
    "A shirt costs $20 and a hat half of that. What do both cost?": (
        "The hat costs 20/2=$<<20/2=10>>10.\nBoth cost 20+10=$<<20+10=30>>30.\n#### 30"
    ),
}


def stripped(trace: Trace) -> object:
    """A trace without its times."""
    hops = [(hop.id, hop.parents, hop.messages, hop.completion.text, hop.premises) for hop in trace.hops]
    return (trace.task_id, trace.suite, trace.depth, trace.seed, trace.answer, trace.score, trace.error, hops)


def test_every_task_is_stored_once_for_every_arm(tmp_path: Path) -> None:
    run = go(scripts.config("solve", "noisy", seeds=[0, 1]), tmp_path)
    assert len(run.tasks()) == 2 * 2 * 2 * 5
    for arm in ("solve", "noisy"):
        traces = by_task(run, arm)
        for task_id, task in run.tasks().items():
            trace = traces[task_id]
            assert (trace.suite, trace.depth, trace.seed) == (task.suite, task.depth, task.seed)
            assert (trace.run_id, trace.arm, trace.workflow, trace.attempt) == (run.id, arm, "chain", 1)
            assert len(trace.hops) == task.depth
            assert trace.measurement.duration_s >= sum(hop.completion.latency_s for hop in trace.hops)
            assert trace.measurement.energy_j is None
        assert len({trace.id for trace in traces.values()}) == len(traces)


def test_a_perfect_arm_is_always_right_and_a_noisy_one_is_not(tmp_path: Path) -> None:
    run = go(scripts.config("solve", "noisy"), tmp_path)
    assert all(trace.correct and trace.answer == run.tasks()[name].answer for name, trace in by_task(run, "solve").items())
    scores = {trace.score for trace in by_task(run, "noisy").values()}
    assert scores == {0.0, 1.0}


def test_a_gsm8k_file_runs_end_to_end(tmp_path: Path) -> None:
    file = tmp_path / "gsm8k.jsonl"
    file.write_text("".join(json.dumps({"question": question, "answer": answer}) + "\n" for question, answer in GSM8K.items()))
    run = go(scripts.config("solve", suites=[{"name": "gsm8k", "params": {"path": str(file)}}]), tmp_path)
    traces = by_task(run, "solve")
    assert len(traces) == 2
    assert all(trace.correct for trace in traces.values())


def test_errors_are_no_wrong_answers(tmp_path: Path) -> None:
    run = go(scripts.config("refusing"), tmp_path)
    traces = by_task(run, "refusing").values()
    refused = [trace for trace in traces if trace.error]
    assert 0 < len(refused) < len(traces)
    for trace in refused:
        assert (trace.error, trace.score, trace.correct) == ("the context is full", None, False)
        assert len(trace.hops) < trace.depth
    assert all(trace.correct for trace in traces if not trace.error)


def test_hops_before_an_error_are_kept(tmp_path: Path) -> None:
    run = go(scripts.config("refusing", suites=["arith"], depths=[12]), tmp_path)
    lengths = {len(trace.hops) for trace in by_task(run, "refusing").values() if trace.error}
    assert max(lengths) > 0


def test_output_without_a_premise_is_wrong_and_no_error(tmp_path: Path) -> None:
    run = go(scripts.config("wordy"), tmp_path)
    for trace in by_task(run, "wordy").values():
        assert (trace.error, trace.score, trace.answer) == (None, 0.0, None)
        assert len(trace.hops) == trace.depth


def test_a_bug_in_a_script_is_an_error_of_its_requests(tmp_path: Path) -> None:
    run = go(scripts.config("buggy"), tmp_path)
    errors = {trace.error for trace in by_task(run, "buggy").values()}
    assert errors == {"the script raised RuntimeError: list is empty"}


@pytest.mark.parametrize(
    ("workflow", "error", "hops"),
    [
        ("graphs:clumsy", "KeyError: 'arith'", 1),
        ("graphs:endless", "the workflow did not end within 1,080 steps (limits.steps); end its loop or raise the limit", 0),
    ],
)
def test_a_failing_graph_is_an_error_on_the_trace(tmp_path: Path, workflow: str, error: str, hops: int) -> None:
    run = go(scripts.config("solve", suites=["arith"], depths=[2], tasks_per_depth=2, workflow=workflow), tmp_path)
    for trace in by_task(run, "solve").values():
        assert (trace.error, trace.score, len(trace.hops)) == (error, None, hops)


def test_a_node_that_returns_no_update_stops_the_run_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="node 'left' of the workflow returned no state update"):
        go(scripts.config("solve", workflow="graphs:silent"), tmp_path)


def test_a_dead_arm_stops_the_run_and_the_rest_is_run_later(tmp_path: Path) -> None:
    chosen = scripts.config("mortal", "solve", tasks_per_depth=10)
    plan = prepare(chosen)
    run = start(plan, tmp_path)
    scripts.mortal.lives = 40
    with pytest.raises(ArmDied, match="died in mid-run"):
        asyncio.run(execute(run, plan, Listener()))
    stored = {trace.task_id: trace for trace in run.traces("mortal")}
    assert 0 < len(stored) < 40
    assert not any(trace.error for trace in stored.values())
    assert [event.event for event in run.attempts("mortal")] == ["start", "ready", "end"]
    assert run.attempts("mortal")[-1].reason == "failed"
    assert run.arms() == ("mortal",)

    scripts.mortal.lives = None
    listener = go_on(run)
    assert listener.totals["mortal"] == (40, len(stored))
    assert listener.advanced == {"mortal": 40 - len(stored), "solve": 40}
    traces = by_task(run, "mortal")
    assert {name: traces[name] for name in stored} == stored
    assert {trace.attempt for name, trace in traces.items() if name not in stored} == {2}
    assert all(trace.correct for trace in traces.values())
    ends = [event for event in run.attempts("mortal") if event.event == "end"]
    assert [(event.attempt, event.reason) for event in ends] == [(1, "failed"), (2, "finished")]
    totals = run.totals("mortal")
    assert totals.attempts == 2
    assert totals.wall_s == sum(event.wall_s or 0 for event in ends)


def test_a_finished_run_has_nothing_left_to_do(tmp_path: Path) -> None:
    run = go(scripts.config("solve"), tmp_path)
    before = {path: path.read_bytes() for path in run.path.rglob("*.jsonl")}
    assert go_on(run).started == []
    assert {path: path.read_bytes() for path in run.path.rglob("*.jsonl")} == before


def test_an_interrupted_run_is_resumed(tmp_path: Path) -> None:
    """SIGTERM, as a batch system sends it, ends the attempt in order."""
    plan = prepare(scripts.config("slow", depths=[8], tasks_per_depth=20, concurrency=4))
    run = start(plan, tmp_path)

    async def stopped() -> None:
        asyncio.get_running_loop().call_later(0.6, os.kill, os.getpid(), signal.SIGTERM)
        await execute(run, plan, Listener())

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(stopped())
    assert [event.reason for event in run.attempts("slow")] == [None, None, "interrupted"]
    assert len(list(run.traces("slow"))) < 40
    go_on(run)
    by_task(run, "slow")


def test_all_arms_get_the_same_tasks_and_sampling(tmp_path: Path) -> None:
    sampling = {"temperature": 0.5, "top_p": 0.9, "seed": 3, "stop": ["\n"], "logprobs": 2}
    go(scripts.config("first", "second", sampling=sampling, seeds=[0, 5]), tmp_path)
    asked = [sorted((repr(request), repr(drawn)) for request, drawn in arm.asked) for arm in (scripts.first, scripts.second)]
    assert asked[0] == asked[1]
    assert len(asked[0]) == 2 * 2 * 5 * (2 + 4)
    drawn = {sampling for _, sampling in scripts.first.asked}
    assert {(item.seed, item.temperature, item.top_p, item.stop, item.logprobs) for item in drawn} == {
        (3, 0.5, 0.9, ("\n",), 2),
        (8, 0.5, 0.9, ("\n",), 2),
    }


@pytest.mark.parametrize("concurrency", [1, 7])
def test_so_many_tasks_are_in_flight(tmp_path: Path, concurrency: int) -> None:
    go(scripts.config("first", concurrency=concurrency), tmp_path)
    assert scripts.first.most_in_flight == concurrency


def test_the_baseline_is_served_again_last_in_other_batches(tmp_path: Path) -> None:
    run = go(
        scripts.config("first", "second", noise_floor=True, concurrency=8, sampling={"temperature": 0.5, "seed": 3}), tmp_path
    )
    assert [arm.name for arm in run.config.served_arms] == ["first", "second", "first+again"]
    assert run.arms() == ("first", "second")
    first, again = by_task(run, "first"), by_task(run, "first+again")
    assert {trace.arm for trace in again.values()} == {"first+again"}
    assert all(stripped(again[name]) == stripped(trace) for name, trace in first.items())
    half = len(scripts.first.asked) // 2
    begun, begun_again = scripts.first.asked[:half], scripts.first.asked[half:]
    assert begun != begun_again
    assert sorted(map(repr, begun)) == sorted(map(repr, begun_again))
    assert [event.event for event in run.attempts("first+again")] == ["start", "ready", "end"]
    assert go_on(run).started == []


@pytest.mark.parametrize(
    ("concurrency", "sequences", "again"), [(1, 256, 2), (2, 256, 1), (3, 256, 2), (40, 256, 30), (128, 256, 45), (128, 16, 12)]
)
def test_the_second_serving_has_another_number_of_tasks_in_flight(concurrency: int, sequences: int, again: int) -> None:
    engine = {"max_num_seqs": sequences}
    config = scripts.config("first", "second", noise_floor=True, concurrency=concurrency, engine=engine)
    tasks = [task for suite in prepare(config).suites.values() for task in suite.tasks((2,), (0,), 30)]
    first, second = batches(config, "first", tasks), batches(config, "first+again", tasks)
    assert (first.concurrency, second.concurrency) == (concurrency, again)
    assert first.tasks == tasks != second.tasks
    assert sorted(task.id for task in second.tasks) == sorted(task.id for task in tasks)
    assert batches(config, "first+again", tasks) == second


def test_a_second_serving_that_was_stopped_is_resumed(tmp_path: Path) -> None:
    plan = prepare(scripts.config("mortal", "solve", noise_floor=True))
    run = start(plan, tmp_path)
    scripts.mortal.lives = 90  # 60 hops of the first serving, half of the second
    with pytest.raises(ArmDied):
        asyncio.run(execute(run, plan, Listener()))
    assert len(by_task(run, "solve")) == 20
    stored = len(list(run.traces("mortal+again")))
    assert 0 < stored < 20
    scripts.mortal.lives = None
    listener = go_on(run)
    assert listener.totals == {"mortal+again": (20, stored)}
    by_task(run, "mortal+again")


def test_a_task_does_not_depend_on_what_runs_beside_it(tmp_path: Path) -> None:
    wide = go(scripts.config("patient", concurrency=20), tmp_path)
    narrow = go(scripts.config("patient", concurrency=1, tasks_per_depth=3), tmp_path)
    by_wide, by_narrow = by_task(wide, "patient"), by_task(narrow, "patient")
    assert [trace.task_id for trace in wide.traces("patient")] != list(wide.tasks())
    assert len(by_narrow) == 12
    assert all(stripped(by_wide[name]) == stripped(trace) for name, trace in by_narrow.items())


def test_tokens_are_added_up(tmp_path: Path) -> None:
    run = go(scripts.config("patient"), tmp_path)
    for trace in run.traces("patient"):
        assert (trace.prompt_tokens, trace.completion_tokens) == (7 * trace.depth, 2 * trace.depth)


def test_the_run_says_what_it_ran_on(tmp_path: Path) -> None:
    run = go(scripts.config("solve"), tmp_path)
    assert {"qtrap", "python", "cpu", "cores", "packages", "git", "command"} <= run.environment().keys()
    identity = run.identity("solve")
    assert identity is not None
    assert (identity.backend, identity.checkpoint) == ("scripted", "scripts:solve")
    assert run.totals("solve").wall_s is not None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_stops_the_run_and_it_can_be_finished(tmp_path: Path) -> None:
    plan = prepare(scripts.config("solve"))
    run = start(plan, tmp_path)
    traces = run.arm_path("solve") / "traces.jsonl"
    traces.parent.mkdir(parents=True)
    traces.symlink_to("/dev/full")
    with pytest.raises(StoreError, match="the disk is full"):
        asyncio.run(execute(run, plan, Listener()))
    assert [event.reason for event in run.attempts("solve")] == [None, None, "failed"]
    traces.unlink()
    go_on(run)
    assert all(trace.attempt == 2 for trace in by_task(run, "solve").values())


@pytest.mark.parametrize(
    ("arm", "changes", "kind", "message"),
    [
        ("solve", {"suites": ["airth"]}, SuiteError, "unknown suite 'airth': did you mean 'arith'?"),
        ("solve", {"suites": ["arith", "arith"]}, ConfigError, "suites are named twice: arith, arith; use each once"),
        ("solve", {"suites": [{"name": "arith", "params": {"moduls": 3}}]}, SuiteError, "did you mean 'modulus'?"),
        ("solve", {"workflow": "chian"}, ConfigError, "unknown workflow 'chian': did you mean 'chain'?"),
        ("sovle", {}, ArmError, "script 'scripts:sovle' cannot be imported"),
        ({"name": "a", "checkpoint": "reference:small/pf16"}, {}, ArmError, "did you mean 'reference:small/fp16'?"),
        ({"name": "a", "checkpoint": "./nowhere"}, {}, ArmError, "no such directory"),
    ],
)
def test_mistakes_show_before_anything_is_started(
    arm: str | dict[str, object], changes: dict[str, object], kind: type[QtrapError], message: str
) -> None:
    with pytest.raises(kind) as caught:
        prepare(scripts.config(arm, **changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_task_at_all_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "suite.yaml").write_text("name: empty\ntitle: E\nskill: none\nkind: jsonl\npath: tasks.jsonl\n")
    (tmp_path / "empty" / "tasks.jsonl").write_text("")
    with pytest.raises(SuiteError) as caught:
        go(scripts.config("solve", suites=[str(tmp_path / "empty")]), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def tasks_of(count: int = 5) -> list[Task]:
    """The tasks of the small run."""
    suites = prepare(scripts.config("solve", tasks_per_depth=count)).suites.values()
    return [task for suite in suites for task in suite.tasks((2, 4), (0,), count)]


def test_arms_take_turns_there_and_back_and_the_second_serving_comes_last() -> None:
    config, tasks = scripts.config("solve", "noisy", "wordy", noise_floor=True), tasks_of()
    stops = list(legs(config, tasks, turns=True))
    assert [arm.name for arm, _ in stops] == ["solve", "noisy", "wordy", "noisy", "solve", "solve+again"]
    assert [len(order.tasks) for _, order in stops] == [10, 10, 20, 20, 20, 20]
    assert stops[0][1] == stops[1][1]
    assert list(stops[-1][1].tasks) != tasks
    assert {order.concurrency for _, order in stops[:-1]} == {8}


def test_without_turns_every_arm_is_served_once() -> None:
    config, tasks = scripts.config("solve", "noisy", noise_floor=True), tasks_of()
    assert [(arm.name, len(order.tasks)) for arm, order in legs(config, tasks, turns=False)] == [
        ("solve", 20), ("noisy", 20), ("solve+again", 20)
    ]  # fmt: skip
    assert [arm.name for arm, _ in legs(scripts.config("solve"), tasks, turns=True)] == ["solve"]


@pytest.mark.parametrize("count", [4, 5])
def test_the_two_halves_are_alike(count: int) -> None:
    tasks = tasks_of(count)
    first = Counter((task.suite, task.depth) for task in runner.every_other(tasks))
    for place, total in Counter((task.suite, task.depth) for task in tasks).items():
        assert abs(2 * first[place] - total) <= 1


def carry_out(chosen: object, out: Path) -> tuple[RunDirectory, Listener]:
    """A whole run, and in which order arms were started."""
    plan = prepare(RunConfig.model_validate(chosen))
    run, listener = start(plan, out), Listener()
    asyncio.run(execute(run, plan, listener))
    return run, listener


def test_a_run_in_turns_does_every_task_once_for_every_arm(tmp_path: Path) -> None:
    run, listener = carry_out(scripts.settings(["first", "second", "solve"], noise_floor=True, order="abba"), tmp_path)
    assert listener.started == ["first", "second", "solve", "second", "first", "first+again"]
    for arm in ("first", "second", "solve", "first+again"):
        assert len(by_task(run, arm)) == 20
    hops = 2 * 5 * (2 + 4)
    assert (len(scripts.first.asked), len(scripts.second.asked)) == (2 * hops, hops)
    attempts = {arm: Counter(trace.attempt for trace in run.traces(arm)) for arm in ("first", "second", "solve")}
    assert attempts == {"first": {1: 10, 2: 10}, "second": {1: 10, 2: 10}, "solve": {1: 20}}
    assert go_on(run).started == []


@pytest.mark.parametrize(
    ("lives", "rest"),
    [(10, ["mortal", "first", "solve", "first", "mortal"]), (38, ["mortal"])],
    ids=["on the way there", "on the way back"],
)
def test_a_run_in_turns_that_was_stopped_repeats_nothing(tmp_path: Path, lives: int, rest: list[str]) -> None:
    plan = prepare(scripts.config("mortal", "first", "solve", order="abba"))
    run = start(plan, tmp_path)
    scripts.mortal.lives = lives
    with pytest.raises(ArmDied):
        asyncio.run(execute(run, plan, Listener()))
    stored = {arm: list(run.traces(arm)) for arm in run.arms()}
    assert 0 < len(stored["mortal"]) < 20
    asked = len(scripts.first.asked)

    scripts.mortal.lives = None
    listener = go_on(run)
    assert listener.started == rest
    assert listener.advanced["mortal"] == 20 - len(stored["mortal"])
    for arm in ("mortal", "first", "solve"):
        by_task(run, arm)
    assert {arm: list(run.traces(arm))[: len(traces)] for arm, traces in stored.items()} == stored
    assert (asked, len(scripts.first.asked)) == (60 if rest == ["mortal"] else 0, 60)


IDLE_W, PER_REQUEST_J = 50.0, 20.0
work = scripts.Recorder()


async def worked(messages: Sequence[Message], sampling: Sampling) -> str:
    """Takes 10 ms and is remembered."""
    await asyncio.sleep(0.01)
    return await work(messages, sampling)


class BusyMeter:
    """A device that draws 50 W and 20 J more for every request."""

    name, reason, tdp_w = "busy", None, 700.0

    def read(self) -> Reading:
        now = time.time()
        return Reading(at=now, energy_j=IDLE_W * (now - 1.7e9) + PER_REQUEST_J * len(work.asked), temperature_c=41.0)


@pytest.fixture
def metered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run is measured by a `BusyMeter`, with short pauses."""
    measure_by(monkeypatch, BusyMeter())
    monkeypatch.setattr(runner, "COOL_DOWN_S", 0.15)
    monkeypatch.setattr(runner, "IDLE_S", 0.15)
    work.clear()


def measure_by(monkeypatch: pytest.MonkeyPatch, meter: Meter) -> None:
    """Every run is measured by this meter, or by none where the configuration says so."""
    monkeypatch.setattr(runner, "open_meter", lambda choice, on_gpu: meter if choice == "auto" else NoMeter())


WORKED = {"name": "worked", "backend": "scripted", "script": f"{__name__}:worked"}


def events(run: RunDirectory, arm: str, kind: str) -> list[AttemptEvent]:
    """Those of one kind."""
    return [event for event in run.attempts(arm) if event.event == kind]


@pytest.mark.usefixtures("metered")
def test_idle_power_and_the_energy_of_every_window_are_stored(tmp_path: Path) -> None:
    run, listener = carry_out(scripts.settings([WORKED, "solve"]), tmp_path)
    assert listener.started == ["worked", "solve", "worked"], "arms take turns where energy is measured"
    ready, ended = events(run, "worked", "ready"), events(run, "worked", "end")
    assert [event.idle_w for event in ready] == [pytest.approx(IDLE_W, rel=0.02)] * 2
    for event in ended:
        assert (event.meter, event.tdp_w, event.server) == ("busy", 700.0, None)
        assert event.energy_j is not None
        assert event.wall_s is not None
        assert event.energy_j > 3 * IDLE_W * event.wall_s
    assert sum(event.energy_j or 0 for event in ended) < 60 * PER_REQUEST_J + IDLE_W * sum(event.wall_s or 0 for event in ended)
    for event in events(run, "solve", "end"):
        assert event.energy_j == pytest.approx(IDLE_W * (event.wall_s or 0), rel=0.05)


@pytest.mark.usefixtures("metered")
def test_readings_and_totals_of_a_measured_run(tmp_path: Path) -> None:
    run = go(scripts.config(WORKED, "solve"), tmp_path)
    readings = list(run.readings("worked"))
    assert len(readings) >= 2
    assert [reading.at for reading in readings] == sorted(reading.at for reading in readings)
    assert {reading.temperature_c for reading in readings} == {41.0}
    totals = run.totals("worked")
    assert (totals.attempts, totals.meter, totals.tdp_w) == (2, "busy", 700.0)
    assert totals.energy_j == pytest.approx(sum(event.energy_j or 0 for event in events(run, "worked", "end")))
    assert [window.idle_w for window in totals.windows] == [event.idle_w for event in events(run, "worked", "ready")]


@pytest.mark.usefixtures("metered")
def test_the_warm_up_is_in_no_trace_and_fills_every_place(tmp_path: Path) -> None:
    run = go(scripts.config(WORKED, concurrency=6), tmp_path)
    hops = sum(len(trace.hops) for trace in run.traces("worked"))
    assert len(work.asked) == hops + runner.WARM_UP_ROUNDS * 6
    assert {sampling.max_tokens for _, sampling in work.asked[:12]} == {runner.WARM_UP_TOKENS}
    assert work.in_flight == 0


@pytest.mark.usefixtures("metered")
@pytest.mark.parametrize(
    ("changes", "started", "measured"),
    [
        ({"order": "once"}, ["solve", "noisy"], True),
        ({"order": "abba"}, ["solve", "noisy", "solve"], True),
        ({"energy": "none"}, ["solve", "noisy"], False),
        ({"energy": "none", "order": "abba"}, ["solve", "noisy", "solve"], False),
    ],
)
def test_the_order_can_be_chosen(tmp_path: Path, changes: dict[str, str], started: list[str], measured: bool) -> None:
    run, listener = carry_out(scripts.settings(["solve", "noisy"], **changes), tmp_path)
    assert listener.started == started
    assert all((event.energy_j is not None) == measured for event in events(run, "solve", "end"))
    assert all((event.idle_w is not None) == measured for event in events(run, "solve", "ready"))
    assert bool(list(run.readings("solve"))) == measured
    assert (run.totals("solve").energy_j is not None) == measured


class CountingArm(ScriptedArm):
    """An engine that counted other requests before, and counts ours."""

    requests = 100

    async def complete(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        self.requests += 1
        return await super().complete(messages, sampling)

    async def stats(self) -> ServerStats:
        return ServerStats(requests=self.requests, prompt_tokens=0, output_tokens=3 * self.requests)


@pytest.mark.usefixtures("metered")
def test_what_the_engine_counted_is_that_of_the_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @asynccontextmanager
    async def open_counting(*_: object) -> AsyncIterator[CountingArm]:
        yield CountingArm("counting", scripts.solve)

    monkeypatch.setattr(runner, "open_arm", open_counting)
    run = go(scripts.config("solve", "noisy", order="abba"), tmp_path)
    counted = [event.server for event in events(run, "solve", "end")]
    assert counted == [ServerStats(requests=n, prompt_tokens=0, output_tokens=3 * n) for n in (28, 32)]
    assert run.totals("solve").server == ServerStats(requests=60, prompt_tokens=0, output_tokens=180)


@pytest.mark.usefixtures("metered")
def test_a_window_that_failed_is_measured_but_its_engine_is_not_asked(tmp_path: Path) -> None:
    plan = prepare(scripts.config("mortal"))
    run = start(plan, tmp_path)
    scripts.mortal.lives = 40
    with pytest.raises(ArmDied):
        asyncio.run(execute(run, plan, Listener()))
    (ended,) = events(run, "mortal", "end")
    assert (ended.reason, ended.server) == ("failed", None)
    assert ended.energy_j == pytest.approx(IDLE_W * (ended.wall_s or 0), rel=0.05)
