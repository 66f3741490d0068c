"""A run directory gives back what was written and survives kills, damage, full disks and second writers."""

import json
import os
import resource
from pathlib import Path

import pytest
import scripts

from qtrap_agents.errors import ConfigError, StoreError
from qtrap_agents.store import ArmTotals, ArmWriter, AttemptEvent, LastSeen, RunDirectory
from qtrap_agents.suites import arith
from qtrap_agents.types import ArmIdentity, Completion, Hop, Measurement, Message, Premise, Task, Trace

ENVIRONMENT: dict[str, object] = {"qtrap": "0", "gpus": [], "git": None}
ARM = "solve"


def draw(count: int = 3) -> list[Task]:
    return [arith.generate("arith", 2, 0, index, {}) for index in range(count)]


def trace(task: Task, attempt: int = 1, started_at: float = 1000.0, duration_s: float = 2.0) -> Trace:
    """A trace with one hop whose text is awkward to store."""
    hop = Hop(
        id="hop_001",
        node="hop_001",
        messages=(Message(role="user", content="line\nbreak \u2028 “quoted” \U0001f9e9"),),
        completion=Completion(text="\x00\x1b[31m355\n", token_ids=(5, 7), prompt_tokens=9, completion_tokens=2),
        premises=(Premise(id="s1", text="355", value=355),),
        started_at=started_at,
    )
    return Trace(
        id=f"run/{ARM}/{task.id}",
        run_id="run",
        task_id=task.id,
        suite=task.suite,
        depth=task.depth,
        seed=task.seed,
        workflow="chain",
        arm=ARM,
        attempt=attempt,
        hops=(hop,),
        answer=355,
        score=1.0,
        measurement=Measurement(duration_s=duration_s),
    )


