"""A fitted model as a file: YAML that a person can read, one coefficient or one row of the covariance a line."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from qtrap_agents.errors import SimulationError
from qtrap_agents.simulation.model import MODEL_VERSION, ErrorModel
from qtrap_agents.store import first_problem, write_whole

_DIGITS = 9
_FIT = "fit one with `qtrap fit RUN`"

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def save_model(model: ErrorModel, path: Path, force: bool = False) -> None:
    """Write a model; numbers with nine significant digits.

    Raises:
        SimulationError: the file is there already and `force` is not given, or it cannot be written.
    """
    check_free(path, force)
    data = _rounded(model.model_dump(mode="json"))
    text = yaml.dump(data, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=10**6, allow_unicode=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
    except OSError as error:
        raise SimulationError(f"{path}: cannot be written: {error.strerror or error}") from error


def check_free(path: Path, force: bool = False) -> None:
    """Raises SimulationError where a model would overwrite a file."""
    if path.exists() and not force:
        raise SimulationError(f"{path} is there already; give --force to overwrite it, or another --out")


def load_model(path: Path) -> ErrorModel:
    """Read a model.

    Raises:
        SimulationError: there is no such file, it is no model, a damaged one, or one of another version.
    """
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise SimulationError(f"{path}: no such model; {_FIT}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SimulationError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}; {_FIT}") from error
    except yaml.YAMLError as error:
        raise SimulationError(f"{path}: no error model, or a damaged one: {_where(error)}; {_FIT}") from error
    return _model(path, data)


def _model(path: Path, data: object) -> ErrorModel:
    if not isinstance(data, dict) or not {"version", "arms", "masks"} <= data.keys():
        raise SimulationError(f"{path}: no error model; {_FIT}")
    if data["version"] != MODEL_VERSION:
        raise SimulationError(f"{path}: an error model of version {data['version']}, this is for {MODEL_VERSION}; fit it again")
    try:
        model = ErrorModel.model_validate(data)
    except ValidationError as error:
        raise SimulationError(f"{path}: a damaged error model: {first_problem(error)}; {_FIT}") from error
    for name, arm in model.arms.items():
        size = len(arm.slips.terms)
        if len(arm.slips.mean) != size or [len(row) for row in arm.slips.covariance] != [size] * size:
            raise SimulationError(f"{path}: a damaged error model: arms.{name}.slips: {size} terms need as many numbers; {_FIT}")
    return model


def _where(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f"line {mark.line + 1}: {getattr(error, 'problem', None)}" if mark is not None else str(error).splitlines()[0]


def _rounded(data: Any) -> Any:
    if isinstance(data, float):
        return float(f"{data:.{_DIGITS}g}")
    if isinstance(data, dict):
        return {key: _rounded(value) for key, value in data.items()}
    return [_rounded(value) for value in data] if isinstance(data, list) else data
