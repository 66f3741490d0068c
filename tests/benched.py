"""Arms that benches are tried on, and windows of arms whose every ratio is known."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from qtrap_agents.config import BenchConfig
from qtrap_agents.errors import ArmDied, CompletionError
from qtrap_agents.measures import Reading, Spread, Window
from qtrap_agents.types import Completion, Message, Sampling

TEMPLATE_TOKENS = 4
"""What the chat template of these arms adds to the words of a prompt."""


class Worker:
    """Answers after `delay_s` with as many tokens as it was asked for, and remembers what it was asked.

    One request in `refuses` fails; after `lives` of them the arm is dead. None: never. Each word of a prompt is
    `per_word` tokens.
    """

    def __init__(self, delay_s: float = 0.001, per_word: int = 1) -> None:
        self.delay_s, self.per_word = delay_s, per_word
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.asked: list[tuple[str, Sampling]] = []
        self.refuses: int | None = None
        self.lives: int | None = None
        self.in_flight = self.most_in_flight = 0

    @property
    def measured(self) -> list[tuple[str, Sampling]]:
        """What it was asked but for the probes of the tokenizer."""
        return [(prompt, sampling) for prompt, sampling in self.asked if sampling.ignore_eos]

    async def __call__(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        self.asked.append((messages[-1].content, sampling))
        number = len(self.measured)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(self.delay_s if sampling.ignore_eos else 0)
        self.in_flight -= 1
        if self.lives is not None and number > self.lives:
            raise ArmDied("arm 'worker': the engine died in mid-run")
        if self.refuses and sampling.ignore_eos and number % self.refuses == 0:
            raise CompletionError("the context is full")
        return Completion(
            text="word " * sampling.max_tokens,
            prompt_tokens=self.per_word * len(messages[-1].content.split()) + TEMPLATE_TOKENS,
            completion_tokens=sampling.max_tokens,
            latency_s=self.delay_s,
            ttft_s=self.delay_s / 2,
        )


async def mute(messages: Sequence[Message], sampling: Sampling) -> Completion:
    """Does not tell how long prompts are."""
    return Completion(text="word", completion_tokens=1)


fp16, awq, gptq = Worker(), Worker(0.003), Worker(0.002)
pairs = Worker(per_word=2)
WORKERS = {"fp16": fp16, "awq": awq, "gptq": gptq, "pairs": pairs}


def bench_settings(*arms: str, **changes: Any) -> dict[str, Any]:
    """A bench of milliseconds, its arms named like the workers of this module."""
    served = [{"name": arm, "backend": "scripted", "script": f"benched:{arm}"} for arm in arms]
    small = {"name": "small", "concurrency": [1, 4], "prompt_tokens": [16], "new_tokens": 8, "repeats": 2, "window_s": 0.01}
    return {**small, "arms": served, "energy": "none", **changes}


def bench_config(*arms: str, **changes: Any) -> BenchConfig:
    """The same as a record."""
    return BenchConfig.model_validate(bench_settings(*arms, **changes))


def window(arm: str, concurrency: int = 1, repeat: int = 0, wall_s: float = 1.0, **changes: Any) -> Window:
    """A window of ten rounds of 8 tokens."""
    fields: dict[str, Any] = {
        "arm": arm,
        "concurrency": concurrency,
        "prompt_tokens": 16,
        "new_tokens": 8,
        "repeat": repeat,
        "position": 0,
        "begun_at": 0.0,
        "wall_s": wall_s,
        "requests": 10 * concurrency,
        "output_tokens": 80 * concurrency,
    }
    return Window(**fields | changes)


def windows(
    baseline: str, ratios: Mapping[str, Mapping[int, Sequence[float]]], watts: Mapping[str, float] | None = None
) -> list[Window]:
    """The baseline and arms that take so many times its second, by concurrency and repeat; energy where watts are given."""
    found = []
    for arm, places in ({baseline: {c: (1.0,) * len(r) for p in ratios.values() for c, r in p.items()}} | dict(ratios)).items():
        for concurrency, walls in places.items():
            for repeat, wall_s in enumerate(walls):
                power = None if watts is None else watts[arm]
                measured = {} if power is None else {"energy_j": power * wall_s, "meter": "nvml", "tdp_w": 700.0}
                found.append(window(arm, concurrency, repeat, wall_s, **measured))
    return found


SPREAD = Spread(n=10, mean=0.02, p50=0.02, p90=0.03, p99=0.04)
READING = Reading(at=1.0, energy_j=5.0, temperature_c=40.0)
