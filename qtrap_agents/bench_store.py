"""One directory of a bench or a profile: append-only and self-describing, like a run.

bench.yaml          the resolved configuration
environment.json    versions, hardware, git state, command line
windows.jsonl       bench: one window of work a line      profiles.jsonl    profile: one phase of one arm a line
arms/<arm>/identity.json, server.log
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from qtrap_agents.config import BenchConfig, load_yaml
from qtrap_agents.errors import StoreError
from qtrap_agents.measures import PROFILES, WINDOWS, PhaseProfile, Window
from qtrap_agents.store import as_yaml, cannot_write, first_problem, new_directory, read_lines, write_whole
from qtrap_agents.types import ArmIdentity

CONFIG, ENVIRONMENT = "bench.yaml", "environment.json"


class BenchDirectory:
    """A bench on disk. Create one with `create`, read one with `open`; append with `store.Journal(directory.windows_path)`."""

    def __init__(self, path: Path, config: BenchConfig):
        self.path = path
        self.config = config

    @classmethod
    def create(cls, parent: Path, config: BenchConfig, environment: dict[str, object]) -> "BenchDirectory":
        """A new directory `<parent>/<name>-<time>`; nothing that exists is ever overwritten. Raises StoreError."""
        try:
            path = new_directory(parent, f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}")
            write_whole(path / ENVIRONMENT, json.dumps(environment, indent=1) + "\n")
            write_whole(path / CONFIG, as_yaml(config))
        except OSError as error:
            raise cannot_write(parent, error) from error
        return cls(path, config)

    @classmethod
    def open(cls, path: Path) -> "BenchDirectory":
        """An existing bench. Raises StoreError where it is none, ConfigError where its `bench.yaml` was damaged."""
        if not (path / CONFIG).is_file():
            raise StoreError(f"{path}: not a bench directory (no {CONFIG}); `qtrap bench CONFIG` makes one")
        return cls(path, load_yaml(path / CONFIG, BenchConfig))

    @property
    def windows_path(self) -> Path:
        """Where windows are appended."""
        return self.path / WINDOWS

    @property
    def profiles_path(self) -> Path:
        """Where profiles are appended."""
        return self.path / PROFILES

    def windows(self) -> Iterator[Window]:
        """Stored windows, one at a time."""
        return read_lines(self.windows_path, Window)

    def profiles(self) -> Iterator[PhaseProfile]:
        """Stored profiles, one at a time."""
        return read_lines(self.profiles_path, PhaseProfile)

    def environment(self) -> dict[str, object]:
        """What was recorded about the machine. Raises StoreError."""
        try:
            data: dict[str, object] = json.loads((self.path / ENVIRONMENT).read_text())
        except (OSError, ValueError) as error:
            raise StoreError(f"{self.path / ENVIRONMENT}: cannot be read: {error}") from error
        return data

    def log_path(self, arm: str) -> Path:
        """Where the output of the process goes that serves the arm."""
        folder = self.path / "arms" / arm
        folder.mkdir(parents=True, exist_ok=True)
        return folder / "server.log"

    def write_identity(self, arm: str, identity: ArmIdentity) -> None:
        """Write down what is served. Raises StoreError."""
        path = self.log_path(arm).with_name("identity.json")
        try:
            write_whole(path, identity.model_dump_json(indent=1) + "\n")
        except OSError as error:
            raise cannot_write(path.parent, error) from error

    def identity(self, arm: str) -> ArmIdentity | None:
        """What was served, or None where the arm never became ready. Raises StoreError."""
        path = self.path / "arms" / arm / "identity.json"
        try:
            return ArmIdentity.model_validate_json(path.read_text()) if path.is_file() else None
        except (OSError, ValidationError) as error:
            raise StoreError(f"{path}: cannot be read: {first_problem(error)}") from error
