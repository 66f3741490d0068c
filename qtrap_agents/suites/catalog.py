"""Find, load and draw from task suites.

A suite is a directory with a `suite.yaml` (`SuiteSpec`). It is looked for by name in `./tasks` and among the shipped
suites, or taken from a path. All kinds give the same `Task` records: `procedural` (a generator function, any depth),
`jsonl` (the user's own tasks), and one for each public dataset (`KINDS`), from a local file or a hub.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from qtrap_agents.config import SuiteChoice, load_yaml
from qtrap_agents.errors import SuiteError, unknown
from qtrap_agents.paths import shipped
from qtrap_agents.plugins import import_function
from qtrap_agents.semantics import check_task
from qtrap_agents.suites import gsm8k, hotpotqa, jsonl, mathqa, musique, prontoqa, proofwriter, strategyqa
from qtrap_agents.suites.rows import Form, Kind, Reading, Rejected, read
from qtrap_agents.suites.sources import Source, rows_of
from qtrap_agents.types import Record, Task, Value

Generator = Callable[[str, int, int, int, dict[str, Value]], Task]
"""`generate(suite, depth, seed, index, params)`; the same arguments must always give the same task."""

FILE = "suite.yaml"

KINDS: dict[str, Kind] = {
    "jsonl": Kind(jsonl.task, jsonl.GOLD, strict=True),
    "gsm8k": Kind(gsm8k.task, gsm8k.GOLD),
    "mathqa": Kind(mathqa.task, mathqa.GOLD),
    "musique": Kind(musique.task, musique.GOLD),
    "hotpotqa": Kind(hotpotqa.task, hotpotqa.GOLD),
    "strategyqa": Kind(strategyqa.task, strategyqa.GOLD),
    "prontoqa": Kind(prontoqa.task, prontoqa.GOLD),
    "proofwriter": Kind(proofwriter.task, proofwriter.GOLD, parts=proofwriter.questions),
}
"""How the rows of a file or hub dataset are read, by the `kind` in suite.yaml."""

PROCEDURAL = "procedural"

GENERATED = "every step, with rules"
"""The gold of procedural suites."""

SOURCE_FIELDS = ("path", "dataset", "revision", "subset", "split")
"""Fields of suite.yaml that say where the rows are; the parameters of a run may change them."""


class Example(Record):
    """A worked example, shown before every question: what is asked, and what a good answer looks like."""

    prompt: str
    answer: str


class SuiteSpec(Record):
    """What `suite.yaml` says.

    `generator` (`module:function`) belongs to procedural suites. The others have their rows in a file or directory (`path`,
    relative to this file) or in a hub `dataset`, with its `revision`, `subset` and `split` (see
    `qtrap_agents.suites.sources`); a run may give or change these five and the values in `params`. `parser` tells how a
    completion is read (see `qtrap_agents.premises`), `words` how many words a row has, or the parameter that says so.
    `system` is the system message, with `{modulus}` where the value of that parameter goes; `show_question` puts the
    question and the premises known so far before each instruction. `examples` stand before it as turns of the chat. `roles`
    are system messages of nodes with another job, such as `plan`, `check`, `split`, `agent`, `judge` or `act`: they get
    theirs instead of `system`, and no examples. With `output: json` a hop answers with an object `{"value": …}`, held to
    its schema while it is generated, in 16 tokens more; the answer of an example is put into such an object where it is
    none. `extractor` tells how premises are found in one answer with several of them: `steps` (lines `s3 = 41`), `prose`
    (see `qtrap_agents.extraction`) or `module:function`. A hop may write `max_tokens` tokens, one completion with all
    premises `cot_tokens_per_premise` for each.

    The tasks of a file have the depths they have: `depths: natural` takes them all, `depths: wanted` only those that
    the run asks for.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    title: str
    skill: str
    kind: str
    generator: str | None = Field(default=None, pattern=r"^[\w.]+:\w+$")
    path: str | None = None
    dataset: str | None = None
    revision: str | None = None
    subset: str | None = None
    split: str | None = None
    params: dict[str, Value] = Field(default_factory=dict)
    parser: Literal["int", "number", "word", "words", "text", "phrase", "boolean", "any"] = "number"
    words: int | str | None = None
    system: str = ""
    show_question: bool = False
    examples: tuple[Example, ...] = ()
    roles: dict[str, str] = Field(default_factory=dict)
    output: Literal["text", "json"] = "text"
    extractor: str = Field(default="steps", pattern=r"^(steps|prose|[\w.]+:\w+)$")
    max_tokens: int = Field(default=16, ge=1)
    cot_tokens_per_premise: int = Field(default=16, ge=1)
    depths: Literal["natural", "wanted"] = "natural"

    @field_validator("kind")
    @classmethod
    def _known_kind(cls, value: str) -> str:
        if value not in (PROCEDURAL, *KINDS):
            raise ValueError(unknown("kind of suite", value, (PROCEDURAL, *KINDS)))
        return value

    @model_validator(mode="after")
    def _fits_its_kind(self) -> "SuiteSpec":
        if self.kind == PROCEDURAL and not self.generator:
            raise ValueError("a procedural suite needs 'generator: module:function'")
        if self.kind == "jsonl" and not (self.path or self.dataset):
            raise ValueError("a jsonl suite needs 'path: tasks.jsonl'")
        if self.path and self.dataset:
            raise ValueError("'path' and 'dataset' exclude each other; keep one")
        if self.words is not None and self.parser != "words":
            raise ValueError("'words' goes with 'parser: words'")
        if isinstance(self.words, str) and self.words not in self.params:
            raise ValueError(unknown("parameter in 'words'", self.words, self.params))
        return self


