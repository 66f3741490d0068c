"""`qtrap diagnose` on runs of scripted arms whose flips are known, and on runs that lack something."""

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forced
import pytest
import scripts
from scripts import printed

from qtrap_agents.errors import StoreError
from qtrap_agents.evidence import TraceScore
from qtrap_agents.experiments.forcing import force
from qtrap_agents.experiments.passes import Bench
from qtrap_agents.report.diagnosis import Diagnosis, Population, diagnose, diagnosis_json
from qtrap_agents.report.diagnosis_view import rate, render_diagnosis
from qtrap_agents.store import RunDirectory, read_lines
from qtrap_agents.types import Trace

TASKS = 2 * 2 * 8


def make(folder: Path, *arms: str) -> RunDirectory:
    """A run in which every arm has been forced."""
    config = scripts.config(*forced.arms(*arms), depths=[2, 8], tasks_per_depth=8)
    run = scripts.go(config, folder)
    for arm in arms:
        asyncio.run(force(Bench.set_up(run, scripts.Listener()), arm))
    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """Nothing is missing: `shaky` is off by one on some prompts, and its scores say so."""
    return make(tmp_path_factory.mktemp("whole"), "steady", "shaky")


@pytest.fixture
def run(whole: RunDirectory, tmp_path: Path) -> RunDirectory:
    """A copy to damage."""
    shutil.copytree(whole.path, tmp_path / "run")
    return RunDirectory.open(tmp_path / "run")


def rewrite(run: RunDirectory, arm: str, change: Callable[[Trace], Trace | None]) -> None:
    """Change the stored traces of an arm; those that become None are left out."""
    traces = [changed for trace in run.traces(arm) if (changed := change(trace)) is not None]
    path = run.arm_path(arm) / "traces.jsonl"
    path.write_text("".join(f"{trace.model_dump_json()}\n" for trace in traces), encoding="utf-8")


def view(diagnosis: Diagnosis, width: int = 120) -> str:
    return printed(lambda console: render_diagnosis(diagnosis, console), width)


def shares(data: Any) -> list[dict[str, Any]]:
    """Every share anywhere in the JSON."""
    if isinstance(data, list):
        return [found for item in data for found in shares(item)]
    if not isinstance(data, dict):
        return []
    own = [data] if {"count", "n", "share", "interval"} <= data.keys() else []
    return own + [found for item in data.values() for found in shares(item)]


def test_every_error_begins_with_a_flip(whole: RunDirectory) -> None:
    found = diagnose(whole, "shaky")
    counts = found.funnel.total
    assert (found.warnings, found.baseline, found.population) == ((), "steady", Population(compared=TASKS))
    assert counts.hops.compared == sum(len(trace.hops) for trace in whole.traces("steady"))
    assert counts.first_errors.n == counts.chains.false > 5
    assert counts.first_errors.value_flip == counts.first_errors.confirmed == counts.first_errors.n
    assert counts.arm.value_flips == counts.arm.flips == counts.hit.n > 0
    assert counts.floor.flips == counts.self_flips == 0
    assert counts.flips.asked.share.count == 0
    assert counts.chains.false == counts.chains.recovered + counts.chains.collapsed
    assert counts.premises.n == counts.read == counts.hops.compared
    assert found.funnel.clear > 0


def test_hop_and_chain_level_agree_with_the_traces(whole: RunDirectory) -> None:
    found = diagnose(whole, "shaky")
    tasks = whole.tasks()
    wrong = [
        premise.value != tasks[trace.task_id].premise(premise.id).value
        for trace in whole.traces("shaky")
        for hop in trace.hops
        for premise in hop.premises
    ]
    assert found.funnel.total.premises.false == sum(wrong)
    assert found.funnel.total.chains.right == sum(trace.correct for trace in whole.traces("shaky"))


def test_only_chosen_tasks(whole: RunDirectory) -> None:
    chosen = sorted(whole.tasks())[:3]
    assert diagnose(whole, "shaky", tasks=chosen).population.compared == 3
    with pytest.raises(StoreError, match=r"unknown task 'arith-d2-s0-00099': did you mean 'arith-d2"):
        diagnose(whole, "shaky", tasks=["arith-d2-s0-00099"])


def test_json_carries_the_counts_behind_each_share(whole: RunDirectory) -> None:
    found = diagnose(whole, "shaky")
    data = json.loads(json.dumps(diagnosis_json(found)))
    known = shares(data)
    assert len(known) > 50
    for share in known:
        assert (share["share"] is None) == (share["interval"] is None) == (share["n"] == 0)
        if share["n"]:
            assert share["share"] == share["count"] / share["n"]
            ends = share["interval"]
            assert ends["low"] - 1e-12 <= share["share"] <= ends["high"] + 1e-12
    total = data["total"]["arm"]["flip_share"]
    assert (total["count"], total["n"]) == (found.funnel.total.arm.flips, found.funnel.total.arm.positions)
    assert total["inside_noise_floor"] is False
    assert sum(cell["arm"]["flips"] for cell in data["cells"]) == total["count"]
    assert [(cell["suite"], cell["depth"]) for cell in data["cells"]] == [
        ("arith", 2), ("arith", 8), ("program", 2), ("program", 8)
    ]  # fmt: skip
    assert data["distances"]["first_flip_to_first_error"]["n"] == found.funnel.total.chains.false
    first = data["clearest"][0]
    assert first["command"] == f"qtrap inspect {whole.path} {first['task_id']} --arm shaky --against steady"


