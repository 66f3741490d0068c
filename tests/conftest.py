"""What all tests share: vLLM tests are skipped where vLLM cannot run, scripted state starts afresh."""

from collections.abc import Iterator

import pytest
import scripts

from qtrap_agents.backends.factory import resolve_backend
from qtrap_agents.config import ArmConfig


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs vLLM where it cannot run, and say why."""
    backend, reason = resolve_backend(ArmConfig(name="probe", checkpoint="."))
    if backend != "vllm":
        for item in items:
            if item.get_closest_marker("vllm"):
                item.add_marker(pytest.mark.skip(reason=reason or backend))


@pytest.fixture(autouse=True)
def _fresh_scripts() -> Iterator[None]:
    """Scripts that remember things forget them after every test."""
    yield
    scripts.mortal.lives = None
    for recorder in (scripts.first, scripts.second):
        recorder.clear()
