"""`qtrap bench` as it is read: the table, the JSON, the crossings in words, and mistakes in one sentence."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import benched
import pytest
from benched import READING, SPREAD, bench_config, bench_settings, window, windows
from scripts import printed, qtrap, write_yaml

from qtrap_agents.analysis.serving import Crossing
from qtrap_agents.bench_store import BenchDirectory
from qtrap_agents.cli import main
from qtrap_agents.errors import ConfigError, StoreError
from qtrap_agents.measures import Window
from qtrap_agents.report.bench import BenchReport, bench_json, bench_report, crossing_sentence
from qtrap_agents.report.bench_view import render_bench
from qtrap_agents.report.provenance import hardware
from qtrap_agents.store import Journal
from qtrap_agents.types import ArmIdentity, Verification

ENVIRONMENT: dict[str, object] = {
    "cpu": "Good CPU",
    "cores": 4,
    "packages": {"vllm": "0.24.0", "torch": "2.11.0", "numpy": "2.4.0"},
    "command": "qtrap bench bench.yaml",
    "started_utc": "2026-11-23T10:00:00Z",
}
WATTS = {"fp16": 400.0, "awq": 300.0, "gptq": 300.0}
RATIOS = {
    "awq": {1: [0.50, 0.52, 0.48], 64: [1.50, 1.55, 1.45]},
    "gptq": {1: [0.60, 0.61, 0.59], 64: [0.90, 0.91, 0.89]},
}
FP16 = ArmIdentity(
    backend="vllm",
    checkpoint="fp16",
    quantised_modules=0,
    linear_modules=8,
    kernels={"UnquantizedLinearMethod": 8},
    weight_bytes=4 * 2**20,
    activation_dtype="float16",
    verification=Verification(status="verified", reason="no packed layer"),
)
AWQ = FP16.model_copy(
    update={"quantisation": "awq", "bits": 4, "quantised_modules": 8, "kernels": {"MarlinLinearKernel": 8}, "weight_bytes": 2**20}
)


def stored(out: Path, lines: Sequence[Window], environment: dict[str, object] | None = None, **changes: Any) -> BenchDirectory:
    """A bench of three arms with these windows."""
    config = bench_config("fp16", "awq", "gptq", concurrency=[1, 64], repeats=3, **changes)
    directory = BenchDirectory.create(out, config, ENVIRONMENT if environment is None else environment)
    with Journal(directory.windows_path) as journal:
        for line in lines:
            journal.append(line)
    for arm, identity in (("fp16", FP16), ("awq", AWQ)):
        directory.write_identity(arm, identity)
    return directory


@pytest.fixture
def report(tmp_path: Path) -> BenchReport:
    """Three arms, measured on a GPU of 700 W."""
    gpu = ENVIRONMENT | {"gpus": ["NVIDIA H100"]}
    return bench_report(stored(tmp_path, windows("fp16", RATIOS, WATTS), gpu, shape="qwen2.5-7b"))


def shown(report: BenchReport) -> str:
    """The report on a wide terminal."""
    return printed(lambda console: render_bench(report, console), width=240)


def row(text: str, *beginning: str) -> str:
    """The one line that begins so."""
    (line,) = (line for line in text.splitlines() if line.split()[: len(beginning)] == list(beginning))
    return " ".join(line.split())


def test_what_the_bench_was(report: BenchReport) -> None:
    text = shown(report)
    assert "qwen2.5-7b on NVIDIA H100; vllm 0.24.0, torch 2.11.0; 2026-11-23T10:00:00Z" in text
    assert "energy by nvml" in text
    assert "warning" not in text
    assert (report.done, report.total, report.command) == (18, 18, "qtrap bench bench.yaml")


def test_what_was_served(report: BenchReport) -> None:
    text = shown(report)
    assert row(text, "awq", "awq").startswith("awq awq 4-bit 8/8 MarlinLinearKernel ×8 1.00 MiB verified: no packed layer")
    assert row(text, "fp16", "float16").startswith("fp16 float16 0/8 UnquantizedLinearMethod ×8 4.00 MiB verified")


def test_ratios_with_their_intervals(report: BenchReport) -> None:
    text = shown(report)
    assert "Prompts of 16 tokens, 8 new ones each" in text
    base, awq = row(text, "1", "fp16"), row(text, "1", "awq")
    assert base.startswith("1 fp16 80.0 – 5.00 J – – 400 W")
    assert awq.startswith("1 awq 160 −50.0 % [−54.8, −44.8] 1.87 J −62.5 % [−66.1, −58.6] −50.0 % 300 W")
    assert row(text, "64", "awq").startswith("64 awq 3,410 +49.9 % [+38.0, +62.9]")
    assert "95 %, Student's t over repeats of paired ratios" in text


def test_crossings_and_arms_without_any(report: BenchReport) -> None:
    text = " ".join(shown(report).split())
    assert "awq stops paying in time at about 14 in flight (between 1 and 64, prompts of 16 tokens)" in text
    assert "awq stops paying in energy at about 41 in flight (between 1 and 64, prompts of 16 tokens" in text
    assert "gptq pays everywhere in time (−40.0 % to −10.0 %)" in text
    assert "gptq pays everywhere in energy (−55.0 % to −32.5 %)" in text
    assert "awq pays everywhere" not in text


@pytest.mark.parametrize(
    ("ratios", "sentence"),
    [
        ({1: [2.0, 2.1, 1.9], 64: [3.0, 3.1, 2.9]}, "awq costs more everywhere in time (+99.8 % to +199.9 %)"),
        (
            {1: [0.5, 0.51, 0.49], 64: [0.9, 1.2, 0.7]},
            "awq pays everywhere in time by the estimates, for certain at 1 of 2 places",
        ),
        ({1: [0.8, 1.2, 0.7], 64: [0.9, 1.2, 0.7]}, "awq: no difference in time is certain (estimates −12.4 % to −8.9 %)"),
        ({1: [2.0], 64: [3.0]}, "awq: no difference in time is certain (estimates +100.0 % to +200.0 %)"),
    ],
)
def test_an_arm_without_a_crossing(tmp_path: Path, ratios: dict[int, list[float]], sentence: str) -> None:
    found = bench_report(stored(tmp_path, windows("fp16", {"awq": ratios})))
    assert sentence in shown(found)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "awq stops paying in energy at about 91 in flight (between 64 and 128, prompts of 256 tokens)"),
        (
            {"stops": False, "quantity": "time"},
            "awq starts paying in time at about 91 in flight (between 64 and 128, prompts ",
        ),
        ({"certain": False}, "prompts of 256 tokens; the intervals at both ends do not rule out that it is elsewhere)"),
    ],
)
def test_a_crossing_in_words(changes: dict[str, object], sentence: str) -> None:
    fields: dict[str, object] = {"arm": "awq", "quantity": "energy", "prompt_tokens": 256, "new_tokens": 64, "below": 64}
    more: dict[str, object] = {"above": 128, "concurrency": 90.51, "stops": True, "certain": True}
    assert sentence in crossing_sentence(Crossing.model_validate(fields | more | changes))


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    text = shown(bench_report(stored(tmp_path, windows("fp16", {"awq": {1: [0.5]}}))))
    assert "own checkpoints on Good CPU, 4 cores; " in text
    assert "energy not measured" in text
    awq = row(text, "1", "awq")
    assert awq.startswith("1 awq 160 −50.0 % not measured not measured – not measured not measured not measured")
    assert "in energy" not in text


def test_latencies_are_shown_in_milliseconds(tmp_path: Path) -> None:
    slow = SPREAD.model_copy(update={"p50": 2.5})
    lines = [window("fp16", ttft=SPREAD, inter_token=SPREAD, last=READING), window("awq", ttft=slow, inter_token=SPREAD)]
    text = shown(bench_report(stored(tmp_path, lines)))
    assert row(text, "1", "fp16").endswith("20.0 ms 20.0 ms")
    assert row(text, "1", "awq").endswith("2.5 s 20.0 ms")


def test_what_a_reader_must_know_first(tmp_path: Path) -> None:
    directory = stored(tmp_path, [window("fp16"), window("awq", errors=2), window("awq", errors=1, repeat=1)])
    emulated = Verification(status="emulated", reason="computes with an unpacked copy")
    directory.write_identity("awq", AWQ.model_copy(update={"verification": emulated}))
    found = bench_report(directory)
    assert found.warnings == (
        f"3 of 18 windows measured; `qtrap bench --resume {directory.path}` goes on",
        "awq: emulated: computes with an unpacked copy",
        "3 requests failed; their windows count what was answered",
    )
    text = " ".join(shown(found).split())
    assert all(f"warning: {warning}" in text for warning in found.warnings)


def test_a_window_that_was_measured_twice_is_one(tmp_path: Path) -> None:
    assert bench_report(stored(tmp_path, [window("fp16"), window("fp16")])).done == 1


def test_json_has_every_figure_and_the_derived_ones(report: BenchReport) -> None:
    data: Any = json.loads(json.dumps(bench_json(report)))
    assert (data["baseline"], data["arms"], data["meter"]) == ("fp16", ["fp16", "awq", "gptq"], "nvml")
    cells = {(cell["arm"], cell["concurrency"]): cell for cell in data["cells"]}
    assert len(cells) == 6
    assert cells["awq", 1]["cor_latency"] == pytest.approx(-0.5, abs=0.001)
    assert cells["awq", 1]["throughput"] == pytest.approx(2, abs=0.01)
    assert cells["awq", 1]["time"]["n"] == 3
    assert cells["awq", 1]["time"]["interval"]["low"] < cells["awq", 1]["time"]["value"]
    assert (cells["fp16", 1]["cor_latency"], cells["fp16", 1]["energy"]) == (None, None)
    assert {(item["arm"], item["quantity"], item["stops"]) for item in data["crossings"]} == {
        ("awq", "time", True),
        ("awq", "energy", True),
    }
    assert data["identities"]["awq"]["kernels"] == {"MarlinLinearKernel": 8}
    assert data["warnings"] == []


def test_nothing_measured_yet_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"nothing was measured; `qtrap bench --resume .*` goes on"):
        bench_report(stored(tmp_path, []))


def test_a_baseline_that_is_not_measured_yet_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown baseline arm 'fp16'"):
        bench_report(stored(tmp_path, [window("awq")]))


@pytest.mark.parametrize("width", [60, 120])
def test_a_narrow_terminal_loses_nothing(report: BenchReport, width: int) -> None:
    lines = printed(lambda console: render_bench(report, console), width).splitlines()
    assert max(map(len, lines)) <= width


def test_hardware_in_words() -> None:
    assert hardware({"gpus": ["A", "A"], "cpu": "C"}) == "A, A"
    assert hardware({"gpus": [], "cpu": "C", "cores": 2}) == "C, 2 cores"
    assert hardware({}) == "unknown CPU, ? cores"


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    directory = stored(tmp_path, [window("fp16")])
    (directory.path / "arms" / "awq" / "identity.json").write_text("{")
    with pytest.raises(StoreError, match=r"awq/identity\.json: cannot be read"):
        bench_report(directory)
    (directory.path / "environment.json").write_text("")
    with pytest.raises(StoreError, match=r"environment\.json: cannot be read"):
        bench_report(directory)


def bench_file(folder: Path, **changes: Any) -> Path:
    """A configuration file of two scripted arms."""
    return write_yaml(folder / "bench.yaml", bench_settings("fp16", "awq", **changes))


class Answer(NamedTuple):
    """What a command said, and its exit code."""

    code: int
    stdout: str
    stderr: str


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """`qtrap bench …` in an empty folder, in this process."""
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["qtrap", "bench", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            main()
        return Answer(int(caught.value.code or 0), *capsys.readouterr())

    return call


def refused(result: Answer) -> str:
    """The one sentence of a command that failed as expected."""
    assert (result.code, result.stdout) == (2, ""), result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("qtrap: ")
    return line.removeprefix("qtrap: ")


def test_a_bench_from_a_file_is_measured_and_shown(tmp_path: Path) -> None:
    made = qtrap("bench", bench_file(tmp_path), "--concurrency", 2, "--repeats", 1, "--out", "here", "--json", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    data = json.loads(made.stdout)
    assert (data["done"], data["total"], data["arms"]) == (2, 2, ["fp16", "awq"])
    (path,) = (tmp_path / "here").iterdir()
    assert made.stderr.splitlines()[-1] == f"stored: here/{path.name}"


def test_a_bench_is_shown_again_and_finished(tmp_path: Path, bench: Callable[..., Answer]) -> None:
    assert bench(bench_file(tmp_path), "--concurrency", 2, "--repeats", 3).code == 0
    (path,) = (tmp_path / "traces").iterdir()
    again = bench("--show", path)
    assert "Prompts of 16 tokens, 8 new ones each" in again.stdout
    assert (again.code, again.stderr) == (0, "")

    lines = (path / "windows.jsonl").read_text().splitlines(keepends=True)
    (path / "windows.jsonl").write_text("".join(lines[:2]))
    assert "2 of 6 windows measured" in " ".join(bench("--show", path).stdout.split())
    resumed = bench("--resume", path, "--json")
    assert json.loads(resumed.stdout)["done"] == 6
    assert "fp16: ready after 0 s, 2 of 3 tasks to run" in resumed.stderr


@pytest.mark.parametrize(
    "words", [("--repeats", 4), ("--shape", "mistral-7b"), ("--arm", "awq"), ("--out", "x"), ("bench.yaml",)]
)
def test_a_bench_is_finished_as_it_was_started(tmp_path: Path, bench: Callable[..., Answer], words: tuple[object, ...]) -> None:
    bench_file(tmp_path)
    path = stored(tmp_path / "traces", [window("fp16")]).path
    before = (path / "windows.jsonl").read_bytes()
    assert refused(bench(*words, "--resume", path)) == (
        "--resume finishes a bench as it was started and takes no other settings; start a new one"
    )
    assert (path / "windows.jsonl").read_bytes() == before


def test_only_some_arms(tmp_path: Path, bench: Callable[..., Answer]) -> None:
    made = bench(bench_file(tmp_path, baseline="fp16"), "--arm", "awq", "--json")
    data = json.loads(made.stdout)
    assert (data["arms"], data["baseline"]) == (["awq"], "awq")


def test_a_bench_that_stops_says_how_to_go_on(
    tmp_path: Path, bench: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benched.awq, "lives", 0)
    stopped = bench(bench_file(tmp_path))
    (path,) = (tmp_path / "traces").iterdir()
    assert (stopped.code, stopped.stdout) == (2, "")
    hint = f"stored so far: traces/{path.name}; go on with `qtrap bench --resume traces/{path.name}`"
    assert stopped.stderr.splitlines()[-1] == f"qtrap: arm 'worker': the engine died in mid-run; {hint}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give a configuration file, such as configs/bench.yaml, or --shape qwen2.5-7b, or --resume DIR"),
        (("nowhere.yaml",), "nowhere.yaml: no such file"),
        (("--shape", "qwen2.5-8b"), "unknown shape 'qwen2.5-8b': did you mean 'qwen2.5-7b'?"),
        (("bench.yaml", "--arm", "aqw"), "unknown arm 'aqw': did you mean 'awq'?"),
        (("bench.yaml", "--window", "-1"), "command line: field 'window_s': input should be greater than 0"),
        (("bench.yaml", "--prompt-tokens", "5000"), "prompt_tokens + new_tokens = 5008 exceeds engine.max_model_len 2048"),
        (("--resume", "."), ".: not a bench directory (no bench.yaml); `qtrap bench CONFIG` makes one"),
        (("--show", "nowhere"), "nowhere: not a bench directory"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, bench: Callable[..., Answer], words: tuple[str, ...], message: str
) -> None:
    file = bench_file(tmp_path)
    if words[:1] == ("--resume",):
        file.unlink()
    assert refused(bench(*words)).startswith(message)
    assert not (tmp_path / "traces").exists()