def test_the_view_reads_from_top_to_bottom(whole: RunDirectory) -> None:
    found = diagnose(whole, "shaky")
    text = view(found)
    order = [
        "shaky against steady: from tiny error to logic collapse, 32 chains", "flips of the top-1 token",
        "premises with a flip inside the value", "premises of shaky's own run", "collapsed: answer wrong",
        "By family and depth", "program", "harmless flips", "from the first flip to the first error: 0 hops",
        "first errors with a flip at the same hop", "The clearest chains", "next: qtrap inspect",
    ]  # fmt: skip
    places = [text.index(words) for words in order]
    assert places == sorted(places)
    flips = found.funnel.total.arm.flip_share
    assert f"{flips.count} of {flips.n}, {rate(flips)}" in text
    assert "warning" not in text


@pytest.mark.parametrize("width", [80, 100, 200])
def test_the_view_fits_a_terminal(whole: RunDirectory, width: int) -> None:
    text = view(diagnose(whole, "shaky"), width)
    assert all(len(line) <= width for line in text.splitlines() if not line.startswith("next: "))


def test_the_baseline_itself_is_the_floor(whole: RunDirectory) -> None:
    found = diagnose(whole, "steady")
    counts = found.funnel.total
    assert found.is_floor
    assert counts.arm == counts.floor
    assert (counts.arm.flips, counts.chains.false, found.funnel.clear) == (0, 0, 0)
    text = view(found)
    assert "inside the noise floor" in text
    assert "no position where steady prefers another token" in text


def test_an_effect_inside_the_floor_is_called_so(run: RunDirectory) -> None:
    """The baseline's second reading is as shaky as the arm."""
    shutil.copy(run.scores_path("shaky"), run.scores_path("steady", again=True))
    found = diagnose(run, "shaky")
    assert found.funnel.total.arm == found.funnel.total.floor
    assert "inside the noise floor" in view(found)
    assert diagnosis_json(found)["total"]["arm"]["flip_share"]["inside_noise_floor"] is True


def test_without_scores(run: RunDirectory) -> None:
    for path in (run.scores_path("steady"), run.scores_path("steady", again=True), run.scores_path("shaky")):
        path.unlink()
    found = diagnose(run, "shaky", warnings=("token level: not measured in full: the arm is gone",))
    assert found.warnings == (
        "token level: not measured in full: the arm is gone",
        "token level: not measured: no stored score of steady's text is comparable",
    )
    assert found.funnel.total.premises.false > 0
    text = view(found)
    assert "token level" in text
    assert "not measured" in text
    assert "from the first error to the collapse" in text
    data = diagnosis_json(found)
    assert (data["token_level_measured"], data["total"]["arm"], data["total"]["noise_floor"]) == (False, None, None)


def test_without_the_second_reading_there_is_no_floor(run: RunDirectory) -> None:
    run.scores_path("steady", again=True).unlink()
    found = diagnose(run, "shaky")
    assert found.warnings == ("the noise floor of the token level is not measured: steady has not read its text a second time",)
    assert found.funnel.total.arm.flips > 0
    assert "not measured" in view(found)
    assert "inside_noise_floor" not in json.dumps(diagnosis_json(found)["total"]["noise_floor"])


def test_without_a_baseline(run: RunDirectory) -> None:
    (run.arm_path("steady") / "traces.jsonl").unlink()
    found = diagnose(run, "shaky")
    assert found.baseline is None
    assert found.population == Population(compared=TASKS)
    (warning,) = found.warnings
    assert warning.startswith("the baseline arm 'steady' has no stored trace: only the premises and answers of shaky are")
    assert found.funnel.total.chains.false > 0
    assert "collapsed" in view(found)


def test_other_tasks_other_seeds_and_errors_are_left_out_and_counted(run: RunDirectory) -> None:
    names = sorted(run.tasks())
    rewrite(run, "steady", lambda trace: None if trace.task_id == names[0] else trace)
    changes: dict[str, dict[str, Any]] = {names[2]: {"seed": 5}, names[3]: {"error": "refused", "score": None}}
    rewrite(
        run, "shaky", lambda trace: None if trace.task_id == names[1] else trace.model_copy(update=changes.get(trace.task_id, {}))
    )
    rewrite(run, "steady", lambda trace: trace.model_copy(update={"score": None}) if trace.task_id == names[4] else trace)
    found = diagnose(run, "shaky")
    assert found.population == Population(
        compared=TASKS - 5, arm_only=1, baseline_only=1, other_seed=1, arm_errors=1, baseline_errors=1
    )
    (warning,) = found.warnings
    assert warning == (
        f"{TASKS - 5} chains are compared; left out: 1 have a trace of shaky only, 1 have a trace of steady only, "
        "1 have another seed on each arm, 1 ended in an error on shaky, 1 ended in an error on steady"
    )


