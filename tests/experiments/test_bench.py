"""Whole benches on scripted arms: the same work for every arm, in turns, and after a stop only what is missing."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import benched
import pytest
from benched import TEMPLATE_TOKENS, WORKERS, bench_config
from scripts import Listener

from qtrap_agents.backends.base import Backend
from qtrap_agents.backends.factory import open_arm
from qtrap_agents.backends.random_weights import model_config
from qtrap_agents.backends.scripted import ScriptedArm
from qtrap_agents.bench_store import BenchDirectory
from qtrap_agents.config import ArmConfig, BenchConfig, EngineConfig
from qtrap_agents.errors import ArmDied, ArmError, ConfigError, QtrapError, StoreError
from qtrap_agents.experiments import bench
from qtrap_agents.experiments.bench import checkpoints, create_bench, inter_token_s, prepare_bench, run_bench, shape_config
from qtrap_agents.experiments.requests import Prompts, fit_prompts, text
from qtrap_agents.measures import Reading, ServerStats, Window
from qtrap_agents.shapes import SHAPES, load_shape
from qtrap_agents.store import Journal
from qtrap_agents.types import Completion

THREE = ("fp16", "awq", "gptq")


@pytest.fixture(autouse=True)
def _fresh_workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Workers that remember nothing, and two rounds of warm-up however long each of them takes."""
    monkeypatch.setattr(bench, "STEADY", 0.0)
    yield
    for worker in WORKERS.values():
        worker.clear()


def go_on(directory: BenchDirectory) -> Listener:
    """Measure what is missing."""
    listener = Listener()
    asyncio.run(run_bench(directory, directory.config, listener))
    return listener


def whole(out: Path, *arms: str, **changes: Any) -> tuple[list[Window], Listener, BenchDirectory]:
    """A bench from its beginning to its end."""
    directory = create_bench(prepare_bench(bench_config(*arms, out=str(out), **changes)))
    listener = go_on(directory)
    return list(directory.windows()), listener, directory


def turns(windows: list[Window]) -> list[tuple[int, int, str]]:
    """Repeat, concurrency and arm in the order in which they were measured."""
    return [(window.repeat, window.concurrency, window.arm) for window in windows]


def test_arms_take_turns_and_the_next_repeat_goes_backwards(tmp_path: Path) -> None:
    windows, listener, _ = whole(tmp_path, *THREE, repeats=3)
    there, back = list(THREE), list(reversed(THREE))
    assert turns(windows) == [
        (repeat, concurrency, arm)
        for repeat, order in ((0, there), (1, back), (2, there))
        for concurrency in (1, 4)
        for arm in order
    ]
    assert [window.position for window in windows] == [0, 1, 2] * 6
    assert [window.begun_at for window in windows] == sorted(window.begun_at for window in windows)
    assert sorted(listener.started) == sorted(THREE)
    assert listener.totals == dict.fromkeys(THREE, (6, 0))
    assert listener.advanced == dict.fromkeys(THREE, 6)


def test_the_baseline_comes_first_wherever_it_stands(tmp_path: Path) -> None:
    windows, _, _ = whole(tmp_path, *THREE, baseline="gptq", concurrency=[2])
    assert [window.arm for window in windows] == ["gptq", "fp16", "awq", "awq", "fp16", "gptq"]


def test_every_arm_does_the_same_requests(tmp_path: Path) -> None:
    windows, _, _ = whole(tmp_path, *THREE)
    for repeat in (0, 1):
        for concurrency in (1, 4):
            here = [window for window in windows if (window.repeat, window.concurrency) == (repeat, concurrency)]
            assert len({(window.requests, window.output_tokens, window.prompt_tokens) for window in here}) == 1
    asked = [sorted(prompt for prompt, _ in WORKERS[arm].measured) for arm in THREE]
    assert asked[0] == asked[1] == asked[2]
    for arm in THREE:
        assert {len(prompt.split()) for prompt, _ in WORKERS[arm].measured} == {16 - TEMPLATE_TOKENS}
        assert {(sampling.max_tokens, sampling.ignore_eos) for _, sampling in WORKERS[arm].measured} == {(8, True)}
        assert WORKERS[arm].most_in_flight == 4


