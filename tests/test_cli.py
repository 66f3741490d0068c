"""`qtrap run` as a user meets it: exit codes, one sentence on stderr, the run directory on stdout, resume after anything."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import scripts
from scripts import by_task, qtrap

from qtrap_agents import __version__
from qtrap_agents.paths import REFERENCE_CHECKPOINTS
from qtrap_agents.store import RunDirectory

SLOW = {"depths": [8], "tasks_per_depth": 30, "concurrency": 8}
"""A run that takes seconds."""


def write(folder: Path, *arms: str | dict[str, Any], **changes: Any) -> Path:
    """A configuration file in a folder."""
    return scripts.write_yaml(folder / "run.yaml", scripts.settings(arms, **changes))


def only_run(folder: Path) -> RunDirectory:
    """The one run directory in `traces`."""
    (path,) = (folder / "traces").iterdir()
    return RunDirectory.open(path)


def refused(result: "subprocess.CompletedProcess[str]") -> str:
    """The one sentence of a command that failed as expected."""
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("qtrap: ")
    return line.removeprefix("qtrap: ")


def test_rows_that_cannot_be_used_are_told_and_never_end_a_run(tmp_path: Path) -> None:
    good = '{"question": "Ann has 3 eggs and buys 4.", "answer": "3+4=<<3+4=7>>7\\n#### 7"}'
    (tmp_path / "rows.jsonl").write_text(f'{good}\n{{"question": "?"}}\n{{\n')
    suites = [{"name": "gsm8k", "params": {"path": "rows.jsonl"}}]
    result = qtrap("run", write(tmp_path, "solve", suites=suites), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stderr.startswith("gsm8k: 2 of 3 rows left out: 1 field 'answer' missing or not text, 1 not valid JSON\n")
    assert len(by_task(only_run(tmp_path), "solve")) == 1
    (tmp_path / "rows.jsonl").write_text("{\n")
    assert "1 of 1 rows left out: 1 not valid JSON" in refused(qtrap("run", tmp_path / "run.yaml", cwd=tmp_path))


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A run of 60 slow tasks, halted in mid-run."""
    with scripts.start_qtrap("run", write(tmp_path, "slow", **SLOW), cwd=tmp_path) as process:
        scripts.wait_for_traces(tmp_path, 5, process)
        process.send_signal(signal.SIGSTOP)
        yield process
        process.kill()


def test_version(tmp_path: Path) -> None:
    result = qtrap("--version", cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, f"qtrap {__version__}\n", "")


def test_the_installed_command_is_the_same(tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("qtrap")
    if not command.exists():
        pytest.skip("the package is not installed beside this Python")
    assert subprocess.run([command, "--version"], capture_output=True, text=True, check=True).stdout == f"qtrap {__version__}\n"


def test_a_run_ends_with_its_directory(tmp_path: Path) -> None:
    result = qtrap("run", write(tmp_path, "solve", "noisy"), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    run = only_run(tmp_path)
    assert result.stdout == f"traces/{run.id}\n"
    assert f"next: qtrap compare traces/{run.id}" in result.stderr
    assert run.arms() == ("solve", "noisy")
    assert all(trace.correct for trace in by_task(run, "solve").values())
    command = str(run.environment()["command"])
    assert command.startswith("qtrap run ")
    assert command.endswith("run.yaml")


def test_options_change_the_file(tmp_path: Path) -> None:
    options = "--suite relate --suite ./mine --workflow cot --arm wordy --depth 3 --depth 2"
    options += " --limit 4 --concurrency 2 --seed 7 --out here"
    shutil.copytree(scripts.TESTS.parent / "tasks" / "arith", tmp_path / "mine")
    result = qtrap("run", write(tmp_path, "solve", "wordy", baseline="solve"), *options.split(), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    run = RunDirectory.open(tmp_path / result.stdout.strip())
    assert run.path.parent == tmp_path / "here"
    assert not (tmp_path / "traces").exists()
    assert [arm.name for arm in run.config.arms] == ["wordy"]
    assert (run.config.concurrency, run.config.baseline_arm, run.config.workflow.name) == (2, "wordy", "cot")
    tasks = list(run.tasks().values())
    assert {(task.suite, task.depth, task.seed) for task in tasks} == {(s, d, 7) for s in ("relate", "arith") for d in (2, 3)}
    assert len(tasks) == 16
    assert {len(trace.hops) for trace in by_task(run, "wordy").values()} == {1}


def test_parameters_of_a_suite_stay_when_it_is_chosen(tmp_path: Path) -> None:
    suites = ["program", {"name": "arith", "params": {"modulus": 7}}]
    result = qtrap("run", write(tmp_path, "solve", suites=suites), "--suite", "arith", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert {task.suite for task in only_run(tmp_path).tasks().values()} == {"arith"}
    assert all(int(task.answer) < 7 for task in only_run(tmp_path).tasks().values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--suite airth", "unknown suite 'airth': did you mean 'arith'?"),
        ("--workflow chian", "unknown workflow 'chian': did you mean 'chain'?"),
        ("--arm sovle", "unknown arm 'sovle': did you mean 'solve'?"),
        ("--workflow no_such:graph", "workflow 'no_such:graph' cannot be imported"),
    ],
)
def test_a_wrong_name_is_one_sentence_and_leaves_nothing(tmp_path: Path, options: str, message: str) -> None:
    assert message in refused(qtrap("run", write(tmp_path, "solve"), *options.split(), cwd=tmp_path))
    assert not (tmp_path / "traces").exists()


def test_a_wrong_option_is_refused(tmp_path: Path) -> None:
    result = qtrap("run", write(tmp_path, "solve"), "--limit", "0", cwd=tmp_path)
    assert result.returncode == 2
    assert "--limit" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "traces").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\nsuites: [arith\n", "run.yaml:3: not valid YAML: "),
        ("name: x\nsuits: [arith]\narms: [{name: a, checkpoint: b}]\nsuites: [arith]\n", "run.yaml:2: unknown field 'suits'"),
    ],
)
def test_a_malformed_file_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "run.yaml").write_text(text)
    assert refused(qtrap("run", "run.yaml", cwd=tmp_path)).startswith(message)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert refused(qtrap("run", "nowhere.yaml", cwd=tmp_path)).startswith("nowhere.yaml: no such file")


