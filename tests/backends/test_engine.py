"""The parent's side of the engine transport, against small real processes that speak its protocol badly."""

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from qtrap_agents.backends.engine import GROUP, EngineArm, connected
from qtrap_agents.errors import ArmDied, CompletionError
from qtrap_agents.types import Message, Sampling

T = TypeVar("T")
ASK = (Message(role="user", content="1"),)

SILENT = "for line in stream: pass"
CHATTY = "for line in stream:\n  while True: channel.sendall(b'{\"alive\": true}\\n'); time.sleep(0.1)"
DYING = "stream.readline(); print('the reason'); sys.exit(3)"
REFUSING = (
    "for line in stream:\n"
    "  request = json.loads(line)\n"
    "  channel.sendall((json.dumps({'id': request['id'], 'error': 'no'}) + '\\n').encode())"
)
ECHOING = (
    "for line in stream:\n"
    "  request = json.loads(line)\n"
    "  if 'abort' in request: print('aborted', request['abort'], flush=True); continue\n"
    "  ids = request.get('token_ids')\n"
    "  if ids == [0]: continue\n"
    "  score = {'prompt_tokens': request.get('top'), 'prompt_checksum': '', 'tokens': [], 'pieces': list(map(str, ids or []))}\n"
    "  answer = {'completion': {'text': 'said'}} if ids is None else {'score': score}\n"
    "  channel.sendall((json.dumps({'id': request['id'], **answer}) + '\\n').encode())"
)

IN_STEP = (
    "while True:\n"
    "  ids = [json.loads(stream.readline())['id'] for _ in range(32)]\n"
    "  channel.sendall(''.join(json.dumps({'id': id, 'completion': {'text': 'said'}}) + '\\n' for id in ids).encode())"
)


def with_child(code: str, log: Path, work: Callable[[EngineArm], Awaitable[T]], timeout_s: float = 0.5) -> T:
    """Run `work` with an arm whose child runs `code`."""
    script = (
        f"import json, socket, sys, time\nchannel = socket.socket(fileno=int(sys.argv[1]))\nstream = channel.makefile()\n{code}"
    )

    async def run() -> T:
        command = [sys.executable, "-c", script, "{fd}"]
        async with connected("stub", command, os.environ, log, timeout_s) as arm, arm.listening():
            return await work(arm)

    return asyncio.run(run())


def test_silent_engine_is_dead_for_every_later_request(tmp_path: Path) -> None:
    async def work(arm: EngineArm) -> None:
        with pytest.raises(ArmDied, match=r"said nothing for 0\.5 s"):
            await arm.complete(ASK, Sampling())
        with pytest.raises(ArmDied, match="said nothing"):
            await arm.score(ASK, (1,), 1)

    with_child(SILENT, tmp_path / "log", work)


def test_one_late_answer_of_a_talking_engine_is_one_failed_request(tmp_path: Path) -> None:
    async def work(arm: EngineArm) -> None:
        for _ in range(2):
            with pytest.raises(CompletionError, match=r"no answer within 0\.5 s"):
                await arm.complete(ASK, Sampling())

    with_child(CHATTY, tmp_path / "log", work)


def test_answers_of_one_step_do_not_keep_their_chains_in_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """32 chains of two hops: the second requests leave group by group, while later answers are still to be handed out."""

    async def work(arm: EngineArm) -> list[int]:
        lines: list[int] = []
        write = arm._writer.write

        def counted(data: bytes) -> None:
            lines.append(data.count(b"\n"))
            write(data)

        monkeypatch.setattr(arm._writer, "write", counted)

        async def chain() -> None:
            for _ in range(2):
                await arm.complete(ASK, Sampling())
                await asyncio.sleep(0)

        await asyncio.gather(*(chain() for _ in range(32)))
        return lines

    first, *later = with_child(IN_STEP, tmp_path / "log", work, timeout_s=30)
    assert first == sum(later) == 32
    assert max(later) <= GROUP < first


def test_dying_engine_leaves_its_last_words(tmp_path: Path) -> None:
    async def work(arm: EngineArm) -> None:
        asked = (arm.complete(ASK, Sampling()), arm.complete(ASK, Sampling()), arm.score(ASK, (1,), 1))
        results = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(result) for result in results] == [ArmDied] * 3
        assert "the reason" in str(results[0])

    with_child(DYING, tmp_path / "log", work, timeout_s=20)


def test_refused_request_fails_alone(tmp_path: Path) -> None:
    async def work(arm: EngineArm) -> None:
        with pytest.raises(CompletionError, match=r"^no$"):
            await arm.complete(ASK, Sampling())
        with pytest.raises(CompletionError, match=r"^no$"):
            await arm.score(ASK, (1, 2), 3)

    with_child(REFUSING, tmp_path / "log", work, timeout_s=20)


def test_scores_and_completions_share_the_channel(tmp_path: Path) -> None:
    async def work(arm: EngineArm) -> None:
        asked = [arm.score(ASK, (number, 1), number) for number in range(20)]
        scores, completion = await asyncio.gather(asyncio.gather(*asked), arm.complete(ASK, Sampling()))
        assert [(score.prompt_tokens, score.pieces) for score in scores] == [(number, (str(number), "1")) for number in range(20)]
        assert completion.text == "said"

    with_child(ECHOING, tmp_path / "log", work, timeout_s=20)


def test_a_score_that_nobody_waits_for_is_aborted(tmp_path: Path) -> None:
    async def work(arm: EngineArm) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await arm.score(ASK, (0,), 1)
        assert (await arm.complete(ASK, Sampling())).text == "said"

    with_child(ECHOING, tmp_path / "log", work, timeout_s=20)
    assert (tmp_path / "log").read_text().splitlines() == ["aborted 0"]


ORPHAN = (
    "import sys, threading\n"
    "from qtrap_agents.backends.engine_worker import Channel\n"
    "channel = Channel(int(sys.argv[1]))\n"
    "channel.send([{'answer': 'unread'}])\n"
    "threading.Event().wait()\n"
)


@pytest.mark.parametrize("written", [b"", b'{"half": '], ids=["nothing", "half a line"])
def test_a_worker_ends_when_its_parent_is_killed(written: bytes) -> None:
    """A killed parent leaves answers unread, which resets the socket, and may have been in the middle of a line."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-c", ORPHAN, str(theirs.fileno())]
    with subprocess.Popen(command, pass_fds=(theirs.fileno(),), start_new_session=True) as child:
        theirs.close()
        select.select([ours], [], [], 60)
        ours.sendall(written)
        ours.close()
        try:
            assert child.wait(timeout=20) == -signal.SIGKILL
        finally:
            child.kill()
