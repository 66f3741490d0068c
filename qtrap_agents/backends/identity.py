"""The verified identity of an arm: what the running engine holds and what the checkpoint says, never our configuration."""

from pathlib import Path

from qtrap_agents.backends import checkpoint, reference_kernel
from qtrap_agents.backends.inspector import ModelFacts
from qtrap_agents.types import ArmIdentity


def identify(
    backend: str,
    weights: Path | str,
    facts: ModelFacts | None,
    *,
    engine: str,
    kv_cache_dtype: str | None = None,
    notes: tuple[str, ...] = (),
) -> ArmIdentity:
    """Put the engine's facts and the checkpoint's files into one record and note where they contradict each other.

    Reads the whole checkpoint for its checksum: call it in a thread.
    """
    files = checkpoint.read_facts(weights) if isinstance(weights, Path) else None
    sources = [place for place, known in (("running engine", facts), ("checkpoint files", files)) if known]
    return ArmIdentity(
        backend=backend,
        checkpoint=str(weights),
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
        notes=notes or tuple(_engine_notes(facts, files)),
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
    elif files.method and not facts["quantised_modules"]:
        notes.append(f"the checkpoint claims {files.method} {files.bits}-bit but the engine holds no packed layer")
    return notes
