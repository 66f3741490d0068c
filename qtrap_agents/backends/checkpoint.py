"""Checkpoint directories: found by name, checked before an engine is started, and read for what they really hold."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from qtrap_agents import paths
from qtrap_agents.errors import ArmError, first_line, unknown

HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")
PACKED_NAMES = (".weight_packed", ".qweight")
FLOAT_BYTES = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8}
HUB_TIMEOUT_S = 15.0
LINEAR = re.compile(r"\.layers\.\d+\..*_proj\.weight$")


class CheckpointFacts(NamedTuple):
    """What the files say: method (`gptq`, `awq`, `rtn`, …), bits, group size, packed tensors, bytes, sha256.

    `packed_bytes` are those of integer and 8-bit tensors, `float_elements` the elements of all others, `linear_elements` those of
    them that belong to the matrices of decoder layers. `quantised_at_load` where the files hold 16 bits but the backend
    packs them; `method` and `bits` are then what it makes of them.
    """

    method: str | None
    bits: int | None
    group_size: int | None
    packed_tensors: int
    tensor_bytes: int
    checksum: str
    packed_bytes: int = 0
    float_elements: int = 0
    linear_elements: int = 0
    quantised_at_load: bool = False


class Tensor(NamedTuple):
    """One entry of a safetensors header."""

    name: str
    dtype: str
    nbytes: int
    shape: tuple[int, ...] = ()


def resolve_checkpoint(name: str) -> Path | str:
    """The directory of `reference:<size>/<arm>` or of a local path, or the hub id itself.

    Raises:
        ArmError: nothing there, or a file is missing, unreadable or truncated; names the file and the remedy.
    """
    if name.startswith("reference:"):
        return verify_checkpoint(_reference(name.removeprefix("reference:")))
    path = Path(name).expanduser()
    if path.is_dir():
        return verify_checkpoint(path)
    if HUB_ID.match(name) and not path.exists() and not path.parent.is_dir():
        return name
    raise ArmError(f"checkpoint '{name}': no such directory; give a directory with config.json and *.safetensors")


def verify_checkpoint(path: Path) -> Path:
    """The same path after its config, tokenizer and every safetensors file were found whole.

    Raises:
        ArmError: names the file and the remedy.
    """
    read_config(path)
    if not has_tokenizer(path):
        raise ArmError(f"checkpoint {path}: no tokenizer.json; save the model's tokenizer into this directory")
    for file in weight_files(path):
        read_header(file)
    index = path / "model.safetensors.index.json"
    if index.is_file():
        for missing in sorted(set(_json(index).get("weight_map", {}).values())):
            if not (path / missing).is_file():
                raise ArmError(f"{path / missing}: missing, though {index.name} lists it; copy the checkpoint again")
    return path


def has_tokenizer(path: Path) -> bool:
    """True where one of the usual tokenizer files lies in the directory."""
    return any((path / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json"))


def read_config(path: Path) -> dict[str, Any]:
    """`config.json` of a checkpoint directory.

    Raises:
        ArmError: missing or not JSON.
    """
    file = path / "config.json"
    if not file.is_file():
        raise ArmError(f"{file}: missing; a checkpoint directory needs config.json beside its *.safetensors")
    return _json(file)


def weight_files(path: Path) -> list[Path]:
    """The safetensors files of a checkpoint directory, sorted.

    Raises:
        ArmError: there are none.
    """
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise ArmError(f"checkpoint {path}: no *.safetensors file; copy the weights or convert them to safetensors")
    return files


def read_header(file: Path) -> list[Tensor]:
    """The tensors that a safetensors file declares, its size checked against them.

    Raises:
        ArmError: the header cannot be read or the file is shorter or longer than it says.
    """
    remedy = "copy or download the file again"
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            size = file.stat().st_size
            if not 2 <= length <= size - 8:
                raise ValueError("its header length is impossible")
            header = json.loads(stream.read(length))
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        spans = {name: entry["data_offsets"] for name, entry in entries.items()}
        expected = 8 + length + max((end for _, end in spans.values()), default=0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArmError(f"{file}: not a readable safetensors file ({error}); {remedy}") from error
    if size != expected:
        raise ArmError(f"{file}: {'truncated' if size < expected else 'too long'}, {size} of {expected} bytes; {remedy}")
    return [
        Tensor(name, entries[name]["dtype"], end - start, tuple(entries[name].get("shape", ())))
        for name, (start, end) in spans.items()
    ]


def read_facts(path: Path) -> CheckpointFacts:
    """What the checkpoint's files say about its weights; reads every byte once for the checksum."""
    quantisation = read_config(path).get("quantization_config") or {}
    tensors = [tensor for file in weight_files(path) for tensor in read_header(file)]
    bits, group_size = bits_and_group(quantisation)
    return CheckpointFacts(
        method=_method(quantisation, path),
        bits=bits,
        group_size=group_size,
        packed_tensors=sum(tensor.name.endswith(PACKED_NAMES) for tensor in tensors),
        tensor_bytes=sum(tensor.nbytes for tensor in tensors),
        checksum=_checksum(weight_files(path)),
        packed_bytes=sum(tensor.nbytes for tensor in tensors if tensor.dtype not in FLOAT_BYTES),
        float_elements=sum(map(_elements, tensors)),
        linear_elements=sum(_elements(tensor) for tensor in tensors if LINEAR.search(tensor.name)),
    )


