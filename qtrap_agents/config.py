"""Configuration of a run: strict YAML in, frozen records out, every mistake named by file, line and field."""

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import yaml
from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import ErrorDetails

from qtrap_agents.errors import ConfigError, unknown
from qtrap_agents.paths import shipped
from qtrap_agents.types import Record, Sampling, Value

Model = TypeVar("Model", bound=Record)

BACKENDS = ("auto", "vllm", "transformers", "scripted")

ARMS = Path("configs") / "arms"
"""Where arms of one's own are kept by name, in the working directory; the shipped ones lie beside the shipped configurations."""

ARM_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"

_TYPES = ("int", "float", "str", "bool")
"""What pydantic adds to the place of a value that fits none of its types."""

_LONGEST_SHOWN = 200
"""Characters of a wrong value that a message shows."""

AGAIN = "+again"
"""What the name of the baseline gets where it is served a second time; no other arm can be called so."""


class ArmConfig(Record):
    """One way of serving the model. Precision is data: it follows from the checkpoint.

    In the list of arms of a run, a name stands for the arm in `configs/arms/<name>.yaml` (see `named_arm`).

    `checkpoint` is a directory, a hub id (of which `revision` is a branch, tag or commit), or `reference:<size>/<arm>` for a
    shipped model. `backend: auto` takes vLLM where it can run and `transformers` otherwise. `transport: engine` drives vLLM
    in a child process without HTTP, `server` starts its OpenAI-compatible server, and `base_url` uses a server that already
    runs; several of them (a list there, or `base_urls`) are one arm, whose requests go to the least busy one. `api_key_env`
    names the environment variable with the key of such a server; without it, `OPENAI_API_KEY` is sent where it is set.
    `environment` is set for the process that serves the arm, such as `VLLM_DISABLED_KERNELS` to choose another kernel.
    `script` is the `module:function` that answers for a `scripted` arm. `bitsandbytes` quantises 16-bit weights while a
    `transformers` arm loads them (GPU only). `recipe` tells how `qtrap quantize` made the checkpoint; an arm whose weights
    have another checksum than its recipe is refused.
    """

    name: str = Field(pattern=ARM_NAME)
    checkpoint: str | None = None
    revision: str | None = None
    backend: Literal["auto", "vllm", "transformers", "scripted"] = "auto"
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
        elif not self.checkpoint and not self.urls:
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


class EngineConfig(Record):
    """Serving settings shared by all arms of a run, so that arms differ in their weights only.

    `dtype: auto` means float16 where the hardware multiplies it fast and float32 on CPUs without AVX-512. Times in
    seconds, `kv_cache_gib` in GiB (CPU only). `check_logits` looks for NaN in every step, at the price of a synchronisation
    with the GPU: a request with such logits fails instead of being answered with nonsense.
    """

    dtype: Literal["auto", "float16", "bfloat16", "float32"] = "auto"
    kv_cache_dtype: str = "auto"
    kv_cache_gib: float = Field(default=1.0, gt=0)
    max_model_len: int = Field(default=2048, ge=16)
    max_num_seqs: int = Field(default=256, ge=1)
    tensor_parallel_size: int = Field(default=1, ge=1)
    gpu_memory_utilization: float = Field(default=0.85, gt=0, le=1)
    enforce_eager: bool = True
    prefix_caching: bool = False
    check_logits: bool = True
    start_timeout_s: float = Field(default=600.0, gt=0)
    request_timeout_s: float = Field(default=300.0, gt=0)


class SamplingConfig(Record):
    """How tokens are drawn, for every arm. `max_tokens` of a hop defaults to what the suite allows."""

    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1)
    seed: int = 0
    stop: tuple[str, ...] = ()
    logprobs: int | None = Field(default=None, ge=0, le=20)

    def sampling(self, max_tokens: int, task_seed: int) -> Sampling:
        """The request fields of one hop: the suite's `max_tokens` unless the run sets one, and the task's own seed."""
        fields = self.model_dump(exclude={"max_tokens", "seed"})
        return Sampling(max_tokens=self.max_tokens or max_tokens, seed=self.seed + task_seed, **fields)


class SuiteChoice(Record):
    """A suite by name or path, with changes to its parameters."""

    name: str
    params: dict[str, Value] = Field(default_factory=dict)


class WorkflowChoice(Record):
    """A workflow by name or `module:function`, with its parameters."""

    name: str = "chain"
    params: dict[str, Value] = Field(default_factory=dict)


class Limits(Record):
    """How far one task may go before it ends in an error that names the limit.

    `retries` is how often a request is asked again that failed for a passing reason (timeout, busy server, broken line), with
    growing pauses from 0.5 s on; a refused prompt is never asked again. `hop_timeout_s` is for one model call, its time in the
    queue included; `engine.request_timeout_s` counts besides. `task_timeout_s` is for all of a task. `steps` are rounds of the
    graph, one for each set of nodes that run at once; by default 1,000 and 40 for each gold premise.
    """

    retries: int = Field(default=1, ge=0, le=10)
    hop_timeout_s: float | None = Field(default=None, gt=0)
    task_timeout_s: float | None = Field(default=None, gt=0)
    steps: int | None = Field(default=None, ge=1)

    def steps_for(self, premises: int) -> int:
        """Rounds that the graph of a task with so many gold premises may take."""
        return self.steps or 1_000 + 40 * premises


