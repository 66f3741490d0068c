"""The in-process arm: transformers in a thread, waiting requests gathered into left-padded batches.

For machines without vLLM and as the second opinion on it. A row's tokens depend on its own prompt and seed only, up to
rounding: each row samples from its own generator. Completions and scores wait in queues of their own and take turns.
"""

import asyncio
import importlib.metadata
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from qtrap_agents.backends import checkpoint as files
from qtrap_agents.backends.chat import (
    NO_SYSTEM_ROLE,
    NOT_FINITE,
    TEXT_CONTEXT,
    checksum,
    decode,
    has_system_role,
    prompt_ids,
    text_pieces,
    too_long,
)
from qtrap_agents.backends.identity import identify
from qtrap_agents.backends.inspector import ModelFacts, read_model
from qtrap_agents.backends.launch import resolve_dtype
from qtrap_agents.backends.profiler import KernelTimer
from qtrap_agents.config import ArmConfig, EngineConfig
from qtrap_agents.errors import ArmError, CompletionError, first_line
from qtrap_agents.measures import KernelTime, ServerStats
from qtrap_agents.types import ArmIdentity, Completion, Message, Sampling, Score, TokenLogprob

if TYPE_CHECKING:
    import torch

PACKED = ".weight_packed"
PACKED_FORMAT = "pack-quantized"
LOGITS_AT_ONCE = 2**27
"""Most logits of one forward pass over given texts: half a GiB in float32."""
UNPACKED = "the packed weights were unpacked at load: speed and energy of this arm say nothing about 4-bit serving"

AtLoad = Literal["nf4", "int8"] | None
LOADING = threading.Lock()
"""One model at a time: transformers imports its parts as they are asked for, which two threads must not do at once."""

Ask = tuple[Sequence[Message], Sampling]
Reading = tuple[Sequence[Message], Sequence[int], int]
"""Messages, the ids of the given text, and how many alternatives."""
Request = TypeVar("Request")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Given:
    """A given text after its prompt; at least one token."""

    prompt: list[int]
    token_ids: list[int]
    top: int


@dataclass
class Row:
    """One request while it is being answered."""

    prompt: list[int]
    sampling: Sampling
    generator: "torch.Generator | None"
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    text: str = ""
    finish_reason: str | None = None
    ttft_s: float | None = None


