"""A wrong configuration is one sentence that names the file, the line and the field."""

from pathlib import Path

import pytest

from qtrap_agents.config import (
    ARMS,
    ArmConfig,
    BenchConfig,
    RunConfig,
    SamplingConfig,
    arm_by_name,
    arm_files,
    load_yaml,
    read_arm,
)
from qtrap_agents.errors import ConfigError
from qtrap_agents.paths import shipped

GOOD = """\
name: demo
suites:
  - arith
  - {name: program, params: {modulus: 10}}
workflow: cot
arms:
  - name: fp16
    checkpoint: some/where
  - {name: awq, checkpoint: else/where}
depths: [8, 2, 8]
engine:
  max_num_seqs: 16
"""


def load(folder: Path, text: str) -> RunConfig:
    file = folder / "run.yaml"
    file.write_text(text, encoding="utf-8")
    return load_yaml(file, RunConfig)


def complaint(folder: Path, text: str) -> str:
    """The message, which must be one line and begin with the file."""
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{folder / 'run.yaml'}:")
    return message.removeprefix(f"{folder / 'run.yaml'}:")


def test_short_forms_are_filled_in(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD)
    assert [(suite.name, suite.params) for suite in config.suites] == [("arith", {}), ("program", {"modulus": 10})]
    assert config.workflow.name == "cot"
    assert config.depths == (2, 8)
    assert config.engine.max_num_seqs == 16
    assert config.baseline_arm == "fp16"


def test_parameters_of_a_workflow_may_stand_beside_its_name(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD.replace("workflow: cot", "workflow: {name: 'mine:graph', tries: 3}"))
    assert (config.workflow.name, config.workflow.params) == ("mine:graph", {"tries": 3})


def test_a_dumped_configuration_is_read_back_the_same(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD)
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("depths:", "dephts:", "10: unknown field 'dephts': did you mean 'depths'?"),
        ("    checkpoint: some", "    chekpoint: some", "8: unknown field 'chekpoint': did you mean 'checkpoint'?"),
        ("  max_num_seqs: 16", "  max_num_seq: 16", "12: unknown field 'max_num_seq': did you mean 'max_num_seqs'?"),
        ("params: {modulus: 10}", "parms: {modulus: 10}", "4: unknown field 'parms': did you mean 'params'?"),
        ("[8, 2, 8]", "[8, two]", "10: field 'depths.1': input should be a valid integer"),
        ("[8, 2, 8]", "[8, 0]", "10: field 'depths': depths must be 1 or more"),
        ("[8, 2, 8]", "[]", "10: field 'depths': tuple should have at least 1 item"),
        ("max_num_seqs: 16", "max_num_seqs: many", "12: field 'engine.max_num_seqs': input should be a valid integer"),
        ("max_num_seqs: 16", "max_num_seqs: 0", "12: field 'engine.max_num_seqs': input should be greater than or equal to 1"),
        ("max_num_seqs: 16", "dtype: int4", "12: field 'engine.dtype': input should be 'auto', 'float16'"),
        ("suites:\n  - arith\n  -", "suites: 3 #", "2: field 'suites': input should be a valid tuple, not 3"),
        ("name: awq", "name: fp16", "6: field 'arms': arm names must differ: fp16, fp16"),
        ("depths:", "baseline: fp61\ndepths:", "10: field 'baseline': unknown arm 'fp61': did you mean 'fp16'?"),
        (", checkpoint: else/where", "", "9: field 'arms.1': an arm needs 'checkpoint' (or 'base_url' of a running server)"),
        (", checkpoint: else/where", ", backend: scripted", "9: field 'arms.1': a scripted arm needs 'script: module:function'"),
        (
            "name: awq",
            "name: awq, bitsandbytes: nf4",
            "9: field 'arms.1': 'bitsandbytes' quantises at load in the transformers arm: add 'backend: transformers'",
        ),
        ("name: awq", "name: awq, bitsandbytes: int4", "9: field 'arms.1.bitsandbytes': input should be 'nf4' or 'int8', not"),
        ("depths:", "order: twice\ndepths:", "10: field 'order': input should be 'auto', 'once' or 'abba', not 'twice'"),
        ("depths:", "energy: nvml\ndepths:", "10: field 'energy': input should be 'auto' or 'none', not 'nvml'"),
        ("name: awq", "name: ../awq", "9: field 'arms.1.name': string should match pattern"),
        ("depths: [8, 2, 8]", "depths: [8, 2", "11: not valid YAML: expected ',' or ']'"),
        ("name: demo", "name: [demo", "2: not valid YAML: "),
        ("depths:", "name: twice\ndepths:", "10: not valid YAML: field 'name' stands twice; keep one"),
        (GOOD, "just a sentence", "1: expected fields such as 'name: …', found str"),
        (GOOD, "", "1: expected fields such as 'name: …', found NoneType"),
        (GOOD, "name: demo\nsuites: [arith]\n", " field 'arms': field required"),
    ],
)  # fmt: skip
def test_every_mistake_is_named_with_its_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    assert complaint(tmp_path, GOOD.replace(old, new)).startswith(message)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such file") as caught:
        load_yaml(tmp_path / "nowhere.yaml", RunConfig)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(ConfigError, match=r"run\.yaml: cannot be read: "):
        load_yaml(tmp_path / "run.yaml", RunConfig)


