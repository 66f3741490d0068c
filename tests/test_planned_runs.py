"""`qtrap run --plan`: whole runs on scripted arms, stopped and resumed ones, and options that do not go together."""

import asyncio
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import planned
import pytest
import scripts
from scripts import Listener, by_task, qtrap

from qtrap_agents.cli.run import do_run
from qtrap_agents.errors import ArmDied, ArmError, QtrapError, SimulationError
from qtrap_agents.experiments.passes import Bench
from qtrap_agents.plans import load_plan
from qtrap_agents.runner import execute, prepare, start
from qtrap_agents.store import RunDirectory

MORTAL = {"arms": [scripts.scripted(name) for name in ("solve", "mortal")], "default": "mortal", "rules": []}


def test_the_plan_runs_beside_its_baseline_on_the_same_tasks(tmp_path: Path) -> None:
    run = scripts.go(planned.config(planned.plan(), "slow"), tmp_path)
    assert run.arms() == ("solve", "slow", "plan")
    traces = {arm: by_task(run, arm) for arm in run.arms()}
    assert {arm: {trace.workflow for trace in found.values()} for arm, found in traces.items()} == {
        "solve": {"chain"}, "slow": {"chain"}, "plan": {"planned"}
    }  # fmt: skip
    for trace in traces["plan"].values():
        answered = [hop.arm for hop in trace.hops]
        assert (trace.error, answered) == (None, ["solve", "solve", "noisy", "noisy", "noisy", "solve", "solve"])
    assert all(hop.arm is None for hop in traces["solve"]["arith-d4-s0-0000"].hops)
    identity = run.identity("plan")
    assert identity is not None
    assert (identity.backend, list(identity.parts)) == ("scripted", ["solve", "noisy"])
    assert Counter(event.event for event in run.attempts("plan")) == {"start": 1, "ready": 1, "end": 1}


def test_a_plan_of_which_an_arm_dies_is_resumed_and_repeats_nothing(tmp_path: Path) -> None:
    plan = prepare(planned.config(planned.plan(**MORTAL), tasks_per_depth=20))
    run = start(plan, tmp_path)
    scripts.mortal.lives = 60
    with pytest.raises(ArmDied):
        asyncio.run(execute(run, plan, Listener()))
    before = list(run.traces("plan"))
    assert 0 < len(before) < 20
    scripts.mortal.lives = None
    again = RunDirectory.open(run.path)
    listener = scripts.go_on(again)
    assert listener.started == ["plan"]
    assert list(run.traces("plan"))[: len(before)] == before
    assert len(by_task(run, "plan")) == 20
    assert scripts.go_on(again).started == []


