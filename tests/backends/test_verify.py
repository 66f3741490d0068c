"""An arm that does not hold what its checkpoint claims is found by its layers, its bytes or its kernels."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, cast

import pytest

from qtrap_agents.backends import factory
from qtrap_agents.backends.checkpoint import CheckpointFacts
from qtrap_agents.backends.inspector import ModelFacts
from qtrap_agents.backends.scripted import ScriptedArm
from qtrap_agents.backends.verify import expected_bytes, require, verify
from qtrap_agents.config import ArmConfig, EngineConfig
from qtrap_agents.errors import ArmError
from qtrap_agents.types import ArmIdentity, Verification

Status = Literal["verified", "emulated", "contradicted", "unknown"]

LINEAR, OTHERS = 1_000_000, 200_000
"""Elements of the matrices that are packed, and of what stays in 16 bits."""
PACKED, DENSE = LINEAR // 2 + 2 * OTHERS, 2 * (LINEAR + OTHERS)
"""Bytes on the device where the matrices are packed to 4 bits, and where they are not."""

FILES_4 = CheckpointFacts("gptq", 4, 128, 8, PACKED, "", packed_bytes=LINEAR // 2, float_elements=OTHERS)
FILES_16 = CheckpointFacts(None, None, None, 0, DENSE, "", float_elements=LINEAR + OTHERS, linear_elements=LINEAR)
FILES_NF4 = FILES_16._replace(method="bitsandbytes-nf4", bits=4, quantised_at_load=True)


def holding(size: int, packed: int = 8, **changes: Any) -> ModelFacts:
    """What an engine with eight layers holds: so many bytes, so many layers packed."""
    facts: dict[str, Any] = {
        "linear_modules": 8,
        "quantised_modules": packed,
        "kernels": {"MarlinLinearKernel": 8} if packed else {"UnquantizedLinearMethod": 8},
        "weight_bytes": size,
        "unpacked_bytes": 0,
        "activation_dtype": "float16",
        "device": "cuda:0",
    }
    return cast(ModelFacts, facts | changes)


@pytest.mark.parametrize(
    ("facts", "files", "status", "reason"),
    [
        (holding(PACKED), FILES_4, "verified", "8 of 8 linear layers packed, 0.9 MiB as the 4-bit format implies"),
        (holding(DENSE, 0), FILES_16, "verified", "no packed layer, 2.3 MiB as the files imply"),
        (holding(PACKED, kernels={"Linear4bit": 8}), FILES_NF4, "verified", "8 of 8 linear layers packed"),
        (holding(PACKED, kernels={"NobodyKnowsKernel": 8}), FILES_4, "verified", "8 of 8 linear layers packed"),
        (holding(DENSE, 0), FILES_4, "contradicted", "claims gptq 4-bit but none of 8 linear layers is packed: "),
        (holding(DENSE), FILES_4, "contradicted", "take 2.3 MiB where the format implies 0.9 MiB"),
        (holding(DENSE, 0), FILES_NF4, "contradicted", "claims bitsandbytes-nf4 4-bit but none of 8"),
        (
            holding(PACKED, kernels={"UnquantizedLinearMethod": 8}),
            FILES_4,
            "contradicted",
            "claims gptq 4-bit but every layer is multiplied dense (UnquantizedLinearMethod)",
        ),
        (holding(DENSE), FILES_16, "contradicted", "the checkpoint is not quantised but 8 layers hold packed weights"),
        (holding(PACKED, 0), FILES_16, "contradicted", "take 0.9 MiB where the format implies 2.3 MiB"),
        (holding(PACKED, unpacked_bytes=DENSE), FILES_4, "emulated", "holds the 4-bit values but computes with an unpacked copy"),
        (None, FILES_4, "unknown", "the engine does not tell what it holds"),
        (holding(PACKED), None, "unknown", "the files of the checkpoint could not be read"),
    ],
)
def test_status_and_reason(facts: ModelFacts | None, files: CheckpointFacts | None, status: Status, reason: str) -> None:
    found = verify(facts, files)
    assert (found.status, reason in found.reason) == (status, True), found
    assert "\n" not in found.reason


def test_a_backend_that_unpacks_says_so_and_a_dense_checkpoint_stays_verified() -> None:
    assert verify(holding(DENSE, 0), FILES_4, unpacked=True).status == "emulated"
    assert verify(holding(DENSE, 0), FILES_16, unpacked=True).status == "verified"


@pytest.mark.parametrize(
    ("share", "status"), [(1.09, "verified"), (1.11, "contradicted"), (0.91, "verified"), (0.89, "contradicted")]
)
def test_bytes_may_differ_by_a_tenth(share: float, status: Status) -> None:
    assert verify(holding(round(share * PACKED)), FILES_4).status == status
    assert verify(holding(round(share * DENSE), 0), FILES_16).status == status


def test_what_is_not_packed_takes_the_dtype_of_the_activations() -> None:
    half, full = holding(0), holding(0, activation_dtype="float32")
    assert [expected_bytes(facts, FILES_4) for facts in (half, full)] == [PACKED, LINEAR // 2 + 4 * OTHERS]
    assert [expected_bytes(facts, FILES_16) for facts in (half, full)] == [DENSE, 2 * DENSE]
    assert expected_bytes(holding(0, activation_dtype="bfloat16"), FILES_4) == PACKED


def test_weights_that_are_packed_at_load_take_their_bits() -> None:
    assert expected_bytes(holding(0), FILES_NF4) == LINEAR // 2 + 2 * OTHERS
    assert expected_bytes(holding(0), FILES_NF4._replace(bits=8)) == LINEAR + 2 * OTHERS


def identity(status: Status | None) -> ArmIdentity:
    """An arm of that status."""
    verification = None if status is None else Verification(status=status, reason="it holds 16 bits")
    return ArmIdentity(backend="scripted", checkpoint="c", verification=verification)


@pytest.mark.parametrize("status", ["verified", "emulated", "unknown", None])
def test_only_a_contradiction_is_refused(status: Status | None) -> None:
    require("awq", identity(status), allow_unverified=False)


def test_a_contradicted_arm_is_refused_in_one_sentence_unless_it_is_allowed() -> None:
    with pytest.raises(ArmError, match=r"^arm 'awq': it holds 16 bits; .* --allow-unverified"):
        require("awq", identity("contradicted"), allow_unverified=False)
    require("awq", identity("contradicted"), allow_unverified=True)


def test_an_arm_is_verified_when_it_is_opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    @asynccontextmanager
    async def open_contradicted(config: ArmConfig) -> AsyncIterator[ScriptedArm]:
        arm = ScriptedArm(config.name, lambda messages, sampling: "1")
        arm.identity = identity("contradicted")
        yield arm

    async def enter(allow_unverified: bool) -> ArmIdentity:
        config = ArmConfig(name="awq", backend="scripted", script="none:needed")
        async with factory.open_arm(config, EngineConfig(), tmp_path / "log", allow_unverified) as arm:
            return arm.identity

    monkeypatch.setattr(factory, "open_scripted", open_contradicted)
    with pytest.raises(ArmError, match="arm 'awq': it holds 16 bits"):
        asyncio.run(enter(False))
    assert asyncio.run(enter(True)).verification == identity("contradicted").verification
