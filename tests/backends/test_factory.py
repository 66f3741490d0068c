"""Choosing and checking before anything is started: backend, dtype, checkpoint, script."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from qtrap_agents.backends import cpu
from qtrap_agents.backends.cpu import cpu_flags, fast_dtype, has_avx512
from qtrap_agents.backends.factory import open_arm, resolve_backend, resolve_checkpoint, resolve_dtype
from qtrap_agents.backends.process import last_lines
from qtrap_agents.backends.scripted import Script, ScriptedArm
from qtrap_agents.config import ArmConfig, EngineConfig
from qtrap_agents.errors import ArmError, CompletionError, QtrapError
from qtrap_agents.types import Completion, Message, Sampling, Score

ASK = (Message(role="user", content="two words"),)


def answer_text(messages: Sequence[Message], sampling: Sampling) -> str:
    return messages[-1].content.upper()


async def answer_later(messages: Sequence[Message], sampling: Sampling) -> Completion:
    await asyncio.sleep(0)
    return Completion(text="later", finish_reason="length")


def answer_badly(messages: Sequence[Message], sampling: Sampling) -> str:
    raise ZeroDivisionError("no answer")


def answer_nothing(messages: Sequence[Message], sampling: Sampling) -> None:
    return None


class Reader:
    """A script that also reads given texts: the score it was built with, or what its function makes of them."""

    def __init__(self, score: Callable[[Sequence[Message], Sequence[int], int], object]) -> None:
        self.score = score

    def __call__(self, messages: Sequence[Message], sampling: Sampling) -> str:
        return "read"


async def read_later(messages: Sequence[Message], token_ids: Sequence[int], top: int) -> Score:
    await asyncio.sleep(0)
    return SCORE


def read_badly(messages: Sequence[Message], token_ids: Sequence[int], top: int) -> Score:
    raise ZeroDivisionError("no score")


SCORE = Score(prompt_tokens=2, prompt_checksum="", tokens=(), pieces=())


def ask(script: str) -> Completion:
    async def run() -> Completion:
        config = ArmConfig(name="s", backend="scripted", script=script)
        async with open_arm(config, EngineConfig(), Path("unused.log")) as arm:
            return await arm.complete(ASK, Sampling())

    return asyncio.run(run())


def test_script_answers_with_text_or_a_completion() -> None:
    completion = ask(f"{__name__}:answer_text")
    assert (completion.text, completion.prompt_tokens, completion.completion_tokens) == ("TWO WORDS", 2, 2)
    assert ask(f"{__name__}:answer_later") == Completion(text="later", finish_reason="length")


@pytest.mark.parametrize(
    ("function", "told"), [("answer_badly", "ZeroDivisionError: no answer"), ("answer_nothing", "returned NoneType")]
)
def test_script_that_fails_fails_its_request(function: str, told: str) -> None:
    with pytest.raises(CompletionError, match=told):
        ask(f"{__name__}:{function}")


def test_script_reads_given_texts() -> None:
    for script in (Reader(lambda messages, token_ids, top: SCORE), Reader(read_later)):
        assert asyncio.run(ScriptedArm("s", script).score(ASK, (1,), 2)) == SCORE


@pytest.mark.parametrize(
    ("script", "error", "told"),
    [
        (answer_text, ArmError, "'s' gives no log-probabilities; give its function an attribute 'score'"),
        (Reader(read_badly), CompletionError, "raised ZeroDivisionError: no score"),
        (Reader(lambda messages, token_ids, top: 0.5), CompletionError, "score returned float; return a Score"),
    ],
)
def test_script_that_cannot_read(script: Script, error: type[QtrapError], told: str) -> None:
    with pytest.raises(error, match=told):
        asyncio.run(ScriptedArm("s", script).score(ASK, (1,), 2))


@pytest.mark.parametrize("script", ["no_such_module:f", f"{__name__}:absent", "nonsense", f"{__name__}:ASK"])
def test_script_that_is_not_there(script: str) -> None:
    with pytest.raises(ArmError, match=r"module:function|not a function"):
        ask(script)


def test_importing_the_factory_is_light() -> None:
    code = "import sys, qtrap_agents.backends.factory; print({'torch', 'vllm', 'transformers', 'openai'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [
        ({"avx2"}, "float32"),
        ({"avx2", "avx512f", "avx512bw", "avx512vl"}, "float32"),
        ({"avx512f", "avx512_bf16"}, "bfloat16"),
        ({"avx512f", "avx512_fp16", "amx_bf16"}, "bfloat16"),
        ({"avx512f", "avx512_fp16"}, "float16"),
        (set(), "float32"),
    ],
)
def test_dtype_follows_the_cpu(flags: set[str], dtype: str) -> None:
    assert fast_dtype(frozenset(flags)) == resolve_dtype(EngineConfig(), "cpu", frozenset(flags)) == dtype
    assert resolve_dtype(EngineConfig(dtype="float16"), "cpu", frozenset(flags)) == "float16"
    assert resolve_dtype(EngineConfig(), "cuda", frozenset(flags)) == "float16"


def test_avx512_needs_all_three_parts() -> None:
    assert has_avx512(frozenset({"avx512f", "avx512bw", "avx512vl", "sse"}))
    assert not has_avx512(frozenset({"avx512f"}))


@pytest.mark.skipif("amx_tile" not in cpu_flags(), reason="this CPU has no AMX tiles")
def test_tiles_are_allowed_once_they_were_asked_for() -> None:
    """In a process of its own: torch asks too, and a permission lasts."""
    code = (
        "import ctypes; from qtrap_agents.backends.cpu import allow_amx\n"
        "def allowed():\n"
        "    mask = ctypes.c_uint64()\n"
        "    ctypes.CDLL(None).syscall(158, 0x1022, ctypes.byref(mask))\n"
        "    return bool(mask.value >> 18 & 1)\n"
        "print(allowed(), allow_amx(), allowed())"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["False", "True", "True"]


def test_without_tiles_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "cpu_flags", lambda: frozenset({"avx2"}))
    assert not cpu.allow_amx()


def test_named_backends_are_kept() -> None:
    assert resolve_backend(ArmConfig(name="a", backend="scripted", script="a:b")) == ("scripted", None)
    assert resolve_backend(ArmConfig(name="a", backend="transformers", checkpoint="x")) == ("transformers", None)
    assert resolve_backend(ArmConfig(name="a", base_url="http://127.0.0.1:1/v1")) == ("vllm", None)


def test_without_vllm_auto_falls_back_and_vllm_is_refused(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path[:] = [p for p in sys.path if 'site-packages' not in p] + [sys.argv[1]]\n"
        "from qtrap_agents.backends.factory import resolve_backend; from qtrap_agents.config import ArmConfig\n"
        "print(resolve_backend(ArmConfig(name='a', checkpoint='x')))\n"
        "try: resolve_backend(ArmConfig(name='a', checkpoint='x', backend='vllm'))\n"
        "except Exception as error: print(error)\n"
    )
    site = next(path for path in sys.path if path.endswith("site-packages"))
    for entry in Path(site).iterdir():
        if not entry.name.startswith("vllm"):
            (tmp_path / entry.name).symlink_to(entry)
    root = str(Path(__file__).parents[2])
    shown = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True, env={"PYTHONPATH": root}
    )
    fallback, refusal = shown.stdout.splitlines()
    assert fallback == "('transformers', 'vLLM is not installed: using the in-process transformers arm')"
    assert "vLLM is not installed; install qtrap-agents[cpu]" in refusal


def test_nobody_at_the_url(tmp_path: Path) -> None:
    async def enter() -> None:
        async with open_arm(ArmConfig(name="u", base_url="http://127.0.0.1:9/v1"), EngineConfig(), tmp_path / "log"):
            pass

    with pytest.raises(ArmError, match="no OpenAI-compatible server answers at http"):
        asyncio.run(enter())


def test_whole_checkpoints_and_hub_ids_pass(checkpoints: dict[str, Path]) -> None:
    for path in checkpoints.values():
        assert resolve_checkpoint(str(path)) == path
    assert resolve_checkpoint("some-owner/some-model") == "some-owner/some-model"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("no-such-directory", "no such directory"),
        ("/no/such/directory", "no such directory"),
        ("reference:tiny/nonsense", "unknown reference checkpoint 'reference:tiny/nonsense'"),
    ],
)
def test_missing_checkpoint(name: str, told: str) -> None:
    with pytest.raises(ArmError, match=told):
        resolve_checkpoint(name)


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def _scramble(file: Path) -> None:
    file.write_bytes(b"\xff" * 500)


def _shorten_header(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:20])


def _empty(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize(
    ("name", "damage", "told"),
    [
        ("model.safetensors", _truncate, r"model.safetensors: truncated, \d+ of \d+ bytes; copy or download"),
        ("model.safetensors", _scramble, "model.safetensors: not a readable safetensors file"),
        ("model.safetensors", _shorten_header, "model.safetensors: not a readable safetensors file"),
        ("model.safetensors", _empty, "model.safetensors: not a readable safetensors file"),
        ("model.safetensors", Path.unlink, "no \\*.safetensors file"),
        ("config.json", Path.unlink, "config.json: missing"),
        ("config.json", _scramble, "config.json: not readable as JSON"),
        ("tokenizer.json", Path.unlink, "no tokenizer.json"),
    ],
)
def test_damaged_checkpoint_names_the_file(
    copy_of: Callable[[str], Path], name: str, damage: Callable[[Path], None], told: str
) -> None:
    path = copy_of("sym")
    damage(path / name)
    with pytest.raises(ArmError, match=told):
        resolve_checkpoint(str(path))


def test_last_lines_are_the_telling_ones(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        "(EngineCore pid=12) ERROR 11-22 21:14:26 [core.py:133] Traceback (most recent call last):\n"
        'Traceback (most recent call last):\n  File "x.py", line 1, in <module>\n    boom()\n    ^^^^^^\n'
        "ValueError: too small\n\nLoading safetensors: 100% Completed | 1/1\n"
        "(MainProcess pid=4) INFO 11-22 21:14:26 [a.py:1] bye\n"
    )
    assert last_lines(log) == ["ValueError: too small"]
