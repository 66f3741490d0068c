"""What an arm is, and arms by name."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from qtrap_agents.errors import ConfigError, unknown
from qtrap_agents.paths import shipped
from qtrap_agents.strict_yaml import load_yaml
from qtrap_agents.types import Record, Value

BACKENDS = ("auto", "vllm", "transformers", "scripted", "plan")

ARMS = Path("configs") / "arms"
"""Where arms of one's own are kept by name, in the working directory; the shipped ones lie beside the shipped configurations."""

ARM_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class ArmConfig(Record):
    """One way of serving the model. Precision is data: it follows from the checkpoint.

    In the list of arms of a run, a name stands for the arm in `configs/arms/<name>.yaml` (see `named_arm`).

    `checkpoint` is a directory, a hub id (of which `revision` is a branch, tag or commit), or `reference:<size>/<arm>` for a
    shipped model. `backend: auto` takes vLLM where it can run and `transformers` otherwise. `transport: engine` drives vLLM
    in a child process without HTTP, `server` starts its OpenAI-compatible server, and `base_url` uses a server that already
    runs; several of them (a list there, or `base_urls`) are one arm, whose requests go to the least busy one. `api_key_env`
    names the environment variable with the key of such a server; without it, `OPENAI_API_KEY` is sent where it is set.
    `environment` is set for the process that serves the arm, such as `VLLM_DISABLED_KERNELS` to choose another kernel.
    `script` is the `module:function` that answers for a `scripted` arm. `backend: plan` stands for the `plan` of the run, whose
    hops several arms answer. `bitsandbytes` quantises 16-bit weights while a
    `transformers` arm loads them (GPU only). `recipe` tells how `qtrap quantize` made the checkpoint; an arm whose weights
    have another checksum than its recipe is refused.
    """

    name: str = Field(pattern=ARM_NAME)
    checkpoint: str | None = None
    revision: str | None = None
    backend: Literal["auto", "vllm", "transformers", "scripted", "plan"] = "auto"
    transport: Literal["engine", "server"] = "engine"
    base_url: str | None = None
    base_urls: tuple[str, ...] = ()
    api_key_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    model: str | None = None
    script: str | None = None
    bitsandbytes: Literal["nf4", "int8"] | None = None
    port: int | None = Field(default=None, ge=1, le=65535)
    engine_args: dict[str, Value | bool] = Field(default_factory=dict)
    environment: dict[str, str] = Field(default_factory=dict)
    recipe: dict[str, Value] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        if isinstance(value, str):
            return named_arm(value).model_dump()
        if isinstance(value, Mapping) and isinstance(value.get("base_url"), (list, tuple)):
            urls = value.get("base_urls") or ()
            return {**value, "base_url": None, "base_urls": (*value["base_url"], *urls)}
        return value

    @model_validator(mode="after")
    def _enough_to_serve(self) -> "ArmConfig":
        if self.backend == "scripted":
            if not self.script:
                raise ValueError("a scripted arm needs 'script: module:function'")
        elif self.backend != "plan" and not self.checkpoint and not self.urls:
            raise ValueError("an arm needs 'checkpoint' (or 'base_url' of a running server)")
        if len(set(self.urls)) < len(self.urls):
            raise ValueError(f"'base_urls' names a server twice: {', '.join(self.urls)}")
        if self.api_key_env and not self.urls:
            raise ValueError("'api_key_env' is for a server that already runs: add 'base_url'")
        if self.revision and (self.urls or not self.checkpoint):
            raise ValueError("'revision' belongs to a hub id: name it as 'checkpoint', without a 'base_url'")
        if self.bitsandbytes and self.backend != "transformers":
            raise ValueError("'bitsandbytes' quantises at load in the transformers arm: add 'backend: transformers'")
        return self

    @property
    def urls(self) -> tuple[str, ...]:
        """Addresses of the running servers that this arm uses; none where it is served by processes of its own."""
        return (*((self.base_url,) if self.base_url else ()), *self.base_urls)


def named_arm(name: str, folders: Sequence[Path] | None = None) -> ArmConfig:
    """The arm in `<name>.yaml` of the first of the folders that has it: by default `./configs/arms` and the shipped ones.

    Raises:
        ValueError: there is no such file (with the nearest name).
        ConfigError: the file is wrong: names it, the line and the field.
    """
    files = arm_files(folders)
    if name not in files:
        raise ValueError(f"{unknown('arm', name, files)} `qtrap list arms` shows the named ones")
    return read_arm(files[name])


def read_arm(path: Path) -> ArmConfig:
    """The arm in a file, called like the file. Raises ConfigError."""
    arm = load_yaml(path, ArmConfig)
    if arm.name != path.stem:
        raise ConfigError(f"{path}: field 'name' is '{arm.name}'; call it '{path.stem}' like its file")
    return arm


def arm_files(folders: Sequence[Path] | None = None) -> dict[str, Path]:
    """Named arms and their files, one's own before shipped ones of the same name."""
    found: dict[str, Path] = {}
    for folder in (ARMS, shipped("configs") / "arms") if folders is None else folders:
        for path in sorted(folder.glob("*.yaml")):
            found.setdefault(path.stem, path)
    return found


def arm_by_name(name: str, arms: Sequence[ArmConfig]) -> ArmConfig:
    """One of the arms, else the named one from `configs/arms`. Raises ConfigError where there is neither."""
    found = next((arm for arm in arms if arm.name == name), None)
    if found is None and name in (files := arm_files()):
        return read_arm(files[name])
    if found is None:
        raise ConfigError(unknown("arm", name, [*(arm.name for arm in arms), *arm_files()]))
    return found


def different_names(arms: tuple[ArmConfig, ...]) -> tuple[ArmConfig, ...]:
    """The arms. Raises ValueError where two have one name."""
    names = [arm.name for arm in arms]
    if len(set(names)) < len(names):
        raise ValueError(f"arm names must differ: {', '.join(names)}")
    return arms


def known_baseline(name: str | None, arms: Sequence[ArmConfig]) -> str | None:
    """The name. Raises ValueError where it is none of the arms."""
    if name is not None and arms and name not in {arm.name for arm in arms}:
        raise ValueError(unknown("arm", name, (arm.name for arm in arms)))
    return name
