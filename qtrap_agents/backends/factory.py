"""From an arm's configuration to a backend that answers: the one place that decides which backend, device and dtype."""

import importlib.util
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from qtrap_agents.backends.base import Backend
from qtrap_agents.backends.chat import NOT_FINITE, all_finite
from qtrap_agents.backends.checkpoint import require_hub_model
from qtrap_agents.backends.checkpoint import resolve_checkpoint as resolve_checkpoint
from qtrap_agents.backends.launch import Launch, gpu_visible, vllm_build
from qtrap_agents.backends.launch import resolve_dtype as resolve_dtype
from qtrap_agents.backends.scripted import open_scripted
from qtrap_agents.backends.verify import require
from qtrap_agents.config import ArmConfig, EngineConfig
from qtrap_agents.errors import ArmDied, ArmError, CompletionError
from qtrap_agents.types import ArmIdentity, Message, Sampling

CANARY = (Message(role="system", content="Answer."), Message(role="user", content="1"))
"""With a system message, so that a server shows at once whether it takes one."""
SCHEMA_TOKENS = 32


def resolve_backend(config: ArmConfig) -> tuple[str, str | None]:
    """The backend that will serve the arm, and one line on why `auto` fell back to transformers.

    Raises:
        ArmError: vLLM was asked for by name and cannot run here.
    """
    if config.backend in {"scripted", "transformers", "plan"} or config.urls:
        return ("vllm" if config.urls and config.backend == "auto" else config.backend), None
    missing = _why_no_vllm()
    if missing is None:
        return "vllm", None
    if config.backend == "vllm":
        raise ArmError(f"arm '{config.name}': {missing}; install qtrap-agents[cpu] or [gpu], or use backend: transformers")
    return "transformers", f"{missing}: using the in-process transformers arm"


@asynccontextmanager
async def open_arm(config: ArmConfig, engine: EngineConfig, log: Path, allow_unverified: bool = False) -> AsyncIterator[Backend]:
    """Serve the arm for the length of the `async with` block; everything it started is gone afterwards.

    `log` gets the output of the serving process. A first tiny request checks that the logits are finite. An arm that does
    not hold what its checkpoint claims is refused, unless `allow_unverified`; then its identity says so.

    Raises:
        ArmError: the arm cannot be served or is not what it claims; one sentence with the remedy.
    """
    async with _open(config, engine, log) as backend:
        require(config.name, backend.identity, allow_unverified)
        _require_recipe(config, backend.identity)
        if backend.identity.backend != "scripted":
            await _check_finite(config.name, backend)
        yield backend


async def holds_to(name: str, backend: Backend, schema: str) -> bool:
    """Whether the arm holds an answer to a JSON schema of an object, though its prompt says nothing of JSON.

    Raises:
        ArmError: the request failed.
    """
    try:
        completion = await backend.complete(CANARY, Sampling(max_tokens=SCHEMA_TOKENS, json_schema=schema))
    except CompletionError as error:
        raise ArmError(f"arm '{name}': the first request with a JSON schema failed: {error}") from error
    return completion.text.lstrip().startswith("{")


def _open(config: ArmConfig, engine: EngineConfig, log: Path) -> AbstractAsyncContextManager[Backend]:
    backend, _ = resolve_backend(config)
    if backend == "scripted":
        return open_scripted(config)
    if backend == "plan":
        raise ArmError(f"arm '{config.name}' is a plan of several arms and cannot be served alone; choose another with --arm")
    if config.urls:
        from qtrap_agents.backends.pool import open_pool

        return open_pool(config, engine)
    checkpoint = resolve_checkpoint(config.checkpoint or "")
    _require_files(config, checkpoint)
    if backend == "transformers":
        from qtrap_agents.backends.transformers_arm import open_transformers

        return open_transformers(config, engine, checkpoint)
    device = "cpu" if vllm_build() == "cpu" else "cuda"
    launch = Launch(config, engine, checkpoint, device, resolve_dtype(engine, device))
    if config.transport == "server":
        from qtrap_agents.backends.server import open_server

        return open_server(launch, log)
    from qtrap_agents.backends.engine import open_engine

    return open_engine(launch, log)


def _require_files(config: ArmConfig, checkpoint: Path | str) -> None:
    """A hub id that can be loaded, or a directory, which has no revisions. Raises ArmError."""
    if isinstance(checkpoint, str):
        require_hub_model(checkpoint, config.revision)
    elif config.revision is not None:
        raise ArmError(f"arm '{config.name}': 'revision' belongs to a hub id, {checkpoint} is a directory; leave it out")


def _require_recipe(config: ArmConfig, identity: ArmIdentity) -> None:
    """The weights that `qtrap quantize` made, where the arm says so. Raises ArmError where they are others."""
    made, found = config.recipe.get("checksum"), identity.checksum
    if made is not None and found is not None and made != found:
        raise ArmError(
            f"arm '{config.name}': the weights in {identity.checkpoint} ({found[:8]}) are not those of its recipe "
            f"({str(made)[:8]}); quantise again, or remove 'recipe' from the arm"
        )


def _why_no_vllm() -> str | None:
    build = vllm_build()
    if build is None:
        return "vLLM is not installed"
    if build == "cuda" and not gpu_visible():
        return "this vLLM is the CUDA build and no NVIDIA GPU is visible"
    if importlib.util.find_spec("torch") is None:
        return "vLLM is installed without torch"
    return None


async def _check_finite(name: str, backend: Backend) -> None:
    """One token with its log-probability: a broken checkpoint shows before a thousand tasks fail.

    Raises:
        ArmError: a log-probability is NaN or infinite, or the request failed.
    """
    try:
        completion = await backend.complete(CANARY, Sampling(max_tokens=1, logprobs=1))
    except ArmDied:
        raise
    except CompletionError as error:
        if NOT_FINITE not in str(error):
            raise ArmError(f"arm '{name}': the first request failed: {error}") from error
    else:
        if all_finite(entry.logprob for entry in completion.logprobs or ()):
            return
    raise ArmError(
        f"arm '{name}': {NOT_FINITE}: checkpoint {backend.identity.checkpoint} is broken or overflows in "
        f"{backend.identity.activation_dtype or 'this dtype'}; quantise it again or set engine.dtype: float32"
    )