def test_no_file_at_all_says_what_to_give(tmp_path: Path) -> None:
    assert "configuration file" in refused(qtrap("run", cwd=tmp_path))


def damaged(folder: Path, how: str) -> str:
    """A copy of a reference checkpoint with one thing wrong."""
    path = folder / "model"
    shutil.copytree(REFERENCE_CHECKPOINTS / "small" / "gptq", path)
    weights = path / "model.safetensors"
    if how == "gone":
        shutil.rmtree(path)
    elif how == "truncated":
        os.truncate(weights, weights.stat().st_size - 100)
    elif how == "garbage":
        weights.write_bytes(b"\xff" * 4096)
    return "./model"


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("gone", "checkpoint './model': no such directory"),
        ("truncated", "model/model.safetensors: truncated"),
        ("garbage", "model/model.safetensors: not a readable safetensors file"),
    ],
)
def test_a_missing_or_corrupt_checkpoint_is_found_before_anything_starts(tmp_path: Path, how: str, message: str) -> None:
    arm = {"name": "broken", "checkpoint": damaged(tmp_path, how), "backend": "transformers"}
    assert message in refused(qtrap("run", write(tmp_path, "solve", arm), cwd=tmp_path))
    assert not (tmp_path / "traces").exists()


@pytest.mark.vllm
def test_a_port_in_use_is_found_before_the_server_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        arm = {"name": "busy", "checkpoint": "reference:small/fp16", "backend": "vllm", "transport": "server", "port": port}
        message = refused(qtrap("run", write(tmp_path, arm), cwd=tmp_path))
    assert f"port {port} cannot be used" in message
    assert not list(tmp_path.rglob("server.log"))


def test_a_running_server_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arm = {"name": "url", "base_url": f"http://127.0.0.1:{port}/v1"}
    assert "no OpenAI-compatible server answers" in refused(qtrap("run", write(tmp_path, arm), cwd=tmp_path))


