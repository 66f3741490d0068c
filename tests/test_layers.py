"""Imports point one way, and every third-party library has one owner."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import qtrap_agents

PACKAGE = Path(qtrap_agents.__file__).parent

LAYERS = (
    {"paths", "plugins", "errors", "types", "evidence", "kernels", "measures", "shapes", "world", "concurrency"},
    {"strict_yaml", "arms", "plans", "config", "premises", "semantics", "tools", "scoring", "energy", "recorder", "environment"},
    {"backends", "store", "bench_store", "suites"},
    {"extraction"},
    {"workflows"},
    {"runner", "simulation", "analysis", "reference", "quantise", "validation"},
    {"experiments"},
    {"report", "doctor"},
    {"cli", "api"},
    {"__main__"},
)
"""From the ground up; a module imports its own layer and those below."""

OWNERS = {
    "pynvml": {"energy", "environment", "doctor"},
    "langgraph": {"workflows"},
    "langchain_core": {"workflows"},
    "networkx": {"analysis", "api", "simulation"},
    "openai": {"backends"},
    "prometheus_client": {"backends"},
    "rich": {"report", "cli", "doctor"},
    "typer": {"cli"},
    "vllm": {"backends"},
    "llmcompressor": {"quantise"},
    "statsmodels": {"analysis", "simulation"},
    "scipy": {"analysis", "extraction", "simulation"},
    "ray": {"simulation"},
    "math_verify": {"scoring"},
    "simpleeval": {"semantics"},
    "datasets": {"suites", "quantise"},
    "pyarrow": {"suites"},
    "yaml": {"strict_yaml", "store", "reference", "quantise", "simulation"},
    "torch": {"backends", "reference", "doctor", "quantise"},
    "transformers": {"backends", "reference", "doctor", "quantise"},
    "tokenizers": {"reference", "backends"},
}

READERS = {"analysis", "report"}
HEAVY = {"torch", "vllm", "langgraph", "transformers"}
FILES = {"qtrap_agents.backends.checkpoint"}
"""Reads checkpoint directories and starts nothing."""


class Import(NamedTuple):
    """`importer` imports `target`; `lazy` inside a function or for type checkers only."""

    importer: str
    target: str
    line: int
    lazy: bool

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.target}"


def unit(module: str) -> str:
    """`qtrap_agents.backends.engine` -> `backends`."""
    return [*module.split("."), "__init__"][1]


def imports_of(importer: str, source: str) -> list[Import]:
    """All imports in a file."""
    tree = ast.parse(source)
    lazy = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or _is_type_checking(node)
        for inner in ast.walk(node)
    }
    return [
        Import(importer, target, node.lineno, id(node) in lazy)
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for target in _targets(node)
    ]


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _targets(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """Modules that a statement imports; `from package import module` means the module."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    assert node.level == 0, "relative imports are not used"
    for alias in node.names:
        inner = f"{node.module}.{alias.name}"
        yield inner if inner in MODULES else str(node.module)


def _name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(path): path for path in PACKAGE.rglob("*.py")}
IMPORTS = [found for name, path in MODULES.items() for found in imports_of(name, path.read_text(encoding="utf-8"))]
OURS = [found for found in IMPORTS if found.target.split(".")[0] == PACKAGE.name and found.target != PACKAGE.name]


def layer(module: str) -> int:
    """Number of the layer of a module."""
    return next(number for number, units in enumerate(LAYERS) if unit(module) in units)


def test_the_collector_sees_what_is_there() -> None:
    text = "import a.b\nif TYPE_CHECKING:\n    import c\ndef f():\n    from qtrap_agents import types\n    from d import e\n"
    found = {(item.target, item.line, item.lazy) for item in imports_of("m", text)}
    assert found == {("a.b", 1, False), ("c", 3, True), ("qtrap_agents.types", 5, True), ("d", 6, True)}
    assert any((item.importer, item.target) == ("qtrap_agents.runner", "qtrap_agents.store") for item in OURS)


def test_every_module_has_a_layer() -> None:
    units = {unit(name) for name in MODULES} - {"__init__"}
    assert units <= set().union(*LAYERS)


def test_imports_point_down() -> None:
    assert [str(found) for found in OURS if layer(found.target) > layer(found.importer)] == []


def test_there_are_no_cycles() -> None:
    graph: dict[str, set[str]] = {}
    for found in OURS:
        if found.target != found.importer:
            graph.setdefault(found.importer, set()).add(found.target)
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) > 30


def test_reading_a_run_starts_nothing() -> None:
    """`analysis` and `report` work on stored runs, without an engine or a graph; `report.progress` belongs to a run."""
    forbidden = HEAVY | {"qtrap_agents.runner", "qtrap_agents.backends", "qtrap_agents.workflows", "qtrap_agents.experiments"}
    early = [found for found in IMPORTS if unit(found.importer) in READERS and not found.lazy]
    assert [str(found) for found in early if found.target not in FILES and _starts_with(found.target, forbidden)] == []


def test_reading_a_run_loads_no_engine() -> None:
    modules = [name for name in MODULES if unit(name) in READERS]
    code = f"import sys, {', '.join(modules)}; print(sorted({HEAVY!r} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert found.stdout.strip() == "[]"


def _starts_with(module: str, packages: set[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize("library", OWNERS)
def test_a_library_has_its_owners(library: str) -> None:
    users = [found for found in IMPORTS if _starts_with(found.target, {library})]
    assert [str(found) for found in users if unit(found.importer) not in OWNERS[library]] == []


def test_heavy_libraries_are_imported_where_they_are_used() -> None:
    """`qtrap --version` must not wait for torch: only what runs inside an engine or trains imports it at the top."""
    inside = {"qtrap_agents.backends." + name for name in ("inspector", "unpack", "unpacking_kernel")}
    early = [found for found in IMPORTS if not found.lazy and _starts_with(found.target, HEAVY - {"langgraph"})]
    assert [str(found) for found in early if found.importer not in inside and unit(found.importer) != "reference"] == []
