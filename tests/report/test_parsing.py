"""Errors by kind, and arms of which only one was held to a JSON schema."""

from pathlib import Path

import pytest

from qtrap_agents.report.comparison import compare_runs, comparison_json
from qtrap_agents.report.comparison_view import render_comparison
from qtrap_agents.report.served import error_kind

from .conftest import draw, make_identity, make_run, make_trace, printed, write_arm


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("request timed out", "request timed out"),
        ("the prompt is longer than the context: it has 300 tokens", "the prompt is longer than the context"),
        ("hop 'hop_007' had no answer within 5 s", "hop '…' had no answer within 5 s"),
        ("ValueError: no rule for 'x: y'", "ValueError"),
        ("x" * 1000, "x" * 160),
    ],
)
def test_errors_of_one_kind_have_one_name(error: str, kind: str) -> None:
    assert error_kind(error) == kind


def test_kinds_of_errors_are_counted_and_the_most_frequent_are_named(tmp_path: Path) -> None:
    tasks = draw(depths=(2,), count=12)
    errors = [*[f"the prompt is longer than the context: {number} tokens" for number in range(4)], *["a", "b"] * 2, "c", "d"]
    run = make_run(tmp_path, tasks, ("fp16",))
    traces = [make_trace(run, "fp16", task, error=error) for task, error in zip(tasks, [*errors, None, None], strict=True)]
    write_arm(run, "fp16", traces)
    report = compare_runs([run])
    kinds = comparison_json(report)["arms"][0]["error_kinds"]
    assert kinds == {"the prompt is longer than the context": 4, "a": 2, "b": 2, "c": 1, "d": 1}
    text = " ".join(printed(lambda console: render_comparison(report, console)).split())
    assert (
        "10 of 12 tasks ended in an error and count in no figure of success "
        "(4 × the prompt is longer than the context, 2 × a, 2 × b, 2 more kinds)"
    ) in text


@pytest.mark.parametrize(("fp16", "awq", "warned"), [(True, False, True), (True, True, False), (None, False, False)])
def test_arms_of_which_one_was_not_held_to_the_schema_are_marked(
    tmp_path: Path, fp16: bool | None, awq: bool | None, warned: bool
) -> None:
    tasks = draw(depths=(2,), count=2)
    run = make_run(tmp_path, tasks, ("fp16", "awq"))
    for arm, structured in (("fp16", fp16), ("awq", awq)):
        identity = make_identity(structured=structured, checksum=arm)
        write_arm(run, arm, [make_trace(run, arm, task) for task in tasks], identity)
    told = "fp16 was held to the JSON schema of the suite and awq was not: they differ in more than their weights"
    assert (told in compare_runs([run]).warnings) is warned
