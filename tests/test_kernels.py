"""Which kernels unpack in a kernel of their own: every class once, and an arm by its packed layers."""

from itertools import combinations

import pytest

from qtrap_agents.backends.reference_kernel import NAME
from qtrap_agents.kernels import FUSED, NONE, SEPARATE, Kind, kind_of, kind_of_all


def test_no_class_is_of_two_kinds() -> None:
    assert all(not one & other for one, other in combinations((FUSED, SEPARATE, NONE), 2))


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("MarlinLinearKernel", "fused"),
        ("MacheteLinearKernel", "fused"),
        ("Linear4bit", "separate"),
        ("Linear8bitLt", "separate"),
        ("AWQLinearMethod", "separate"),
        ("UnquantizedLinearMethod", "none"),
        ("Linear", "none"),
        (NAME, "none"),
        ("marlinlinearkernel", "unknown"),
        ("", "unknown"),
    ],
)
def test_kind_of_a_class(kernel: str, kind: Kind) -> None:
    assert kind_of(kernel) == kind


@pytest.mark.parametrize(
    ("kernels", "kind"),
    [
        (["MarlinLinearKernel", "UnquantizedLinearMethod"], "fused"),
        (["UnquantizedLinearMethod", "MarlinLinearKernel", "AWQLinearMethod"], "separate"),
        (["MarlinLinearKernel", "SomethingNew"], "unknown"),
        (["SomethingNew", "AWQLinearMethod"], "separate"),
        (["UnquantizedLinearMethod"], "none"),
        ([], "none"),
    ],
)
def test_an_arm_is_what_its_packed_layers_do(kernels: list[str], kind: Kind) -> None:
    assert kind_of_all(kernels) == kind
    assert kind_of_all(reversed(kernels)) == kind