class RunConfig(Record):
    """Everything that decides a run: suites × depths × seeds × arms, one workflow.

    `tasks_per_depth` tasks are drawn for each suite, depth and seed. Every arm gets the same tasks and sampling.
    `noise_floor` serves the baseline a second time where there is an arm to compare it with: in a fresh process and in
    other batches, to see which differences noise alone makes. `order: abba` serves the arms with half of the tasks each and
    then in reverse order with the rest, so that a device that warms up favours none; `auto` does so where energy is
    measured. `allow_unverified` goes on with arms that do not hold what they claim.
    """

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    suites: tuple[SuiteChoice, ...] = Field(min_length=1)
    workflow: WorkflowChoice = WorkflowChoice()
    arms: tuple[ArmConfig, ...] = Field(min_length=1)
    baseline: str | None = None
    depths: tuple[int, ...] = Field(default=(2, 8, 32), min_length=1)
    tasks_per_depth: int = Field(default=100, ge=1)
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    concurrency: int = Field(default=128, ge=1)
    sampling: SamplingConfig = SamplingConfig()
    engine: EngineConfig = EngineConfig()
    limits: Limits = Limits()
    noise_floor: bool = True
    energy: Literal["auto", "none"] = "auto"
    order: Literal["auto", "once", "abba"] = "auto"
    allow_unverified: bool = False
    out: str = "traces"

    @field_validator("suites", mode="before")
    @classmethod
    def _suites_by_name(cls, value: Any) -> Any:
        items = [value] if isinstance(value, (str, Mapping)) else value
        if not isinstance(items, (list, tuple)):
            return items
        return [{"name": item} if isinstance(item, str) else item for item in items]

    @field_validator("workflow", mode="before")
    @classmethod
    def _workflow_by_name(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, Mapping) and "params" not in value:
            return {"name": value.get("name", "chain"), "params": {k: v for k, v in value.items() if k != "name"}}
        return value

    @field_validator("depths")
    @classmethod
    def _positive_depths(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(depth < 1 for depth in value):
            raise ValueError("depths must be 1 or more")
        return tuple(sorted(set(value)))

    @field_validator("arms")
    @classmethod
    def _arms_by_different_names(cls, value: tuple[ArmConfig, ...]) -> tuple[ArmConfig, ...]:
        return different_names(value)

    @field_validator("baseline")
    @classmethod
    def _baseline_is_an_arm(cls, value: str | None, info: ValidationInfo) -> str | None:
        return known_baseline(value, info.data.get("arms", ()))

    @property
    def baseline_arm(self) -> str:
        """The arm that the others are compared with: `baseline`, else the first one."""
        return self.baseline or self.arms[0].name

    @property
    def again_arm(self) -> str | None:
        """Name of the arm that is the baseline served a second time, such as `fp16+again`; None where there is none."""
        return self.baseline_arm + AGAIN if self.noise_floor and len(self.arms) > 1 else None

    @property
    def served_arms(self) -> tuple[ArmConfig, ...]:
        """The arms in the order in which they are served, the second serving of the baseline last."""
        again = (arm.model_copy(update={"name": self.again_arm}) for arm in self.arms if arm.name == self.baseline_arm)
        return (*self.arms, *again) if self.again_arm is not None else self.arms


class BenchConfig(Record):
    """The same token work on every arm: each prompt length × concurrency, `repeats` times, the arms taking turns A B C, C B A.

    A window of work lasts about `window_s` seconds on the baseline; the other arms do the same requests. `resident: all`
    serves all arms at once, so that they take turns within seconds; `one` serves them one after the other, for models that
    do not fit together. `kv_cache_gib` of the engine is then the cache of each arm, also on a GPU; with a `shape` it is made
    large enough for all requests in flight.
    """

    name: str = Field(default="bench", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    arms: tuple[ArmConfig, ...] = Field(min_length=1)
    baseline: str | None = None
    shape: str | None = None
    concurrency: tuple[int, ...] = Field(default=(1, 4, 16, 64, 128, 256), min_length=1)
    prompt_tokens: tuple[int, ...] = Field(default=(256,), min_length=1)
    new_tokens: int = Field(default=64, ge=2)
    repeats: int = Field(default=4, ge=1)
    window_s: float = Field(default=3.0, gt=0)
    resident: Literal["all", "one"] = "all"
    engine: EngineConfig = EngineConfig(enforce_eager=False, check_logits=False)
    energy: Literal["auto", "none"] = "auto"
    out: str = "traces"

    @field_validator("arms")
    @classmethod
    def _arms_by_different_names(cls, value: tuple[ArmConfig, ...]) -> tuple[ArmConfig, ...]:
        return different_names(value)

    @field_validator("concurrency", "prompt_tokens")
    @classmethod
    def _positive(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(number < 1 for number in value):
            raise ValueError("must be 1 or more")
        return tuple(sorted(set(value)))

    @field_validator("baseline")
    @classmethod
    def _baseline_is_an_arm(cls, value: str | None, info: ValidationInfo) -> str | None:
        return known_baseline(value, info.data.get("arms", ()))

    @property
    def baseline_arm(self) -> str:
        """The arm that the others are compared with: `baseline`, else the first one."""
        return self.baseline or self.arms[0].name


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


def load_yaml(path: Path, model: type[Model]) -> Model:
    """Read a YAML file into a strict record.

    Raises:
        ConfigError: names the file, the line, the field and the remedy.
    """
    data, lines = _read_yaml(path)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError(describe(error, str(path), model, lines)) from error


def yaml_problems(path: Path, model: type[Record]) -> list[str]:
    """Everything that keeps `load_yaml` from reading a file, a sentence each; empty where nothing does."""
    try:
        data, lines = _read_yaml(path)
        model.model_validate(data)
    except ConfigError as error:
        return [str(error)]
    except ValidationError as error:
        return describe_all(error, str(path), model, lines)
    return []


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[tuple[Hashable, ...], int]]:
    """The fields of a file, and the line of every one. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; `qtrap list` shows what is there") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
        lines = _lines(node) if node is not None else {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}{_yaml_line(error)}: not valid YAML: {_first_line(error)}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}:1: expected fields such as 'name: …', found {type(data).__name__}")
    return data, lines


def describe(error: ValidationError, source: str, model: type[Record], lines: Mapping[tuple[Hashable, ...], int]) -> str:
    """One sentence for the first validation error, with its line where it is known."""
    return _described(error.errors()[0], source, model, lines)


def describe_all(
    error: ValidationError, source: str, model: type[Record], lines: Mapping[tuple[Hashable, ...], int]
) -> list[str]:
    """The same for every validation error; of a value that may be of several types, one sentence."""
    found: dict[tuple[int | str, ...], str] = {}
    for one in error.errors():
        place = one["loc"][:-1] if one["loc"] and one["loc"][-1] in _TYPES else one["loc"]
        found.setdefault(place, _described(one, source, model, lines))
    return list(found.values())


def _described(first: ErrorDetails, source: str, model: type[Record], lines: Mapping[tuple[Hashable, ...], int]) -> str:
    union = bool(first["loc"]) and first["loc"][-1] in _TYPES
    place = tuple(first["loc"][:-1] if union else first["loc"])
    line = next((lines[place[:n]] for n in range(len(place), 0, -1) if place[:n] in lines), None)
    where = f"{source}:{line}" if line else source
    field = ".".join(str(part) for part in place) or "file"
    if first["type"] == "extra_forbidden":
        siblings = _fields_at(model, place[:-1])
        return f"{where}: {unknown('field', str(place[-1]), siblings) if siblings else f'unknown field {field!r}; remove it'}"
    message = "must be a number or text" if union else first["msg"].removeprefix("Value error, ")
    given = first.get("input")
    shown = "" if isinstance(given, (dict, list)) else f", not {_short(given)}"
    return f"{where}: field '{field}': {message[0].lower()}{message[1:]}{shown if first['type'] != 'value_error' else ''}"


def _short(value: object) -> str:
    text = repr(value[:_LONGEST_SHOWN] if isinstance(value, str) else value)
    return f"{text[:_LONGEST_SHOWN]} …" if len(text) > _LONGEST_SHOWN else text


def _fields_at(model: type[Record], place: Sequence[int | str]) -> Sequence[str]:
    """Names of the fields that belong at a place; none where anything may stand."""
    for part in place:
        if isinstance(part, int):
            continue
        field = model.model_fields[part].annotation
        kinds = [kind for kind in (field, *get_args(field)) if isinstance(kind, type) and issubclass(kind, Record)]
        if not kinds:
            return ()
        model = kinds[0]
    return tuple(model.model_fields)


def _lines(node: yaml.Node, place: tuple[Hashable, ...] = ()) -> dict[tuple[Hashable, ...], int]:
    """Line number (from 1) of every field, by its path."""
    found: dict[tuple[Hashable, ...], int] = {}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*place, key.value)
            if inner in found:
                problem = f"field '{key.value}' stands twice; keep one"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            found[inner] = key.start_mark.line + 1
            found |= _lines(value, inner)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            inner = (*place, index)
            found[inner] = value.start_mark.line + 1
            found |= _lines(value, inner)
    return found


def _yaml_line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f":{mark.line + 1}" if mark else ""


def _first_line(error: yaml.YAMLError) -> str:
    return str(getattr(error, "problem", None) or str(error).splitlines()[0])