class Suite(Record):
    """A suite as a run uses it: its spec, with the parameters of the run; `source` is its `suite.yaml`."""

    spec: SuiteSpec
    source: Path

    @property
    def name(self) -> str:
        """Name of the suite, stored with its tasks."""
        return self.spec.name

    @property
    def parser(self) -> str:
        """The value parser in the form that `premises.parse_value` takes, such as `int` or `words:6`."""
        words = self.spec.words
        count = self.spec.params[words] if isinstance(words, str) else words
        return self.spec.parser if count is None else f"{self.spec.parser}:{count}"

    @property
    def system(self) -> str:
        """The system message, with `{name}` of a parameter replaced by its value; empty for none."""
        return self._filled(self.spec.system)

    def system_of(self, node: str) -> str | None:
        """The system message of a node that has another job than to state steps; None where the suite has none for it."""
        text = self.spec.roles.get(node)
        return None if text is None else self._filled(text)

    @property
    def examples(self) -> tuple[Example, ...]:
        """The worked examples, parameters filled in as in the system message."""
        shown = self.spec.examples
        return tuple(Example(prompt=self._filled(one.prompt), answer=self._filled(one.answer)) for one in shown)

    def _filled(self, text: str) -> str:
        for name, value in self.spec.params.items():
            text = text.replace(f"{{{name}}}", str(value))
        return text

    def tasks(self, depths: Sequence[int], seeds: Sequence[int], per_depth: int) -> Iterator[Task]:
        """Draw tasks; the same arguments give the same tasks, and more of them begin with the same ones.

        A procedural suite gives `per_depth` tasks for each depth and seed. A file has each of its tasks once: it gives
        at most `per_depth` of each depth in file order, under the first seed only, because the same question asked
        again under another seed would be counted as further evidence; `depths` counts with `depths: wanted` only.

        Raises:
            SuiteError: the generator, the file or a parameter is wrong.
        """
        if self.spec.kind == PROCEDURAL:
            return self._generated(depths, seeds, per_depth)
        chosen = depths if self.spec.depths == "wanted" else None
        return _limited(self.file_tasks(), chosen, per_depth, seeds[0] if seeds else 0)

    @property
    def gold(self) -> str:
        """Which intermediate values its tasks have."""
        return GENERATED if self.spec.kind == PROCEDURAL else KINDS[self.spec.kind].gold

    def file_tasks(self) -> tuple[Task, ...]:
        """All tasks of a suite with a file or dataset. Raises SuiteError."""
        return self.reading.tasks

    def rejected(self) -> tuple[Rejected, ...]:
        """The rows of a file or dataset that cannot be used, with reasons; empty for other kinds. Raises SuiteError."""
        return () if self.spec.kind == PROCEDURAL else self.reading.rejected

    def note(self) -> str | None:
        """What a run says about rows that were left out; None where there are none. Raises SuiteError."""
        summary = "" if self.spec.kind == PROCEDURAL else self.reading.summary()
        return f"{self.name}: {summary}" if summary else None

    @property
    def form(self) -> Form:
        """What the reader of its rows must know."""
        return Form(self.name, self.parser, self.spec.params)

    @cached_property
    def reading(self) -> Reading:
        """All rows of its file or dataset, read once. Raises SuiteError where they cannot be read or none can be used."""
        source = self.data()
        reading = read(KINDS[self.spec.kind], rows_of(source), self.form)
        if not reading.tasks:
            why = reading.summary() or "there are no rows"
            raise SuiteError(f"{source}: no tasks for the suite '{self.name}': {why}; give data of the kind '{self.spec.kind}'")
        return reading

    def _generated(self, depths: Sequence[int], seeds: Sequence[int], per_depth: int) -> Iterator[Task]:
        generate = self.generator()
        for depth in depths:
            for seed in seeds:
                for index in range(per_depth):
                    yield self._generate(generate, depth, seed, index)

    def _generate(self, generate: Generator, depth: int, seed: int, index: int) -> Task:
        try:
            task = generate(self.name, depth, seed, index, dict(self.spec.params))
        except (ValueError, LookupError) as error:
            raise SuiteError(
                f"suite '{self.name}': no task of depth {depth} with {self.spec.params}: {error}; change 'params'"
            ) from error
        except Exception as error:  # whatever a generator of the user's own does
            raise SuiteError(
                f"suite '{self.name}': '{self.spec.generator}' raised {type(error).__name__}: {error} for depth {depth}, "
                f"seed {seed}, index {index}; correct it (`qtrap tasks validate` finds the line)"
            ) from error
        if not isinstance(task, Task):
            raise SuiteError(f"suite '{self.name}': '{self.spec.generator}' gave {type(task).__name__}; it must return a Task")
        problems = check_task(task) if index == 0 else []
        if problems:
            raise SuiteError(f"suite '{self.name}': task '{task.id}' contradicts itself: {problems[0]}; correct its generator")
        return task

    def generator(self) -> Generator:
        """The function of a procedural suite; its own directory is searched too. Raises SuiteError."""
        return import_function(self.spec.generator or "", f"{self.source}: field 'generator':", SuiteError, self.source.parent)

    def data(self) -> Source:
        """Where its rows are. Raises SuiteError for a suite without data."""
        spec = self.spec
        if spec.path is None and spec.dataset is None:
            raise SuiteError(
                f"suite '{self.name}' needs data: add 'params: {{path: FILE}}' or 'params: {{dataset: ID, split: NAME}}' to the "
                "suite in the configuration of the run"
            )
        path = None if spec.path is None else self.source.parent / Path(spec.path).expanduser()
        return Source(path, spec.dataset, spec.revision, spec.subset, spec.split)


