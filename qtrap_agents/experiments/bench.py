"""`qtrap bench`: the same token work on every arm, in turns, over prompt lengths and concurrencies.

With `resident: all` every arm is served at once and only one of them works at a time: arms take turns within seconds, A B C in
one repeat and C B A in the next, so that a device that warms up or slows down favours none of them. How many requests make
a window is found on the baseline; the other arms do the same requests.
"""

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

from qtrap_agents.backends.base import Backend
from qtrap_agents.backends.checkpoint import read_config
from qtrap_agents.backends.factory import open_arm, resolve_backend
from qtrap_agents.backends.launch import beside_others, runs_on_gpu
from qtrap_agents.backends.random_weights import FORMATS, Format, check_shape, model_config, write_checkpoint
from qtrap_agents.bench_store import BenchDirectory
from qtrap_agents.config import ArmConfig, BenchConfig, EngineConfig
from qtrap_agents.energy import open_meter
from qtrap_agents.environment import describe_environment
from qtrap_agents.errors import ArmError, CompletionError, ConfigError, unknown
from qtrap_agents.experiments.requests import Prompts, fire, fit_prompts
from qtrap_agents.measures import Spread, Window
from qtrap_agents.recorder import Recorder
from qtrap_agents.runner import Progress, check_arm, stop_on_sigterm
from qtrap_agents.shapes import load_shape
from qtrap_agents.store import Journal
from qtrap_agents.types import Completion

RANDOM = "random:"
"""Checkpoints `random:fp16`, `random:gptq` and `random:awq` are written for the `shape` of the bench."""

SPARE_TOKENS = 16
"""Tokens of context beyond prompt and answer."""

SPARE_CACHE = 1.1
"""Cache beyond what the requests in flight fill: blocks are rarely full."""

CORES_PER_START = 4
"""Cores that the start of an engine keeps busy: it bounds how many are started side by side."""

WARM_UP_ROUNDS, STEADY = 8, 0.9
"""Most rounds of warm-up after the first, and the share of a round's time that the next one takes at least once all is warm."""


class Place(NamedTuple):
    """What arms are compared at."""

    prompt_tokens: int
    concurrency: int


class Turn(NamedTuple):
    """One window that is to be measured; `position` is its place in the order of the repeat."""

    arm: str
    place: Place
    repeat: int
    position: int


@dataclass(frozen=True)
class Served:
    """An arm that is ready, with its prompts by their wanted length and what reads the meter."""

    backend: Backend
    prompts: Mapping[int, Prompts]
    recorder: Recorder


def shape_config(shape: str, name: str | None = None) -> BenchConfig:
    """The bench of a shape without a file: FP16, AWQ and GPTQ with random weights.

    Raises:
        ConfigError: no such shape.
    """
    load_shape(shape)
    stem = Path(shape).parent.name if Path(shape).suffix == ".json" else Path(shape).name
    arms = tuple(ArmConfig(name=kind, checkpoint=RANDOM + kind) for kind in FORMATS)
    return BenchConfig(name=name or f"bench-{stem.lower() or 'shape'}", shape=shape, arms=arms)


def prepare_bench(config: BenchConfig) -> BenchConfig:
    """The configuration with an engine that is large enough for its requests, after a look at everything it names.

    Raises:
        QtrapError: an arm, a checkpoint or the shape is wrong, or a request does not fit the context.
    """
    for arm in config.arms:
        if (arm.checkpoint or "").startswith(RANDOM):
            _check_random(config, arm)
        else:
            check_arm(arm)
    longest = max(config.prompt_tokens) + config.new_tokens
    if longest > config.engine.max_model_len:
        limit = config.engine.max_model_len
        raise ConfigError(
            f"prompt_tokens + new_tokens = {longest} exceeds engine.max_model_len {limit}; raise it or ask for less"
        )
    sequences = max(config.engine.max_num_seqs, *config.concurrency)
    return config.model_copy(update={"engine": config.engine.model_copy(update={"max_num_seqs": sequences})})


def _check_random(config: BenchConfig, arm: ArmConfig) -> None:
    if config.shape is None:
        raise ConfigError(f"arm '{arm.name}': checkpoint '{arm.checkpoint}' needs a shape; add 'shape: qwen2.5-7b' or --shape")
    kind = (arm.checkpoint or "").removeprefix(RANDOM)
    if kind not in FORMATS:
        raise ConfigError(f"arm '{arm.name}': {unknown('random checkpoint', kind, FORMATS)}")
    check_shape(load_shape(config.shape), kind)
    resolve_backend(arm)


def create_bench(config: BenchConfig) -> BenchDirectory:
    """A new directory for the bench. Raises StoreError."""
    return BenchDirectory.create(Path(config.out), config, describe_environment())


@contextmanager
def checkpoints(directory: BenchDirectory, weights: Path | None, progress: Progress) -> Iterator[BenchConfig]:
    """The configuration with real paths for random checkpoints; those written into the bench directory are removed again.

    Args:
        weights: folder for random checkpoints that are kept, and used where they are there already.

    Raises:
        ConfigError: the shape cannot be packed, or the folder holds another checkpoint of that name. ArmError: the disk is full.
    """
    folder = weights or directory.path / "weights"
    try:
        arms = [_with_weights(directory.config, arm, folder, progress) for arm in directory.config.arms]
        yield directory.config.model_copy(update={"arms": tuple(arms)})
    finally:
        if weights is None:
            shutil.rmtree(folder, ignore_errors=True)


