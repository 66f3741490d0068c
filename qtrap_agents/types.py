"""The records that flow through qtrap: task, hop, trace. Frozen, strict, one JSON line each.

Facts are stored, everything that can be derived is a property. Units stand in the names: `_s` seconds, `_j` joules,
`_w` watts. Terms follow the glossary in the README.
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Literal

from pydantic import BaseModel, ConfigDict

Value = int | float | str
"""A normalised premise value: whole numbers are `int`, other numbers `float`, names and word lists `str`."""

TRACE_VERSION = 1

_NUMBER = re.compile(r"[_.-]?[0-9]+$")


class Record(BaseModel):
    """Base of all records: immutable, and a field nobody declared is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class GoldPremise(Record):
    """What an intermediate step must state.

    `rule` is an expression over the ids in `depends_on` (see `qtrap_agents.semantics`): executed on the gold parent
    values it gives `value`; executed on wrong parent values it tells whether a wrong premise was inherited.
    `instruction` is what the hop is told; `{id}` slots are filled with the stated values of its parents. `kind` is the
    sort of step within its suite, such as `plus` or `swap`; empty where the suite does not tell; one that begins with `call`
    is a tool call. `accept` are other values that are as right, such as the aliases of a name.
    """

    id: str
    text: str
    value: Value
    accept: tuple[Value, ...] = ()
    depends_on: tuple[str, ...] = ()
    rule: str | None = None
    instruction: str = ""
    kind: str = ""


class Task(Record):
    """One question with an exact answer and its gold premises in topological order; the last one is the answer.

    `accept` are other right answers. `tools` are the local tools that its agent may call: the name of each and what it holds
    (see `qtrap_agents.tools`).
    """

    id: str
    suite: str
    question: str
    answer: Value
    accept: tuple[Value, ...] = ()
    tools: dict[str, dict[str, Value]] = {}
    premises: tuple[GoldPremise, ...] = ()
    depth: int
    seed: int = 0
    metadata: dict[str, Value] = {}

    def premise(self, premise_id: str) -> GoldPremise:
        """The gold premise of that id. Raises KeyError."""
        for premise in self.premises:
            if premise.id == premise_id:
                return premise
        raise KeyError(premise_id)


class Sampling(Record):
    """How tokens are drawn; the same for all arms of a comparison. Greedy by default.

    With `ignore_eos` an answer goes on to `max_tokens` whatever the model says: the same token work for every arm.
    `json_schema` is the JSON text of a schema that the answer is held to while it is generated.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 16
    seed: int = 0
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    ignore_eos: bool = False
    json_schema: str | None = None


class Message(Record):
    """One chat message."""

    role: Literal["system", "user", "assistant"]
    content: str


class TokenLogprob(Record):
    """Log-probability of a generated token and of its `top` alternatives (token id, natural log)."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class Score(Record):
    """A given text under an arm, token by token (teacher forcing), after a given prompt.

    `tokens` has one entry for each given token: its log-probability and the arm's most probable tokens there, by rank.
    `pieces` are the texts of the given tokens; joined they are the text. `prompt_checksum` is a checksum of the prompt's
    token ids: equal for two arms where their tokenizers read the prompt alike.
    """

    prompt_tokens: int
    prompt_checksum: str
    tokens: tuple[TokenLogprob, ...]
    pieces: tuple[str, ...]