def load_suite(choice: SuiteChoice, search: Sequence[Path] | None = None) -> Suite:
    """The suite that a run chose, with the run's changes to its parameters.

    Args:
        choice: a name, or a path to a directory or its `suite.yaml`, and parameters. `path` (relative to the working
            directory), `dataset`, `revision`, `subset`, `split` and `depths` change the fields of that name, everything else
            the suite's own `params`.
        search: folders of suites, the first hit counts; by default `./tasks` and the shipped suites.

    Raises:
        SuiteError: no such suite, or it has no such parameter (with the nearest name).
        ConfigError: its `suite.yaml` is wrong: names file, line and field.
    """
    folders = _folders(search)
    suite = _read(path) if (path := _as_path(choice.name)) else _read_named(choice.name, _find(choice.name, _named(folders)))
    changes = dict(choice.params)
    fields = {} if suite.spec.kind == PROCEDURAL else _fields(suite.name, changes)
    params = {**suite.spec.params, **_checked(suite, changes)}
    return suite.model_copy(update={"spec": suite.spec.model_copy(update={**fields, "params": params})})


def find_suite(name: str, search: Sequence[Path] | None = None) -> Path:
    """The `suite.yaml` that a name or path means; a path need not exist. Raises SuiteError for an unknown name."""
    return _as_path(name) or _find(name, _named(_folders(search)))


