"""Hub ids: what cannot be loaded is one sentence before an engine is started; revisions reach whatever loads the model."""

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
import scripts

from qtrap_agents.backends.checkpoint import cached_files, commit_of, require_hub_model
from qtrap_agents.backends.factory import open_arm
from qtrap_agents.backends.identity import identify
from qtrap_agents.backends.launch import Launch, engine_arguments, kv_cache_dtype
from qtrap_agents.config import ArmConfig, EngineConfig
from qtrap_agents.errors import ArmError
from qtrap_agents.paths import REFERENCE_CHECKPOINTS
from qtrap_agents.store import RunDirectory
from qtrap_agents.types import ArmIdentity

HUB_ID, COMMIT = "some-owner/some-model", "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def store(cache: Path, revision: str) -> Path:
    """Put a shipped model into the cache as a download would."""
    folder = cache / f"models--{HUB_ID.replace('/', '--')}"
    snapshot = folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for file in (REFERENCE_CHECKPOINTS / "small" / "fp16").iterdir():
        (snapshot / file.name).symlink_to(file)
    (folder / "refs").mkdir()
    (folder / "refs" / revision).write_text(COMMIT)
    return snapshot


@contextmanager
def hub(status: int, code: str) -> Iterator[str]:
    """A hub that answers everything with this status and error code."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", "no")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing on stderr."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "code", "told"),
    [
        (404, "RepoNotFound", "the hub has no such model, or it is private: correct the id, or log in with `hf auth login`"),
        (404, "RevisionNotFound", "the hub has no revision 'v9' of it: correct 'revision' or leave it out"),
        (403, "GatedRepo", "its publisher has to let you in: accept the terms on its page and log in"),
        (500, "", r"the hub refuses it \(.*\): correct the id or give a local directory"),
    ],
)
def test_what_the_hub_does_not_give(cache: Path, monkeypatch: pytest.MonkeyPatch, status: int, code: str, told: str) -> None:
    with hub(status, code) as url:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
        with pytest.raises(ArmError, match=told) as caught:
            require_hub_model(HUB_ID, "v9")
    assert str(caught.value).startswith(f"checkpoint '{HUB_ID}': ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("backend", ["transformers", "vllm"])
def test_a_hub_that_cannot_be_reached(cache: Path, monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    if backend == "vllm":
        pytest.importorskip("vllm")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    config = ArmConfig.model_validate({"name": "far", "checkpoint": HUB_ID, "backend": backend})

    async def enter() -> None:
        async with open_arm(config, EngineConfig(), Path("unused.log")):
            pass

    with pytest.raises(ArmError, match="not in the local hub cache, and the hub cannot be reached: go online, set HF_ENDPOINT"):
        asyncio.run(enter())


def test_what_lies_in_the_cache_needs_no_hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = store(cache, "v2")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    require_hub_model(HUB_ID, "v2")
    assert cached_files(HUB_ID, "v2") == snapshot
    assert cached_files(HUB_ID, "v3") is None
    assert (commit_of(snapshot), commit_of(cache)) == (COMMIT, None)
    identity = identify("vllm", HUB_ID, None, engine="any", revision="v2")
    assert (identity.checkpoint, identity.revision) == (HUB_ID, COMMIT), "the commit, not the name that it had"
    assert identity.checksum is not None
    elsewhere = identify("vllm", HUB_ID, None, engine="any", revision="v3")
    assert (elsewhere.revision, elsewhere.checksum) == ("v3", None), "what was asked for, where the files are not known"


def test_a_revision_and_a_cache_dtype_of_ones_own_reach_the_engine() -> None:
    engine = EngineConfig(tensor_parallel_size=2)
    plain = Launch(ArmConfig(name="a", checkpoint=HUB_ID), engine, HUB_ID, "cuda", "float16")
    own = ArmConfig(name="b", checkpoint=HUB_ID, revision="v2", engine_args={"kv_cache_dtype": "fp8", "tensor_parallel_size": 4})
    given = engine_arguments(Launch(own, engine, HUB_ID, "cuda", "float16"))
    assert "revision" not in engine_arguments(plain)
    assert (given["revision"], given["tokenizer_revision"]) == ("v2", "v2")
    assert (engine_arguments(plain)["tensor_parallel_size"], given["tensor_parallel_size"]) == (2, 4)
    assert (kv_cache_dtype(plain), kv_cache_dtype(Launch(own, engine, HUB_ID, "cuda", "float16"))) == ("auto", "fp8")


def test_a_directory_has_no_revisions() -> None:
    config = ArmConfig(name="a", checkpoint="reference:small/fp16", revision="main", backend="transformers")

    async def enter() -> None:
        async with open_arm(config, EngineConfig(), Path("unused.log")):
            pass

    with pytest.raises(ArmError, match=r"arm 'a': 'revision' belongs to a hub id, .* is a directory; leave it out"):
        asyncio.run(enter())


def served_from_the_cache(cache: Path, folder: Path, backend: str) -> ArmIdentity:
    """What a run says about a hub model at a revision that lies in the cache, without a network."""
    store(cache, "v2")
    arm = {"name": "hub", "checkpoint": HUB_ID, "revision": "v2", "backend": backend}
    settings = {"suites": ["arith"], "arms": [arm], "depths": [2], "tasks_per_depth": 4, "engine": {"max_model_len": 128}}
    config = scripts.write_yaml(folder / "run.yaml", settings)
    environment = os.environ | {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "qtrap_agents", "run", str(config)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    run = RunDirectory.open(folder / done.stdout.strip())
    assert [trace.score for trace in run.traces("hub")] == [1.0] * 4
    identity = run.identity("hub")
    assert identity is not None
    return identity


@pytest.mark.parametrize("backend", ["transformers", pytest.param("vllm", marks=[pytest.mark.vllm, pytest.mark.slow])])
def test_a_revision_in_the_cache_is_served(tmp_path: Path, backend: str) -> None:
    cache, folder = tmp_path / "cache", tmp_path / "work"
    cache.mkdir()
    folder.mkdir()
    identity = served_from_the_cache(cache, folder, backend)
    assert (identity.checkpoint, identity.revision, identity.backend) == (HUB_ID, COMMIT, backend)
    assert identity.verification is not None
    assert identity.verification.status == "verified"