def test_a_folder_is_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: "):
        load_yaml(tmp_path, RunConfig)


def test_sampling_adds_the_seed_of_the_task_and_takes_the_length_of_the_suite() -> None:
    assert SamplingConfig(seed=7).sampling(max_tokens=8, task_seed=3).model_dump(include={"seed", "max_tokens"}) == {
        "seed": 10,
        "max_tokens": 8,
    }
    assert SamplingConfig(max_tokens=2).sampling(max_tokens=8, task_seed=0).max_tokens == 2


def test_greedy_is_the_default() -> None:
    assert SamplingConfig().sampling(1, 0).temperature == 0


def test_an_arm_by_url_needs_no_checkpoint() -> None:
    assert ArmConfig(name="url", base_url="http://127.0.0.1:1/v1").checkpoint is None


def test_the_baseline_is_served_again_where_there_is_an_arm_to_compare(tmp_path: Path) -> None:
    config = load(tmp_path, GOOD.replace("depths:", "baseline: awq\ndepths:"))
    assert config.again_arm == "awq+again"
    assert [arm.name for arm in config.served_arms] == ["fp16", "awq", "awq+again"]
    again = config.served_arms[-1]
    assert again == config.arms[1].model_copy(update={"name": "awq+again"})
    without = config.model_copy(update={"noise_floor": False})
    alone = config.model_copy(update={"arms": config.arms[1:]})
    assert [(other.again_arm, other.served_arms) for other in (without, alone)] == [
        (None, config.arms),
        (None, config.arms[1:]),
    ]


def test_no_arm_can_take_the_name_of_the_second_serving(tmp_path: Path) -> None:
    message = complaint(tmp_path, GOOD.replace("name: awq", "name: fp16+again"))
    assert message.startswith("9: field 'arms.1.name': string should match pattern")


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_bitsandbytes_is_for_the_transformers_arm(kind: str) -> None:
    arm = {"name": "nf4", "checkpoint": "some/where", "bitsandbytes": kind}
    assert ArmConfig.model_validate(arm | {"backend": "transformers"}).bitsandbytes == kind
    for backend in ("auto", "vllm"):
        with pytest.raises(ValueError, match="add 'backend: transformers'"):
            ArmConfig.model_validate(arm | {"backend": backend})


@pytest.mark.parametrize("order", ["auto", "once", "abba"])
def test_the_order_of_arms_can_be_chosen(tmp_path: Path, order: str) -> None:
    assert load(tmp_path, GOOD.replace("depths:", f"order: {order}\ndepths:")).order == order
    config = load(tmp_path, GOOD)
    assert (config.order, config.energy, config.allow_unverified) == ("auto", "auto", False)