def _with_weights(config: BenchConfig, arm: ArmConfig, folder: Path, progress: Progress) -> ArmConfig:
    if not (arm.checkpoint or "").startswith(RANDOM):
        return arm
    kind = cast(Format, (arm.checkpoint or "").removeprefix(RANDOM))
    path = folder / f"{Path(config.shape or '').name}-{kind}"
    if not _is_kept(config.shape or "", kind, path):
        progress.note(f"{arm.name}: writing random weights of {config.shape} in the {kind} layout")
        shutil.rmtree(path, ignore_errors=True)
        try:
            write_checkpoint(load_shape(config.shape or ""), kind, path)
        except OSError as error:
            raise ArmError(f"{path}: random weights cannot be written: {error.strerror or error}; see --weights") from error
    return arm.model_copy(update={"checkpoint": str(path)})


def _is_kept(shape: str, kind: Format, path: Path) -> bool:
    """Whether the checkpoint lies there. Raises ConfigError where another one does: all shapes of a config.json share a name."""
    if not (path / "config.json").is_file():
        return False
    if read_config(path) != model_config(load_shape(shape), kind):
        raise ConfigError(f"{path}: holds another checkpoint than random weights of {shape}; give another folder with --weights")
    return True


async def run_bench(directory: BenchDirectory, config: BenchConfig, progress: Progress, allow_unverified: bool = False) -> None:
    """Measure every window that is not stored yet.

    Args:
        config: as in the directory, with checkpoints that exist.

    Raises:
        ArmError: an arm cannot be served, died, or fails every request; what is stored stays.
        StoreError: nothing more can be written.
    """
    stop_on_sigterm()
    turns = _turns(config)
    done = {(window.arm, window.prompt_tokens, window.concurrency, window.repeat): window for window in directory.windows()}
    todo = [turn for turn in turns if _key(turn) not in done]
    sizes = {Place(window.prompt_tokens, window.concurrency): window.requests for window in done.values()}
    meter = open_meter(config.energy, on_gpu=_on_gpu())
    if meter.reason is not None:
        progress.note(meter.reason)
    with Journal(directory.windows_path) as lines, Recorder(meter) as recorder:
        for group in _groups(config, todo):
            arms = [arm for arm in config.arms if arm.name in {turn.arm for turn in group}]
            async with serving(directory, config, arms, recorder, progress, allow_unverified) as served:
                for arm in arms:
                    own = [turn for turn in turns if turn.arm == arm.name]
                    progress.ready(arm.name, 0.0, len(own), sum(_key(turn) in done for turn in own))
                warm: set[tuple[str, Place]] = set()
                for turn in group:
                    if (turn.arm, turn.place) not in warm:
                        await _warm_up(config, turn, served, sizes)
                        warm.add((turn.arm, turn.place))
                    window = await _measure(config, turn, served[turn.arm], sizes[turn.place])
                    lines.append(window)
                    done[_key(turn)] = window
                    progress.advance(turn.arm, failed=window.errors > 0)


def _key(turn: Turn) -> tuple[str, int, int, int]:
    return turn.arm, turn.place.prompt_tokens, turn.place.concurrency, turn.repeat


def _turns(config: BenchConfig) -> list[Turn]:
    """All windows in their order: the baseline first in even repeats, last in odd ones."""
    names = sorted((arm.name for arm in config.arms), key=lambda name: name != config.baseline_arm)
    return [
        Turn(arm, Place(prompt, concurrency), repeat, position)
        for repeat in range(config.repeats)
        for prompt in config.prompt_tokens
        for concurrency in config.concurrency
        for position, arm in enumerate(names if repeat % 2 == 0 else reversed(names))
    ]


def _groups(config: BenchConfig, todo: Sequence[Turn]) -> list[list[Turn]]:
    """Windows that are measured without an arm being started or ended: all, or one arm's half of the repeats after another's."""
    if config.resident == "all":
        return [list(todo)] if todo else []
    half = (config.repeats + 1) // 2
    names = list(dict.fromkeys(turn.arm for turn in _turns(config)))
    legs = [(name, range(half)) for name in names] + [(name, range(half, config.repeats)) for name in reversed(names)]
    groups = [[turn for turn in todo if turn.arm == name and turn.repeat in repeats] for name, repeats in legs]
    return [group for group in groups if group]


