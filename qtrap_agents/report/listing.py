"""`qtrap list`: the suites, workflows, arms and runs that can be named, as records, tables and JSON."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from rich.console import Console

from qtrap_agents import paths
from qtrap_agents.backends.checkpoint import read_config, read_facts
from qtrap_agents.config import arm_files, read_arm
from qtrap_agents.errors import QtrapError
from qtrap_agents.report.format import NOTHING, mebibytes, plain
from qtrap_agents.report.table import new_table, print_table
from qtrap_agents.store import CONFIG, TASKS, RunDirectory
from qtrap_agents.suites.catalog import Suite, list_suites
from qtrap_agents.types import Record, Value


class SuiteRow(Record):
    """A suite by name; `gold` says which intermediate values its tasks have."""

    name: str
    title: str
    kind: str
    skill: str
    parser: str
    gold: str
    params: dict[str, Value]


class WorkflowRow(Record):
    """A built-in workflow; `params` are its parameters with their defaults, `ranges` what they may be."""

    name: str
    summary: str
    params: dict[str, Value]
    ranges: dict[str, str]


class CheckpointRow(Record):
    """A shipped checkpoint, spelled as a configuration names it. `problem` says why its files cannot be read."""

    name: str
    quantisation: str | None = None
    bits: int | None = None
    group_size: int | None = None
    hidden_size: int | None = None
    layers: int | None = None
    tensor_bytes: int | None = None
    checksum: str | None = None
    problem: str | None = None


class ArmRow(Record):
    """An arm that a run can name, and the folder of its file. `served` is its checkpoint, or the addresses of its servers."""

    name: str
    place: str
    served: str = ""
    revision: str | None = None
    settings: dict[str, Value] = Field(default_factory=dict)
    problem: str | None = None


class ArmProgress(Record):
    """How many tasks of an arm have a stored trace."""

    name: str
    done: int


class RunRow(Record):
    """A run directory. `created` is UTC; `problem` says why it cannot be read."""

    path: str
    created: str
    suites: tuple[str, ...] = ()
    workflow: str = ""
    total: int = 0
    arms: tuple[ArmProgress, ...] = ()
    problem: str | None = None

    @property
    def state(self) -> Literal["finished", "unfinished", "unreadable"]:
        """`finished` where every arm has a trace of every task."""
        if self.problem is not None:
            return "unreadable"
        return "finished" if all(arm.done >= self.total for arm in self.arms) else "unfinished"


def suite_rows(search: Sequence[Path] | None = None) -> tuple[SuiteRow, ...]:
    """All suites that can be named. Raises ConfigError where a `suite.yaml` is wrong."""
    return tuple(_suite_row(suite) for suite in list_suites(search))


def workflow_rows() -> tuple[WorkflowRow, ...]:
    """The built-in workflows, with the first line that their module says about itself."""
    from qtrap_agents.workflows.catalog import WORKFLOWS, parameters
    from qtrap_agents.workflows.diagrams import summary

    return tuple(
        WorkflowRow(
            name=name,
            summary=summary(name),
            params={known.name: known.default for known in parameters(name)},
            ranges={known.name: known.range for known in parameters(name)},
        )
        for name in WORKFLOWS
    )


def checkpoint_rows(root: Path | None = None) -> tuple[CheckpointRow, ...]:
    """The shipped reference checkpoints; a damaged one is listed with its problem."""
    folder = root or paths.REFERENCE_CHECKPOINTS
    return tuple(_checkpoint_row(file.parent, folder) for file in sorted(folder.glob("*/*/config.json")))


def arm_rows(folders: Sequence[Path] | None = None) -> tuple[ArmRow, ...]:
    """The named arms; one whose file is wrong is listed with its problem."""
    return tuple(_arm_row(path) for _, path in sorted(arm_files(folders).items()))


def run_rows(parent: Path) -> tuple[RunRow, ...]:
    """Run directories in a folder, oldest first; a damaged one is listed with its problem."""
    rows = (_run_row(file.parent) for file in parent.glob(f"*/{CONFIG}"))
    return tuple(sorted(rows, key=lambda row: (row.created, row.path)))


def rows_json(rows: Sequence[Record]) -> list[dict[str, Any]]:
    """Any of the lists as JSON types."""
    return [row.model_dump(mode="json") | ({"state": row.state} if isinstance(row, RunRow) else {}) for row in rows]


def render_suites(rows: Sequence[SuiteRow], console: Console) -> None:
    """Print the suites."""
    _render(
        console,
        ("name", "kind", "skill", "answers", "gold", "parameters"),
        [(row.name, row.kind, row.skill, row.parser, row.gold, _params(row.params)) for row in rows],
        "no suites: neither ./tasks nor the package holds one",
    )


def render_workflows(rows: Sequence[WorkflowRow], console: Console) -> None:
    """Print the workflows."""
    cells = [(row.name, row.summary, _params(row.params)) for row in rows]
    _render(console, ("name", "what it does", "parameters"), cells, "no workflows")
    console.print(plain("A LangGraph graph of your own is given as module:function."))
    console.print(plain("next: qtrap list workflows --diagram NAME"))


def render_checkpoints(rows: Sequence[CheckpointRow], console: Console) -> None:
    """Print the shipped checkpoints."""
    _render(
        console,
        ("checkpoint", "weights", "model", "size", "sha256"),
        [_checkpoint_cells(row) for row in rows],
        "no reference checkpoints are installed; a directory or hub id can be named as checkpoint",
    )


def render_arms(rows: Sequence[ArmRow], console: Console) -> None:
    """Print the named arms."""
    _render(
        console,
        ("arm", "served", "settings", "folder"),
        [(row.name, row.problem or _served(row), _params(row.settings), row.place) for row in rows],
        "no named arms: neither ./configs/arms nor the package holds one",
    )


def render_runs(rows: Sequence[RunRow], console: Console) -> None:
    """Print the runs."""
    _render(
        console,
        ("run", "created (UTC)", "suites", "workflow", "arms: tasks done", "state"),
        [_run_cells(row) for row in rows],
        "no runs in this folder; `qtrap run CONFIG` makes one",
    )


def _render(console: Console, headings: Sequence[str], rows: Sequence[Sequence[str]], empty: str) -> None:
    if not rows:
        console.print(plain(empty))
        return
    table = new_table()
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*map(plain, row))
    print_table(table, console)


def _suite_row(suite: Suite) -> SuiteRow:
    spec = suite.spec
    return SuiteRow(
        name=suite.name,
        title=spec.title,
        kind=spec.kind,
        skill=spec.skill,
        parser=suite.parser,
        gold=suite.gold,
        params=dict(spec.params),
    )


def _checkpoint_row(path: Path, root: Path) -> CheckpointRow:
    name = f"reference:{path.relative_to(root).as_posix()}"
    try:
        config, facts = read_config(path), read_facts(path)
    except QtrapError as error:
        return CheckpointRow(name=name, problem=str(error))
    return CheckpointRow(
        name=name,
        quantisation=facts.method,
        bits=facts.bits,
        group_size=facts.group_size,
        hidden_size=config.get("hidden_size"),
        layers=config.get("num_hidden_layers"),
        tensor_bytes=facts.tensor_bytes,
        checksum=facts.checksum,
    )


def _arm_row(path: Path) -> ArmRow:
    place = _place(path)
    try:
        arm = read_arm(path)
    except QtrapError as error:
        return ArmRow(name=path.stem, place=place, problem=str(error))
    own: dict[str, Value] = {} if arm.backend == "auto" else {"backend": arm.backend}
    told = {name: value for name in ("method", "bits", "group_size") if (value := arm.recipe.get(name)) is not None}
    served = ", ".join(arm.urls) or arm.checkpoint or arm.script or ""
    return ArmRow(name=arm.name, place=place, served=served, revision=arm.revision, settings=own | arm.engine_args | told)


def _served(row: ArmRow) -> str:
    return f"{row.served} @ {row.revision[:8]}" if row.revision else row.served


def _place(path: Path) -> str:
    """The folder of an arm's file, which is called like the arm."""
    return "shipped" if path.is_relative_to(paths.shipped("configs")) else str(path.parent)