def test_a_bug_of_a_script_belongs_on_the_trace(tmp_path: Path) -> None:
    result = qtrap("run", write(tmp_path, "buggy"), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    errors = {trace.error for trace in by_task(only_run(tmp_path), "buggy").values()}
    assert errors == {"the script raised RuntimeError: list is empty"}


def test_a_bug_keeps_its_traceback(tmp_path: Path) -> None:
    result = qtrap("run", write(tmp_path, "solve", workflow="graphs:hopeless"), cwd=tmp_path)
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert "RuntimeError: the graph cannot be drawn" in result.stderr


def test_ctrl_c_says_how_to_go_on(tmp_path: Path, stopped: "subprocess.Popen[str]") -> None:
    stopped.send_signal(signal.SIGINT)
    stopped.send_signal(signal.SIGCONT)
    stdout, stderr = stopped.communicate(timeout=60)
    assert stopped.returncode == 130
    assert stdout == ""
    assert "Traceback" not in stderr
    hint = re.search(r"interrupted; stored so far: .*; go on with `qtrap (run --resume .*)`", stderr)
    assert hint is not None, stderr
    run = only_run(tmp_path)
    before = list(run.traces("slow"))
    assert run.attempts("slow")[-1].reason == "interrupted"

    result = qtrap(*shlex.split(hint[1]), cwd=tmp_path)
    assert (result.returncode, result.stdout) == (0, f"traces/{run.id}\n"), result.stderr
    assert list(run.traces("slow"))[: len(before)] == before
    by_task(run, "slow")


def test_kill_9_loses_only_the_tasks_in_flight(tmp_path: Path, stopped: "subprocess.Popen[str]") -> None:
    stopped.kill()
    stopped.communicate(timeout=60)
    run = only_run(tmp_path)
    before = list(run.traces("slow"))
    assert 5 <= len(before) < 60
    result = qtrap("run", "--resume", run.path, "--concurrency", 30, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    traces = by_task(run, "slow")
    assert len(traces) == 60
    assert [trace.attempt for trace in run.traces("slow")] == [1] * len(before) + [2] * (60 - len(before))
    assert list(run.traces("slow"))[: len(before)] == before
    assert run.totals("slow").attempts == 2


def test_two_processes_do_not_write_to_one_run(tmp_path: Path, stopped: "subprocess.Popen[str]") -> None:
    assert "another process is writing here" in refused(qtrap("run", "--resume", only_run(tmp_path).path, cwd=tmp_path))


def test_a_finished_run_is_resumed_as_it_was_or_not_at_all(tmp_path: Path) -> None:
    config = write(tmp_path, "solve")
    assert qtrap("run", config, cwd=tmp_path).returncode == 0
    path = only_run(tmp_path).path
    again = qtrap("run", config, "--resume", path, cwd=tmp_path)
    assert (again.returncode, again.stdout) == (0, f"{path}\n"), again.stderr
    message = refused(qtrap("run", "--resume", path, "--depth", 3, "--limit", 2, cwd=tmp_path))
    assert message.startswith("--resume finishes a run as it was started and takes no other ")
    other = scripts.write_yaml(tmp_path / "other.yaml", scripts.settings(["solve"], name="other"))
    assert "is not the configuration of that run" in refused(qtrap("run", other, "--resume", path, cwd=tmp_path))
    assert "--retry-errors goes with --resume RUN" in refused(qtrap("run", config, "--retry-errors", cwd=tmp_path))
    assert len(list((tmp_path / "traces").iterdir())) == 1


def test_the_noise_floor_can_be_left_out_and_measured_later(tmp_path: Path) -> None:
    config = write(tmp_path, "solve", "noisy", noise_floor=True)
    first = qtrap("run", config, "--no-noise-floor", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    run = only_run(tmp_path)
    assert not run.arm_path("solve+again").exists()
    text = qtrap("compare", run.path, cwd=tmp_path).stdout
    hint = re.search(r"noise floor: not measured; `qtrap (run --resume .* --noise-floor)` measures it", text)
    assert hint is not None, text

    result = qtrap(*shlex.split(hint[1]), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "solve+again: ready" in result.stderr
    assert "noisy: ready" not in result.stderr
    run = only_run(tmp_path)
    assert run.config.noise_floor
    assert len(by_task(run, "solve+again")) == 20
    assert "solve+again 20/20" in " ".join(qtrap("list", "runs", cwd=tmp_path).stdout.split())
    assert "A/A 0.0 points" in qtrap("compare", run.path, cwd=tmp_path).stdout
    shown = qtrap("inspect", run.path, "arith-d2-s0-0000", "--arm", "solve+again", "--against", "solve", cwd=tmp_path)
    assert "no difference: both arms state the same values" in shown.stdout, shown.stderr


def test_a_folder_that_is_no_run_is_not_resumed(tmp_path: Path) -> None:
    assert "not a run directory (no run.yaml)" in refused(qtrap("run", "--resume", tmp_path, cwd=tmp_path))


def test_named_arms_join_a_run_and_are_kept_in_it(tmp_path: Path) -> None:
    file = tmp_path / "configs" / "arms" / "mine.yaml"
    file.parent.mkdir(parents=True)
    scripts.write_yaml(file, scripts.settings(["solve"])["arms"][0] | {"name": "mine"})
    config = write(tmp_path, "solve")
    result = qtrap("run", config, "--arm", "solve", "--arm", "mine", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    run = only_run(tmp_path)
    assert [arm.name for arm in run.config.arms] == ["solve", "mine"]
    listed = json.loads(qtrap("list", "arms", "--json", cwd=tmp_path).stdout)
    assert {"mine", "qwen2.5-7b-awq"} <= {row["name"] for row in listed["arms"]}
    assert {"reference:small/fp16"} <= {row["name"] for row in listed["checkpoints"]}
    file.unlink()
    assert qtrap("run", "--resume", run.path, cwd=tmp_path).returncode == 0, "without the file of the arm"
    assert "unknown arm 'mine': known: " in refused(qtrap("run", config, "--arm", "mine", cwd=tmp_path))
