"""The arm of a plan: several arms at once, and what they are called together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import planned
import pytest
import scripts

from qtrap_agents.backends import planned as arm_of_plan
from qtrap_agents.backends.factory import open_arm
from qtrap_agents.backends.launch import LEAST_MEMORY, beside_others
from qtrap_agents.backends.planned import identity_of, open_plan, parts_of
from qtrap_agents.config import ArmConfig, EngineConfig
from qtrap_agents.errors import ArmError
from qtrap_agents.types import ArmIdentity, Message, Sampling, Verification

QUESTION = (Message(role="system", content="modulo 10"), Message(role="user", content="arith: 3 + 4 ="))


def identity(**changes: Any) -> ArmIdentity:
    known: dict[str, Any] = {
        "backend": "vllm", "checkpoint": "a", "quantised_modules": 0, "linear_modules": 12, "weight_bytes": 1000,
        "kernels": {"Dense": 12}, "activation_dtype": "float32", "device": "cpu", "engine": "vllm 1", "checksum": "aa",
        "verification": Verification(status="verified", reason="no packed layer"),
    }  # fmt: skip
    return ArmIdentity.model_validate(known | changes)


PACKED = identity(
    checkpoint="b", quantisation="awq", bits=4, quantised_modules=12, weight_bytes=300, kernels={"Packed": 12}, checksum="bb",
    verification=Verification(status="emulated", reason="unpacked copy"),
)  # fmt: skip


def test_what_several_arms_are_together() -> None:
    both = identity_of({"fp16": identity(), "awq": PACKED})
    assert (both.backend, both.checkpoint, both.quantisation, both.device) == ("vllm", "a + b", "fp16 + awq", "cpu")
    assert (both.quantised_modules, both.linear_modules, both.weight_bytes) == (12, 24, 1300)
    assert both.kernels == {"Dense": 12, "Packed": 12}
    assert both.verification == Verification(status="emulated", reason="fp16: no packed layer; awq: unpacked copy")
    assert both.parts == {"fp16": identity(), "awq": PACKED}
    assert both.checksum not in (None, "aa", "bb")


def test_what_one_arm_does_not_tell_is_not_told() -> None:
    both = identity_of(
        {"fp16": identity(), "other": identity(weight_bytes=None, checksum=None, verification=None, device="cuda:0")}
    )
    assert (both.weight_bytes, both.checksum, both.verification) == (None, None, None)
    assert both.device == "cpu + cuda:0"


def test_a_plan_of_one_arm_is_that_arm() -> None:
    assert identity_of({"awq": PACKED}) == PACKED.model_copy(update={"parts": {"awq": PACKED}})


def test_the_default_answers_and_a_text_has_no_score(tmp_path: Path) -> None:
    async def ask() -> str:
        async with open_plan(planned.plan(default="solve"), EngineConfig(), tmp_path) as backend:
            assert len(parts_of(backend)) == 2
            assert await backend.stats() is None
            with pytest.raises(ArmError, match="score under one of its arms"):
                await backend.score(QUESTION, [1], 1)
            return (await backend.complete(QUESTION, Sampling())).text

    assert asyncio.run(ask()) == "7"


def test_the_arm_of_a_plan_is_not_served_alone(tmp_path: Path) -> None:
    async def serve() -> None:
        async with open_arm(ArmConfig(name="plan", backend="plan"), EngineConfig(), tmp_path / "log"):
            pass

    with pytest.raises(ArmError, match="a plan of several arms"):
        asyncio.run(serve())


@pytest.mark.parametrize(("shared", "rules"), [(True, [{"positions": [1, 1], "arm": "a"}]), (False, [])])
def test_on_a_gpu_each_of_several_arms_has_a_cache_of_fixed_size(
    shared: bool, rules: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[ArmConfig] = []

    @asynccontextmanager
    async def noted(arm: ArmConfig, engine: EngineConfig, log: Path, allow: bool) -> AsyncIterator[object]:
        served.append(arm)
        async with open_arm(ArmConfig.model_validate(scripts.scripted("solve")), engine, log, allow) as backend:
            yield backend

    async def serve() -> None:
        arms = [{"name": name, "checkpoint": f"reference:small/{name}16"} for name in ("a", "b")]
        plan = planned.plan(arms=arms, baseline="a", default="b", rules=rules)
        async with open_plan(plan, EngineConfig(kv_cache_gib=2.0), tmp_path):
            pass

    monkeypatch.setattr(arm_of_plan, "open_arm", noted)
    monkeypatch.setattr(arm_of_plan, "runs_on_gpu", lambda: True)
    asyncio.run(serve())
    caches = [arm.engine_args.get("kv_cache_memory_bytes") for arm in served]
    assert caches == ([2 * 2**30] * 2 if shared else [None])


def test_what_an_arm_says_itself_stands_and_other_backends_have_no_such_cache() -> None:
    own = ArmConfig(name="a", checkpoint="x", engine_args={"kv_cache_memory_bytes": 7})
    assert beside_others(own, EngineConfig()).engine_args == {"kv_cache_memory_bytes": 7, "gpu_memory_utilization": LEAST_MEMORY}
    for arm in (
        ArmConfig(name="a", checkpoint="x", backend="transformers"),
        ArmConfig(name="a", base_url="http://localhost:1/v1"),
    ):
        assert beside_others(arm, EngineConfig()) == arm
