"""Time per kernel from the torch profiler, inside the process and the thread that compute."""

from types import TracebackType
from typing import Any

NAME = 200
"""Characters of a kernel's name that are kept: templates go on for thousands."""

Times = list[tuple[str, int, float]]
"""Kernel, calls, seconds; longest first."""


class KernelTimer:
    """Adds up kernel times over any number of `with` blocks: on a GPU kernels on the device, on a CPU torch's operators.

    On a CPU only the thread that enters the block is seen, so it must be the one that computes.
    """

    def __init__(self, device: str) -> None:
        self._on_gpu = not device.startswith("cpu")
        self._seen: dict[str, tuple[int, float]] = {}
        self._profile: Any = None

    def __enter__(self) -> "KernelTimer":
        from torch.profiler import ProfilerActivity, profile

        self._profile = profile(activities=[ProfilerActivity.CUDA if self._on_gpu else ProfilerActivity.CPU])
        self._profile.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        import torch

        if self._on_gpu:
            torch.cuda.synchronize()
        self._profile.stop()
        for event in self._profile.key_averages():
            time_us = event.self_device_time_total if self._on_gpu else event.self_cpu_time_total
            if time_us > 0:
                calls, time_s = self._seen.get(event.key[:NAME], (0, 0.0))
                self._seen[event.key[:NAME]] = (calls + event.count, time_s + time_us / 1e6)
        self._profile = None

    @property
    def times(self) -> Times:
        """What was seen so far."""
        return sorted(((name, calls, time_s) for name, (calls, time_s) in self._seen.items()), key=lambda item: -item[2])