BENCH = """\
name: batches
shape: qwen2.5-7b
arms:
  - {name: fp16, checkpoint: "random:fp16"}
  - {name: awq, checkpoint: "random:awq"}
concurrency: [64, 1, 64]
repeats: 3
"""


def load_bench(folder: Path, text: str) -> BenchConfig:
    """A bench from a file."""
    file = folder / "bench.yaml"
    file.write_text(text, encoding="utf-8")
    return load_yaml(file, BenchConfig)


def test_a_bench_is_filled_in(tmp_path: Path) -> None:
    config = load_bench(tmp_path, BENCH)
    assert (config.concurrency, config.prompt_tokens, config.resident) == ((1, 64), (256,), "all")
    assert (config.baseline_arm, config.baseline) == ("fp16", None)
    assert (config.engine.enforce_eager, config.engine.check_logits) == (False, False), "as one serves, not as one examines"
    assert BenchConfig.model_validate(config.model_dump(mode="json")) == config
    assert load_bench(tmp_path, BENCH + "baseline: awq\n").baseline_arm == "awq"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("repeats: 3", "repeat: 3", "7: unknown field 'repeat': did you mean 'repeats'?"),
        ("repeats: 3", "repeats: 0", "7: field 'repeats': input should be greater than or equal to 1"),
        ("repeats: 3", "new_tokens: 1", "7: field 'new_tokens': input should be greater than or equal to 2"),
        ("repeats: 3", "window_s: 0", "7: field 'window_s': input should be greater than 0"),
        ("repeats: 3", "resident: two", "7: field 'resident': input should be 'all' or 'one', not 'two'"),
        ("repeats: 3", "prompt_tokens: []", "7: field 'prompt_tokens': tuple should have at least 1 item"),
        ("repeats: 3", "prompt_tokens: [16, 0]", "7: field 'prompt_tokens': must be 1 or more"),
        ("[64, 1, 64]", "[0]", "6: field 'concurrency': must be 1 or more"),
        ("[64, 1, 64]", "[]", "6: field 'concurrency': tuple should have at least 1 item"),
        ("[64, 1, 64]", "64", "6: field 'concurrency': input should be a valid tuple, not 64"),
        ("name: awq", "name: fp16", "3: field 'arms': arm names must differ: fp16, fp16"),
        ("repeats: 3", "baseline: pf16", "7: field 'baseline': unknown arm 'pf16': did you mean 'fp16'?"),
        ("name: batches", "name: a/b", "1: field 'name': string should match pattern"),
        ("repeats: 3", "suites: [arith]", "7: unknown field 'suites'"),
    ],
)
def test_every_mistake_in_a_bench_is_named_with_its_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in BENCH
    with pytest.raises(ConfigError) as caught:
        load_bench(tmp_path, BENCH.replace(old, new))
    assert str(caught.value).removeprefix(f"{tmp_path / 'bench.yaml'}:").startswith(message)
    assert "\n" not in str(caught.value)


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with two arms by name, of which one hides a shipped one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ARMS).mkdir(parents=True)
    (tmp_path / ARMS / "mine.yaml").write_text("name: mine\ncheckpoint: some/where\nengine_args: {max_logprobs: 40}\n")
    (tmp_path / ARMS / "qwen2.5-7b-awq.yaml").write_text("name: qwen2.5-7b-awq\ncheckpoint: my/copy\n")
    return tmp_path


def test_arms_are_given_by_name_beside_inline_ones(named: Path) -> None:
    arms = "arms: [mine, qwen2.5-7b-awq, qwen2.5-7b-fp16, {name: own, checkpoint: x}]\n"
    config = load(named, "suites: [arith]\n" + arms)
    assert [(arm.name, arm.checkpoint) for arm in config.arms] == [
        ("mine", "some/where"),
        ("qwen2.5-7b-awq", "my/copy"),
        ("qwen2.5-7b-fp16", "Qwen/Qwen2.5-7B-Instruct"),
        ("own", "x"),
    ]
    assert config.arms[0].engine_args == {"max_logprobs": 40}
    for file in (named / ARMS).iterdir():
        file.unlink()
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config, "a run repeats from its own directory"
    assert load_bench(named, "arms: [qwen2.5-7b-fp16]\n").arms[0] == config.arms[2]


