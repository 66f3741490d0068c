"""vLLM plugin for CPUs: the tiles allowed, and a linear kernel for packed weights where vLLM has none.

Off unless our own launcher turns it on.
"""

import os

from qtrap_agents.backends.cpu import allow_amx

ENABLE = "QTRAP_REFERENCE_KERNEL"
NAME = "ReferenceLinearKernel"
NOTE = (
    "vLLM has no 4-bit kernel for this CPU and dtype (it needs AVX-512): the weights are unpacked by qtrap's reference kernel; "
    "speed and energy of this arm say nothing about 4-bit serving"
)
"""Said on every arm that runs the kernel."""


def register() -> None:
    """Entry point `vllm.general_plugins`: see `allow_amx`, and offer the kernel after vLLM's own ones, if enabled.

    vLLM calls this in every process, and more than once.
    """
    if os.environ.get(ENABLE) != "1":
        return
    allow_amx()
    try:
        from vllm.model_executor.kernels.linear import _POSSIBLE_KERNELS, register_linear_kernel
        from vllm.platforms import PlatformEnum
    except ImportError:
        return
    from qtrap_agents.backends.unpacking_kernel import ReferenceLinearKernel

    if ReferenceLinearKernel not in _POSSIBLE_KERNELS.get(PlatformEnum.CPU, []):
        register_linear_kernel(ReferenceLinearKernel, PlatformEnum.CPU, "mp")
