"""`qtrap profile`: the same token work on every arm, under the torch profiler. Only one arm works at a time.

Each phase is done twice: without the profiler for its wall time, and with it for its kernels.
"""

import time
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from qtrap_agents.backends.base import Profiled
from qtrap_agents.bench_store import BenchDirectory
from qtrap_agents.config import ArmConfig, BenchConfig
from qtrap_agents.energy import NoMeter
from qtrap_agents.errors import ArmError, CompletionError
from qtrap_agents.experiments.bench import Place, Served, serving
from qtrap_agents.experiments.requests import fire
from qtrap_agents.measures import KernelTime, PhaseProfile
from qtrap_agents.recorder import Recorder
from qtrap_agents.runner import Progress, stop_on_sigterm
from qtrap_agents.store import Journal


class Work(NamedTuple):
    """One phase to be done: how long it took without the profiler, and its kernels."""

    wall_s: float
    kernels: tuple[KernelTime, ...]


@dataclass(frozen=True)
class _Subject:
    config: BenchConfig
    arm: str
    served: Served
    place: Place


async def run_profile(directory: BenchDirectory, config: BenchConfig, progress: Progress, allow_unverified: bool = False) -> None:
    """Profile every arm at every place, as often as `repeats` says; what is stored already is left out.

    Args:
        config: as in the directory, with checkpoints that exist.

    Raises:
        ArmError: an arm cannot be served, died, or cannot be profiled; what is stored stays.
        StoreError: nothing more can be written.
    """
    stop_on_sigterm()
    done = {(profile.arm, profile.prompt_tokens, profile.concurrency, profile.repeat) for profile in directory.profiles()}
    with Journal(directory.profiles_path) as lines, Recorder(NoMeter()) as recorder:
        for arms in _together(config, [arm for arm in config.arms if _todo(config, arm.name, done)]):
            async with serving(directory, config, arms, recorder, progress, allow_unverified) as served:
                for arm in arms:
                    todo = _todo(config, arm.name, done)
                    progress.ready(arm.name, 0.0, len(_turns(config)), len(_turns(config)) - len(todo))
                    for place, repeat in todo:
                        for profile in await _profiles(_Subject(config, arm.name, served[arm.name], place), repeat):
                            lines.append(profile)
                        progress.advance(arm.name, failed=False)


def as_profile(config: BenchConfig) -> BenchConfig:
    """The configuration of a profile with the arms of a bench.

    Raises:
        ArmError: the kernels of an arm are out of reach.
    """
    for arm in config.arms:
        _check_profiled(arm)
    name = config.name.replace("bench", "profile") if "profile" not in config.name else config.name
    return config.model_copy(update={"name": name, "energy": "none"})


def _check_profiled(arm: ArmConfig) -> None:
    if arm.urls or arm.transport == "server" or arm.backend == "scripted":
        raise ArmError(f"arm '{arm.name}': kernels can be seen in an engine of our own only; use 'transport: engine'")


def _together(config: BenchConfig, arms: Sequence[ArmConfig]) -> list[list[ArmConfig]]:
    """Arms that are served at once: all of them, or each for itself."""
    if config.resident == "one":
        return [[arm] for arm in arms]
    return [list(arms)] if arms else []


def _todo(config: BenchConfig, arm: str, done: Container[tuple[str, int, int, int]]) -> list[tuple[Place, int]]:
    return [(place, repeat) for place, repeat in _turns(config) if (arm, *place, repeat) not in done]


def _turns(config: BenchConfig) -> list[tuple[Place, int]]:
    places = [Place(prompt, concurrency) for prompt in config.prompt_tokens for concurrency in config.concurrency]
    return [(place, repeat) for repeat in range(config.repeats) for place in places]


async def _profiles(subject: _Subject, repeat: int) -> list[PhaseProfile]:
    """Prefill and decode of one place."""
    if repeat == 0:
        await _fire(subject, subject.config.new_tokens, seed="warm-up")
    prefill, whole = await _work(subject, 1, repeat), await _work(subject, subject.config.new_tokens, repeat)
    decode = Work(max(0.0, whole.wall_s - prefill.wall_s), tuple(difference(whole.kernels, prefill.kernels)))
    device = "cuda" if (subject.served.backend.identity.device or "").startswith("cuda") else "cpu"
    return [
        PhaseProfile(
            arm=subject.arm,
            phase=phase,
            device=device,
            concurrency=subject.place.concurrency,
            prompt_tokens=subject.place.prompt_tokens,
            new_tokens=subject.config.new_tokens,
            repeat=repeat,
            wall_s=work.wall_s,
            kernels=work.kernels,
        )
        for phase, work in (("prefill", prefill), ("decode", decode))
    ]


async def _work(subject: _Subject, new_tokens: int, repeat: int) -> Work:
    backend = subject.served.backend
    if not isinstance(backend, Profiled):
        raise ArmError(f"arm '{subject.arm}': this backend shows no kernels; use vLLM with 'transport: engine', or transformers")
    begun = time.perf_counter()
    await _fire(subject, new_tokens, seed=f"{repeat}")
    wall_s = time.perf_counter() - begun
    try:
        await backend.start_profile()
        await _fire(subject, new_tokens, seed=f"{repeat} profiled")
        return Work(wall_s, await backend.stop_profile())
    except CompletionError as error:
        raise ArmError(f"arm '{subject.arm}': {error}") from error


async def _fire(subject: _Subject, new_tokens: int, seed: str) -> None:
    """As many requests as are in flight, all at once; raises ArmError where one fails."""
    prompts, requests = subject.served.prompts[subject.place.prompt_tokens], subject.place.concurrency
    for answer in await fire(subject.served.backend, prompts, new_tokens, requests, requests, seed):
        if isinstance(answer, CompletionError):
            raise ArmError(f"arm '{subject.arm}': a request failed: {answer}") from answer


def difference(whole: Sequence[KernelTime], prefill: Sequence[KernelTime]) -> list[KernelTime]:
    """What was called more often, and took longer, when more tokens were made; longest first."""
    known = {kernel.name: kernel for kernel in prefill}
    found = []
    for kernel in whole:
        before = known.get(kernel.name, KernelTime(name=kernel.name, calls=0, time_s=0.0))
        calls, time_s = kernel.calls - before.calls, kernel.time_s - before.time_s
        if calls > 0 and time_s > 0:
            found.append(KernelTime(name=kernel.name, calls=calls, time_s=time_s))
    return sorted(found, key=lambda kernel: -kernel.time_s)