@asynccontextmanager
async def serving(
    directory: BenchDirectory,
    config: BenchConfig,
    arms: Sequence[ArmConfig],
    recorder: Recorder,
    progress: Progress,
    allow_unverified: bool,
) -> AsyncIterator[dict[str, Served]]:
    """The arms, all ready; a few of them are started side by side. Errors as of `open_arm`."""
    engine = _engine(config)
    room = asyncio.Semaphore(max(1, (os.cpu_count() or 1) // CORES_PER_START))
    async with AsyncExitStack() as stack:

        async def start(arm: ArmConfig) -> tuple[str, Served]:
            async with room:
                progress.starting(arm.name)
                opened = open_arm(_own_cache(config, engine, arm), engine, directory.log_path(arm.name), allow_unverified)
                backend = await stack.enter_async_context(opened)
            directory.write_identity(arm.name, backend.identity)
            prompts = {tokens: await fit_prompts(backend, tokens) for tokens in config.prompt_tokens}
            return arm.name, Served(backend, prompts, recorder)

        yield dict(await asyncio.gather(*map(start, arms)))


def _engine(config: BenchConfig) -> EngineConfig:
    """As long a context as requests need, and a cache that holds all requests in flight: one that waits would be no batch."""
    longest = max(config.prompt_tokens) + config.new_tokens + SPARE_TOKENS
    needed = 0.0
    if config.shape is not None:
        tokens = max(config.concurrency) * longest
        needed = SPARE_CACHE * tokens * load_shape(config.shape).cache_bytes_per_token / 2**30
    fields = {
        "max_model_len": min(config.engine.max_model_len, longest),
        "kv_cache_gib": max(config.engine.kv_cache_gib, needed),
    }
    return config.engine.model_copy(update=fields)


def _own_cache(config: BenchConfig, engine: EngineConfig, arm: ArmConfig) -> ArmConfig:
    """On a GPU that several arms share, each gets a cache of fixed size instead of all memory that is left."""
    return arm if config.resident == "one" or not _on_gpu() else beside_others(arm, engine)


def _on_gpu() -> bool:
    return runs_on_gpu()


async def _warm_up(config: BenchConfig, turn: Turn, served: Mapping[str, Served], sizes: dict[Place, int]) -> None:
    """Rounds nobody counts, until one is hardly faster than the one before; the baseline's last one tells how many make a window.

    A device that has just loaded its weights, and the host beside it, can take several times as long as they do later.
    """
    for arm in dict.fromkeys((config.baseline_arm, turn.arm) if turn.place not in sizes else (turn.arm,)):
        if arm not in served:
            continue
        before_s = round_s = await _round_s(config, turn, served[arm])
        for _ in range(WARM_UP_ROUNDS):
            before_s, round_s = round_s, await _round_s(config, turn, served[arm])
            if round_s > STEADY * before_s:
                break
        if turn.place not in sizes:
            rounds = max(1, round(config.window_s / min(before_s, round_s)))
            sizes[turn.place] = rounds * turn.place.concurrency


async def _round_s(config: BenchConfig, turn: Turn, served: Served) -> float:
    """Seconds of one round: as many requests as are in flight."""
    begun = time.perf_counter()
    await _answers(config, turn, served, turn.place.concurrency, of="warm-up")
    return time.perf_counter() - begun


async def _answers(config: BenchConfig, turn: Turn, served: Served, requests: int, of: str) -> list[Completion | CompletionError]:
    """The answers to prompts `of` one place and repeat; raises ArmError where there is not a single one."""
    prompts = served.prompts[turn.place.prompt_tokens]
    answers = await fire(served.backend, prompts, config.new_tokens, requests, turn.place.concurrency, f"{of} {turn.place}")
    if not any(isinstance(answer, Completion) for answer in answers):
        raise ArmError(f"arm '{turn.arm}': no request was answered at concurrency {turn.place.concurrency}: {answers[0]}")
    return answers


async def _measure(config: BenchConfig, turn: Turn, served: Served, requests: int) -> Window:
    """One window of work."""
    before = await served.backend.stats()
    begun_at, begun = time.time(), time.perf_counter()
    answers = await _answers(config, turn, served, requests, of=f"repeat {turn.repeat}")
    wall_s = time.perf_counter() - begun
    after = await served.backend.stats()
    good = [answer for answer in answers if isinstance(answer, Completion)]
    return Window(
        arm=turn.arm,
        concurrency=turn.place.concurrency,
        prompt_tokens=turn.place.prompt_tokens,
        new_tokens=config.new_tokens,
        repeat=turn.repeat,
        position=turn.position,
        begun_at=begun_at,
        wall_s=wall_s,
        requests=requests,
        output_tokens=sum(answer.completion_tokens for answer in good),
        errors=len(answers) - len(good),
        energy_j=await served.recorder.energy_j(begun_at, begun_at + wall_s),
        meter=served.recorder.meter.name,
        tdp_w=served.recorder.meter.tdp_w,
        ttft=Spread.of([answer.ttft_s for answer in good if answer.ttft_s is not None]),
        inter_token=Spread.of([gap for answer in good if (gap := inter_token_s(answer)) is not None]),
        server=after.since(before) if after is not None and before is not None else None,
        last=served.recorder.latest,
    )


def inter_token_s(answer: Completion) -> float | None:
    """Mean seconds between two tokens after the first; None where the backend does not tell when the first one came."""
    if answer.ttft_s is None or answer.completion_tokens < 2:
        return None
    return (answer.latency_s - answer.ttft_s) / (answer.completion_tokens - 1)
