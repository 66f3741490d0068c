"""The arm of a precision plan: several arms that are served at once, each with its own engine.

Which of them answers a hop is a matter of the workflow `planned`; on a GPU they share it, each with a cache of fixed size.
"""

import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from qtrap_agents.backends.base import Backend
from qtrap_agents.backends.factory import open_arm
from qtrap_agents.backends.launch import beside_others, runs_on_gpu
from qtrap_agents.config import EngineConfig
from qtrap_agents.errors import ArmError
from qtrap_agents.measures import ServerStats, together
from qtrap_agents.plans import PrecisionPlan
from qtrap_agents.types import ArmIdentity, Completion, Message, Sampling, Score, Verification

_BY_DOUBT = ("contradicted", "unknown", "emulated", "verified")
"""What a whole is called whose parts are called differently: the first of these."""


class Planned:
    """The arms of a plan by name, all ready; `default` answers what no node of the workflow sends elsewhere."""

    def __init__(self, parts: Mapping[str, Backend], default: str) -> None:
        self.parts, self._default = parts, default
        self.identity = identity_of({name: part.identity for name, part in parts.items()})

    async def complete(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """The answer of the default arm. Errors as in `Backend.complete`."""
        return await self.parts[self._default].complete(messages, sampling)

    async def score(self, messages: Sequence[Message], token_ids: Sequence[int], top: int) -> Score:
        """Raises ArmError: a text has a score under each arm, not under a plan."""
        raise ArmError("a plan of several arms gives no log-probabilities; score under one of its arms")

    async def stats(self) -> ServerStats | None:
        """What all engines together have counted; None where one cannot tell. Raises ArmDied."""
        return together([await part.stats() for part in self.parts.values()])


def parts_of(backend: Backend) -> tuple[Backend, ...]:
    """The arms behind a backend: those of a plan, or the backend itself."""
    return tuple(backend.parts.values()) if isinstance(backend, Planned) else (backend,)


@asynccontextmanager
async def open_plan(
    plan: PrecisionPlan, engine: EngineConfig, folder: Path, allow_unverified: bool = False
) -> AsyncIterator[Planned]:
    """Serve all arms that the plan sends hops to, one started after the other; their logs are `<folder>/server-<arm>.log`.

    Raises:
        ArmError: as of `open_arm`, for any of them.
    """
    parts: dict[str, Backend] = {}
    async with AsyncExitStack() as stack:
        for arm in plan.parts:
            served = beside_others(arm, engine) if len(plan.parts) > 1 and runs_on_gpu() else arm
            opened = open_arm(served, engine, folder / f"server-{arm.name}.log", allow_unverified)
            parts[arm.name] = await stack.enter_async_context(opened)
        yield Planned(parts, plan.default)


def identity_of(parts: Mapping[str, ArmIdentity]) -> ArmIdentity:
    """The identity of several arms together: counts and bytes are summed, what differs is named in a row."""
    if len(parts) == 1:
        ((_, only),) = parts.items()
        return only.model_copy(update={"parts": dict(parts)})
    known = list(parts.values())
    return ArmIdentity(
        backend=_named(part.backend for part in known) or "",
        checkpoint=_named(part.checkpoint for part in known) or "",
        quantisation=" + ".join(parts),
        quantised_modules=_sum(part.quantised_modules for part in known),
        linear_modules=_sum(part.linear_modules for part in known),
        kernels=dict(sum((Counter(part.kernels) for part in known), Counter())),
        weight_bytes=_sum(part.weight_bytes for part in known),
        activation_dtype=_named(part.activation_dtype for part in known),
        kv_cache_dtype=_named(part.kv_cache_dtype for part in known),
        device=_named(part.device for part in known),
        engine=_named(part.engine for part in known),
        checksum=_checksum(parts),
        source="the arms of the plan",
        notes=tuple(f"{name}: {note}" for name, part in parts.items() for note in part.notes),
        verification=_verification(parts),
        parts=dict(parts),
    )


def _named(values: Iterable[str | None]) -> str | None:
    different = list(dict.fromkeys(values))
    return None if None in different else " + ".join(filter(None, different))


def _sum(values: Iterable[int | None]) -> int | None:
    known = list(values)
    return None if None in known else sum(filter(None, known))


def _checksum(parts: Mapping[str, ArmIdentity]) -> str | None:
    sums = [part.checksum for part in parts.values()]
    return None if None in sums else hashlib.sha256(" ".join(map(str, sums)).encode()).hexdigest()


def _verification(parts: Mapping[str, ArmIdentity]) -> Verification | None:
    found = {name: part.verification for name, part in parts.items() if part.verification is not None}
    if len(found) < len(parts):
        return None
    status = min((one.status for one in found.values()), key=_BY_DOUBT.index)
    return Verification(status=status, reason="; ".join(f"{name}: {one.reason}" for name, one in found.items()))