class Completion(Record):
    """What the arm returned for one request.

    `ttft_s` is the time to the first token where the backend can tell, `latency_s` the whole request as the client
    saw it, queueing included. `token_ids` are the generated ids, empty where the backend does not tell.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    latency_s: float = 0.0
    ttft_s: float | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None


class Premise(Record):
    """What a hop stated. `value` is None where nothing could be parsed; `depends_on` are the premises it was given."""

    id: str
    text: str
    value: Value | None = None
    depends_on: tuple[str, ...] = ()


class Hop(Record):
    """One model call inside a workflow. `parents` are ids of the hops, or decisions, whose premises it was given.

    `sampling` is set where a node asked otherwise than the run says, such as a sample of a vote.

    `arm` names who answered where that is not the arm of the trace: in a precision plan, and in a replay. In a replay,
    `replaced` keeps what the hop had stated where an experiment gave other `premises` to the later hops.
    """

    id: str
    node: str
    parents: tuple[str, ...] = ()
    messages: tuple[Message, ...] = ()
    completion: Completion
    premises: tuple[Premise, ...] = ()
    started_at: float = 0.0
    arm: str | None = None
    replaced: tuple[Premise, ...] = ()
    sampling: Sampling | None = None

    @property
    def role(self) -> str:
        """What kind of node asked: its name without a number at its end; `hop` where it is named after its premise."""
        named = any(premise.id == self.node for premise in self.premises)
        return "hop" if named else _unnumbered(self.node)


@lru_cache(maxsize=4096)
def _unnumbered(node: str) -> str:
    return _NUMBER.sub("", node) or node


class Decision(Record):
    """What a node made of earlier hops without a model call: a majority, a merge, a verdict.

    `parents` are the ids of the hops that it decided on and `after` how many hops stood before it: its premises are stated
    after those and before later ones.
    """

    id: str
    node: str
    parents: tuple[str, ...] = ()
    premises: tuple[Premise, ...] = ()
    after: int = 0


def in_order(hops: Sequence[Hop], decisions: Sequence[Decision]) -> Iterator[Hop | Decision]:
    """Hops and decisions in the order in which they were stated."""
    waiting = sorted(decisions, key=lambda decision: decision.after)
    if not waiting:
        yield from hops
        return
    for number, hop in enumerate(hops):
        while waiting and waiting[0].after <= number:
            yield waiting.pop(0)
        yield hop
    yield from waiting


class Measurement(Record):
    """Cost of one trace. `energy_j` is None where nothing measured it.

    `attribution` says how the energy came to this trace: `exclusive` (nothing else ran) or `prorated` (the window's
    energy by share of tokens).
    """

    duration_s: float
    energy_j: float | None = None
    attribution: Literal["exclusive", "prorated"] | None = None
    idle_w: float | None = None


class Trace(Record):
    """One task run by one workflow on one arm. `score` is None where an error kept the answer from being judged."""

    version: int = TRACE_VERSION
    id: str
    run_id: str
    task_id: str
    suite: str
    depth: int
    seed: int
    workflow: str
    arm: str
    attempt: int = 1
    hops: tuple[Hop, ...] = ()
    decisions: tuple[Decision, ...] = ()
    answer: Value | None = None
    score: float | None = None
    error: str | None = None
    measurement: Measurement

    @property
    def correct(self) -> bool:
        """True where the answer was judged right."""
        return self.score == 1.0

    @property
    def prompt_tokens(self) -> int:
        """Prompt tokens of all hops."""
        return sum(hop.completion.prompt_tokens for hop in self.hops)

    @property
    def completion_tokens(self) -> int:
        """Generated tokens of all hops."""
        return sum(hop.completion.completion_tokens for hop in self.hops)


class Verification(Record):
    """Whether an arm holds what its checkpoint claims.

    `verified`: packed layers, kernel and weight bytes agree with the format. `emulated`: the low-bit values are there, but
    unpacked for computing; right for accuracy, no statement on time or energy. `contradicted`: it claims few bits and
    holds many. `unknown`: the backend cannot tell.
    """

    status: Literal["verified", "emulated", "contradicted", "unknown"]
    reason: str


class ArmIdentity(Record):
    """What is really being served, read from the engine or its log and from the checkpoint files.

    `quantised_modules` of `linear_modules` linear layers hold packed weights; `kernels` counts the kernel class per
    layer; `weight_bytes` are the bytes of the loaded parameters. None means the backend could not tell, and `source`
    says where each fact was read. `revision` is the commit of a hub id, or what was asked for where its files are not known.
    `structured` tells whether the arm held answers to a JSON schema; None where no suite asked for one. `parts` are the arms
    of a precision plan, whose numbers are summed here.
    """

    backend: str
    checkpoint: str
    revision: str | None = None
    quantisation: str | None = None
    bits: int | None = None
    group_size: int | None = None
    quantised_modules: int | None = None
    linear_modules: int | None = None
    kernels: dict[str, int] = {}
    weight_bytes: int | None = None
    activation_dtype: str | None = None
    kv_cache_dtype: str | None = None
    device: str | None = None
    engine: str | None = None
    checksum: str | None = None
    source: str = ""
    structured: bool | None = None
    notes: tuple[str, ...] = ()
    verification: Verification | None = None
    parts: dict[str, "ArmIdentity"] = {}

    @property
    def is_quantised(self) -> bool:
        """True where at least one linear layer holds packed low-bit weights."""
        return bool(self.quantised_modules)
