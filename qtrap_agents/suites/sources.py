"""Where the rows of a dataset come from: a local file, a local directory, or a dataset hub; one code path for all.

    path: dev.jsonl                        JSON lines, a JSON array, an object of objects, CSV or Parquet
    path: data/                            a directory that `datasets.load_dataset` understands
    dataset: openai/gsm8k                  a hub id; `revision`, `subset` (its configuration) and `split` go with it

What cannot be read at all is a SuiteError. A single line that is no JSON object is a rejected row with its reason.
Directories and hub ids need the extra `hub` (the `datasets` library), Parquet files too (its `pyarrow`).
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from qtrap_agents.errors import SuiteError
from qtrap_agents.suites.rows import Rejected, Row

LONGEST_LINE = 10_000_000
"""Characters of one line, or of one CSV cell, that are still read as a row."""

_HUB = "install it with `pip install 'qtrap-agents[hub]'`"


class Source(NamedTuple):
    """A file or directory (`path`), or a hub id (`dataset`)."""

    path: Path | None = None
    dataset: str | None = None
    revision: str | None = None
    subset: str | None = None
    split: str | None = None

    def __str__(self) -> str:
        if self.path is not None:
            return str(self.path)
        parts = (self.subset, self.split, self.revision and f"revision {self.revision}")
        return f"dataset '{self.dataset}'" + "".join(f", {part}" for part in parts if part)


def rows_of(source: Source) -> Iterator[Row | Rejected]:
    """The rows in their order.

    Raises:
        SuiteError: the source cannot be read; one sentence with the remedy.
    """
    if source.path is None or source.path.is_dir():
        return _numbered(source, _loaded(source))
    reader = _READERS.get(source.path.suffix.casefold(), _json)
    return reader(source.path)


def _numbered(source: Source, rows: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
    for number, fields in enumerate(rows, 1):
        yield Row(number, f"{source}, row {number}", fields)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise SuiteError(f"{path}: no such file; correct 'path' in suite.yaml or in the parameters of the suite") from None
    except UnicodeDecodeError as error:
        raise SuiteError(f"{path}: cannot be read as UTF-8 text: {error}; save it as UTF-8") from error
    except OSError as error:
        raise SuiteError(f"{path}: cannot be read: {error.strerror}; give the path of a readable file") from error


def _json(path: Path) -> Iterator[Row | Rejected]:
    """JSON lines; or one document over the whole file, which then is an array of rows or an object of them."""
    text = _text(path)
    document = _document(text)
    if document is None:
        return _lines(path, text)
    return _numbered_or_rejected(path, document)


def _document(text: str) -> list[Any] | None:
    """The rows of a file that is one JSON document; None where it is lines. A key of an object of rows becomes their id."""
    if not text.lstrip().startswith(("[", "{")) or _is_object(text.lstrip().partition("\n")[0]):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(found, list):
        return found
    if all(isinstance(row, dict) for row in found.values()):
        return [{"id": key, **row} for key, row in found.items()]
    return [found] if len(text) <= LONGEST_LINE else None


def _is_object(line: str) -> bool:
    """Whether a first line is a row of its own: an object that is not made of objects only."""
    try:
        found = json.loads(line) if len(line) <= LONGEST_LINE else None
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and not all(isinstance(value, dict) for value in found.values())


def _lines(path: Path, text: str) -> Iterator[Row | Rejected]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield _line(number, f"{path}:{number}", line)


def _line(number: int, where: str, line: str) -> Row | Rejected:
    if len(line) > LONGEST_LINE:
        return Rejected(number, f"line of more than {LONGEST_LINE:,} characters", where=where)
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Rejected(number, "not valid JSON", f"{error}; write one object a line", where)
    return _row(number, where, found)


def _row(number: int, where: str, found: object) -> Row | Rejected:
    if isinstance(found, dict):
        return Row(number, where, found)
    return Rejected(
        number, "not an object", f"found {type(found).__name__}; write an object with the fields of the dataset", where
    )


def _numbered_or_rejected(path: Path, document: Iterable[Any]) -> Iterator[Row | Rejected]:
    for number, found in enumerate(document, 1):
        yield _row(number, f"{path}, row {number}", found)


def _csv(path: Path) -> Iterator[Row | Rejected]:
    csv.field_size_limit(LONGEST_LINE)
    reader = csv.DictReader(io.StringIO(_text(path).strip(), newline=""))
    number = 0
    try:
        for number, fields in enumerate(reader, 1):
            yield Row(number, f"{path}, row {number}", {name: cell for name, cell in fields.items() if name is not None})
    except csv.Error as error:
        raise SuiteError(f"{path}: row {number + 1} cannot be read as CSV: {error}; save the file anew as CSV") from error


def _parquet(path: Path) -> Iterator[Row | Rejected]:
    if not path.is_file():
        raise SuiteError(f"{path}: no such file; correct 'path' in suite.yaml or in the parameters of the suite")
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import read_table
    except ImportError as error:
        raise SuiteError(f"{path}: Parquet needs the pyarrow library: {_HUB}") from error
    try:
        rows = read_table(path).to_pylist()
    except (ArrowException, OSError) as error:
        raise SuiteError(f"{path}: cannot be read as Parquet: {_first_line(error)}; give a file of that format") from error
    return _numbered(Source(path), rows)


_READERS: dict[str, Callable[[Path], Iterator[Row | Rejected]]] = {".csv": _csv, ".parquet": _parquet}
"""By the ending of the file; any other is JSON or JSON lines."""


def _loaded(source: Source) -> Iterable[Mapping[str, Any]]:
    """The rows of a hub dataset or of a directory, through the `datasets` library."""
    try:
        import datasets
    except ImportError as error:
        raise SuiteError(f"{source}: needs the datasets library: {_HUB}") from error
    datasets.disable_progress_bars()
    name = str(source.path) if source.path is not None else source.dataset
    try:
        found = datasets.load_dataset(name, source.subset, split=source.split, revision=source.revision)
    except Exception as error:  # the library raises nearly everything: network, ids, splits, formats
        raise SuiteError(
            f"{source}: cannot be loaded: {_first_line(error)}; check its name, subset, split and revision and the network, "
            "or give a local file as 'path'"
        ) from error
    return _only_split(source, found)


def _only_split(source: Source, found: Any) -> Iterable[Mapping[str, Any]]:
    if source.split is None:
        if len(found) != 1:
            raise SuiteError(f"{source}: has the splits {', '.join(found)}; choose one with 'split'")
        (found,) = found.values()
    rows: Iterable[Mapping[str, Any]] = found
    return rows


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300].rstrip(".")