def test_ctrl_c_and_resume_of_the_command(tmp_path: Path) -> None:
    slow = {"arms": [scripts.scripted(name) for name in ("solve", "slow")], "default": "slow", "rules": []}
    path = planned.write(tmp_path, **slow)
    with scripts.start_qtrap(
        "run", "--plan", path, "--limit", 200, "--concurrency", 4, "--no-noise-floor", cwd=tmp_path
    ) as process:
        scripts.wait_for_traces(tmp_path, 210, process)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    (folder,) = (tmp_path / "traces").iterdir()
    assert process.returncode == 130
    assert f"go on with `qtrap run --resume {folder.relative_to(tmp_path)}`" in stderr
    path.unlink()
    done = qtrap("run", "--resume", folder, "--concurrency", 64, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = RunDirectory.open(folder)
    assert run.config.name == "plan"
    assert run.config.plan is not None
    traces = by_task(run, "plan")
    assert len(traces) == 200
    assert {trace.attempt for trace in traces.values()} == {1, 2}


def test_options_and_a_configuration_beside_the_plan(tmp_path: Path) -> None:
    path = planned.write(tmp_path)
    settings = scripts.settings(["first"], suites=["program", {"name": "arith", "params": {"modulus": 7}}], depths=[2])
    config = scripts.write_yaml(tmp_path / "config.yaml", settings | {"sampling": {"seed": 3}})
    done = qtrap("run", config, "--plan", path, "--limit", 2, "--seed", 5, "--arm", "slow", "--out", "here", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = RunDirectory.open(tmp_path / done.stdout.strip())
    assert [arm.name for arm in run.config.arms] == ["solve", "plan", "slow"]
    assert (run.config.baseline_arm, run.config.depths, run.config.seeds, run.config.workflow.name) == (
        "solve",
        (4,),
        (5,),
        "chain",
    )
    assert [suite.model_dump() for suite in run.config.suites] == [{"name": "arith", "params": {"modulus": 7}}]
    assert (run.config.sampling.seed, run.config.noise_floor, len(run.tasks())) == (3, False, 2)
    assert run.config.plan == load_plan(path)
    shown = qtrap("compare", run.path, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "Prediction and outcome" not in shown.stdout


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A plan, a configuration for another suite, and two plans with a mistake, in the working directory."""
    planned.write(tmp_path)
    scripts.write_yaml(tmp_path / "config.yaml", scripts.settings(["solve"], suites=["program"]))
    scripts.write_yaml(tmp_path / "kinds.yaml", planned.content(rules=[{"kinds": ["pluss"], "arm": "solve"}]))
    scripts.write_yaml(tmp_path / "broken.yaml", planned.content(rules=[{"positions": [1, 2], "arm": "sove"}]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


PLAN = Path("plan.yaml")


@pytest.mark.parametrize(
    ("plan", "config", "changes", "message"),
    [
        (Path("nowhere.yaml"), None, {}, "nowhere.yaml: no such file"),
        (Path("config.yaml"), None, {}, "config.yaml: no precision plan"),
        (PLAN, None, {"suites": ["arith"]}, "plan.yaml: a plan has its own suite, depth and workflow; leave --suite out"),
        (PLAN, None, {"workflow": "vote", "depths": [4]}, "leave --workflow and --depth out"),
        (PLAN, None, {"arms": ["sloww"]}, "unknown arm 'sloww': did you mean 'slow'?"),
        (PLAN, Path("config.yaml"), {}, "plan.yaml: the plan is for the suite 'arith', config.yaml asks program"),
        (Path("kinds.yaml"), None, {}, "kinds.yaml: field 'rules.0.kinds': unknown kind of hop 'pluss': did you mean 'plus'?"),
        (Path("broken.yaml"), None, {}, "broken.yaml:19: field 'rules.0.arm': unknown arm 'sove': did you mean 'solve'?"),
    ],
)
@pytest.mark.usefixtures("files")
def test_bad_input_is_told_in_a_sentence(plan: Path, config: Path | None, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(QtrapError) as caught:
        do_run(config, changes, resume=None, plan_file=plan)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Path("traces").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--plan", "broken.yaml"], "broken.yaml:19: field 'rules.0.arm': unknown arm 'sove'"),
        (["--plan", "plan.yaml", "--resume", "run"], "--resume finishes a run with the plan that it was started with"),
    ],
)
def test_the_command_ends_with_exit_code_2(options: list[str], message: str, files: Path) -> None:
    done = qtrap("run", *options, cwd=files)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert message in done.stderr


def test_a_plan_for_another_suite_is_refused() -> None:
    config = planned.config(planned.plan(), suites=["program"])
    with pytest.raises(SimulationError, match="the plan is for the suite 'arith', the run has program"):
        prepare(config)


def test_an_arm_that_the_plan_names_must_be_there() -> None:
    arms: list[dict[str, Any]] = [scripts.scripted("solve"), {"name": "gone", "checkpoint": "./nowhere"}]
    with pytest.raises(ArmError, match="nowhere"):
        prepare(planned.config(planned.plan(arms=arms, default="gone", rules=[])))


def test_experiments_take_one_of_the_arms_and_not_the_plan(tmp_path: Path) -> None:
    run = scripts.go(planned.config(planned.plan(**MORTAL)), tmp_path)
    bench = Bench.set_up(run, Listener())

    async def nothing(backend: object, job: object) -> object:
        return job

    with pytest.raises(ArmError, match="arm 'plan' is a plan of several arms and cannot be served alone"):
        asyncio.run(bench.work_off("plan", "plan", tmp_path / "log", [1], nothing, lambda result: None))
