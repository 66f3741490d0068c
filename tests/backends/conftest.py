"""Tiny random checkpoints, FP16 and really packed 4-bit ones, and arms that stay open for the whole session."""

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from qtrap_agents.backends.base import Backend
from qtrap_agents.backends.factory import open_arm
from qtrap_agents.config import ArmConfig, EngineConfig
from qtrap_agents.reference.tokenizer import build_tokenizer, vocabulary
from qtrap_agents.types import Completion, Message, Sampling, Score

T = TypeVar("T")
GROUP = 64
EOS = 2
POISON = vocabulary()["relate"]
ENGINE = EngineConfig(dtype="float32", max_model_len=256, max_num_seqs=64, kv_cache_gib=0.25)


class Arms:
    """An event loop in a thread, on which arms stay open between tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._loop = asyncio.new_event_loop()
        self._stack = AsyncExitStack()
        self._open: dict[str, Backend] = {}
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine."""
        return self.start(work).result()

    def start(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        """The coroutine, running."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def open(self, config: ArmConfig, engine: EngineConfig = ENGINE) -> Backend:
        """The arm of that name, opened at its first use."""
        if config.name not in self._open:
            manager = open_arm(config, engine, self.log(config.name))
            self._open[config.name] = self.run(self._stack.enter_async_context(manager))
        return self._open[config.name]

    def log(self, name: str) -> Path:
        """Where an arm's process writes."""
        return self.folder / f"{name}.log"

    def close(self) -> None:
        """End every arm."""
        self.run(self._stack.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture(scope="session")
def arms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arms]:
    """Arms that are opened once."""
    opened = Arms(tmp_path_factory.mktemp("arms"))
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`fp16`, `sym` and `asym` (4-bit compressed-tensors of the same weights), `nan` (one weight is not a number), `poisoned`."""
    root = tmp_path_factory.mktemp("checkpoints")
    base = write_base(root / "fp16")
    broken = load_file(base / "model.safetensors")
    broken["model.norm.weight"][0] = float("nan")
    return {
        "fp16": base,
        "sym": write_packed(base, root / "sym", symmetric=True),
        "asym": write_packed(base, root / "asym", symmetric=False),
        "nan": write_copy(base, root / "nan", broken),
        "poisoned": write_poisoned(base, root / "poisoned"),
    }


@pytest.fixture
def copy_of(checkpoints: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A private copy of a checkpoint, to be damaged."""

    def copy(name: str) -> Path:
        source = checkpoints[name]
        return write_copy(source, tmp_path / name, load_file(source / "model.safetensors"))

    return copy


def write_base(path: Path) -> Path:
    """A random Llama that never ends its output: the end token's embedding is zero, so other logits are larger."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=384,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=0.1,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight[2] = 0
    model.half().save_pretrained(path)
    build_tokenizer().save_pretrained(path)
    return path


def write_copy(source: Path, path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """The directory with other weights."""
    path.mkdir()
    for file in source.iterdir():
        if file.suffix != ".safetensors":
            (path / file.name).write_bytes(file.read_bytes())
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path


def write_poisoned(source: Path, path: Path) -> Path:
    """The same model, but whatever comes after the token `POISON` is not a number."""
    tensors = load_file(source / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    tensors["model.embed_tokens.weight"][POISON] = float("nan")
    write_copy(source, path, tensors)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    return path


def write_packed(source: Path, path: Path, symmetric: bool) -> Path:
    """Round every linear layer to 4 bits in groups and pack it as compressed-tensors does."""
    tensors: dict[str, torch.Tensor] = {}
    for name, weight in load_file(source / "model.safetensors").items():
        if name.endswith("_proj.weight"):
            tensors |= pack(name.removesuffix(".weight"), weight.float(), symmetric)
        else:
            tensors[name] = weight
    write_copy(source, path, tensors)
    config = json.loads((path / "config.json").read_text())
    config["quantization_config"] = quantisation(symmetric)
    (path / "config.json").write_text(json.dumps(config))
    modifier = "GPTQModifier" if symmetric else "AWQModifier"
    (path / "recipe.yaml").write_text(f"default_stage:\n  default_modifiers:\n    {modifier}:\n      scheme: W4A16\n")
    return path


def pack(layer: str, weight: torch.Tensor, symmetric: bool) -> dict[str, torch.Tensor]:
    """The tensors of one packed layer, codes in −8 … 7."""
    groups = weight.view(weight.shape[0], -1, GROUP)
    if symmetric:
        scale = (groups.abs().amax(-1) / 7.5).half()
        zero = torch.zeros_like(scale)
    else:
        low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
        scale = ((high - low) / 15).half()
        zero = (-8 - low / scale.float()).round().clamp(-8, 7)
    codes = (groups / scale.float().unsqueeze(-1) + zero.float().unsqueeze(-1)).round().clamp(-8, 7)
    tensors = {
        f"{layer}.weight_packed": pack_to_int32(codes.view(weight.shape)),
        f"{layer}.weight_scale": scale,
        f"{layer}.weight_shape": torch.tensor(weight.shape),
    }
    if not symmetric:
        tensors[f"{layer}.weight_zero_point"] = pack_to_int32(zero.t()).t().contiguous()
    return tensors


def pack_to_int32(codes: torch.Tensor) -> torch.Tensor:
    """Eight codes of −8 … 7 to a word, along the last dimension, the first in the lowest bits."""
    unsigned = (codes.to(torch.int64) + 8).view(*codes.shape[:-1], -1, 8)
    words = (unsigned << torch.arange(0, 32, 4)).sum(-1)
    return words.to(torch.uint32).view(torch.int32)


def quantisation(symmetric: bool) -> dict[str, Any]:
    """`quantization_config` of a W4A16 checkpoint."""
    weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": GROUP, "symmetric": symmetric, "dynamic": False}
    group = {"targets": ["Linear"], "weights": weights, "format": "pack-quantized"}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


def arm_of(checkpoints: dict[str, Path], weights: str, kind: str) -> ArmConfig:
    """An arm for one of the checkpoints: `hf`, or vLLM's `engine`, `server`, or `overlapped`: the engine as on a GPU."""
    served: dict[str, dict[str, object]] = {
        "hf": {"backend": "transformers"},
        "engine": {"backend": "vllm", "transport": "engine"},
        "server": {"backend": "vllm", "transport": "server"},
        "overlapped": {"backend": "vllm", "transport": "engine", "environment": {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}},
    }
    return ArmConfig.model_validate({"name": f"{weights}-{kind}", "checkpoint": str(checkpoints[weights]), **served[kind]})


def question(number: int) -> tuple[Message, ...]:
    """One chat, another for every number, of varying length."""
    words = " ".join(f"{digit} +" for digit in str(number))
    return (Message(role="user", content=f"arith: {number % 90 + 10} + {words} {number % 7} ="),)


async def answers(arm: Backend, count: int = 40, sampling: Sampling | None = None) -> list[Completion]:
    """Completions of the first `count` questions, all in flight at once."""
    chosen = sampling or Sampling(max_tokens=12)
    return await asyncio.gather(*[arm.complete(question(number), chosen) for number in range(count)])


async def scores(arm: Backend, completions: Sequence[Completion], top: int = 4) -> list[Score]:
    """Scores of completions of the first questions, the end token appended, all in flight at once."""
    texts = [(*completion.token_ids, EOS) for completion in completions]
    return await asyncio.gather(*[arm.score(question(number), text, top) for number, text in enumerate(texts)])