def test_prompts_of_a_window_differ_and_repeats_have_their_own(tmp_path: Path) -> None:
    windows, _, _ = whole(tmp_path, "fp16", concurrency=[4])
    sizes = [window.requests for window in windows]
    prompts = [prompt for prompt, _ in WORKERS["fp16"].measured]
    warm_up, first, second = prompts[:8], prompts[8 : 8 + sizes[0]], prompts[8 + sizes[0] :]
    assert len(second) == sizes[1]
    assert set(warm_up[:4]) == set(warm_up[4:])
    for one, other in ((warm_up, first), (warm_up, second), (first, second)):
        assert not set(one) & set(other)
    assert len(set(first)) == len(first)


def test_no_place_has_a_prompt_of_another(tmp_path: Path) -> None:
    windows, _, _ = whole(tmp_path, "fp16", concurrency=[1, 4], prompt_tokens=[8, 16])
    counted = Counter(prompt for prompt, _ in WORKERS["fp16"].measured)
    assert sum(counted.values()) == sum(window.requests for window in windows) + 2 * 2 * (1 + 4)
    assert Counter(counted.values()) == {1: sum(window.requests for window in windows), 2: 2 * (1 + 4)}
    assert len({prompt[:15] for prompt in counted}) == len(counted), "nor one that begins like it"


def test_the_size_of_a_window_is_found_on_the_baseline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WORKERS["fp16"], "delay_s", 0.01)
    windows, _, _ = whole(tmp_path, "fp16", "awq", window_s=0.1, repeats=1)
    for window in windows:
        rounds = window.requests / window.concurrency
        assert rounds == int(rounds)
        assert 5 <= rounds <= 10, "0.1 s of rounds that take at least 0.01 s"
        assert window.output_tokens == 8 * window.requests
    slow = next(window for window in windows if window.arm == "fp16")
    assert 0.05 < slow.wall_s < 0.5


def test_a_window_has_at_least_one_round(tmp_path: Path) -> None:
    windows, _, _ = whole(tmp_path, "awq", window_s=0.0001, concurrency=[3])
    assert [window.requests for window in windows] == [3, 3]


def test_warm_up_is_not_counted(tmp_path: Path) -> None:
    windows, _, _ = whole(tmp_path, "fp16", "awq")
    for arm in ("fp16", "awq"):
        counted = sum(window.requests for window in windows if window.arm == arm)
        assert len(WORKERS[arm].measured) == counted + 2 * (1 + 4)