def test_a_name_that_is_nobody_s_is_named_with_its_line(named: Path) -> None:
    message = complaint(named, "suites: [arith]\narms:\n  - mine\n  - qwen2.5-7b-awk\n")
    assert message.startswith("4: field 'arms.1': unknown arm 'qwen2.5-7b-awk': did you mean 'qwen2.5-7b-awq'?")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: mine\nchekpoint: x\n", r"mine\.yaml:2: unknown field 'chekpoint': did you mean 'checkpoint'?"),
        ("name: yours\ncheckpoint: x\n", r"mine\.yaml: field 'name' is 'yours'; call it 'mine' like its file"),
        ("- name: mine\n", r"mine\.yaml:1: expected fields such as 'name: …', found list"),
    ],
)
def test_a_wrong_file_of_an_arm_is_named_itself(named: Path, text: str, message: str) -> None:
    (named / ARMS / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load(named, "suites: [arith]\narms: [mine]\n")


def test_an_arm_is_looked_for_in_the_run_before_the_named_ones(named: Path) -> None:
    inline = ArmConfig(name="mine", checkpoint="inline")
    assert arm_by_name("mine", (inline,)) == inline
    assert arm_by_name("mine", ()).checkpoint == "some/where"
    with pytest.raises(ConfigError, match=r"unknown arm 'mien': did you mean 'mine'\?"):
        arm_by_name("mien", (inline,))


def test_every_shipped_arm_and_every_shipped_run_of_arms_is_right() -> None:
    arms = {name: read_arm(path) for name, path in arm_files([shipped("configs") / "arms"]).items()}
    assert len(arms) == 24
    for name, arm in arms.items():
        fp8 = arm.engine_args.get("kv_cache_dtype") == "fp8"
        assert fp8 == name.endswith("kv-fp8")
        assert arm.checkpoint is not None
        for word, spelled in (("awq", "AWQ"), ("gptq", "GPTQ"), ("int8", "Int8")):
            assert (word in name.split("-")) == (spelled in arm.checkpoint)
    runs = [path for path in shipped("configs").glob("*.yaml") if "arms: [" in path.read_text()]
    assert len(runs) == 7
    for path in runs:
        config = load_yaml(path, RunConfig)
        assert config.name == path.stem
        assert config.baseline_arm == config.arms[0].name
        assert not any(arm.recipe for arm in config.arms)


def test_servers_of_one_arm_may_stand_in_either_field() -> None:
    urls = ("http://a/v1", "http://b/v1")
    arms: list[dict[str, object]] = [
        {"base_url": list(urls)},
        {"base_urls": list(urls)},
        {"base_url": urls[0], "base_urls": urls[1:]},
    ]
    for fields in arms:
        arm = ArmConfig.model_validate({"name": "two", **fields})
        assert arm.urls == urls
        assert ArmConfig.model_validate(arm.model_dump(mode="json")) == arm


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("base_urls: []", "an arm needs 'checkpoint'"),
        ("base_url: [http://a, http://a]", "'base_urls' names a server twice: http://a, http://a"),
        ("checkpoint: x, api_key_env: KEY", "'api_key_env' is for a server that already runs: add 'base_url'"),
        ("base_url: http://a, api_key_env: sk-123", "string should match pattern"),
        ("base_url: http://a, revision: v1", "'revision' belongs to a hub id: name it as 'checkpoint', without a 'base_url'"),
    ],
)
def test_settings_of_servers_that_do_not_fit(tmp_path: Path, fields: str, message: str) -> None:
    assert message in complaint(tmp_path, f"suites: [arith]\narms:\n  - {{name: a, {fields}}}\n")