def _checkpoint_cells(row: CheckpointRow) -> tuple[str, ...]:
    if row.problem is not None:
        return (row.name, row.problem, NOTHING, NOTHING, NOTHING)
    bits = f" {row.bits}-bit" if row.bits else ""
    group = f" g{row.group_size}" if row.group_size else ""
    model = f"{row.layers} layers × {row.hidden_size}"
    weights = f"{row.quantisation}{bits}{group}" if row.quantisation else "not quantised"
    return (row.name, weights, model, mebibytes(row.tensor_bytes), (row.checksum or NOTHING)[:8])


def _run_row(path: Path) -> RunRow:
    modified = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime((path / CONFIG).stat().st_mtime))
    try:
        run = RunDirectory.open(path)
        created = str(run.environment().get("started_utc") or modified)
    except QtrapError as error:
        return RunRow(path=str(path), created=modified, problem=str(error))
    return RunRow(
        path=str(path),
        created=created,
        suites=tuple(suite.name for suite in run.config.suites),
        workflow=run.config.workflow.name,
        total=_lines(path / TASKS),
        arms=tuple(
            ArmProgress(name=arm.name, done=_lines(run.arm_path(arm.name) / "traces.jsonl")) for arm in run.config.served_arms
        ),
    )


def _lines(file: Path) -> int:
    """Whole lines of a file, counted without reading them into records: a run stores one trace for each task."""
    if not file.is_file():
        return 0
    with file.open("rb") as stream:
        return sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))


def _run_cells(row: RunRow) -> tuple[str, ...]:
    if row.problem is not None:
        return (row.path, row.created, row.problem, "", "", row.state)
    arms = ", ".join(f"{arm.name} {arm.done:,}/{row.total:,}" for arm in row.arms)
    return (row.path, row.created.removesuffix("Z").replace("T", " "), ", ".join(row.suites), row.workflow, arms, row.state)


def _params(params: dict[str, Value]) -> str:
    return ", ".join(f"{name}={value}" for name, value in params.items()) or NOTHING