@pytest.mark.parametrize(("rounds_s", "taken"), [((8, 4, 2, 1, 0.95, 0.5), 5), ((1, 2, 1), 2), ((9, 8, 7.5, 1), 3)])
def test_an_arm_is_warmed_up_until_a_round_is_hardly_faster(
    rounds_s: tuple[float, ...], taken: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the size of the window follows from the rounds at the end, not from the slow ones at the beginning."""
    left = iter(rounds_s)

    async def round_s(config: BenchConfig, turn: bench.Turn, served: bench.Served) -> float:
        return next(left)

    monkeypatch.undo()
    monkeypatch.setattr(bench, "_round_s", round_s)
    windows, _, _ = whole(tmp_path, "fp16", concurrency=[1], window_s=10.0, repeats=1)
    assert len(rounds_s) - len(list(left)) == taken
    assert windows[0].requests == round(10.0 / min(rounds_s[taken - 2 : taken]))


def test_the_cache_holds_all_requests_in_flight() -> None:
    wide = shape_config("qwen2.5-14b").model_copy(update={"concurrency": (1, 256), "prompt_tokens": (256,), "new_tokens": 64})
    engine = bench._engine(wide)
    assert engine.max_model_len == 256 + 64 + bench.SPARE_TOKENS
    tokens = engine.kv_cache_gib * 2**30 / load_shape("qwen2.5-14b").cache_bytes_per_token
    assert 256 * engine.max_model_len <= tokens <= 1.2 * 256 * engine.max_model_len
    narrow = wide.model_copy(update={"concurrency": (1,)})
    assert bench._engine(narrow).kv_cache_gib == narrow.engine.kv_cache_gib
    assert bench._engine(wide.model_copy(update={"shape": None})).kv_cache_gib == wide.engine.kv_cache_gib


def test_each_arm_of_a_shared_gpu_has_that_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    config = shape_config("qwen2.5-14b")
    engine = bench._engine(config)
    assert bench._own_cache(config, engine, config.arms[0]) == config.arms[0]
    monkeypatch.setattr(bench, "_on_gpu", lambda: True)
    assert bench._own_cache(config, engine, config.arms[0]).engine_args["kv_cache_memory_bytes"] == int(
        engine.kv_cache_gib * 2**30
    )
    alone = config.model_copy(update={"resident": "one"})
    assert bench._own_cache(alone, engine, alone.arms[0]) == alone.arms[0]


def test_latencies_are_those_of_the_answers(tmp_path: Path) -> None:
    windows, _, _ = whole(tmp_path, "awq", concurrency=[4])
    for window in windows:
        assert window.ttft is not None
        assert window.inter_token is not None
        assert window.ttft.n == window.requests
        assert window.ttft.p50 == pytest.approx(0.0015)
        assert window.inter_token.p50 == pytest.approx(0.0015 / 7)
        assert (window.energy_j, window.server, window.last, window.meter) == (None, None, None, "none")


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        (Completion(text="", completion_tokens=5, latency_s=3.0, ttft_s=1.0), 0.5),
        (Completion(text="", completion_tokens=1, latency_s=3.0, ttft_s=1.0), None),
        (Completion(text="", completion_tokens=5, latency_s=3.0), None),
    ],
)
def test_time_between_tokens(completion: Completion, expected: float | None) -> None:
    assert inter_token_s(completion) == expected


def test_a_finished_bench_measures_nothing_more(tmp_path: Path) -> None:
    windows, _, directory = whole(tmp_path, *THREE)
    asked = [len(worker.asked) for worker in WORKERS.values()]
    assert go_on(directory).started == []
    assert list(directory.windows()) == windows
    assert asked == [len(worker.asked) for worker in WORKERS.values()]


def cut(directory: BenchDirectory, keep: list[int]) -> list[Window]:
    """Leave only these windows."""
    lines = directory.windows_path.read_text().splitlines(keepends=True)
    directory.windows_path.write_text("".join(lines[number] for number in keep))
    return list(directory.windows())


@pytest.mark.parametrize("keep", [[], [0], [0, 1, 2, 3, 4, 5, 6], list(range(11)), [3, 7]])
def test_a_resumed_bench_measures_only_what_is_missing(tmp_path: Path, keep: list[int]) -> None:
    before, _, directory = whole(tmp_path, *THREE)
    kept = cut(directory, keep)
    listener = go_on(directory)
    after = list(directory.windows())
    assert after[: len(kept)] == kept
    assert sorted(turns(after)) == sorted(turns(before))
    assert turns(after[len(kept) :]) == [turn for turn in turns(before) if turn not in turns(kept)]
    missing = Counter(window.arm for window in after[len(kept) :])
    assert sorted(listener.started) == sorted(missing)
    assert listener.totals == {arm: (4, 4 - missing[arm]) for arm in missing}
    assert listener.advanced == missing


def test_a_resumed_bench_keeps_the_size_of_its_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, directory = whole(tmp_path, "fp16", "awq", concurrency=[4])
    (kept,) = cut(directory, [0])
    monkeypatch.setattr(WORKERS["fp16"], "delay_s", 0.02)
    go_on(directory)
    assert {window.requests for window in directory.windows()} == {kept.requests}


def test_a_dead_arm_stops_the_bench_and_the_rest_is_measured_later(tmp_path: Path) -> None:
    directory = create_bench(prepare_bench(bench_config(*THREE, out=str(tmp_path))))
    WORKERS["awq"].lives = 20
    with pytest.raises(ArmDied, match="died in mid-run"):
        go_on(directory)
    stored = list(directory.windows())
    assert 0 < len(stored) < 12
    WORKERS["awq"].lives = None
    go_on(directory)
    after = list(directory.windows())
    assert after[: len(stored)] == stored
    assert len({(window.arm, window.cell, window.repeat) for window in after}) == len(after) == 12


def test_a_line_cut_off_by_a_kill_is_measured_again(tmp_path: Path) -> None:
    _, _, directory = whole(tmp_path, "fp16", "awq")
    with directory.windows_path.open("r+b") as file:
        file.truncate(directory.windows_path.stat().st_size - 20)
    assert go_on(directory).advanced == {"fp16": 1}
    assert len(list(directory.windows())) == 8


def test_failed_requests_are_counted_and_their_tokens_are_not(tmp_path: Path) -> None:
    WORKERS["awq"].refuses = 3
    windows, listener, _ = whole(tmp_path, "fp16", "awq", concurrency=[4])
    for window in windows:
        assert (window.errors > 0) == (window.arm == "awq")
        assert window.output_tokens == 8 * (window.requests - window.errors)
        assert window.ttft is not None
        assert window.ttft.n == window.requests - window.errors
    assert listener.failed == {"fp16": 0, "awq": 2}


def test_an_arm_that_answers_nothing_stops_the_bench(tmp_path: Path) -> None:
    WORKERS["awq"].refuses = 1
    with pytest.raises(ArmError, match=r"^arm 'awq': no request was answered at concurrency 1: the context is full$"):
        whole(tmp_path, "fp16", "awq")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which arms were opened (`+awq`) and closed (`-awq`), in order."""
    happened: list[str] = []
    real = open_arm

    @asynccontextmanager
    async def watched(config: ArmConfig, engine: EngineConfig, log: Path, allow: bool) -> AsyncIterator[Backend]:
        async with real(config, engine, log, allow) as backend:
            happened.append(f"+{config.name}")
            yield backend
        happened.append(f"-{config.name}")

    monkeypatch.setattr(bench, "open_arm", watched)
    return happened


def test_arms_that_fit_together_are_served_together(tmp_path: Path, opened: list[str]) -> None:
    whole(tmp_path, *THREE, repeats=4)
    assert sorted(opened[:3]) == ["+awq", "+fp16", "+gptq"]
    assert sorted(opened[3:]) == ["-awq", "-fp16", "-gptq"]


def test_arms_that_do_not_fit_are_served_there_and_back(tmp_path: Path, opened: list[str]) -> None:
    windows, listener, _ = whole(tmp_path, *THREE, repeats=3, resident="one", concurrency=[2])
    order = ["fp16", "awq", "gptq", "gptq", "awq", "fp16"]
    assert opened == [f"{sign}{arm}" for arm in order for sign in "+-"]
    assert [(window.arm, window.repeat) for window in windows] == [
        (arm, repeat) for arm, repeats in zip(order, [(0, 1)] * 3 + [(2,)] * 3, strict=True) for repeat in repeats
    ]
    assert len({window.requests for window in windows}) == 1
    assert listener.totals == dict.fromkeys(THREE, (3, 2)), "on the way back two of three windows are there already"


def test_arms_one_by_one_are_resumed_without_those_that_are_done(tmp_path: Path, opened: list[str]) -> None:
    _, _, directory = whole(tmp_path, *THREE, resident="one", concurrency=[2])
    cut(directory, [0, 1, 3])
    opened.clear()
    go_on(directory)
    assert opened == ["+gptq", "-gptq", "+awq", "-awq", "+fp16", "-fp16"]
    assert len(list(directory.windows())) == 6


def test_what_was_served_is_written_down(tmp_path: Path) -> None:
    _, _, directory = whole(tmp_path, "fp16", "awq")
    stored = BenchDirectory.open(directory.path)
    assert stored.config == directory.config
    for arm in ("fp16", "awq"):
        identity = stored.identity(arm)
        assert identity is not None
        assert identity.checkpoint == f"benched:{arm}"
    assert stored.identity("gptq") is None
    assert {"cpu", "packages", "command"} <= stored.environment().keys()


def test_two_processes_do_not_write_to_one_bench(tmp_path: Path) -> None:
    _, _, directory = whole(tmp_path, "fp16")
    cut(directory, [])
    with Journal(directory.windows_path), pytest.raises(StoreError, match="another process is writing here"):
        go_on(directory)


class SteadyMeter:
    """A device that draws 200 W."""

    name, reason, tdp_w = "steady", None, 700.0

    def read(self) -> Reading:
        now = time.time()
        return Reading(at=now, energy_j=200.0 * (now - 1.7e9), temperature_c=40.0)


def test_energy_engine_counters_and_the_last_reading_are_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def stats(arm: ScriptedArm) -> ServerStats:
        asked = len(WORKERS["fp16"].asked)
        return ServerStats(requests=asked, prompt_tokens=16 * asked, output_tokens=8 * asked)

    monkeypatch.setattr(ScriptedArm, "stats", stats)
    monkeypatch.setattr(bench, "open_meter", lambda choice, on_gpu: SteadyMeter())
    windows, listener, _ = whole(tmp_path, "fp16", window_s=0.1)
    for window in windows:
        assert window.energy_j == pytest.approx(200 * window.wall_s, rel=0.02)
        assert (window.meter, window.tdp_w) == ("steady", 700.0)
        assert window.last is not None
        assert window.last.temperature_c == 40.0
        assert window.server == ServerStats(
            requests=window.requests, prompt_tokens=16 * window.requests, output_tokens=8 * window.requests
        )
    assert listener.notes == []


def test_why_nothing_is_measured_is_said_once(tmp_path: Path) -> None:
    assert whole(tmp_path, *THREE)[1].notes == ["energy metering is switched off"]


def fitted(arm: str, tokens: int) -> Prompts:
    """Prompts that an arm of this name was fitted with."""
    return asyncio.run(fit_prompts(ScriptedArm(arm, WORKERS[arm]), tokens))


@pytest.mark.parametrize("tokens", [5, 16, 64, 1000, 4096])
def test_prompts_have_the_wanted_length(tokens: int) -> None:
    assert fitted("fp16", tokens) == Prompts(tokens - TEMPLATE_TOKENS, tokens)
    words, found = fitted("pairs", tokens)
    assert found == 2 * words + TEMPLATE_TOKENS
    assert abs(found - tokens) <= 1


def test_fitting_asks_for_little(tmp_path: Path) -> None:
    fitted("fp16", 4096)
    assert len(WORKERS["fp16"].asked) <= 13
    assert {sampling.max_tokens for _, sampling in WORKERS["fp16"].asked} == {1}


def test_an_arm_that_does_not_tell_the_length_of_prompts_cannot_be_benched(tmp_path: Path) -> None:
    with pytest.raises(ArmError, match="does not tell how many tokens a prompt has"):
        asyncio.run(fit_prompts(ScriptedArm("mute", benched.mute), 64))


def test_words_are_drawn_from_the_generator() -> None:
    found = text(200, random.Random(1))
    assert found == text(200, random.Random(1)) != text(200, random.Random(2))
    assert {len(word) for word in found.split(" ")} == {3}


def test_the_engine_is_made_large_enough() -> None:
    prepared = prepare_bench(bench_config("fp16", concurrency=[1, 999]))
    assert prepared.engine.max_num_seqs == 999
    assert prepare_bench(prepared) == prepared
    assert prepare_bench(bench_config("fp16", engine={"max_num_seqs": 300})).engine.max_num_seqs == 300


RANDOM = {"name": "fp16", "checkpoint": "random:fp16"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": [RANDOM]}, "arm 'fp16': checkpoint 'random:fp16' needs a shape; add 'shape: qwen2.5-7b' or --shape"),
        ({"arms": [RANDOM], "shape": "qwen2.5-8b"}, "unknown shape 'qwen2.5-8b': did you mean 'qwen2.5-7b'?"),
        (
            {"arms": [RANDOM | {"checkpoint": "random:fp61"}], "shape": "qwen2.5-7b"},
            "arm 'fp16': unknown random checkpoint 'fp61': did you mean 'fp16'?",
        ),
        ({"prompt_tokens": [64, 2041]}, "prompt_tokens + new_tokens = 2049 exceeds engine.max_model_len 2048; raise it or "),
        ({"arms": [{"name": "a", "backend": "scripted", "script": "benched:no_such"}]}, "cannot be imported"),
        ({"arms": [{"name": "a", "checkpoint": "./nowhere"}]}, "checkpoint './nowhere': no such directory"),
    ],
)
def test_mistakes_show_before_anything_is_started(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(QtrapError) as caught:
        prepare_bench(bench_config("fp16", **changes))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_request_that_just_fits_is_taken() -> None:
    assert prepare_bench(bench_config("fp16", prompt_tokens=[2040])).prompt_tokens == (2040,)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_is_a_bench_of_three_layouts(shape: str) -> None:
    config = shape_config(shape)
    assert [(arm.name, arm.checkpoint) for arm in config.arms] == [(arm, f"random:{arm}") for arm in ("fp16", "gptq", "awq")]
    assert (config.baseline_arm, config.shape, config.name) == ("fp16", shape, f"bench-{shape}")
    assert prepare_bench(config).engine.max_num_seqs == 256
    assert shape_config(shape, "mine").name == "mine"


def write_shape(folder: Path, **changes: int) -> Path:
    """The config.json of a tiny model."""
    tiny = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1, "vocab_size": 20_000}
    shape = load_shape("llama-3.1-8b").model_copy(
        update=tiny | {"num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 512} | changes
    )
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "config.json"
    file.write_text(json.dumps(model_config(shape, "fp16")))
    return file


def test_a_config_file_names_the_bench_after_its_folder(tmp_path: Path) -> None:
    file = write_shape(tmp_path / "Tiny")
    assert shape_config(str(file)).name == shape_config(str(file.parent)).name == "bench-tiny"


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"intermediate_size": 300}, "4-bit layouts need inputs in groups of 128"), ({"vocab_size": 384}, "vocab_size 384 is less")],
)
def test_a_shape_without_a_random_checkpoint_shows_before_anything_is_written(
    tmp_path: Path, changes: dict[str, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        prepare_bench(shape_config(str(write_shape(tmp_path, **changes))))


def random_bench(out: Path, shape: Path) -> BenchDirectory:
    """A bench of the FP16 and AWQ layouts of a shape."""
    arms = [{"name": kind, "checkpoint": f"random:{kind}"} for kind in ("fp16", "awq")]
    config = BenchConfig.model_validate({"shape": str(shape), "arms": arms, "out": str(out)})
    return create_bench(config)


def test_random_weights_are_written_for_a_bench_and_removed(tmp_path: Path) -> None:
    listener = Listener()
    directory = random_bench(tmp_path, write_shape(tmp_path / "shape"))
    with checkpoints(directory, None, listener) as ready:
        paths = [Path(arm.checkpoint or "") for arm in ready.arms]
        assert all((path / "config.json").is_file() and directory.path in path.parents for path in paths)
        assert len(set(paths)) == 2
    assert not any(path.exists() for path in paths)
    assert [note.split(":")[0] for note in listener.notes] == ["fp16", "awq"]
    assert BenchDirectory.open(directory.path).config.arms[0].checkpoint == "random:fp16"


def test_random_weights_that_are_kept_are_used_again(tmp_path: Path) -> None:
    shape, listener = write_shape(tmp_path / "shape"), Listener()
    for _ in range(2):
        with checkpoints(random_bench(tmp_path, shape), tmp_path / "kept", listener) as ready:
            paths = [Path(arm.checkpoint or "") for arm in ready.arms]
        assert all((path / "config.json").is_file() and path.parent == tmp_path / "kept" for path in paths)
    assert len(listener.notes) == 2


def test_kept_weights_of_another_shape_are_neither_used_nor_written_over(tmp_path: Path) -> None:
    one, other = write_shape(tmp_path / "one"), write_shape(tmp_path / "other", num_hidden_layers=2)
    with checkpoints(random_bench(tmp_path, one), tmp_path / "kept", Listener()) as ready:
        kept = Path(ready.arms[0].checkpoint or "")
    before = sorted((file.name, file.stat().st_mtime_ns) for file in kept.iterdir())
    with (
        pytest.raises(ConfigError, match=r"holds another checkpoint than random weights of .*--weights"),
        checkpoints(random_bench(tmp_path, other), tmp_path / "kept", Listener()),
    ):
        pass
    assert sorted((file.name, file.stat().st_mtime_ns) for file in kept.iterdir()) == before


def test_weights_that_cannot_be_written_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    directory = random_bench(tmp_path, write_shape(tmp_path / "shape"))
    with (
        pytest.raises(ArmError, match=r"random weights cannot be written: .*; see --weights"),
        checkpoints(directory, tmp_path / "file", Listener()),
    ):
        pass


def test_other_arms_keep_their_checkpoints(tmp_path: Path) -> None:
    directory = create_bench(bench_config("fp16", out=str(tmp_path)))
    with checkpoints(directory, None, Listener()) as ready:
        assert ready == directory.config