class Generator:
    """Model and tokenizer with a batched decoding loop; used by one thread at a time."""

    def __init__(
        self,
        source: Path | str,
        dtype: str,
        device: str,
        max_model_len: int,
        at_load: AtLoad = None,
        revision: str | None = None,
    ) -> None:
        import torch
        from transformers import AutoTokenizer

        self._torch = torch
        self.tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
        self.model = load_model(source, getattr(torch, dtype), device, at_load, revision)
        self.model.eval()
        self.device, self.dtype = device, dtype
        self._context = min(max_model_len, getattr(self.model.config, "max_position_embeddings", max_model_len))
        ends = self.model.generation_config.eos_token_id
        self._ends = set(ends if isinstance(ends, list) else [ends]) | {self.tokenizer.eos_token_id}
        self._pad = self.tokenizer.pad_token_id or 0
        self._vocabulary = int(self.model.get_input_embeddings().weight.shape[0])
        self.timer: KernelTimer | None = None

    def facts(self) -> ModelFacts:
        """What the loaded model holds."""
        return read_model(self.model, self.dtype, self.device)

    def answer(self, requests: Sequence[Ask]) -> list[Completion | CompletionError]:
        """Answer a batch together; one result or error for each request, in order."""
        started = time.perf_counter()
        rows = [self._row(messages, sampling) for messages, sampling in requests]
        good = [row for row in rows if isinstance(row, Row)]
        with self.timer or nullcontext(), self._torch.inference_mode():
            for logits in self._logits(good):
                self._extend(good, logits, time.perf_counter() - started)
        return [self._result(row) if isinstance(row, Row) else row for row in rows]

    def score(self, requests: Sequence[Reading]) -> list[Score | CompletionError]:
        """Read the given texts in few forward passes; one score or error for each request, in order."""
        texts = [self._given(*request) for request in requests]
        good = [text for text in texts if isinstance(text, Given)]
        with self._torch.inference_mode():
            scores = iter([self._scored(text, logits) for text, logits in self._read(good)])
        return [next(scores) if isinstance(text, Given) else text for text in texts]

    def _prompt(self, messages: Sequence[Message]) -> list[int]:
        return prompt_ids(self.tokenizer, [{"role": item.role, "content": item.content} for item in messages])

    def _given(self, messages: Sequence[Message], token_ids: Sequence[int], top: int) -> Given | Score | CompletionError:
        prompt = self._prompt(messages)
        if not token_ids:
            return Score(prompt_tokens=len(prompt), prompt_checksum=checksum(prompt), tokens=(), pieces=())
        if len(prompt) + len(token_ids) > self._context:
            return CompletionError(
                f"prompt and given text have {len(prompt)} + {len(token_ids)} tokens, the model takes {self._context}"
            )
        unknown = [token for token in token_ids if not 0 <= token < self._vocabulary]
        if unknown:
            return CompletionError(f"token id {unknown[0]} is out of the model's vocabulary of {self._vocabulary}")
        return Given(prompt, list(token_ids), min(top, self._vocabulary))

    def _read(self, texts: list[Given]) -> "Iterator[tuple[Given, torch.Tensor]]":
        """Each text with the logits [given token, vocabulary] that the model has where the token is to come."""
        longest = max((len(text.token_ids) for text in texts), default=0)
        count = max(1, LOGITS_AT_ONCE // max(1, longest * self._vocabulary))
        for start in range(0, len(texts), count):
            chunk = texts[start : start + count]
            tokens, mask = self._padded([text.prompt + text.token_ids[:-1] for text in chunk])
            output = self.model(
                input_ids=tokens,
                attention_mask=mask,
                position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
                use_cache=False,
                logits_to_keep=longest,
            )
            for text, logits in zip(chunk, output.logits, strict=True):
                yield text, logits[-len(text.token_ids) :].float()

    def _scored(self, text: Given, logits: "torch.Tensor") -> Score | CompletionError:
        if not logits.isfinite().all():
            return CompletionError(NOT_FINITE)
        places = zip(text.token_ids, logits, strict=True)
        return Score(
            prompt_tokens=len(text.prompt),
            prompt_checksum=checksum(text.prompt),
            tokens=tuple(self._logprob(token, place, text.top) for token, place in places),
            pieces=text_pieces(self.tokenizer, text.prompt, text.token_ids),
        )

    def _row(self, messages: Sequence[Message], sampling: Sampling) -> Row | CompletionError:
        prompt = self._prompt(messages)
        if len(prompt) >= self._context:
            return CompletionError(too_long(len(prompt), self._context))
        if sampling.temperature <= 0:
            return Row(prompt, sampling, None)
        return Row(prompt, sampling, self._torch.Generator(self.device).manual_seed(sampling.seed))

    def _logits(self, rows: list[Row]) -> "Iterator[torch.Tensor]":
        """Logits [row, vocabulary] of the next token, for as long as one row is unfinished; the caller appends tokens."""
        torch = self._torch
        tokens, mask = self._padded([row.prompt for row in rows])
        cache = None
        while any(row.finish_reason is None for row in rows):
            positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
            output = self.model(
                input_ids=tokens,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache = output.past_key_values
            yield output.logits[:, -1].float()
            tokens = torch.tensor([[row.tokens[-1] if row.tokens else self._pad] for row in rows], device=self.device)
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)

    def _padded(self, texts: list[list[int]]) -> "tuple[torch.Tensor, torch.Tensor]":
        """Token ids [text, place], padded on the left, and the mask of what is no padding."""
        width = max(map(len, texts), default=0)
        tokens = [[self._pad] * (width - len(text)) + text for text in texts]
        mask = [[0] * (width - len(text)) + [1] * len(text) for text in texts]
        return self._torch.tensor(tokens, device=self.device), self._torch.tensor(mask, device=self.device)

    def _extend(self, rows: list[Row], logits: "torch.Tensor", elapsed_s: float) -> None:
        """Append one token to every unfinished row, or finish it."""
        finite, greedy = self._torch.stack([logits.isfinite().all(-1).long(), logits.argmax(-1)]).tolist()
        for index, row in enumerate(rows):
            if row.finish_reason is not None:
                continue
            if not finite[index]:
                row.finish_reason = NOT_FINITE
                continue
            token = greedy[index] if row.generator is None else self._draw(row, logits[index])
            row.tokens.append(token)
            row.ttft_s = row.ttft_s or elapsed_s
            if row.sampling.logprobs is not None:
                row.logprobs.append(self._logprob(token, logits[index], row.sampling.logprobs))
            self._finish(row, token)

    def _draw(self, row: Row, logits: "torch.Tensor") -> int:
        """One token by temperature and nucleus."""
        probabilities, order = (logits / row.sampling.temperature).softmax(-1).sort(descending=True)
        before = probabilities.cumsum(-1) - probabilities
        probabilities[before >= row.sampling.top_p] = 0
        return int(order[self._torch.multinomial(probabilities, 1, generator=row.generator)])

    def _logprob(self, token: int, logits: "torch.Tensor", count: int) -> TokenLogprob:
        logprobs = logits.log_softmax(-1)
        values, ids = logprobs.topk(count)
        top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
        return TokenLogprob(token_id=token, logprob=float(logprobs[token]), top=top)

    def _finish(self, row: Row, token: int) -> None:
        ended = token in self._ends and not row.sampling.ignore_eos
        if row.sampling.stop or ended:
            row.text = self._decode(row)
        cut = [row.text.find(stop) for stop in row.sampling.stop if stop in row.text]
        if cut or ended:
            row.finish_reason = "stop"
            row.text = row.text[: min(cut)] if cut else row.text
        elif len(row.tokens) >= row.sampling.max_tokens or len(row.prompt) + len(row.tokens) >= self._context:
            row.finish_reason, row.text = "length", self._decode(row)

    def _decode(self, row: Row) -> str:
        """The text as it continues the prompt, so that a leading space is kept, as vLLM does."""
        before = row.prompt[-TEXT_CONTEXT:]
        return decode(self.tokenizer, before + row.tokens)[len(decode(self.tokenizer, before)) :]

    def _result(self, row: Row) -> Completion | CompletionError:
        if row.finish_reason == NOT_FINITE:
            return CompletionError(NOT_FINITE)
        return Completion(
            text=row.text,
            token_ids=tuple(row.tokens),
            finish_reason=row.finish_reason or "abort",
            prompt_tokens=len(row.prompt),
            completion_tokens=len(row.tokens),
            ttft_s=row.ttft_s,
            logprobs=None if row.sampling.logprobs is None else tuple(row.logprobs),
        )


class Queue(Generic[Request, Result]):
    """Collects the requests of one kind that wait and answers up to `limit` of them at a time, when it is their turn."""

    def __init__(
        self, answer: Callable[[Sequence[Request]], Sequence[Result | CompletionError]], limit: int, turn: asyncio.Lock
    ) -> None:
        self._answer = answer
        self._limit = limit
        self._turn = turn
        self._waiting: list[tuple[Request, asyncio.Future[Result]]] = []
        self._wake = asyncio.Event()

    async def ask(self, request: Request) -> Result:
        """The answer; those that wait meanwhile share a batch."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        self._wake.set()
        return await future

    async def collect(self) -> None:
        """Serve batches until cancelled."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(0)
            async with self._turn:
                batch, self._waiting = self._waiting[: self._limit], self._waiting[self._limit :]
                if not self._waiting:
                    self._wake.clear()
                await self._serve([entry for entry in batch if not entry[1].done()])

    async def _serve(self, batch: list[tuple[Request, asyncio.Future[Result]]]) -> None:
        results: Sequence[Result | Exception]
        try:
            results = await asyncio.to_thread(self._answer, [request for request, _ in batch])
        except Exception as error:
            results = [_as_our_error(error)] * len(batch)
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)