def new_run(parent: Path, name: str = "small") -> RunDirectory:
    return RunDirectory.create(parent, scripts.config(ARM, "noisy", name=name), draw(), ENVIRONMENT)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run with two stored traces."""
    run = new_run(tmp_path)
    with ArmWriter(run, ARM) as writer:
        for task in draw()[:2]:
            writer.trace(trace(task))
    return run


def traces_file(run: RunDirectory) -> Path:
    return run.arm_path(ARM) / "traces.jsonl"


def test_everything_comes_back(run: RunDirectory) -> None:
    identity = ArmIdentity(backend="vllm", checkpoint="here", kernels={"Marlin": 12}, notes=("a note",))
    with ArmWriter(run, ARM) as writer:
        writer.identity(identity)
        writer.event(AttemptEvent(attempt=1, event="start", at=1.5))
    again = RunDirectory.open(run.path)
    assert again.config == run.config
    assert list(again.tasks().values()) == draw()
    assert list(again.traces(ARM)) == [trace(task) for task in draw()[:2]]
    assert again.identity(ARM) == identity
    assert again.attempts(ARM) == [AttemptEvent(attempt=1, event="start", at=1.5)]
    assert again.environment() == ENVIRONMENT
    assert again.id == run.path.name


def test_one_trace_is_one_line(run: RunDirectory) -> None:
    lines = traces_file(run).read_bytes().split(b"\n")
    assert [json.loads(line)["task_id"] for line in lines[:-1]] == [task.id for task in draw()[:2]]
    assert lines[-1] == b""


def test_an_arm_that_never_ran_has_nothing(run: RunDirectory) -> None:
    assert run.arms() == (ARM,)
    assert list(run.traces("noisy")) == []
    assert run.identity("noisy") is None
    assert run.totals("noisy") == ArmTotals(attempts=0, startup_s=None, wall_s=None, energy_j=None, meter=None)


def test_a_second_attempt_knows_what_is_done(run: RunDirectory) -> None:
    with ArmWriter(run, ARM) as writer:
        assert writer.done == {task.id for task in draw()[:2]}
        writer.event(AttemptEvent(attempt=writer.attempt, event="start", at=0))
    with ArmWriter(run, ARM) as writer:
        assert writer.attempt == 2


@pytest.mark.parametrize("kept", [1, 10, -1])
def test_a_line_cut_off_by_a_kill_is_ignored_and_then_removed(run: RunDirectory, kept: int) -> None:
    file = traces_file(run)
    whole = file.read_bytes()
    file.write_bytes(whole + trace(draw()[2]).model_dump_json().encode()[:kept])
    assert [found.task_id for found in run.traces(ARM)] == [task.id for task in draw()[:2]]
    with ArmWriter(run, ARM) as writer:
        assert file.read_bytes() == whole
        assert draw()[2].id not in writer.done
        writer.trace(trace(draw()[2], attempt=2))
    assert [found.attempt for found in run.traces(ARM)] == [1, 1, 2]


def test_a_very_long_cut_off_line_is_removed_too(run: RunDirectory) -> None:
    file = traces_file(run)
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"hops": "' + b"x" * 200_000)
    ArmWriter(run, ARM).__exit__()
    assert file.read_bytes() == whole


def test_a_file_of_nothing_but_a_cut_off_line_becomes_empty(run: RunDirectory) -> None:
    traces_file(run).write_bytes(b'{"version"')
    with ArmWriter(run, ARM) as writer:
        assert writer.done == set()
    assert traces_file(run).read_bytes() == b""


@pytest.mark.parametrize("line", [b"{]\n", b'{"version": 1}\n', b"\n", b"\xff\xfe\n"])
def test_damage_in_the_middle_is_named_with_its_line(run: RunDirectory, line: bytes) -> None:
    file = traces_file(run)
    head, tail = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(head + line + tail)
    with pytest.raises(StoreError, match=r"traces\.jsonl:2: damaged line .*delete that line") as caught:
        list(run.traces(ARM))
    assert "\n" not in str(caught.value)
    with pytest.raises(StoreError, match=r"traces\.jsonl:2"):
        ArmWriter(run, ARM)
    file.write_bytes(head + tail)
    with ArmWriter(run, ARM) as writer:
        assert len(writer.done) == 2


def test_two_writers_exclude_each_other(run: RunDirectory) -> None:
    with ArmWriter(run, ARM), pytest.raises(StoreError, match="another process is writing here"):
        ArmWriter(run, ARM)
    with ArmWriter(run, ARM) as writer, ArmWriter(run, "noisy") as other:
        assert (len(writer.done), len(other.done)) == (2, 0)


def test_an_existing_directory_is_never_written_to(tmp_path: Path) -> None:
    runs = [new_run(tmp_path) for _ in range(3)]
    assert len({run.path for run in runs}) == 3
    assert all(run.id.startswith("small-") for run in runs)


def test_a_folder_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "traces").write_text("in the way")
    with pytest.raises(StoreError, match="cannot be written: ") as caught:
        new_run(tmp_path / "traces")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_one_sentence_and_loses_nothing(run: RunDirectory) -> None:
    file = traces_file(run)
    kept = file.rename(file.with_suffix(".kept"))
    file.symlink_to("/dev/full")
    with (
        ArmWriter(run, ARM) as writer,
        pytest.raises(StoreError, match=r"the disk is full; free some space and resume") as caught,
    ):
        writer.trace(trace(draw()[2]))
    assert "\n" not in str(caught.value)
    file.unlink()
    kept.rename(file)
    with ArmWriter(run, ARM) as writer:
        writer.trace(trace(draw()[2]))
    assert [found.task_id for found in run.traces(ARM)] == [task.id for task in draw()]


def test_a_line_that_does_not_fit_is_taken_back(run: RunDirectory) -> None:
    """A limit on the file size stops the write in the middle of the line, as a disk does that fills up."""
    whole = traces_file(run).read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with ArmWriter(run, ARM) as writer:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 100, limits[1]))
        try:
            with pytest.raises(StoreError, match="the disk is full"):
                writer.trace(trace(draw()[2]))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert traces_file(run).read_bytes() == whole


def test_an_outline_is_the_trace_without_its_text(run: RunDirectory) -> None:
    for whole, outline in zip(run.traces(ARM), run.outlines(ARM), strict=True):
        [hop], [short] = whole.hops, outline.hops
        assert outline.model_dump(exclude={"hops"}) == whole.model_dump(exclude={"hops"})
        assert (outline.prompt_tokens, outline.completion_tokens) == (9, 2)
        assert (short.id, short.started_at) == (hop.id, hop.started_at)
        assert [(premise.id, premise.value) for premise in short.premises] == [("s1", 355)]
        assert (short.messages, short.completion.text, short.completion.token_ids) == ((), "", ())


@pytest.mark.parametrize("line", [b"{]\n", b'{"version": 1}\n'])
def test_damage_is_named_by_outlines_too(run: RunDirectory, line: bytes) -> None:
    with traces_file(run).open("ab") as file:
        file.write(line)
    with pytest.raises(StoreError, match=r"traces\.jsonl:3: damaged line .*delete that line"):
        list(run.outlines(ARM))


def test_totals_do_not_depend_on_who_reads_the_traces(run: RunDirectory) -> None:
    with ArmWriter(run, ARM) as writer:
        writer.event(event(1, "ready", 995, startup_s=5))
    seen = LastSeen()
    for found in run.traces(ARM):
        seen.note(found)
    assert seen.ends == {1: 1002.0}
    assert run.totals(ARM, seen) == run.totals(ARM)
    assert without_windows(run.totals(ARM)) == ArmTotals(attempts=1, startup_s=5, wall_s=7, energy_j=None, meter=None)


def test_lines_are_found_by_name(run: RunDirectory) -> None:
    index = run.task_index()
    assert (list(index), len(index)) == ([task.id for task in draw()], 3)
    assert [index[task.id] for task in reversed(draw())] == list(reversed(draw()))
    assert index.get("arith") is None
    assert "arith" not in index


def test_of_several_lines_of_one_task_the_last_is_found(run: RunDirectory) -> None:
    with ArmWriter(run, ARM) as writer:
        writer.trace(trace(draw()[0], attempt=2))
        before = run.stored(ARM)
        writer.trace(trace(draw()[0], attempt=3))
        assert {name: found.attempt for name, found in before.items()} == {draw()[0].id: 2, draw()[1].id: 1}
    assert [found.attempt for found in run.stored(ARM).values()] == [3, 1]


def test_lines_of_nothing(run: RunDirectory) -> None:
    assert dict(run.stored("noisy")) == {}
    traces_file(run).write_bytes(b'{"task_id":"cut off')
    assert dict(run.stored(ARM)) == {}


def test_a_damaged_line_is_named_where_it_is_asked_for(run: RunDirectory) -> None:
    file = traces_file(run)
    file.write_bytes(file.read_bytes() + b'{"task_id":"odd \\"one\\""}\n')
    stored = run.stored(ARM)
    assert stored[draw()[1].id] == trace(draw()[1])
    with pytest.raises(StoreError, match=r"traces\.jsonl:3: damaged line .*delete that line"):
        stored['odd "one"']


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc here")
def test_lines_close_their_file(run: RunDirectory) -> None:
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    before = open_files()
    stored = run.stored(ARM)
    assert open_files() == before + 1
    del stored
    assert open_files() == before


def event(attempt: int, kind: str, at: float, **facts: object) -> AttemptEvent:
    return AttemptEvent.model_validate({"attempt": attempt, "event": kind, "at": at, **facts})


def without_windows(totals: ArmTotals) -> ArmTotals:
    return totals.model_copy(update={"windows": ()})


def test_totals_of_a_killed_and_a_finished_attempt(run: RunDirectory) -> None:
    """The killed attempt has no end: its window runs to its last trace, and its energy is unknown."""
    with ArmWriter(run, ARM) as writer:
        writer.event(event(1, "start", 990))
        writer.event(event(1, "ready", 995, startup_s=5))
        writer.event(event(2, "start", 2000))
        writer.event(event(2, "ready", 2004, startup_s=4))
        writer.trace(trace(draw()[2], attempt=2, started_at=2004, duration_s=1))
        writer.event(event(2, "end", 2006, reason="finished", wall_s=2, energy_j=50, meter="rapl"))
    totals = run.totals(ARM)
    assert without_windows(totals) == ArmTotals(attempts=2, startup_s=9, wall_s=7 + 2, energy_j=None, meter="rapl")
    killed, finished = totals.windows
    assert (killed.begun_at, killed.wall_s, killed.energy_j) == (995, 7, None)
    assert (finished.begun_at, finished.wall_s, finished.energy_j) == (2004, 2, 50)


def test_energy_of_two_measured_attempts_adds_up(run: RunDirectory) -> None:
    with ArmWriter(run, ARM) as writer:
        for attempt in (1, 2):
            writer.event(event(attempt, "start", 0))
            writer.event(event(attempt, "ready", 1, startup_s=1))
            writer.event(event(attempt, "end", 4, reason="interrupted", wall_s=3, energy_j=20, meter="nvml"))
        writer.trace(trace(draw()[2], attempt=2))
    totals = run.totals(ARM)
    assert without_windows(totals) == ArmTotals(attempts=2, startup_s=2, wall_s=6, energy_j=40, meter="nvml")
    assert [window.energy_j for window in totals.windows] == [20, 20]


def test_an_attempt_that_never_became_ready_costs_no_work(run: RunDirectory) -> None:
    with ArmWriter(run, "noisy") as writer:
        writer.event(event(1, "start", 0))
    assert run.totals("noisy") == ArmTotals(attempts=1, startup_s=None, wall_s=None, energy_j=None, meter=None)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not a run directory"):
        RunDirectory.open(tmp_path)


def test_a_damaged_run_yaml_is_named_with_its_line(run: RunDirectory) -> None:
    (run.path / "run.yaml").write_text("name: small\nsuites: {{\n")
    with pytest.raises(ConfigError, match=r"run\.yaml:3: not valid YAML"):
        RunDirectory.open(run.path)


@pytest.mark.parametrize("name", ["environment.json", f"arms/{ARM}/identity.json"])
def test_a_damaged_record_is_named(run: RunDirectory, name: str) -> None:
    (run.path / name).write_text("{")
    with pytest.raises(StoreError, match=r"(environment|identity)\.json: cannot be read: ") as caught:
        (run.environment(), run.identity(ARM))
    assert "\n" not in str(caught.value)
