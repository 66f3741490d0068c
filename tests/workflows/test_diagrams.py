"""The document of the workflows is what the workflows say and draw today."""

from pathlib import Path

import pytest
import scripts

from qtrap_agents.config import RunConfig, load_yaml
from qtrap_agents.errors import ConfigError
from qtrap_agents.suites.catalog import load_suite
from qtrap_agents.workflows.catalog import WORKFLOWS, load_workflow, parameters
from qtrap_agents.workflows.diagrams import DOCUMENT, diagram, document


def test_the_committed_document_is_up_to_date() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == document(), "run: python -m qtrap_agents.workflows.diagrams"


@pytest.mark.parametrize("name", WORKFLOWS)
def test_every_workflow_has_a_section_with_cost_parameters_and_diagram(name: str) -> None:
    section = document().partition(f"## `{name}`\n")[2].partition("\n## ")[0]
    assert "Calls: " in section
    assert "```mermaid" in section
    assert all(f"| `{known.name}` | `{known.default}` |" in section for known in parameters(name))


def test_a_diagram_is_drawn_by_the_graph() -> None:
    drawn = diagram("vote")
    assert "sample --> majority;" in drawn
    assert "majority -.-> sample;" in drawn
    assert "left --> merge;" in diagram("graphs:diamond")
    with pytest.raises(ConfigError, match="unknown workflow 'vot': did you mean 'vote'"):
        diagram("vot")


def test_the_command_prints_the_graph(tmp_path: Path) -> None:
    done = scripts.qtrap("list", "workflows", "--diagram", "map_reduce", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"{diagram('map_reduce')}\n")
    wrong = scripts.qtrap("list", "workflows", "--diagram", "mapreduce", cwd=tmp_path)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "did you mean 'map_reduce'?" in wrong.stderr


@pytest.mark.parametrize(
    "file", sorted((scripts.TESTS.parent / "configs").glob("workflow-*.yaml")), ids=lambda file: str(file.stem)
)
def test_the_example_configurations_name_what_there_is(file: Path) -> None:
    config = load_yaml(file, RunConfig)
    load_workflow(config.workflow, config.limits)
    assert config.workflow.name in file.stem
    assert all(load_suite(suite).name == suite.name for suite in config.suites)
