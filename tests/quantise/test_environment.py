"""The environment of the quantiser: where it lies, that it is made whole or not at all, what doctor says about it."""

import asyncio
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from qtrap_agents.doctor import check_quantiser
from qtrap_agents.errors import ConfigError
from qtrap_agents.quantise import environment

from .conftest import VERSIONS

Usage = namedtuple("Usage", "total used free")


def test_it_lies_in_the_cache(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment.folder().parent == workplace / "cache" / "qtrap"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(workplace))
    assert environment.folder().parent == workplace / ".cache" / "qtrap"


def test_packages_that_cannot_be_had_leave_nothing_half_made(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    told: list[str] = []
    with pytest.raises(
        ConfigError, match=r"environment cannot be made: .*No matching distribution found for llmcompressor"
    ) as caught:
        asyncio.run(environment.make(told.append))
    assert "\n" not in str(caught.value)
    assert "install llmcompressor==" in str(caught.value)
    assert told[0].startswith("making an environment for llm-compressor")
    assert environment.own_interpreter() is None
    assert not environment.folder().exists()


def test_no_room(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(10, 9, 2**30))
    with pytest.raises(ConfigError, match=r"needs \d+\.0 GiB and 1\.0 are free; free some, or let XDG_CACHE_HOME be a folder on"):
        asyncio.run(environment.make(print))


def test_a_half_made_environment_does_not_count(workplace: Path) -> None:
    (environment.folder() / "bin").mkdir(parents=True)
    (environment.folder() / "bin" / "python").symlink_to(sys.executable)
    assert environment.own_interpreter() is None
    (environment.folder() / environment.READY).write_text("{}")
    assert environment.own_interpreter() == environment.folder() / "bin" / "python"


def test_doctor_tells_whether_it_is_there(workplace: Path, interpreter: "object") -> None:
    missing = check_quantiser()
    assert (missing.state, missing.needed) == ("missing", False)
    assert "qtrap quantize --setup" in str(missing.remedy)
    (environment.folder() / "bin").mkdir(parents=True)
    (environment.folder() / environment.READY).write_text("{}")
    broken = check_quantiser()
    assert broken.state == "warn"
    assert str(broken.remedy).startswith("rm -r ")
    stand_in = interpreter()  # type: ignore[operator]
    (environment.folder() / "bin" / "python").symlink_to(stand_in)
    found = check_quantiser()
    assert (found.state, found.detail) == ("ok", f"llm-compressor {VERSIONS['llmcompressor']}, torch {VERSIONS['torch']}")
