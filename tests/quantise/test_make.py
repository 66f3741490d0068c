"""What is refused before the work, what is registered after it, and that nothing half-made is left in between."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections import namedtuple
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from scripts import start_qtrap

from qtrap_agents import paths
from qtrap_agents.backends.factory import open_arm
from qtrap_agents.config import EngineConfig, RunConfig, load_yaml, named_arm
from qtrap_agents.errors import ArmError, QtrapError
from qtrap_agents.quantise.make import Made, Wanted, quantise

from .conftest import PACKED, VERSIONS, Write, recipe_of

FP16 = "reference:small/fp16"
Usage = namedtuple("Usage", "total used free")


def wanted(**fields: Any) -> Wanted:
    given = {"model": FP16, "calibration": ("arith",), "samples": 6, "out": Path("made"), "name": "mine"}
    return Wanted.model_validate(given | fields)


def run(python: Path, told: list[str] | None = None, **fields: Any) -> Made:
    return asyncio.run(quantise(wanted(**fields), python, (told if told is not None else []).append))


def left(folder: Path) -> set[str]:
    """What lies in the working directory beside the stand-in."""
    return {path.name for path in folder.iterdir()} - {"interpreter", "cache"}


def test_a_checkpoint_becomes_a_named_arm(interpreter: Write, workplace: Path) -> None:
    told: list[str] = []
    made = run(interpreter(), told)
    assert left(workplace) == {"made", "configs"}, "neither a log nor a half-made checkpoint"
    assert told[-1] == "writing"
    assert made.file == Path("configs/arms/mine.yaml")
    assert named_arm("mine") == made.arm
    assert (made.arm.name, made.arm.checkpoint) == ("mine", "made")
    recipe = made.arm.recipe
    assert recipe == recipe_of(Path("made"))
    assert {name: recipe[name] for name in ("model", "method", "bits", "group_size", "calibration", "samples", "tokens")} == {
        "model": FP16, "method": "gptq", "bits": 4, "group_size": 128, "calibration": "arith", "samples": 6, "tokens": 42,
    }  # fmt: skip
    assert {name: recipe[name] for name in VERSIONS} == VERSIONS
    checksums = json.loads((paths.REFERENCE_CHECKPOINTS / "checksums.json").read_text())
    assert recipe["checksum"] == checksums["small/gptq/model.safetensors"]
    assert recipe["model_checksum"] == checksums["small/fp16/model.safetensors"]


def test_a_run_can_name_it_and_keeps_all_of_it(interpreter: Write, workplace: Path) -> None:
    made = run(interpreter())
    Path("run.yaml").write_text(f"suites: [arith]\narms: [{{name: fp16, checkpoint: '{FP16}'}}, mine]\n")
    config = load_yaml(Path("run.yaml"), RunConfig)
    assert config.arms[1] == made.arm
    made.file.unlink()
    assert RunConfig.model_validate(json.loads(config.model_dump_json())) == config, "without the registered file"


def test_other_weights_than_the_recipe_says_are_refused(interpreter: Write, workplace: Path) -> None:
    made = run(interpreter())
    arm = made.arm.model_copy(update={"backend": "transformers"})

    async def opened(checkpoint: str) -> str | None:
        engine = EngineConfig(dtype="float32", max_model_len=64)
        async with open_arm(arm.model_copy(update={"checkpoint": checkpoint}), engine, Path("log")) as backend:
            return backend.identity.checksum

    assert asyncio.run(opened("made")) == arm.recipe["checksum"]
    with pytest.raises(ArmError, match=r"arm 'mine': the weights in .*awq \(\w{8}\) are not those of its recipe \(\w{8}\); quan"):
        asyncio.run(opened("reference:small/awq"))


def test_a_checkpoint_elsewhere_is_named_by_its_whole_path(
    interpreter: Write, workplace: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "made"
    assert run(interpreter(), out=elsewhere).arm.checkpoint == str(elsewhere)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"model": "no-such-directory"}, "checkpoint 'no-such-directory': no such directory"),
        ({"model": "reference:small/gptq"}, "is quantised already; name the 16-bit checkpoint"),
        ({"bits": 5}, "--bits 5: gptq makes 3 or 4 or 8 bits that engines can serve"),
        ({"method": "awq", "bits": 8}, "--bits 8: awq makes 3 or 4 bits that engines can serve"),
        ({"group_size": 100}, r"--group-size 100: engines take -1, 32, 64, 128 \(-1: a scale per row\)"),
        ({"calibration": ()}, "gptq needs --calibration: a text or jsonl file, or a suite such as arith"),
        ({"calibration": ("arihm",)}, "unknown suite 'arihm': did you mean 'arith'?"),
        ({"calibration": ("none.jsonl",)}, "--calibration none.jsonl: no such file"),
        ({"out": Path("taken")}, "--out taken: is there already; remove it or choose another folder"),
        ({"name": "taken"}, r"--name taken: there is an arm of that name \(configs/arms\)"),
        ({"name": "qwen2.5-7b-awq"}, "--name qwen2.5-7b-awq: there is an arm of that name"),
        ({"name": "a/b"}, "--name a/b: must be letters, digits, dots, underscores and hyphens"),
        ({"revision": "main"}, "--revision belongs to a hub id"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(interpreter: Write, workplace: Path, fields: dict[str, Any], told: str) -> None:
    Path("taken").mkdir()
    Path("configs/arms").mkdir(parents=True)
    Path("configs/arms/taken.yaml").write_text("checkpoint: x\n")
    with pytest.raises(QtrapError, match=told) as caught:
        run(interpreter("raise SystemExit('was started')"), **fields)
    assert "\n" not in str(caught.value)
    assert left(workplace) == {"taken", "configs"}


def test_groups_that_do_not_divide_a_layer(interpreter: Write, workplace: Path) -> None:
    import torch
    from safetensors.torch import save_file

    source = paths.REFERENCE_CHECKPOINTS / "small" / "fp16"
    model = workplace / "odd"
    model.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (model / name).write_bytes((source / name).read_bytes())
    save_file({"model.layers.0.mlp.up_proj.weight": torch.zeros(8, 96)}, model / "model.safetensors")
    told = "--group-size 128: does not divide the 96 inputs of model.layers.0.mlp.up_proj.weight in .*; choose one of -1, 32"
    with pytest.raises(QtrapError, match=told):
        run(interpreter(), model=str(model))


def test_a_full_disk_is_found_before_the_work(interpreter: Write, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(10, 9, 1))
    with pytest.raises(QtrapError, match=r"--out made: needs 0\.0 GiB and 0\.0 are free; free some, or choose a folder on an"):
        run(interpreter())


@pytest.mark.parametrize(
    ("work", "told"),
    [
        ("out.mkdir(); print('qtrap-error: layers are too narrow', flush=True); raise SystemExit(3)", "layers are too narrow$"),
        ("out.mkdir(); raise ValueError('singular matrix')", "was not quantised: .*ValueError: singular matrix"),
        ("out.mkdir(); import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed, most likely for want of memory"),
        ("out.mkdir()", "was not quantised: "),
        (f"shutil.copytree({str(PACKED.parent / 'fp16')!r}, out); pathlib.Path(job['report']).write_text(json.dumps("
         "{'versions': {}, 'texts': 0, 'tokens': 0}))", "not quantised as wanted: 0 packed tensors of None bits"),
    ],
)  # fmt: skip
def test_a_failure_leaves_a_log_and_no_checkpoint(interpreter: Write, workplace: Path, work: str, told: str) -> None:
    with pytest.raises(ArmError, match=told) as caught:
        run(interpreter(work))
    assert "\n" not in str(caught.value)
    assert left(workplace) == {"made.log"}


def test_what_a_killed_attempt_left_is_written_over(interpreter: Write, workplace: Path) -> None:
    Path("made.partial").mkdir()
    Path("made.partial/model.safetensors").write_text("half")
    run(interpreter())
    assert left(workplace) == {"made", "configs"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_quantiser_is_gone_and_leaves_nothing(interpreter: Write, workplace: Path, number: signal.Signals) -> None:
    python = interpreter("out.mkdir(); (out.parent / 'pid').write_text(str(__import__('os').getpid())); time.sleep(600)")
    options = ("--method", "rtn", "--out", "made", "--name", "mine", "--python", python)
    with start_qtrap("quantize", FP16, *options, cwd=workplace) as process:
        pid = _written(workplace / "pid")
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (130, "")
    assert stderr.splitlines()[-1] == "qtrap: interrupted; nothing was written"
    assert "Traceback" not in stderr
    _wait_for_the_end_of(pid)
    assert left(workplace) == {"pid"}


def _wait_for_the_end_of(pid: int) -> None:
    """The kernel may take a moment over a killed grandchild; one that goes on would keep the test until its timeout."""
    with suppress(psutil.NoSuchProcess):
        while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.05)


def _written(file: Path) -> int:
    while not (file.is_file() and file.read_text()):
        time.sleep(0.05)
    return int(file.read_text())


def test_the_command_prints_the_file_and_the_next_step(interpreter: Write, workplace: Path) -> None:
    command = [sys.executable, "-m", "qtrap_agents", "quantize", FP16, "--calibration", "arith", "--samples", "4"]
    done = subprocess.run([*command, "--python", str(interpreter())], capture_output=True, text=True, check=True)
    assert done.stdout == "configs/arms/small-fp16-gptq4.yaml\n"
    assert done.stderr.splitlines()[-1].startswith("next: qtrap run CONFIG --arm BASELINE --arm small-fp16-gptq4")
    assert yaml.safe_load(Path(done.stdout.strip()).read_text())["checkpoint"] == "checkpoints/small-fp16-gptq4"


def test_an_interpreter_without_the_quantiser_is_refused(interpreter: Write, workplace: Path) -> None:
    with pytest.raises(QtrapError, match=r"has no llmcompressor, torch; install llmcompressor==.* there, or leave --python out"):
        run(interpreter(versions={"transformers": "5", "compressed-tensors": "1"}))
    with pytest.raises(QtrapError, match=r"--python nowhere: cannot be run .*; give the interpreter of an environment"):
        run(Path("nowhere"))
