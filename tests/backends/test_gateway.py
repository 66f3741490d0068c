"""The gateway as OpenAI's own client sees it, in front of scripted arms."""

import asyncio
import http.client
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from qtrap_agents.backends.factory import open_arm
from qtrap_agents.backends.gateway import JOB_HEADER, PLACE_HEADER, Gateway, Job
from qtrap_agents.backends.scripted import ScriptedArm
from qtrap_agents.config import ArmConfig, EngineConfig
from qtrap_agents.errors import ArmDied, CompletionError, TransientError
from qtrap_agents.types import Completion, Message, Sampling

SAID = Completion(text="14", token_ids=(7, 8), finish_reason="length", prompt_tokens=4, completion_tokens=2, latency_s=0.5)
DEFAULT = Sampling(max_tokens=32, seed=9, logprobs=1)
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}

Script = Callable[[Sequence[Message], Sampling], Any]
Client = openai.AsyncOpenAI


class Arm(ScriptedArm):
    """Remembers what it was asked."""

    def __init__(self, script: Script) -> None:
        super().__init__("arm", script)
        self.asked: list[tuple[tuple[Message, ...], Sampling]] = []

    async def complete(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        self.asked.append((tuple(messages), sampling))
        return await super().complete(messages, sampling)


class Server(Arm):
    """Has tools too."""

    async def relay(self, body: dict[str, Any]) -> tuple[Completion, dict[str, Any]]:
        self.body = body
        said = Completion(text="", finish_reason="tool_calls", prompt_tokens=3, completion_tokens=5)
        return said, {"role": "assistant", "content": None, "tool_calls": [CALL]}


def serve(arm: Arm, work: Callable[[Client, Job], Awaitable[Any]], **options: Any) -> Any:
    """What the work of a client comes to."""

    async def all_of_it() -> Any:
        with Gateway() as gateway, gateway.open(Job.of(arm, DEFAULT)) as job:
            async with openai.AsyncOpenAI(base_url=gateway.base_url, api_key="none", **{"max_retries": 0, **options}) as client:
                return await work(client, job)

    return asyncio.run(all_of_it())


async def ask(client: Client, **fields: Any) -> Any:
    messages = fields.pop("messages", [{"role": "user", "content": "6 + 8 ="}])
    return await client.chat.completions.create(model="gpt-4o-mini", messages=messages, **fields)


def test_an_answer_and_the_call_that_is_kept() -> None:
    async def work(client: Client, job: Job) -> None:
        answer = await ask(client)
        assert answer.choices[0].message.content == "14"
        assert answer.choices[0].finish_reason == "length"
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (4, 2, 6)
        assert answer.model == "arm"
        (call,) = job.calls
        assert call.id == answer.id
        assert call.id.startswith("chatcmpl-")
        assert call.completion == SAID
        assert call.messages == (Message(role="user", content="6 + 8 ="),)
        assert call.sampling == DEFAULT
        assert 0 < call.began < call.ended

    serve(Arm(lambda messages, sampling: SAID), work)


@pytest.mark.parametrize("with_usage", [True, False])
def test_a_streamed_answer(with_usage: bool) -> None:
    async def work(client: Client, job: Job) -> None:
        options = {"stream_options": {"include_usage": True}} if with_usage else {}
        pieces = [piece async for piece in await ask(client, stream=True, **options)]
        choices = [piece.choices[0] for piece in pieces if piece.choices]
        assert "".join(choice.delta.content or "" for choice in choices) == "14"
        assert [choice.finish_reason for choice in choices] == [None, "length"]
        assert {piece.id for piece in pieces} == {job.calls[0].id}
        assert [piece.usage.total_tokens for piece in pieces if piece.usage] == [6] * with_usage

    serve(Arm(lambda messages, sampling: SAID), work)


SCHEMA = {"type": "object", "properties": {"value": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("fields", "changes"),
    [
        ({"temperature": 0.7, "top_p": 0.9, "seed": 3}, {"temperature": 0.7, "top_p": 0.9, "seed": 3}),
        ({"temperature": 0}, {"temperature": 0.0}),
        ({"max_tokens": 5}, {"max_tokens": 5}),
        ({"max_completion_tokens": 6}, {"max_tokens": 6}),
        ({"stop": "\n"}, {"stop": ("\n",)}),
        ({"stop": ["a", "b"]}, {"stop": ("a", "b")}),
        ({"n": 1, "user": "me", "tool_choice": "none"}, {}),
        ({"response_format": {"type": "text"}}, {}),
        ({"response_format": {"type": "json_object"}}, {"json_schema": '{"type": "object"}'}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
            {"json_schema": json.dumps(SCHEMA)},
        ),
    ],
)
def test_the_fields_of_a_request_decide_how_it_is_drawn(fields: dict[str, Any], changes: dict[str, Any]) -> None:
    arm = Arm(lambda messages, sampling: SAID)
    serve(arm, lambda client, job: ask(client, **fields))
    assert arm.asked[0][1] == DEFAULT.model_copy(update=changes)


def test_messages_in_the_words_of_a_backend() -> None:
    arm = Arm(lambda messages, sampling: SAID)
    parts = [{"type": "text", "text": "6 + "}, {"type": "text", "text": "8 ="}]
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "so"},
    ]
    serve(arm, lambda client, job: ask(client, messages=messages))
    assert [(message.role, message.content) for message in arm.asked[0][0]] == [
        ("system", "be brief"),
        ("user", "6 + 8 ="),
        ("assistant", "so"),
    ]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"n": 2}, "field 'n': the gateway gives one plain answer"),
        ({"logprobs": True}, "leave 'logprobs' out"),
        ({"presence_penalty": 0.5}, "leave 'presence_penalty' out"),
        ({"logit_bias": {"5": 1}}, "leave 'logit_bias' out"),
        ({"temperature": -1}, "field 'temperature': Input should be greater than or equal to 0"),
        ({"messages": []}, "field 'messages': List should have at least 1 item"),
        ({"messages": [{"role": "king", "content": ""}]}, "field 'messages.0.role'"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "arms read text only"),
        ({"tools": [TOOL]}, "this arm knows no tools; serve it with 'transport: server'"),
        ({"messages": [{"role": "tool", "tool_call_id": "c1", "content": "3"}]}, "this arm knows no tools"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(fields: dict[str, Any], sentence: str) -> None:
    async def work(client: Client, job: Job) -> None:
        with pytest.raises(openai.BadRequestError, match=sentence):
            await ask(client, **fields)
        (call,) = job.calls
        assert call.completion is None
        assert call.error is not None
        assert sentence in call.error

    serve(Arm(lambda messages, sampling: SAID), work)


def test_a_refused_prompt_is_not_asked_again() -> None:
    def script(messages: Sequence[Message], sampling: Sampling) -> str:
        raise CompletionError("the context is full")

    async def work(client: Client, job: Job) -> None:
        with pytest.raises(openai.BadRequestError, match="the context is full"):
            await ask(client)
        assert [call.error for call in job.calls] == ["the context is full"]

    serve(Arm(script), work, max_retries=2)


def test_a_passing_failure_is_asked_again_by_the_client() -> None:
    answers = [TransientError("busy"), "14"]

    def script(messages: Sequence[Message], sampling: Sampling) -> str:
        answer = answers.pop(0)
        if isinstance(answer, TransientError):
            raise answer
        return str(answer)

    async def work(client: Client, job: Job) -> None:
        assert (await ask(client)).choices[0].message.content == "14"
        assert [call.error for call in job.calls] == ["busy", None]

    serve(Arm(script), work, max_retries=1)


def test_a_dead_arm_is_told_once_and_not_asked_again() -> None:
    deaths: list[ArmDied] = []

    def script(messages: Sequence[Message], sampling: Sampling) -> str:
        raise ArmDied("arm 'arm': the engine died")

    async def work(client: Client, job: Job) -> None:
        job.on_death = deaths.append
        with pytest.raises(openai.InternalServerError, match="the engine died") as caught:
            await ask(client)
        assert caught.value.status_code == 503
        await asyncio.sleep(0)

    serve(Arm(script), work, max_retries=2)
    assert [str(death) for death in deaths] == ["arm 'arm': the engine died"]


def test_a_bug_of_a_script_is_an_answer_too() -> None:
    async def work(client: Client, job: Job) -> None:
        with pytest.raises(openai.BadRequestError, match="the script raised ZeroDivisionError"):
            await ask(client)

    serve(Arm(lambda messages, sampling: str(1 / 0)), work)


def test_tools_are_passed_to_an_arm_with_a_server_of_its_own() -> None:
    arm = Server(lambda messages, sampling: SAID)

    async def work(client: Client, job: Job) -> None:
        turns = [{"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "c1", "content": "3"}]
        messages = [{"role": "user", "content": "add"}, *turns]
        answer = await ask(client, tools=[TOOL], messages=messages, temperature=0.5)
        assert answer.choices[0].message.tool_calls[0].function.arguments == '{"a": 1}'
        assert answer.choices[0].finish_reason == "tool_calls"
        assert arm.body["messages"] == messages
        assert arm.body["tools"] == [TOOL]
        called = json.dumps(CALL["function"])
        assert [message.content for message in job.calls[0].messages] == ["add", called, "3"]
        assert job.calls[0].completion == Completion(text="", finish_reason="tool_calls", prompt_tokens=3, completion_tokens=5)
        streamed = [piece async for piece in await ask(client, tools=[TOOL], stream=True)]
        assert streamed[0].choices[0].delta.tool_calls[0].function.name == "add"

    serve(arm, work)


@pytest.mark.parametrize("servers", [1, 2])
def test_tools_through_an_arm_that_is_a_server_elsewhere(servers: int) -> None:
    """The client asks a gateway, the arm behind it another one that stands for the server."""
    far = Server(lambda messages, sampling: SAID)

    async def all_of_it() -> None:
        with Gateway() as one, Gateway() as two, one.open(Job.of(far, Sampling())), two.open(Job.of(far, Sampling())):
            urls = (one.base_url, two.base_url)[:servers]
            config = ArmConfig(name="far", base_urls=urls)
            async with open_arm(config, EngineConfig(), Path("none")) as arm:
                with Gateway() as gateway, gateway.open(Job.of(arm, DEFAULT)) as job:
                    async with openai.AsyncOpenAI(base_url=gateway.base_url, api_key="none", max_retries=0) as client:
                        answer = await ask(client, tools=[TOOL], temperature=0.5, stream=False)
                assert answer.choices[0].message.tool_calls[0].function.name == "add"
                assert job.calls[0].completion is not None
                assert job.calls[0].completion.completion_tokens == 5
                drawn = {name: far.body[name] for name in ("temperature", "max_tokens", "seed", "top_p")}
                assert drawn == {"temperature": 0.5, "max_tokens": 32, "seed": 9, "top_p": 1.0}
                assert far.body["tools"] == [TOOL]

    asyncio.run(all_of_it())


def test_the_models_and_nothing_else() -> None:
    async def work(client: Client, job: Job) -> None:
        assert [model.id async for model in client.models.list()] == ["arm"]
        assert (await client.models.retrieve("arm")).id == "arm"
        with pytest.raises(openai.NotFoundError, match="no /v1/embeddings here: the gateway answers /v1/chat/completions"):
            await client.embeddings.create(model="any", input="x")
        with pytest.raises(openai.NotFoundError, match="no /v1/files here"):
            await client.files.list()

    serve(Arm(lambda messages, sampling: SAID), work)


@pytest.mark.parametrize("content", [b"{", b"[]", b"", b"\xff\xfe", b'{"messages": 3}'])
def test_a_broken_body_is_an_error_in_openai_s_form(content: bytes) -> None:
    async def work(client: Client, job: Job) -> None:
        async with httpx.AsyncClient() as web:
            answer = await web.post(f"{client.base_url}chat/completions", content=content)
        assert answer.status_code == 400
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert answer.json()["error"]["type"] == "invalid_request_error"
        assert [call.error for call in job.calls] == [answer.json()["error"]["message"]]

    serve(Arm(lambda messages, sampling: SAID), work)


@pytest.mark.parametrize("length", [None, "-1", "many", "99999999999"])
def test_a_body_of_unknown_or_absurd_length_is_not_read(length: str | None) -> None:
    with Gateway() as gateway:
        connection = http.client.HTTPConnection(*gateway.netloc, timeout=10)
        connection.putrequest("POST", "/v1/chat/completions")
        if length is not None:
            connection.putheader("Content-Length", length)
        connection.endheaders()
        answer = connection.getresponse()
        assert answer.status == 411
        assert "a request needs a Content-Length of up to 67,108,864 bytes" in json.loads(answer.read())["error"]["message"]
        connection.close()


def test_without_a_task_nobody_answers() -> None:
    with Gateway() as gateway:
        client = openai.OpenAI(base_url=gateway.base_url, api_key="none")
        with pytest.raises(openai.InternalServerError, match="no task is running"):
            client.chat.completions.create(model="any", messages=[{"role": "user", "content": "x"}])
        assert client.models.list().data[0].id == "qtrap"
        client.close()


def test_jobs_do_not_mix_and_strays_are_counted_on_all_that_are_open() -> None:
    async def all_of_it() -> None:
        arm = Arm(lambda messages, sampling: messages[-1].content)
        with Gateway() as gateway, gateway.open(Job.of(arm, DEFAULT)) as one, gateway.open(Job.of(arm, DEFAULT)) as other:
            async with openai.AsyncOpenAI(base_url=gateway.base_url, api_key="none", max_retries=0) as client:

                async def asked(job: Job, number: int) -> str:
                    headers = {JOB_HEADER: job.token, PLACE_HEADER: "a%3A1%7Cb%C3%A9%3A2"}
                    answer = await ask(client, extra_headers=headers, messages=[{"role": "user", "content": f"{number}"}])
                    return str(answer.choices[0].message.content)

                found = await asyncio.gather(*(asked((one, other)[number % 2], number) for number in range(60)))
                assert found == [str(number) for number in range(60)]
                for job, rest in ((one, 0), (other, 1)):
                    assert sorted(int(call.messages[0].content) for call in job.calls) == list(range(rest, 60, 2))
                    assert {call.place for call in job.calls} == {"a:1|bé:2"}
                assert (await ask(client)).choices[0].message.content == "6 + 8 ="
                assert (one.strays, other.strays) == (1, 1)
                assert len(one.calls) == len(other.calls) == 30
                with pytest.raises(openai.InternalServerError, match="the task of this call is over"):
                    await ask(client, extra_headers={JOB_HEADER: "no such job"})

    asyncio.run(all_of_it())


@pytest.mark.parametrize("delay_s", [0, 0.2])
def test_a_call_that_outlives_its_task_is_cancelled(delay_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the task ends while the thread of the call still hands its work over."""
    hand_over = asyncio.run_coroutine_threadsafe

    def slowly(*arguments: Any) -> Any:
        future = hand_over(*arguments)
        time.sleep(delay_s)
        return future

    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", slowly)
    cancelled: list[bool] = []
    begun = asyncio.Event()

    async def script(messages: Sequence[Message], sampling: Sampling) -> str:
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise
        return "late"

    async def all_of_it() -> None:
        with Gateway() as gateway:
            async with openai.AsyncOpenAI(base_url=gateway.base_url, api_key="none", max_retries=0) as client:
                with gateway.open(Job.of(Arm(script), DEFAULT)) as job:
                    asked = asyncio.ensure_future(ask(client))
                    await begun.wait()
                with pytest.raises(openai.InternalServerError, match="the task of this call is over"):
                    await asked
        assert [call.error for call in job.calls] == ["the task of this call is over"]

    asyncio.run(all_of_it())
    assert cancelled == [True]
