"""Does an arm hold what its checkpoint claims? The engine's facts against the files, never our configuration against itself.

An engine can serve a checkpoint that claims 4 bits with dense weights and say nothing: vLLM's dummy loader does so with GPTQ.
"""

from qtrap_agents.backends.checkpoint import CheckpointFacts
from qtrap_agents.backends.inspector import ModelFacts
from qtrap_agents.errors import ArmError
from qtrap_agents.kernels import kind_of_all
from qtrap_agents.types import ArmIdentity, Verification

TOLERANCE = 0.1
"""Kernels pad, and drop zero points or group indices: by less than this share of all weight bytes."""

BYTES = {"float32": 4}


def verify(facts: ModelFacts | None, files: CheckpointFacts | None, unpacked: bool = False) -> Verification:
    """Hold packed layers, kernels and weight bytes of the running engine against the format of the files.

    Args:
        unpacked: the backend says that it unpacked the weights when it loaded them.
    """
    if facts is None:
        return Verification(status="unknown", reason="the engine does not tell what it holds")
    if files is None:
        return Verification(status="unknown", reason="the files of the checkpoint could not be read")
    if files.bits is None or files.bits >= 16:
        return _dense(facts, files)
    if unpacked or facts["unpacked_bytes"]:
        return Verification(
            status="emulated",
            reason=f"holds the {files.bits}-bit values but computes with an unpacked copy: no statement on time or energy",
        )
    return _packed(facts, files, files.bits)


def require(name: str, identity: ArmIdentity, allow_unverified: bool) -> None:
    """Refuse an arm that does not hold what it claims.

    Raises:
        ArmError: it is contradicted, and `allow_unverified` is False.
    """
    found = identity.verification
    if found is not None and found.status == "contradicted" and not allow_unverified:
        raise ArmError(
            f"arm '{name}': {found.reason}; load real weights in a format that this engine supports, or go on with "
            "--allow-unverified (every table marks the arm)"
        )


def _dense(facts: ModelFacts, files: CheckpointFacts) -> Verification:
    if facts["quantised_modules"]:
        packed = facts["quantised_modules"]
        return Verification(
            status="contradicted", reason=f"the checkpoint is not quantised but {packed} layers hold packed weights"
        )
    expected = expected_bytes(facts, files)
    if _apart(facts["weight_bytes"], expected):
        return Verification(status="contradicted", reason=_sizes(facts, expected))
    return Verification(status="verified", reason=f"no packed layer, {_mib(facts['weight_bytes'])} as the files imply")


def _packed(facts: ModelFacts, files: CheckpointFacts, bits: int) -> Verification:
    expected, total = expected_bytes(facts, files), facts["linear_modules"]
    claim = f"the checkpoint claims {files.method} {bits}-bit"
    if not facts["quantised_modules"]:
        return _contradicted(f"{claim} but none of {total} linear layers is packed: {_sizes(facts, expected)}")
    if _apart(facts["weight_bytes"], expected):
        return _contradicted(f"{claim} but {_sizes(facts, expected)}")
    if kind_of_all(facts["kernels"]) == "none":
        return _contradicted(f"{claim} but every layer is multiplied dense ({', '.join(facts['kernels'])})")
    packed = f"{facts['quantised_modules']} of {total} linear layers packed"
    return Verification(status="verified", reason=f"{packed}, {_mib(facts['weight_bytes'])} as the {bits}-bit format implies")


def _contradicted(reason: str) -> Verification:
    return Verification(status="contradicted", reason=reason)


def expected_bytes(facts: ModelFacts, files: CheckpointFacts) -> int:
    """Bytes that the weights should take: packed ones as in the files, the others in the dtype of the activations.

    Weights that are quantised while they are loaded take their bits.
    """
    element = BYTES.get(facts["activation_dtype"], 2)
    dense = files.float_elements
    if files.quantised_at_load:
        dense -= files.linear_elements
        return dense * element + files.linear_elements * (files.bits or 16) // 8
    return files.packed_bytes + dense * element


def _apart(found: int, expected: int) -> bool:
    return abs(found - expected) > TOLERANCE * expected


def _sizes(facts: ModelFacts, expected: int) -> str:
    return f"the weights on the device take {_mib(facts['weight_bytes'])} where the format implies {_mib(expected)}"


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
