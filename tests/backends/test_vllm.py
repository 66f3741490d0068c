"""Real vLLM: the engine in a child and the server give the same answers as transformers on the same weights."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from qtrap_agents.analysis.kernels import class_of, is_fused
from qtrap_agents.backends.base import Backend
from qtrap_agents.backends.engine import EngineArm
from qtrap_agents.backends.factory import open_arm
from qtrap_agents.backends.reference_kernel import NAME
from qtrap_agents.config import ArmConfig, EngineConfig
from qtrap_agents.errors import ArmDied, ArmError, CompletionError
from qtrap_agents.measures import KernelTime, ServerStats
from qtrap_agents.types import Completion, Message, Sampling

from .conftest import ENGINE, Arms, answers, arm_of, question

pytestmark = pytest.mark.vllm


def by_transformers(arms: Arms, checkpoints: dict[str, Path], weights: str) -> Backend:
    return arms.open(arm_of(checkpoints, weights, "hf"))


def said(completions: list[Completion]) -> list[tuple[object, ...]]:
    return [(item.text, item.token_ids, item.finish_reason, item.prompt_tokens) for item in completions]


@pytest.mark.parametrize("weights", ["fp16", "sym", "asym"])
def test_engine_answers_as_transformers_does(arms: Arms, checkpoints: dict[str, Path], weights: str) -> None:
    engine = arms.run(answers(arms.open(arm_of(checkpoints, weights, "engine"))))
    reference = arms.run(answers(by_transformers(arms, checkpoints, weights)))
    assert said(engine) == said(reference)
    assert len({item.token_ids for item in engine}) > 20


def test_packed_arms_differ_from_the_baseline(arms: Arms, checkpoints: dict[str, Path]) -> None:
    spoken = {
        weights: said(arms.run(answers(by_transformers(arms, checkpoints, weights)))) for weights in ("fp16", "sym", "asym")
    }
    assert spoken["fp16"] != spoken["sym"] != spoken["asym"] != spoken["fp16"]


@pytest.mark.parametrize("kind", ["server", "overlapped"])
def test_other_ways_to_serve_answer_as_the_engine_does(arms: Arms, checkpoints: dict[str, Path], kind: str) -> None:
    other = arms.run(answers(arms.open(arm_of(checkpoints, "sym", kind))))
    assert said(other) == said(arms.run(answers(arms.open(arm_of(checkpoints, "sym", "engine")))))


@pytest.mark.parametrize("weights", ["sym", "asym"])
def test_identity_counts_the_packed_layers_of_the_running_engine(arms: Arms, checkpoints: dict[str, Path], weights: str) -> None:
    identity = arms.open(arm_of(checkpoints, weights, "engine")).identity
    assert identity.quantised_modules == identity.linear_modules == 8
    assert (identity.quantisation, identity.bits, identity.group_size) == ({"sym": "gptq", "asym": "awq"}[weights], 4, 64)
    assert identity.kernels == {NAME: 8}
    assert any("say nothing about 4-bit serving" in note for note in identity.notes)
    baseline = arms.open(arm_of(checkpoints, "fp16", "engine")).identity
    assert identity.weight_bytes is not None
    assert baseline.weight_bytes == 2 * sum(
        weight.stat().st_size for weight in checkpoints["fp16"].glob("*.safetensors")
    ) - 2 * header_bytes(checkpoints["fp16"])
    assert identity.weight_bytes < baseline.weight_bytes / 2
    assert identity.checksum != baseline.checksum


def header_bytes(path: Path) -> int:
    return 8 + int.from_bytes((path / "model.safetensors").read_bytes()[:8], "little")


def test_baseline_identity_holds_no_packed_layer(arms: Arms, checkpoints: dict[str, Path]) -> None:
    identity = arms.open(arm_of(checkpoints, "fp16", "engine")).identity
    assert (identity.quantisation, identity.quantised_modules, identity.linear_modules) == (None, 0, 8)
    assert identity.activation_dtype == "float32"
    assert not identity.notes


@pytest.mark.parametrize("kind", ["server", "overlapped"])
def test_other_ways_to_serve_tell_the_same_identity(arms: Arms, checkpoints: dict[str, Path], kind: str) -> None:
    other = arms.open(arm_of(checkpoints, "sym", kind)).identity
    assert other == arms.open(arm_of(checkpoints, "sym", "engine")).identity


def test_running_server_by_url(arms: Arms, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    own = arms.open(arm_of(checkpoints, "sym", "server"))
    url = str(own.client.base_url)  # type: ignore[attr-defined]

    async def ask() -> tuple[list[Completion], Backend]:
        async with open_arm(ArmConfig(name="url", base_url=url), ENGINE, tmp_path / "log") as arm:
            return await answers(arm), arm

    completions, arm = arms.run(ask())
    assert said(completions) == said(arms.run(answers(own)))
    assert arm.identity.checkpoint == str(checkpoints["sym"])
    assert arm.identity.quantised_modules is None
    assert any("unknown" in note for note in arm.identity.notes)


def test_a_server_under_two_addresses_is_a_pool_of_two(arms: Arms, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    own = arms.open(arm_of(checkpoints, "sym", "server"))
    url = str(own.client.base_url)  # type: ignore[attr-defined]
    urls = (url, url.replace("127.0.0.1", "localhost"))

    async def ask() -> tuple[list[Completion], Backend, list[ServerStats | None]]:
        async with open_arm(ArmConfig(name="pool", base_urls=urls), ENGINE, tmp_path / "log") as arm:
            return await answers(arm), arm, [await arm.stats(), await own.stats()]

    completions, arm, (both, one) = arms.run(ask())
    assert said(completions) == said(arms.run(answers(own)))
    assert (arm.identity.backend, arm.identity.checkpoint) == ("vllm", str(checkpoints["sym"]))
    assert both is not None
    assert one is not None
    assert both.requests == 2 * one.requests, "the sum over the addresses"


def test_running_server_with_another_model_is_refused(arms: Arms, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    url = str(arms.open(arm_of(checkpoints, "sym", "server")).client.base_url)  # type: ignore[attr-defined]
    config = ArmConfig(name="url", base_url=url, model="other")
    with pytest.raises(ArmError, match="qtrap-sym-server, not 'other'"):
        asyncio.run(enter(config, tmp_path))


@pytest.mark.parametrize("kind", ["engine", "server", "overlapped"])
def test_many_requests_at_once_with_logprobs(arms: Arms, checkpoints: dict[str, Path], kind: str) -> None:
    arm = arms.open(arm_of(checkpoints, "sym", kind))
    completions = arms.run(answers(arm, 300, Sampling(max_tokens=3, logprobs=2)))
    assert len(completions) == 300
    for item in completions:
        assert item.logprobs is not None
        assert tuple(entry.token_id for entry in item.logprobs) == item.token_ids
        assert all(entry.top[0] == (entry.token_id, entry.logprob) for entry in item.logprobs)
        assert item.latency_s > 0
    alone = arms.run(arm.complete(question(299), Sampling(max_tokens=3)))
    assert alone.token_ids == completions[299].token_ids


def test_engine_tells_the_time_to_the_first_token(arms: Arms, checkpoints: dict[str, Path]) -> None:
    arm = arms.open(arm_of(checkpoints, "fp16", "engine"))
    completion = arms.run(arm.complete(question(1), Sampling(max_tokens=100)))
    assert completion.ttft_s is not None
    assert 0 < completion.ttft_s < completion.latency_s


@pytest.mark.parametrize("kind", ["engine", "server"])
def test_endless_output_is_cut_at_max_tokens(arms: Arms, checkpoints: dict[str, Path], kind: str) -> None:
    arm = arms.open(arm_of(checkpoints, "sym", kind))
    completion = arms.run(arm.complete(question(1), Sampling(max_tokens=64)))
    assert (completion.finish_reason, completion.completion_tokens) == ("length", 64)


def test_an_answer_goes_on_to_its_length_whatever_the_model_says(arms: Arms, checkpoints: dict[str, Path]) -> None:
    arm = arms.open(arm_of(checkpoints, "sym", "engine"))
    almost_even = Sampling(max_tokens=100, temperature=2.0)
    ended = [item for item in arms.run(answers(arm, 40, almost_even)) if item.finish_reason == "stop"]
    assert ended, "of 40 answers that are drawn from 384 tokens some meet the end token"
    assert all(item.completion_tokens < 100 for item in ended)
    endless = arms.run(answers(arm, 40, almost_even.model_copy(update={"ignore_eos": True})))
    assert {(item.completion_tokens, item.finish_reason) for item in endless} == {(100, "length")}


@pytest.mark.parametrize("kind", ["engine", "server", "overlapped"])
def test_the_engine_counts_requests_and_tokens(arms: Arms, checkpoints: dict[str, Path], kind: str) -> None:
    arm = arms.open(arm_of(checkpoints, "sym", kind))
    before = arms.run(arm.stats())
    completions = arms.run(answers(arm, 20, Sampling(max_tokens=9, ignore_eos=True)))
    assert {item.completion_tokens for item in completions} == {9}
    after = arms.run(arm.stats())
    assert before is not None
    assert after is not None
    counted = after.since(before)
    assert (counted.requests, counted.output_tokens) == (20, 180)
    assert counted.prompt_tokens == sum(item.prompt_tokens for item in completions)
    assert (counted.first_tokens, counted.gaps) == (20, 160)
    assert counted.ttft_s is not None
    assert counted.inter_token_s is not None
    assert counted.queue_s is not None
    slowest = max(item.latency_s for item in completions)
    assert 0 <= counted.queue_s <= counted.ttft_s < slowest
    assert 0 < counted.inter_token_s < slowest


@pytest.mark.parametrize("kind", ["engine", "overlapped"])
def test_the_engine_times_the_kernels_of_what_it_was_asked_meanwhile(arms: Arms, checkpoints: dict[str, Path], kind: str) -> None:
    arm = arms.open(arm_of(checkpoints, "sym", kind))
    assert isinstance(arm, EngineArm)

    async def profiled() -> tuple[KernelTime, ...]:
        await arm.start_profile()
        await answers(arm, 5)
        return await arm.stop_profile()

    kernels = arms.run(profiled())
    assert "matrix product" in {class_of(kernel.name) for kernel in kernels}
    assert any(is_fused(kernel.name) for kernel in kernels) == any("WNA16" in name for name in arm.identity.kernels)
    assert [kernel.time_s for kernel in kernels] == sorted((kernel.time_s for kernel in kernels), reverse=True)

    async def refused() -> None:
        with pytest.raises(CompletionError, match="the engine cannot be profiled"):
            await arm.stop_profile()

    arms.run(refused())
    assert arms.run(arm.complete(question(1), Sampling())).completion_tokens == 16


def test_stop_string_ends_the_text_as_in_transformers(arms: Arms, checkpoints: dict[str, Path]) -> None:
    engine, reference = arms.open(arm_of(checkpoints, "fp16", "engine")), by_transformers(arms, checkpoints, "fp16")
    free = arms.run(engine.complete(question(3), Sampling(max_tokens=12)))
    sampling = Sampling(max_tokens=12, stop=(free.text.split()[4],))
    cut = arms.run(engine.complete(question(3), sampling))
    assert cut.finish_reason == "stop"
    assert free.text.startswith(cut.text)
    assert said([cut]) == said([arms.run(reference.complete(question(3), sampling))])


def test_sampling_repeats_with_its_seed(arms: Arms, checkpoints: dict[str, Path]) -> None:
    arm = arms.open(arm_of(checkpoints, "fp16", "engine"))
    drawn = [
        arms.run(arm.complete(question(1), Sampling(max_tokens=12, temperature=1.0, seed=seed))).token_ids for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("kind", ["engine", "server", "overlapped"])
def test_too_long_prompt_fails_alone(arms: Arms, checkpoints: dict[str, Path], kind: str) -> None:
    arm = arms.open(arm_of(checkpoints, "sym", kind))
    long = (Message(role="user", content="1 + " * 300),)
    with pytest.raises(CompletionError, match="the prompt is longer than the context"):
        arms.run(arm.complete(long, Sampling()))
    assert arms.run(arm.complete(question(1), Sampling())).completion_tokens == 16


def test_nan_weights_are_named_at_start(arms: Arms, checkpoints: dict[str, Path]) -> None:
    with pytest.raises(ArmError, match=r"logits are not finite .* is broken or overflows in float32"):
        arms.open(arm_of(checkpoints, "nan", "engine"))


async def killed_with_requests(arm: Backend, process: psutil.Process) -> list[Completion | BaseException]:
    """What becomes of 50 requests whose engine is killed. It is suspended first, so that it has answered none of them."""
    process.suspend()
    flying = [asyncio.create_task(arm.complete(question(1), Sampling(max_tokens=200))) for _ in range(50)]
    await asyncio.sleep(0.2)
    process.kill()
    return list(await asyncio.gather(*flying, return_exceptions=True))


def test_killed_engine_fails_what_is_in_flight_and_what_comes_later(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    async def work() -> list[Completion | BaseException]:
        log = tmp_path / "engine.log"
        others = set(psutil.Process().children())
        async with open_arm(arm_of(checkpoints, "fp16", "engine"), ENGINE, log) as arm:
            [child] = set(psutil.Process().children()) - others
            results = await killed_with_requests(arm, child)
            with pytest.raises(ArmDied, match="died in mid-run"):
                await arm.complete(question(1), Sampling())
            return results

    results = asyncio.run(work())
    died = [str(result) for result in results if isinstance(result, ArmDied)]
    assert len(died) == len(results) == 50
    assert "killed by SIGKILL" in died[0]
    assert "engine.log" in died[0]


def test_killed_core_of_an_overlapped_engine_is_its_death(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    async def work() -> list[Completion | BaseException]:
        others = set(psutil.Process().children(recursive=True))
        async with open_arm(arm_of(checkpoints, "fp16", "overlapped"), ENGINE, tmp_path / "engine.log") as arm:
            assert (await arm.complete(question(1), Sampling())).completion_tokens == 16
            ours = set(psutil.Process().children(recursive=True)) - others
            [core] = [process for process in ours if "EngineCore" in "".join(process.cmdline())]
            return await killed_with_requests(arm, core)

    results = asyncio.run(work())
    died = [str(result) for result in results if isinstance(result, ArmDied)]
    assert len(died) == len(results) == 50
    assert "EngineDeadError" in died[0]


def test_an_overlapped_engine_stops_answers_that_nobody_waits_for(arms: Arms, checkpoints: dict[str, Path]) -> None:
    arm = arms.open(arm_of(checkpoints, "sym", "overlapped"))
    long = Sampling(max_tokens=240, ignore_eos=True)

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await asyncio.gather(*(arm.complete(question(number), long) for number in range(400)))

    before = arms.run(arm.stats())
    arms.run(give_up())
    assert arms.run(arm.complete(question(1), Sampling(max_tokens=3, ignore_eos=True))).completion_tokens == 3
    after = arms.run(arm.stats())
    assert before is not None
    assert after is not None
    assert after.since(before).output_tokens < 400 * 240 / 2


def test_weights_that_do_not_fit_the_config(copy_of: Callable[[str], Path], tmp_path: Path) -> None:
    path = copy_of("fp16")
    config = path / "config.json"
    config.write_text(config.read_text().replace('"intermediate_size": 256', '"intermediate_size": 512'))
    with pytest.raises(ArmError, match=r"ended at start; the weights do not fit config.json: .*last log lines .*Error: "):
        asyncio.run(enter(ArmConfig(name="misfit", checkpoint=str(path)), tmp_path))


@pytest.mark.parametrize("transport", ["engine", "server"])
def test_start_that_hangs_is_ended(checkpoints: dict[str, Path], tmp_path: Path, transport: str) -> None:
    engine = ENGINE.model_copy(update={"start_timeout_s": 1.0})
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with pytest.raises(ArmError, match=r"not ready after 1 s \(engine.start_timeout_s\)"):
        asyncio.run(enter(arm_of(checkpoints, "fp16", transport), tmp_path, engine))
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("transport", ["engine", "server"])
def test_children_end_with_their_parent(
    checkpoints: dict[str, Path], tmp_path: Path, transport: str, number: signal.Signals
) -> None:
    code = (
        "import asyncio, sys; from pathlib import Path\n"
        "from qtrap_agents.backends.factory import open_arm; from qtrap_agents.config import ArmConfig, EngineConfig\n"
        "async def main():\n"
        "    config = ArmConfig(name='a', checkpoint=sys.argv[1], backend='vllm', transport=sys.argv[2])\n"
        "    async with open_arm(config, EngineConfig(), Path(sys.argv[3])): pass\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", code, str(checkpoints["fp16"]), transport, str(tmp_path / "log")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as parent:
        wanted = 1 if transport == "engine" else 2
        family = wait_for(lambda: psutil.Process(parent.pid).children(recursive=True), lambda found: len(found) >= wanted)
        os.kill(parent.pid, number)
    _, alive = psutil.wait_procs(family, timeout=15)
    assert not alive


def test_taken_port_is_named_before_the_start(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = arm_of(checkpoints, "fp16", "server").model_copy(update={"port": port})
        started = time.monotonic()
        with pytest.raises(ArmError, match=f"port {port} cannot be used .*choose another 'port'"):
            asyncio.run(enter(config, tmp_path))
    assert time.monotonic() - started < 5


def wait_for(look: Callable[[], list[psutil.Process]], enough: Callable[[list[psutil.Process]], bool]) -> list[psutil.Process]:
    """What is there once there is enough of it, within 30 s."""
    deadline = time.monotonic() + 30
    while not enough(found := look()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert enough(found)
    return found


async def enter(config: ArmConfig, folder: Path, engine: EngineConfig = ENGINE) -> None:
    """Open and close an arm."""
    async with open_arm(config, engine, folder / "arm.log"):
        pass