def _fields(suite: str, changes: dict[str, Value]) -> dict[str, object]:
    """Takes the fields of suite.yaml out of the parameters of a run; a file replaces a dataset and the reverse."""
    fields: dict[str, object] = {name: changes.pop(name) for name in (*SOURCE_FIELDS, "depths") if name in changes}
    for name, value in fields.items():
        if not isinstance(value, str):
            raise SuiteError(f"suite '{suite}': parameter '{name}' must be text, not {value!r}; put it into quotes")
    if "path" in fields and "dataset" in fields:
        raise SuiteError(f"suite '{suite}': parameters 'path' and 'dataset' exclude each other; give one")
    if "path" in fields:
        fields = {"dataset": None, **fields, "path": str(Path(str(fields["path"])).expanduser().absolute())}
    elif "dataset" in fields:
        fields["path"] = None
    if fields.get("depths", "natural") not in ("natural", "wanted"):
        raise SuiteError(f"suite '{suite}': parameter 'depths' must be 'natural' or 'wanted', not {fields['depths']!r}")
    return fields


def list_suites(search: Sequence[Path] | None = None) -> tuple[Suite, ...]:
    """All suites that can be named, by name. Raises ConfigError where a `suite.yaml` is wrong."""
    return tuple(_read_named(name, path) for name, path in sorted(_named(_folders(search)).items()))


def _folders(search: Sequence[Path] | None) -> Sequence[Path]:
    return (Path("tasks"), shipped("tasks")) if search is None else search


def _named(folders: Iterable[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for folder in folders:
        for path in folder.glob(f"*/{FILE}"):
            found.setdefault(path.parent.name, path)
    return found


def _as_path(name: str) -> Path | None:
    path = Path(name).expanduser()
    if "/" not in name and path.name == name != FILE:
        return None
    return path / FILE if path.is_dir() else path


def _find(name: str, suites: Mapping[str, Path]) -> Path:
    if name not in suites:
        raise SuiteError(f"{unknown('suite', name, suites)} A suite of your own is given by its path, such as ./{name}/{FILE}.")
    return suites[name]


def _read(path: Path) -> Suite:
    return Suite(spec=load_yaml(path, SuiteSpec), source=path.absolute())


def _read_named(name: str, path: Path) -> Suite:
    suite = _read(path)
    if suite.name != name:
        raise SuiteError(f"{path}: field 'name' is '{suite.name}'; call it '{name}' like its directory")
    return suite


def _checked(suite: Suite, changes: dict[str, Value]) -> dict[str, Value]:
    for name, value in changes.items():
        default = suite.spec.params.get(name)
        if default is None:
            raise SuiteError(f"suite '{suite.name}': {unknown('parameter', name, suite.spec.params)}")
        if isinstance(value, str) != isinstance(default, str) or (isinstance(value, float) and isinstance(default, int)):
            raise SuiteError(f"suite '{suite.name}': parameter '{name}' must be like {default!r}, not {value!r}")
    return changes


def _limited(tasks: Iterable[Task], depths: Sequence[int] | None, per_depth: int, seed: int) -> Iterator[Task]:
    drawn: Counter[int] = Counter()
    for task in tasks:
        if (depths is None or task.depth in depths) and drawn[task.depth] < per_depth:
            drawn[task.depth] += 1
            yield task.model_copy(update={"seed": seed})
