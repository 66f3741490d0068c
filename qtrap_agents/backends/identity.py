"""The verified identity of an arm: what the running engine holds and what the checkpoint says, never our configuration."""

from pathlib import Path

from qtrap_agents.backends import checkpoint, reference_kernel
from qtrap_agents.backends.inspector import ModelFacts
from qtrap_agents.backends.verify import verify
from qtrap_agents.types import ArmIdentity

BITS = {"nf4": 4, "int8": 8}


def identify(
    backend: str,
    weights: Path | str,
    facts: ModelFacts | None,
    *,
    engine: str,
    kv_cache_dtype: str | None = None,
    notes: tuple[str, ...] = (),
    unpacked: bool = False,
    at_load: str | None = None,
    revision: str | None = None,
) -> ArmIdentity:
    """Put the engine's facts and the checkpoint's files into one record and say whether they agree.

    Reads the whole checkpoint for its checksum: call it in a thread.

    Args:
        unpacked: the backend unpacked the weights when it loaded them.
        at_load: `nf4` or `int8` where bitsandbytes packed them when they were loaded.
        revision: the branch, tag or commit that was asked for, of a hub id.
    """
    path = weights if isinstance(weights, Path) else checkpoint.cached_files(weights, revision)
    files = checkpoint.read_facts(path) if path is not None else None
    if files is not None and at_load is not None:
        files = files._replace(method=f"bitsandbytes-{at_load}", bits=BITS[at_load], quantised_at_load=True)
    sources = [place for place, known in (("running engine", facts), ("checkpoint files", files)) if known]
    return ArmIdentity(
        backend=backend,
        checkpoint=str(weights),
        revision=revision if path is None else checkpoint.commit_of(path),
        quantisation=files.method if files else None,
        bits=files.bits if files else None,
        group_size=files.group_size if files else None,
        quantised_modules=facts["quantised_modules"] if facts else None,
        linear_modules=facts["linear_modules"] if facts else None,
        kernels=facts["kernels"] if facts else {},
        weight_bytes=facts["weight_bytes"] if facts else None,
        activation_dtype=facts["activation_dtype"] if facts else None,
        kv_cache_dtype=kv_cache_dtype,
        device=facts["device"] if facts else None,
        engine=engine,
        checksum=files.checksum if files else None,
        source=" and ".join(sources) or "nothing",
        notes=(*notes, *_engine_notes(facts, files)),
        verification=verify(facts, files, unpacked),
    )


def _engine_notes(facts: ModelFacts | None, files: checkpoint.CheckpointFacts | None) -> list[str]:
    notes = []
    if facts is None:
        return ["the engine did not tell which kernels and how many packed layers it serves"]
    if facts["kernels"].get(reference_kernel.NAME):
        notes.append(reference_kernel.NOTE)
        notes.append(f"the unpacked copy takes {facts['unpacked_bytes']} bytes beside the packed weights")
    if files is None:
        notes.append("checkpoint is a hub id: its files were not checked")
    return notes
