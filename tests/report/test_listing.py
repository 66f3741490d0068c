import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from qtrap_agents.paths import shipped
from qtrap_agents.report.listing import (
    CheckpointRow,
    arm_rows,
    checkpoint_rows,
    render_arms,
    render_checkpoints,
    render_runs,
    render_suites,
    render_workflows,
    rows_json,
    run_rows,
    suite_rows,
    workflow_rows,
)
from qtrap_agents.store import CONFIG, RunDirectory

from .conftest import draw, make_run, make_trace, printed, write_arm


def test_suites() -> None:
    rows = suite_rows()
    assert {"arith", "relate", "lookup", "track", "program"} <= {row.name for row in rows}
    text = printed(lambda console: render_suites(rows, console), 200)
    assert "keeping a state over many moves" in text
    assert "words:6" in text
    assert "answers of sub-questions, no rules" in text
    assert json.loads(json.dumps(rows_json(rows)))[0]["name"] == rows[0].name
    assert "no suites" in printed(lambda console: render_suites((), console))


def test_workflows() -> None:
    rows = workflow_rows()
    assert {"chain", "cot", "vote", "react"} <= {row.name for row in rows}
    assert rows[0].summary.startswith("one model call per premise")
    vote = next(row for row in rows if row.name == "vote")
    assert vote.params == {"k": 5, "per": "hop", "temperature": 0.7}
    assert vote.ranges == {"k": "1 to 99", "per": "hop or chain", "temperature": "0 to 2"}
    text = printed(lambda console: render_workflows(rows, console))
    assert "module:function" in text
    assert "k=5, per=hop, temperature=0.7" in text


def write_checkpoint(folder: Path, config: Mapping[str, object], tensors: Mapping[str, Sequence[int]]) -> None:
    """A checkpoint with zeros in it."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: torch.zeros(*shape) for name, shape in tensors.items()}, str(folder / "model.safetensors"))


def test_shipped_checkpoints_as_the_user_writes_them(tmp_path: Path) -> None:
    model = {"hidden_size": 128, "num_hidden_layers": 3}
    write_checkpoint(tmp_path / "small" / "fp16", model, {"a.weight": (256, 1024)})
    quantised = model | {"quantization_config": {"bits": 4, "group_size": 128, "quant_method": "gptq"}}
    write_checkpoint(tmp_path / "small" / "gptq", quantised, {"a.qweight": (4, 4)})
    (tmp_path / "small" / "awq").mkdir()
    (tmp_path / "small" / "awq" / "config.json").write_text("{")
    awq, fp16, gptq = checkpoint_rows(tmp_path)
    assert fp16.name == "reference:small/fp16"
    assert (fp16.quantisation, fp16.tensor_bytes, gptq.quantisation, gptq.bits) == (None, 2**20, "gptq", 4)
    assert awq.problem is not None
    text = printed(lambda console: render_checkpoints((awq, fp16, gptq), console))
    assert "gptq 4-bit g128 3 layers × 128 0.00 MiB" in " ".join(text.split())
    assert "not quantised" in text
    assert "1.00 MiB" in text
    assert "not readable as JSON" in " ".join(text.split())


def test_no_checkpoints(tmp_path: Path) -> None:
    rows: tuple[CheckpointRow, ...] = checkpoint_rows(tmp_path / "none")
    assert rows == ()
    assert printed(lambda console: render_checkpoints(rows, console)).startswith("no reference checkpoints are installed")


def test_runs(run: RunDirectory) -> None:
    tasks = draw(count=1)
    other = make_run(run.path.parent, tasks, ("fp16",), name="other")
    write_arm(other, "fp16", [make_trace(other, "fp16", task) for task in tasks])
    broken = make_run(run.path.parent, tasks, ("fp16",), name="broken")
    (broken.path / CONFIG).write_text("arms: [")
    rows = {Path(row.path).name.partition("-")[0]: row for row in run_rows(run.path.parent)}
    assert {name: row.state for name, row in rows.items()} == {
        "demo": "unfinished",
        "other": "finished",
        "broken": "unreadable",
    }
    assert [(arm.name, arm.done) for arm in rows["demo"].arms] == [("fp16", 40), ("awq", 40), ("gptq", 20), ("fp16+again", 0)]
    assert rows["demo"].created == "2026-03-01T10:00:00Z"
    text = " ".join(printed(lambda console: render_runs(tuple(rows.values()), console), 200).split())
    assert "fp16 40/40, awq 40/40, gptq 20/40, fp16+again 0/40 unfinished" in text
    assert "not valid YAML" in text
    assert [row["state"] for row in rows_json(list(rows.values()))].count("finished") == 1


def test_no_runs(tmp_path: Path) -> None:
    assert run_rows(tmp_path / "traces") == ()
    assert "no runs in this folder" in printed(lambda console: render_runs((), console))


def test_listing_loads_no_heavy_library() -> None:
    code = (
        "import sys, pathlib; from qtrap_agents.report import listing; listing.suite_rows(); "
        "listing.checkpoint_rows(); listing.run_rows(pathlib.Path('.')); "
        "print([name for name in ('torch', 'langgraph', 'statsmodels', 'scipy', 'vllm') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_named_arms_and_what_is_wrong_with_one(tmp_path: Path) -> None:
    (tmp_path / "hub.yaml").write_text(
        f"name: hub\ncheckpoint: some/model\nrevision: {'0123456789' * 4}\nengine_args: {{kv_cache_dtype: fp8}}\n"
    )
    (tmp_path / "made.yaml").write_text(
        "name: made\ncheckpoint: x\nbackend: transformers\nrecipe: {method: awq, bits: 3, tokens: 9}\n"
    )
    (tmp_path / "two.yaml").write_text("name: two\nbase_urls: [http://a, http://b]\n")
    (tmp_path / "wrong.yaml").write_text("name: right\ncheckpoint: x\n")
    hub, made, two, wrong = rows = arm_rows([tmp_path])
    assert (hub.served, hub.settings, hub.place) == ("some/model", {"kv_cache_dtype": "fp8"}, str(tmp_path))
    assert made.settings == {"backend": "transformers", "method": "awq", "bits": 3}
    assert two.served == "http://a, http://b"
    assert wrong.problem is not None
    text = " ".join(printed(lambda console: render_arms(rows, console)).split())
    assert "some/model @ 01234567" in text
    assert "call it 'wrong' like its file" in text
    assert printed(lambda console: render_arms((), console)).startswith("no named arms")
    assert {row.place for row in arm_rows([shipped("configs") / "arms"])} == {"shipped"}