def test_files_that_were_cut_off(run: RunDirectory) -> None:
    """The partial last line of a killed writer is no line: the chain counts as not there."""
    for path in (run.arm_path("shaky") / "traces.jsonl", run.scores_path("shaky")):
        path.write_bytes(path.read_bytes()[:-50])
    found = diagnose(run, "shaky")
    assert found.population.baseline_only == 1
    assert found.population.compared == TASKS - 1
    assert found.funnel.total.hops.compared > 0


def test_a_damaged_line_is_named(run: RunDirectory) -> None:
    path = run.scores_path("shaky")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0].replace('"tokens":', '"taken":'), *lines[1:]]))
    with pytest.raises(StoreError, match=r"scores\.jsonl:1: damaged line .*delete that line to go on"):
        diagnose(run, "shaky")


def test_arms_that_are_not_there(run: RunDirectory) -> None:
    with pytest.raises(StoreError, match=r"unknown arm 'shakey': did you mean 'shaky'"):
        diagnose(run, "shakey")
    (run.arm_path("shaky") / "traces.jsonl").unlink()
    with pytest.raises(StoreError, match=r"arm 'shaky' has no stored trace yet; `qtrap run --resume"):
        diagnose(run, "shaky")


def test_another_tokenizer(tmp_path: Path) -> None:
    found = diagnose(make(tmp_path, "steady", "foreign"), "foreign")
    counts = found.funnel.total
    assert (counts.hops.compared, counts.arm.positions, found.token_level) == (0, 0, False)
    assert counts.hops.other_tokens > 0
    assert found.warnings == (
        "token level: not measured: no stored score of steady's text is comparable",
        f"{counts.hops.other_tokens} hops are cut into other tokens by foreign than by steady and are set aside: "
        "token ids of different tokenizers cannot be aligned",
    )
    assert counts.premises.false > 0


def test_hops_that_could_not_be_scored(tmp_path: Path) -> None:
    found = diagnose(make(tmp_path, "steady", "picky"), "picky")
    hops = found.funnel.total.hops
    assert hops.compared > hops.not_scored > 0
    assert found.score_errors == {"the context is full": hops.not_scored}
    assert found.warnings == (
        f"{hops.not_scored} hops have no score of both arms and count in no token-level figure, "
        "mostly because the context is full",
    )


def test_scores_of_an_older_text(run: RunDirectory) -> None:
    def retold(trace: Trace) -> Trace:
        first, *rest = trace.hops
        completion = first.completion.model_copy(update={"token_ids": (1, *first.completion.token_ids)})
        return trace.model_copy(update={"hops": (first.model_copy(update={"completion": completion}), *rest)})

    rewrite(run, "steady", retold)
    found = diagnose(run, "shaky")
    assert found.funnel.total.hops.other_text == TASKS
    assert found.warnings == (f"{TASKS} hops have scores of another text than the stored one and are set aside",)


def test_scores_of_another_baseline_do_not_count(run: RunDirectory) -> None:
    path = run.scores_path("shaky")
    scores = [score.model_copy(update={"source": "gptq"}) for score in read_lines(path, TraceScore)]
    path.write_text("".join(f"{score.model_dump_json()}\n" for score in scores))
    assert diagnose(run, "shaky").token_level is False


def test_families_without_rules_and_without_premises(run: RunDirectory) -> None:
    tasks = list(run.tasks().values())
    ruleless = [
        task.model_copy(update={"premises": tuple(gold.model_copy(update={"rule": None}) for gold in task.premises)})
        if task.suite == "arith"
        else task.model_copy(update={"premises": ()})
        for task in tasks
    ]
    (run.path / "tasks.jsonl").write_text("".join(f"{task.model_dump_json()}\n" for task in ruleless), encoding="utf-8")
    found = diagnose(run, "shaky")
    arith, program = found.funnel.suites
    assert found.warnings == (
        f"arith: no executable rules: the origin of {arith.counts.premises.unknown} wrong premises is unknown",
        "program: no gold premises: only tokens and answers are judged",
    )
    assert arith.counts.premises.own > 0
    assert arith.counts.premises.inherited == arith.counts.premises.compounded == 0
    assert program.counts.arm.flips == program.counts.flips.everywhere.unknown > 0
    assert " unknown" in view(found)


def test_sampled_answers_are_named(run: RunDirectory) -> None:
    sampling = run.config.sampling.model_copy(update={"temperature": 0.7})
    sampled = RunDirectory(run.path, run.config.model_copy(update={"sampling": sampling}))
    (warning,) = diagnose(sampled, "shaky").warnings
    assert warning.startswith("answers were sampled at temperature 0.7")