def _elements(tensor: Tensor) -> int:
    """Elements of a tensor of floats, none of a packed one."""
    return tensor.nbytes // FLOAT_BYTES[tensor.dtype] if tensor.dtype in FLOAT_BYTES else 0


def cached_files(name: str, revision: str | None = None) -> Path | None:
    """The directory of a hub model in the local cache, where it lies after it was served; None where it is not there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        path = Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError):
        return None
    return path if any(path.glob("*.safetensors")) else None


def commit_of(path: Path) -> str | None:
    """The commit of a directory in the hub's cache, which is called after it; None for any other directory."""
    return path.name if path.parent.name == "snapshots" else None


def require_hub_model(name: str, revision: str | None = None) -> None:
    """Look whether a hub id can be loaded: it lies in the local cache, or the hub has it and lets us read it.

    Raises:
        ArmError: it does not exist, is not open to us, or the hub cannot be reached; one sentence with the remedy.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        HTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if cached_files(name, revision) is not None:
        return
    try:
        HfApi().model_info(name, revision=revision, timeout=HUB_TIMEOUT_S)
    except GatedRepoError:
        told = "its publisher has to let you in: accept the terms on its page and log in with `hf auth login`"
    except RepositoryNotFoundError:
        told = "the hub has no such model, or it is private: correct the id, or log in with `hf auth login`"
    except RevisionNotFoundError:
        told = f"the hub has no revision '{revision}' of it: correct 'revision' or leave it out"
    except (HFValidationError, HfHubHTTPError) as error:
        told = f"the hub refuses it ({first_line(error)}): correct the id or give a local directory"
    except (HTTPError, OSError, OfflineModeIsEnabled):
        told = "not in the local hub cache, and the hub cannot be reached: go online, set HF_ENDPOINT, or give a local directory"
    else:
        return
    raise ArmError(f"checkpoint '{name}': {told}")


def tensor_bytes(path: Path) -> int:
    """Bytes of all tensors in the directory, from the headers alone."""
    return sum(tensor.nbytes for file in weight_files(path) for tensor in read_header(file))


def _reference(name: str) -> Path:
    root = paths.REFERENCE_CHECKPOINTS
    known = sorted(str(file.parent.relative_to(root)) for file in root.glob("*/*/config.json"))
    if name not in known:
        raise ArmError(unknown("reference checkpoint", f"reference:{name}", [f"reference:{item}" for item in known]))
    return root / name


def _method(quantisation: dict[str, Any], path: Path) -> str | None:
    """`gptq`, `awq` or `rtn` by llm-compressor's recipe; else the name in config.json; None for 16-bit weights."""
    if not quantisation:
        return None
    recipe = path / "recipe.yaml"
    text = recipe.read_text(encoding="utf-8") if recipe.is_file() else ""
    named = [method for method in ("awq", "gptq") if f"{method.upper()}Modifier" in text]
    if named:
        return "+".join(named)
    return "rtn" if "QuantizationModifier" in text else str(quantisation.get("quant_method", "unknown"))


def bits_and_group(quantisation: dict[str, Any]) -> tuple[int | None, int | None]:
    """Bits and group size that a `quantization_config` states, None where it does not."""
    groups = quantisation.get("config_groups") or {}
    weights: dict[str, Any] = next((group["weights"] for group in groups.values() if group.get("weights")), {})
    bits = weights.get("num_bits") or quantisation.get("bits") or quantisation.get("w_bit")
    if bits is None and quantisation.get("load_in_4bit"):
        bits = 4
    group_size = weights.get("group_size") or quantisation.get("group_size") or quantisation.get("q_group_size")
    return bits, group_size


def file_sha256(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal. Raises OSError."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _checksum(files: list[Path]) -> str:
    """sha256 of the one file, or of the lines `<sha256>  <name>` of several."""
    digests = [file_sha256(file) for file in files]
    if len(digests) == 1:
        return digests[0]
    lines = "".join(f"{digest}  {file.name}\n" for digest, file in zip(digests, files, strict=True))
    return hashlib.sha256(lines.encode()).hexdigest()


def _json(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArmError(f"{file}: not readable as JSON ({error}); copy the checkpoint again") from error
    if not isinstance(data, dict):
        raise ArmError(f"{file}: expected a JSON object; copy the checkpoint again")
    return data
