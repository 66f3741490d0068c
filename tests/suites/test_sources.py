"""Rows come from files of every format, directories and hubs alike; what cannot be read is one sentence."""

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from benchmarks_in_small import GSM8K, HOTPOTQA, MUSIQUE, SAMPLES, STORED, STRATEGYQA, prontoqa_original, write_lines

from qtrap_agents.errors import SuiteError
from qtrap_agents.suites.rows import Rejected, Row
from qtrap_agents.suites.sources import LONGEST_LINE, Source, rows_of


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def fields_of(source: Source) -> list[dict[str, Any]]:
    rows = list(rows_of(source))
    assert all(isinstance(row, Row) for row in rows)
    return [dict(row.fields) for row in rows if isinstance(row, Row)]


def as_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def as_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    datasets.Dataset.from_list(rows).to_parquet(str(path))


WRITERS: dict[str, Callable[[Path, list[dict[str, Any]]], object]] = {
    "rows.jsonl": write_lines,
    "rows.json": lambda path, rows: path.write_text(json.dumps(rows)),
    "rows.txt": lambda path, rows: path.write_text("\ufeff" + json.dumps(rows, indent=1), encoding="utf-8"),
    "rows.csv": as_csv,
    "rows.parquet": as_parquet,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name, GSM8K)
    assert fields_of(Source(tmp_path / name)) == GSM8K


def test_a_directory_is_read_by_the_datasets_library(tmp_path: Path) -> None:
    home = tmp_path / "data"
    home.mkdir()
    as_parquet(home / "test.parquet", MUSIQUE)
    assert fields_of(Source(home)) == MUSIQUE
    as_parquet(home / "train.parquet", MUSIQUE[:1])
    assert len(fields_of(Source(home, split="train"))) == 1
    with pytest.raises(SuiteError, match="has the splits train, test; choose one with 'split'"):
        fields_of(Source(home))
    with pytest.raises(SuiteError, match="cannot be loaded: Unknown split"):
        fields_of(Source(home, split="dev"))


def test_a_dataset_is_read_with_its_subset_and_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's own layout, a card that names its subsets, in a directory that stands where the id is looked for."""
    home = tmp_path / "owner" / "name"
    home.mkdir(parents=True)
    for subset in ("main", "socratic"):
        write_lines(home / f"{subset}.jsonl", GSM8K if subset == "main" else GSM8K[:1])
    files = {name: [{"split": "test", "path": f"{name}.jsonl"}] for name in ("main", "socratic")}
    configs = [{"config_name": name, "data_files": found} for name, found in files.items()]
    (home / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n")
    monkeypatch.chdir(tmp_path)
    assert fields_of(Source(dataset="owner/name", subset="main", split="test")) == GSM8K
    assert len(fields_of(Source(dataset="owner/name", subset="socratic"))) == 1
    with pytest.raises(SuiteError, match="dataset 'owner/name', test: cannot be loaded: Config name is missing"):
        fields_of(Source(dataset="owner/name", split="test"))


def test_a_dataset_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SuiteError) as caught:
        fields_of(Source(dataset="no-such-owner/no-such-dataset", revision="abc", split="test"))
    message = str(caught.value)
    assert message.startswith("dataset 'no-such-owner/no-such-dataset', test, revision abc: cannot be loaded: ")
    assert message.endswith("check its name, subset, split and revision and the network, or give a local file as 'path'")
    assert "\n" not in message


@pytest.mark.parametrize(("library", "source"), [("datasets", "."), ("pyarrow", "rows.parquet")])
def test_a_library_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, source: str) -> None:
    as_parquet(tmp_path / "rows.parquet", GSM8K)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(SuiteError, match=rf"{library} library: install it with `pip install 'qtrap-agents\[hub\]'`"):
        fields_of(Source(tmp_path / source))


def test_an_object_of_rows_keeps_their_names(tmp_path: Path) -> None:
    path = tmp_path / "5hop.json"
    for indent in (None, 2):
        path.write_text(json.dumps(prontoqa_original(), indent=indent))
        (row,) = fields_of(Source(path))
        assert row == {"id": "example1", **prontoqa_original()["example1"]}
    path.write_text(json.dumps(GSM8K[0], indent=2))
    assert fields_of(Source(path)) == GSM8K[:1]


