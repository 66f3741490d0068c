"""Configuration of a run: strict YAML in, frozen records out, every mistake named by file, line and field."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from qtrap_agents.arms import ARM_NAME as ARM_NAME
from qtrap_agents.arms import ARMS as ARMS
from qtrap_agents.arms import ArmConfig as ArmConfig
from qtrap_agents.arms import arm_by_name as arm_by_name
from qtrap_agents.arms import arm_files as arm_files
from qtrap_agents.arms import different_names as different_names
from qtrap_agents.arms import known_baseline as known_baseline
from qtrap_agents.arms import named_arm as named_arm
from qtrap_agents.arms import read_arm as read_arm
from qtrap_agents.plans import PLAN_ARM, PrecisionPlan
from qtrap_agents.strict_yaml import Model as Model
from qtrap_agents.strict_yaml import describe as describe
from qtrap_agents.strict_yaml import describe_all as describe_all
from qtrap_agents.strict_yaml import load_yaml as load_yaml
from qtrap_agents.strict_yaml import yaml_problems as yaml_problems
from qtrap_agents.types import Record, Sampling, Value

AGAIN = "+again"
"""What the name of the baseline gets where it is served a second time; no other arm can be called so."""


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
    measured. `allow_unverified` goes on with arms that do not hold what they claim. `plan` is what the arm with `backend: plan`
    carries out; the other arms do the same tasks with the workflow.
    """

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    suites: tuple[SuiteChoice, ...] = Field(min_length=1)
    workflow: WorkflowChoice = WorkflowChoice()
    arms: tuple[ArmConfig, ...] = Field(min_length=1)
    baseline: str | None = None
    depths: tuple[int, ...] = Field(default=(2, 8, 32), min_length=1)
    plan: PrecisionPlan | None = Field(default=None, validate_default=True)
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

    @field_validator("plan")
    @classmethod
    def _plan_has_its_arm(cls, value: PrecisionPlan | None, info: ValidationInfo) -> PrecisionPlan | None:
        planned = [arm.name for arm in info.data.get("arms", ()) if arm.backend == "plan"]
        if value is None and planned:
            raise ValueError(f"arm '{planned[0]}' has 'backend: plan', but the run has no plan; use `qtrap run --plan FILE`")
        if value is None or "arms" not in info.data or "depths" not in info.data:
            return value
        if planned != [PLAN_ARM]:
            raise ValueError(f"a run with a plan needs one arm 'name: {PLAN_ARM}, backend: plan'; use `qtrap run --plan FILE`")
        if info.data["depths"] != (value.depth,):
            raise ValueError(f"the plan is for depth {value.depth}, the run has depths {list(info.data['depths'])}")
        return value

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
