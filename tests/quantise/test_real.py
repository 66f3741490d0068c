"""The real quantiser on the shipped reference model: made, served, recognised, and still able to do its sums."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from qtrap_agents.backends.base import Backend
from qtrap_agents.backends.factory import open_arm
from qtrap_agents.config import ArmConfig, EngineConfig, named_arm
from qtrap_agents.quantise import environment
from qtrap_agents.quantise.calibration import Row, suite_rows
from qtrap_agents.types import ArmIdentity, Message, Sampling

PYTHON = environment.own_interpreter()
ENGINE = EngineConfig(dtype="float32", max_model_len=256, max_num_seqs=64, kv_cache_gib=0.25)
FAMILIES = ("arith", "relate", "lookup", "track", "program")
HOPS = 100

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PYTHON is None, reason="no environment of the quantiser: qtrap quantize --setup makes one"),
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def quantised(method: str, bits: int) -> ArmConfig:
    """An arm made by the command."""
    command = [sys.executable, "-m", "qtrap_agents", "quantize", "reference:small/fp16", "--method", method, "--bits", str(bits)]
    given = [option for family in FAMILIES for option in ("--calibration", family)]
    done = subprocess.run([*command, *given, "--name", "mine", "--python", str(PYTHON)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return named_arm("mine")


async def right(arm: Backend, rows: list[Row]) -> int:
    """How many of the hops the arm answers as gold does."""
    chats = [[Message.model_validate(message) for message in row["messages"]] for row in rows]
    answers = await asyncio.gather(*[arm.complete(chat[:-1], Sampling(max_tokens=8)) for chat in chats])
    return sum(answer.text.strip() == chat[-1].content for answer, chat in zip(answers, chats, strict=True))


def served(arm: ArmConfig, **fields: object) -> tuple[ArmIdentity, int]:
    async def run() -> tuple[ArmIdentity, int]:
        rows = await suite_rows("relate", HOPS)
        async with open_arm(arm.model_copy(update=fields), ENGINE, Path("server.log")) as backend:
            return backend.identity, await right(backend, rows)

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("method", "bits", "container", "least", "most"),
    [("gptq", 4, 4, 85, 99), ("awq", 4, 4, 90, 100), ("gptq", 8, 8, 98, 100), ("rtn", 3, 4, 0, 80)],
)
def test_an_arm_of_few_bits(here: Path, method: str, bits: int, container: int, least: int, most: int) -> None:
    arm = quantised(method, bits)
    assert (arm.recipe["method"], arm.recipe["bits"], arm.recipe["samples"]) == (method, bits, 0 if method == "rtn" else 512)
    identity, correct = served(arm, backend="transformers")
    assert (identity.quantisation, identity.bits, identity.group_size) == (method, container, 128)
    assert identity.checksum == arm.recipe["checksum"]
    assert identity.verification is not None
    assert identity.verification.status == "emulated"
    assert least <= correct <= most


@pytest.mark.vllm
def test_vllm_serves_it_packed(here: Path) -> None:
    identity, correct = served(quantised("gptq", 4), backend="vllm")
    assert (identity.quantisation, identity.bits, identity.quantised_modules) == ("gptq", 4, identity.linear_modules)
    assert identity.verification is not None
    assert identity.verification.status in {"verified", "emulated"}
    assert correct >= 85