class TransformersArm:
    """Answers up to `max_num_seqs` waiting requests at a time."""

    def __init__(self, generator: Generator, identity: ArmIdentity, max_num_seqs: int) -> None:
        self.identity = identity
        turn = asyncio.Lock()
        self._generator = generator
        self._completions = Queue[Ask, Completion](generator.answer, max_num_seqs, turn)
        self._scores = Queue[Reading, Score](generator.score, max_num_seqs, turn)

    async def complete(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        """Answer one chat request; those that wait meanwhile share a batch. Errors as in `Backend.complete`."""
        started = time.perf_counter()
        completion = await self._completions.ask((messages, sampling))
        latency_s = time.perf_counter() - started
        ttft_s = None if completion.ttft_s is None else min(latency_s, completion.ttft_s)
        return completion.model_copy(update={"latency_s": latency_s, "ttft_s": ttft_s})

    async def score(self, messages: Sequence[Message], token_ids: Sequence[int], top: int) -> Score:
        """The given text token by token; those that wait meanwhile share a batch. Errors as in `Backend.score`."""
        return await self._scores.ask((messages, token_ids, top))

    async def stats(self) -> ServerStats | None:
        """None: nothing counts here but the caller."""
        return None

    async def start_profile(self) -> None:
        """Time the kernels of completions from now on."""
        self._generator.timer = KernelTimer(self._generator.device)

    async def stop_profile(self) -> tuple[KernelTime, ...]:
        """Their times, longest first."""
        timer, self._generator.timer = self._generator.timer, None
        return tuple(KernelTime(name=name, calls=calls, time_s=time_s) for name, calls, time_s in timer.times) if timer else ()

    async def collect(self) -> None:
        """Serve batches until cancelled."""
        await asyncio.gather(self._completions.collect(), self._scores.collect())


@asynccontextmanager
async def open_transformers(config: ArmConfig, engine: EngineConfig, source: Path | str) -> AsyncIterator[TransformersArm]:
    """Load the model into this process.

    Raises:
        ArmError: transformers is missing or cannot load the checkpoint.
    """
    try:
        generator = await asyncio.to_thread(_load, config, engine, source)
    except ImportError as error:
        raise ArmError(f"arm '{config.name}': {error}; install torch, transformers and compressed-tensors") from error
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ArmError(f"arm '{config.name}': transformers cannot load {source}: {first_line(error)}") from error
    identity = await asyncio.to_thread(_identity, config, generator, source)
    arm = TransformersArm(generator, identity, engine.max_num_seqs)
    collector = asyncio.create_task(arm.collect())
    try:
        yield arm
    finally:
        collector.cancel()


def _load(config: ArmConfig, engine: EngineConfig, source: Path | str) -> Generator:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if config.bitsandbytes is not None and device == "cpu":
        raise ValueError("bitsandbytes needs an NVIDIA GPU; leave 'bitsandbytes' out to serve the 16-bit weights")
    with LOADING:
        dtype = resolve_dtype(engine, device)
        return Generator(source, dtype, device, engine.max_model_len, config.bitsandbytes, config.revision)


def _identity(config: ArmConfig, generator: Generator, source: Path | str) -> ArmIdentity:
    facts = generator.facts()
    packed = isinstance(source, Path) and files.read_facts(source).packed_tensors > 0
    unpacked = packed and not facts["quantised_modules"]
    return identify(
        "transformers",
        source,
        facts,
        engine=f"transformers {importlib.metadata.version('transformers')}",
        kv_cache_dtype=facts["activation_dtype"],
        notes=(*((UNPACKED,) if unpacked else ()), *(() if has_system_role(generator.tokenizer) else (NO_SYSTEM_ROLE,))),
        unpacked=unpacked,
        at_load=config.bitsandbytes,
        revision=config.revision,
    )


def load_model(
    source: Path | str, dtype: "torch.dtype", device: str = "cpu", at_load: AtLoad = None, revision: str | None = None
) -> Any:
    """The model with dense weights where the checkpoint is compressed-tensors `pack-quantized`, else as transformers does.

    Unpacked by ourselves, because releases of compressed-tensors disagree on the layout of 3-bit weights. On a GPU weights go
    there file by file.

    Args:
        at_load: have bitsandbytes pack 16-bit weights as NF4 (computing in `dtype`) or INT8.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    config = AutoConfig.from_pretrained(source, revision=revision)
    quantisation = getattr(config, "quantization_config", None)
    if not isinstance(source, Path) or not isinstance(quantisation, dict) or quantisation.get("format") != PACKED_FORMAT:
        placed = {"device_map": {"": device}} if device != "cpu" else {}
        packing = _packing(at_load, dtype)
        return AutoModelForCausalLM.from_pretrained(source, dtype=dtype, revision=revision, **placed, **packing)
    del config.quantization_config
    weights = dense_weights(source, quantisation, dtype)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    if config.tie_word_embeddings:
        weights.setdefault("lm_head.weight", weights["model.embed_tokens.weight"])
    model.load_state_dict(weights)
    return model.to(device)


def _packing(at_load: AtLoad, dtype: "torch.dtype") -> dict[str, Any]:
    """What tells transformers to pack weights while it loads them."""
    if at_load is None:
        return {}
    from transformers import BitsAndBytesConfig

    if at_load == "int8":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    return {"quantization_config": nf4}


def dense_weights(path: Path, quantisation: dict[str, Any], dtype: "torch.dtype") -> "dict[str, torch.Tensor]":
    """Every weight of a `pack-quantized` checkpoint, the packed ones unpacked."""
    from safetensors.torch import load_file

    from qtrap_agents.backends.unpack import dequantise

    tensors = {name: tensor for file in files.weight_files(path) for name, tensor in load_file(file).items()}
    bits, _ = files.bits_and_group(quantisation)
    layers = [name.removesuffix(PACKED) for name in tensors if name.endswith(PACKED)]
    for layer in layers:
        outputs, inputs = tensors.pop(layer + ".weight_shape").tolist()
        packed, scales, zeros = (tensors.pop(layer + part, None) for part in (PACKED, ".weight_scale", ".weight_zero_point"))
        if packed is None or scales is None or bits is None:
            raise ValueError(f"layer {layer} is incomplete")
        tensors[layer + ".weight"] = dequantise(packed, scales, zeros, bits, (outputs, inputs))
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}


def _as_our_error(error: Exception) -> Exception:
    return error if isinstance(error, ArmError) else CompletionError(f"transformers failed: {first_line(error)}")
