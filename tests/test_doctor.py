import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from qtrap_agents import doctor
from qtrap_agents.doctor import (
    CHECKSUMS,
    Check,
    Diagnosis,
    check_companions,
    check_disk,
    check_features,
    check_package,
    check_python,
    check_rapl,
    check_reference,
    run_checks,
)
from qtrap_agents.report.health import diagnosis_json, render_diagnosis

AVX512 = frozenset({"avx2", "avx512f", "avx512bw", "avx512vl"})


def test_everything_is_looked_at_on_this_machine(tmp_path: Path) -> None:
    checks = {check.name: check for check in run_checks(tmp_path).checks}
    assert {
        "Python", "qtrap", "CPU", "CPU features", "torch", "transformers", "torch companions", "langgraph", "vLLM",
        "backend: auto", "GPU", "RAPL energy", "energy meter", "disk", "reference models", "git",
    } <= set(checks)  # fmt: skip
    assert all(check.state == "ok" or check.remedy for check in checks.values())
    assert checks["Python"].state == "ok"


def test_looking_imports_no_engine() -> None:
    code = (
        "import sys; from qtrap_agents.doctor import run_checks; run_checks(); "
        "print([name for name in ('torch', 'vllm', 'transformers', 'langgraph') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_python_version() -> None:
    assert check_python((3, 11, 0)).state == "ok"
    assert check_python((3, 10, 9)).state == "missing"


@pytest.mark.parametrize(
    ("flags", "state"),
    [
        (AVX512 | {"amx_bf16"}, "ok"),
        (AVX512 | {"avx512_bf16"}, "ok"),
        (AVX512, "warn"),
        (frozenset({"avx2"}), "warn"),
        (frozenset(), "warn"),
    ],
)
def test_cpu_features_for_four_bits(flags: frozenset[str], state: str) -> None:
    check = check_features(flags, "x86_64")
    assert check.state == state
    assert ("reference kernel" in check.detail) == (state == "warn")


def test_wheels_of_another_torch_build() -> None:
    assert check_companions("2.13.0+cpu", {"torchvision": None}).state == "ok"
    wrong = check_companions("2.13.0+cpu", {"torchvision": "0.28.0", "torchaudio": "2.13.0+cpu"})
    assert wrong.state == "missing"
    assert "torchvision::nms" in wrong.detail
    assert wrong.remedy == "pip uninstall torchvision (nothing here needs them)"
    assert check_companions("2.13.0+cpu", {"torchvision": "0.28.0+cpu"}).state == "ok"
    assert check_companions("2.13.0", {"torchvision": "0.28.0"}).state == "ok"


def test_a_package_that_is_missing() -> None:
    assert check_package("pydantic").state == "ok"
    assert check_package("no-such-package-of-ours").remedy == "pip install no-such-package-of-ours"


def test_reference_models(tmp_path: Path) -> None:
    assert check_reference(tmp_path / "none").detail == "not installed"
    assert "cannot be read" in check_reference(tmp_path).detail
    weights = tmp_path / "small" / "fp16" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    sums = {"small/fp16/model.safetensors": hashlib.sha256(b"weights").hexdigest()}
    (tmp_path / CHECKSUMS).write_text(json.dumps(sums))
    assert check_reference(tmp_path) == Check(name="reference models", state="ok", detail="1 files match their checksums")
    weights.write_bytes(b"weighty")
    damaged = check_reference(tmp_path)
    assert (damaged.state, damaged.remedy is None) == ("missing", False)
    assert "1 of 1 files differ from their checksum or are missing: small/fp16/model.safetensors" in damaged.detail
    (tmp_path / CHECKSUMS).write_text("[]")
    assert check_reference(tmp_path).state == "missing"


def test_rapl_counters(tmp_path: Path) -> None:
    assert not check_rapl(tmp_path).needed
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    (zone / "name").write_text("package-0\n")
    assert "chmod" in (check_rapl(tmp_path).remedy or "")
    for name in ("energy_uj", "max_energy_range_uj"):
        (zone / name).write_text("1000")
    assert check_rapl(tmp_path).state == "ok"


def test_disk(tmp_path: Path) -> None:
    assert check_disk(tmp_path).detail.endswith("GiB free")
    assert check_disk(tmp_path, low_bytes=2**80).state == "warn"
    assert check_disk(tmp_path / "none").state == "warn"


def test_only_what_is_needed_decides() -> None:
    fine = Check(name="Python", state="ok", detail="3.12")
    optional = Check(name="GPU", state="missing", detail="none", remedy="[bold]buy[/bold] one", needed=False)
    fatal = Check(name="torch", state="missing", detail="not installed", remedy="pip install torch")
    assert Diagnosis(checks=(fine, optional)).ok
    assert not Diagnosis(checks=(fine, fatal)).ok
    console = Console(width=100, file=io.StringIO())
    render_diagnosis(Diagnosis(checks=(fine, optional, fatal)), console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "none (optional)" in text
    assert "fix: [bold]buy[/bold] one" in text
    assert "something that qtrap needs is missing" in text
    assert diagnosis_json(Diagnosis(checks=(fine,)))["ok"] is True


def test_torch_build_is_read_from_its_files() -> None:
    pytest.importorskip("torch")
    version = doctor.installed("torch") or ""
    assert (doctor.torch_cuda() is None) == version.endswith("+cpu") or not version.partition("+")[2]