def test_lists_in_csv_cells_are_json(tmp_path: Path) -> None:
    from qtrap_agents.suites.rows import list_of, records_of

    row = {"context": json.dumps(HOTPOTQA[0]["context"]), "steps": json.dumps(MUSIQUE[0]["question_decomposition"]), "no": "[x"}
    as_csv(tmp_path / "rows.csv", [row])
    (found,) = fields_of(Source(tmp_path / "rows.csv"))
    assert list_of(found, "context") == HOTPOTQA[0]["context"]
    assert records_of(found, "steps") == MUSIQUE[0]["question_decomposition"]
    with pytest.raises(Exception, match="field 'no' missing or not a list"):
        list_of(found, "no")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not valid JSON: "),
        ("[" * 100_000, "not valid JSON: "),
        ("[1]", "not an object: found list"),
        ("null", "not an object: found NoneType"),
        ("x" * 50_000_000, f"line of more than {LONGEST_LINE:,} characters"),
    ],
    ids=("cut off", "nested", "list", "null", "50 MB"),
)
def test_a_bad_line_is_one_rejected_row(tmp_path: Path, line: str, reason: str) -> None:
    path = write_lines(tmp_path / "rows.jsonl", STRATEGYQA)
    path.write_text(f"{path.read_text()}\n\n{line}\n{json.dumps(STRATEGYQA[0])}")
    first, second, bad, last = rows_of(Source(path))
    assert isinstance(bad, Rejected)
    assert (bad.line, bad.where) == (4, f"{path}:4")
    assert bad.reason.startswith(reason)
    assert [row[0] for row in (first, second, last)] == [1, 2, 5]


@pytest.mark.parametrize("document", ['[1, {"a": 2}]', '[\n 1,\n {"a": 2}\n]'])
def test_an_array_has_bad_rows_too(tmp_path: Path, document: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(document)
    bad, good = rows_of(Source(path))
    assert isinstance(bad, Rejected)
    assert (bad.reason[:13], bad.where, good.where) == ("not an object", f"{path}, row 1", f"{path}, row 2")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", None, "no such file; correct 'path'"),
        ("rows.parquet", None, "no such file; correct 'path'"),
        ("rows.jsonl", '{"question": "é"}'.encode("utf-16"), "cannot be read as UTF-8 text"),
        ("rows.json", '["é"]'.encode("latin-1"), "save it as UTF-8"),
        ("rows.csv", b"\xff\xfe", "cannot be read as UTF-8 text"),
        ("rows.csv", b'a,b\n1,"' + b"x" * (LONGEST_LINE + 1), "row 1 cannot be read as CSV"),
        ("rows.parquet", b"PAR1 and nothing else", "cannot be read as Parquet"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SuiteError) as caught:
        list(rows_of(Source(path)))
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv"])
@pytest.mark.parametrize("text", ["", "\n \n"])
def test_an_empty_file_has_no_rows(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert fields_of(Source(tmp_path / name)) == []


@pytest.mark.parametrize("kind", SAMPLES)
def test_rows_survive_a_hub(tmp_path: Path, kind: str) -> None:
    """What the datasets library makes of the published layouts is read to the same tasks."""
    from benchmarks_in_small import PARSERS

    from qtrap_agents.suites.catalog import KINDS
    from qtrap_agents.suites.rows import Form, read

    write_lines(tmp_path / "rows.jsonl", SAMPLES[kind])
    (tmp_path / "hub").mkdir()
    as_parquet(tmp_path / "hub" / "test.parquet", STORED.get(kind, SAMPLES[kind]))
    form = Form(kind, PARSERS[kind])
    plain, hub = (read(KINDS[kind], rows_of(Source(tmp_path / name)), form) for name in ("rows.jsonl", "hub"))
    assert hub.tasks == plain.tasks
    assert hub.summary() == plain.summary()
