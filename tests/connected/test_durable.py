"""Durable requests over real processes: whatever dies, the events a client has joined are those of an unbroken answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.main_path import HELLO, MODEL, MainPath, answer_of

import inferbus
from inferbus import routes, testing
from inferbus.contracts import door
from inferbus.errors import InferbusError, NotFound, Unsupported
from inferbus.topology.configs import TopologySettings

ITL_S = 0.02
PATIENCE_S = 20.0
CHAT = "/v1/chat/completions"


async def eventually(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Wait as long as a loaded machine may need."""
    await testing.eventually(condition, within_s=PATIENCE_S)


class Reader:
    """A client of one durable stream that notes every event, and can leave and come back."""

    def __init__(self, path: MainPath, url: str) -> None:
        self._key = path.key
        self.url = url
        self.ids: list[str] = []
        self.data: list[str] = []
        self.request_id = ""
        self.ended = False
        self.error = ""

    @property
    def headers(self) -> dict[str, str]:
        headers = {"Authorization": f"Bearer {self._key}"}
        return headers | ({"Last-Event-ID": self.ids[-1]} if self.ids else {})

    @property
    def text(self) -> str:
        chunks = [json.loads(data) for data in self.data if data != "[DONE]"]
        return "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])

    async def begin(self, tokens: int, *, leave_after: int = 0, **headers: str) -> None:
        """Ask; read to the end, or leave after so many events."""
        await self._read("POST", CHAT, leave_after, body(tokens), headers | {"X-Inferbus-Durable": "true"})

    async def go_on(self, url: str = "", *, leave_after: int = 0) -> None:
        """Come back, to another gateway perhaps."""
        self.url = url or self.url
        await self._read("GET", f"/v1/requests/{self.request_id}/events", leave_after)

    async def until_ended(self, urls: list[str]) -> None:
        """Come back again and again until the stream has ended."""
        async with asyncio.timeout(30):
            while not self.ended:
                urls = urls[1:] + urls[:1]
                try:
                    await self.go_on(urls[0])
                except httpx.HTTPError:
                    await asyncio.sleep(0.1)

    async def _read(
        self, method: str, path: str, leave_after: int, content: bytes = b"", headers: dict[str, str] | None = None
    ) -> None:
        async with (
            httpx.AsyncClient(base_url=self.url, timeout=30) as client,
            client.stream(method, path, content=content, headers=self.headers | (headers or {})) as response,
        ):
            self.request_id = response.headers["x-request-id"]
            if response.status_code != 200:
                self.error = (await response.aread()).decode()
                raise AssertionError(self.error)
            count = 0
            async for line in response.aiter_lines():
                self._note(line)
                count += line == ""
                if leave_after and len(self.data) >= leave_after and line == "":
                    return
        assert self.data
        assert self.data[-1] == "[DONE]"
        self.ended = True

    def _note(self, line: str) -> None:
        kind, _, value = line.partition(": ")
        if kind == "id":
            assert value not in self.ids, f"{value} came twice"
            self.ids.append(value)
        elif kind == "data":
            self.data.append(value)
        elif kind == "event":
            self.error = value


def body(tokens: int, *, stream: bool = True, **options: Any) -> bytes:
    return json.dumps({"model": MODEL, "messages": HELLO, "max_tokens": tokens, "stream": stream} | options).encode()


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[MainPath]:
    async with MainPath(tmp_path) as path:
        yield path


async def ask_whole(path: MainPath, url: str, tokens: int, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        auth = {"Authorization": f"Bearer {path.key}"}
        return await client.post(CHAT, content=body(tokens, stream=False), headers=auth | headers)


async def look(path: MainPath, url: str, request_id: str, key: str = "") -> httpx.Response:
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        return await client.get(f"/v1/requests/{request_id}", headers={"Authorization": f"Bearer {key or path.key}"})


async def ran_once(path: MainPath) -> None:
    """Wait until an attempt is counted, which is after its answer was sent; then there was no other."""

    def attempts() -> float:
        try:
            return path.figure("llm-0", "inferbus_worker_requests_total")
        except LookupError:
            return 0

    await eventually(lambda: attempts() > 0)
    await path.settled()
    assert attempts() == 1


class TestStreams:
    async def test_a_stream_carries_ids_and_is_what_an_ordinary_one_says(self, path: MainPath) -> None:
        await path.worker(simulator_itl_s=0.001)
        await path.gateway()
        reader = Reader(path, path.url)
        await reader.begin(40)
        assert reader.text == answer_of(40)
        assert len(reader.ids) == len(reader.data)
        found = (await look(path, path.url, reader.request_id)).json()
        assert (found["status"], found["usage"]["completion_tokens"]) == ("completed", 40)
        await path.settled()

    async def test_who_left_and_comes_back_to_another_gateway_gets_exactly_the_rest(self, path: MainPath) -> None:
        await path.worker(simulator_itl_s=ITL_S)
        await path.gateway()
        other = await path.other_gateway()
        reader = Reader(path, path.url)
        await reader.begin(60, leave_after=7)
        await reader.go_on(other, leave_after=20)
        await reader.go_on(path.url)
        assert reader.text == answer_of(60)
        again = Reader(path, path.url)
        again.request_id = reader.request_id
        await again.go_on(other)
        assert (again.data, again.ids) == (reader.data, reader.ids)

    async def test_the_gateway_is_killed(self, path: MainPath) -> None:
        await path.worker(simulator_itl_s=ITL_S)
        gateway = await path.gateway()
        other = await path.other_gateway()
        readers = [Reader(path, path.url) for _ in range(8)]
        tasks = [asyncio.create_task(reader.begin(80)) for reader in readers]
        await eventually(lambda: all(len(reader.data) > 5 for reader in readers))
        await gateway.kill()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert not any(reader.ended for reader in readers)
        await asyncio.gather(*(reader.until_ended([other]) for reader in readers))
        assert [reader.text for reader in readers] == [answer_of(80)] * 8
        await eventually(lambda: _is(path.stored(), 0))

    async def test_the_worker_is_killed(self, path: MainPath) -> None:
        victim = await path.worker(simulator_itl_s=ITL_S)
        await path.gateway()
        readers = [Reader(path, path.url) for _ in range(4)]
        tasks = [asyncio.create_task(reader.begin(80)) for reader in readers]
        await eventually(lambda: all(len(reader.data) > 5 for reader in readers))
        await path.worker("llm-1", simulator_itl_s=ITL_S)
        await victim.kill()
        await asyncio.gather(*tasks)
        assert [reader.text for reader in readers] == [answer_of(80)] * 4
        await eventually(lambda: _is(path.stored(), 0))

    async def test_its_gateway_and_its_worker_are_killed(self, path: MainPath) -> None:
        victim = await path.worker(simulator_itl_s=ITL_S)
        gateway = await path.gateway()
        other = await path.other_gateway()
        reader = Reader(path, path.url)
        await reader.begin(100, leave_after=10)
        await path.worker("llm-1", simulator_itl_s=ITL_S)
        await asyncio.gather(gateway.kill(), victim.kill())
        async with asyncio.timeout(17):  # before the lease of 20 s runs out
            await reader.until_ended([other])
        assert reader.text == answer_of(100)
        await eventually(lambda: _is(path.stored(), 0))

    @pytest.mark.parametrize("storage", ["file", "memory"])
    async def test_the_server_is_killed(self, path: MainPath, storage: str) -> None:
        if storage == "memory":  # it forgets the deltas
            await path.store_deltas_in_memory()
        await path.worker(simulator_itl_s=ITL_S)
        await path.gateway()
        async with path.topology(TopologySettings(deltas_storage=storage)):
            readers = [Reader(path, path.url) for _ in range(4)]
            tasks = [asyncio.create_task(reader.begin(150)) for reader in readers]
            await eventually(lambda: all(len(reader.data) > 20 for reader in readers))
            await path.nats.restart()
            await asyncio.gather(*tasks)
            assert [reader.text for reader in readers] == [answer_of(150)] * 4
            late = Reader(path, path.url)
            late.request_id = readers[0].request_id
            await late.go_on()
            assert (late.data, late.ids) == (readers[0].data, readers[0].ids)

    async def test_everything_but_the_worker_is_killed(self, path: MainPath) -> None:
        await path.worker(simulator_itl_s=ITL_S)
        gateway = await path.gateway()
        async with path.topology():
            reader = Reader(path, path.url)
            task = asyncio.create_task(reader.begin(150))
            await eventually(lambda: len(reader.data) > 10)
            await asyncio.gather(gateway.kill(), path.nats.restart())
            await asyncio.gather(task, return_exceptions=True)
            other = await path.other_gateway()
            await reader.until_ended([other])
        assert reader.text == answer_of(150)

    async def test_the_openai_client_reads_it_as_any_other_stream(self, path: MainPath) -> None:
        await path.worker()
        await path.gateway()
        async with path.client() as client:
            answer = await client.chat.completions.create(
                model=MODEL,
                messages=HELLO,  # type: ignore[arg-type]  # plain dicts are what they are
                max_tokens=30,
                stream=True,
                extra_headers={"X-Inferbus-Durable": "true"},
            )
            text = "".join([choice.delta.content or "" async for chunk in answer for choice in chunk.choices])
        assert text == answer_of(30)

    async def test_the_same_post_with_the_last_event_id_goes_on(self, path: MainPath) -> None:
        await path.worker(simulator_itl_s=ITL_S)
        await path.gateway()
        other = await path.other_gateway()
        reader = Reader(path, path.url)
        key = {"Idempotency-Key": "k1"}
        await reader.begin(60, leave_after=9, **key)
        first, reader.url = reader.request_id, other
        await reader.begin(60, **key)
        assert reader.text == answer_of(60)
        assert reader.request_id == first
        await ran_once(path)


class TestIdempotency:
    async def test_two_at_once_at_two_gateways_are_one_run_and_get_the_same_bytes(self, path: MainPath) -> None:
        await path.worker(simulator_itl_s=0.005)
        await path.gateway()
        other = await path.other_gateway()
        key = {"Idempotency-Key": "k1"}
        answers = await asyncio.gather(*(ask_whole(path, url, 20, **key) for url in [path.url, other] * 4))
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.content for answer in answers}) == 1
        assert [answer.headers.get("x-inferbus-replayed") for answer in answers].count("true") == 7
        again = await ask_whole(path, other, 20, **key)
        assert (again.content, again.headers["x-inferbus-replayed"]) == (answers[0].content, "true")
        await ran_once(path)

    async def test_another_body_under_the_same_key_is_a_conflict(self, path: MainPath) -> None:
        await path.worker()
        await path.gateway()
        key = {"Idempotency-Key": "k1"}
        assert (await ask_whole(path, path.url, 5, **key)).status_code == 200
        refused = await ask_whole(path, path.url, 6, **key)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
        assert "x-inferbus-replayed" not in refused.headers
        named = {"X-Request-Id": "r1", "X-Inferbus-Durable": "true"}
        assert (await ask_whole(path, path.url, 5, **named)).status_code == 200
        assert (await ask_whole(path, path.url, 6, **named)).status_code == 409

    async def test_what_failed_for_reasons_of_the_moment_may_be_tried_again(self, path: MainPath) -> None:
        await path.gateway()
        key = {"Idempotency-Key": "k1"}
        late = await ask_whole(path, path.url, 5, **key, **{"X-Inferbus-Deadline-Ms": "300"})
        assert (late.status_code, late.json()["error"]["code"]) == (503, "deadline_queued")
        await path.worker()
        answer = await ask_whole(path, path.url, 5, **key)
        assert answer.status_code == 200
        assert answer.headers["x-request-id"] != late.headers["x-request-id"]

    async def test_a_refused_request_leaves_its_key_free(self, path: MainPath) -> None:
        await path.gateway()
        async with httpx.AsyncClient(base_url=path.url) as client:
            headers = {"Authorization": f"Bearer {path.key}", "Idempotency-Key": "k1"}
            wrong = body(5, stream=False).replace(MODEL.encode(), b"nothing")
            assert (await client.post(CHAT, content=wrong, headers=headers)).status_code == 404
        await path.worker()
        assert (await ask_whole(path, path.url, 5, **{"Idempotency-Key": "k1"})).status_code == 200


class TestById:
    async def test_another_tenant_finds_nothing(self, path: MainPath) -> None:
        await path.worker(simulator_itl_s=ITL_S)
        await path.gateway()
        stranger = await path.key_of("other")
        reader = Reader(path, path.url)
        await reader.begin(100, leave_after=3)
        assert (await look(path, path.url, reader.request_id)).json()["status"] == "running"
        await eventually(lambda: _status(look(path, path.url, reader.request_id, stranger), 404))
        spy = Reader(path, path.url)
        spy.request_id = reader.request_id
        spy._key = stranger
        with pytest.raises(AssertionError, match="not_found"):
            await spy.go_on()

    async def test_an_answer_that_is_not_streamed_is_found_by_id(self, path: MainPath) -> None:
        await path.worker()
        await path.gateway()
        other = await path.other_gateway()
        answer = await ask_whole(path, path.url, 8, **{"X-Inferbus-Durable": "true"})
        found = (await look(path, other, answer.headers["x-request-id"])).json()
        assert found["answer"] == answer.json()
        assert (found["status"], found["http_status"], found["streamed"]) == ("completed", 200, False)

    async def test_it_waits_runs_and_ends_without_its_client(self, path: MainPath) -> None:
        await path.gateway()
        async with httpx.AsyncClient(base_url=path.url, timeout=httpx.Timeout(30, read=2.0)) as client:
            headers = {"Authorization": f"Bearer {path.key}", "X-Request-Id": "r1", "X-Inferbus-Durable": "true"}
            with pytest.raises(httpx.ReadTimeout):
                await client.post(CHAT, content=body(30, stream=False), headers=headers)
        assert (await look(path, path.url, "r1")).json()["status"] == "queued"
        await path.worker(simulator_itl_s=ITL_S)
        await eventually(lambda: _state(path, "r1", "completed"))
        assert (await look(path, path.url, "nobody")).status_code == 404

    async def test_a_request_whose_gateway_is_gone_is_cancelled_while_it_runs(self, path: MainPath) -> None:
        await path.worker(simulator_itl_s=ITL_S)
        gateway = await path.gateway()
        reader = Reader(path, path.url)
        await reader.begin(5000, leave_after=10)
        await gateway.kill()
        other = await path.other_gateway()
        async with httpx.AsyncClient(base_url=other, headers={"Authorization": f"Bearer {path.key}"}) as client:
            assert (await client.post(f"/v1/requests/{reader.request_id}/cancel")).json()["status"] == "cancelled"
            found = (await client.get(f"/v1/requests/{reader.request_id}")).json()
        assert found["status"] == "cancelled"
        assert 10 <= found["usage"]["completion_tokens"] < 5000
        await eventually(lambda: path.figure("llm-0", "inferbus_worker_running") == 0)
        await eventually(lambda: _is(path.stored(), 0))

    async def test_a_request_whose_gateway_is_gone_is_cancelled_while_it_waits(self, path: MainPath) -> None:
        gateway = await path.gateway()
        reader = Reader(path, path.url)
        asking = asyncio.create_task(reader.begin(5, **{"X-Request-Id": "r1"}))
        await eventually(lambda: reader.request_id == "r1")  # its stream has begun, with a comment
        await gateway.kill()
        await asyncio.gather(asking, return_exceptions=True)
        other = await path.other_gateway()
        async with path.producer() as producer:
            await producer.cancel("r1")
        path.url = other
        await eventually(lambda: _state(path, "r1", "cancelled"))
        await path.worker()
        await eventually(lambda: _is(path.stored(), 0))
        assert path.figure("llm-0", "inferbus_worker_tokens_total") == 0

    async def test_the_deadline_counts_while_it_runs(self, path: MainPath) -> None:
        await path.worker(simulator_itl_s=ITL_S)
        await path.gateway()
        headers = {"X-Inferbus-Durable": "true", "X-Request-Id": "r1", "X-Inferbus-Deadline-Ms": "800"}
        answer = await ask_whole(path, path.url, 5000, **headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_running")
        found = (await look(path, path.url, "r1")).json()
        assert (found["status"], found["error"]["code"]) == ("failed", "deadline_running")
        await eventually(lambda: _is(path.stored(), 0))


async def _fetched(producer: inferbus.Client, request_id: str) -> bool:
    """Whether there is anything under an id yet."""
    try:
        await producer.result(request_id, timeout_s=5)
    except NotFound:
        return False
    except InferbusError:
        return True
    return True


async def _state(path: MainPath, request_id: str, wanted: str) -> bool:
    return bool((await look(path, path.url, request_id)).json()["status"] == wanted)


async def _status(asking: Any, wanted: int) -> bool:
    return bool((await asking).status_code == wanted)


async def _is(value: Any, wanted: object) -> bool:
    return bool(await value == wanted)


class TestProducers:
    async def test_a_producer_that_was_away_fetches_its_answer(self, path: MainPath) -> None:
        await path.worker(simulator_itl_s=ITL_S)
        gateway = await path.gateway()
        options: dict[str, Any] = {"request_id": "mine", "deliver": "results", "max_tokens": 60}
        async with path.producer() as producer:
            asking = asyncio.create_task(producer.chat(MODEL, HELLO, **options))
            await eventually(lambda: path.figure("llm-0", "inferbus_worker_running") == 1)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        await gateway.kill()
        await path.other_gateway()
        async with path.producer() as another:
            answer = await another.result("mine", timeout_s=20)
            assert answer["choices"][0]["message"]["content"] == answer_of(60)
            with pytest.raises(NotFound):
                await another.result("nobody's", timeout_s=5)

    async def test_a_streaming_producer_does_not_notice_that_its_gateway_dies(
        self, path: MainPath, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("inferbus.replies._SILENT_S", 4.0)
        await path.worker(simulator_itl_s=ITL_S)
        gateway = await path.gateway()
        words: list[str] = []
        async with path.producer() as producer:
            stream = producer.stream(MODEL, HELLO, deliver="results", max_tokens=80, request_id="s1")
            async for chunk in stream:
                words.append(chunk["choices"][0]["delta"].get("content", ""))
                if len(words) == 10:
                    await gateway.kill()
                    await path.other_gateway()
            assert "".join(words) == answer_of(80)
            events = [event async for event in producer.events("s1")]
            rest = [event async for event in producer.events("s1", after=events[49].id)]
        assert rest == events[50:]

    async def test_who_wants_no_reply_fetches_the_answer_or_why_there_is_none(self, path: MainPath) -> None:
        await path.worker()
        await path.gateway()
        bus = await path.nats.connect("dev")
        for request_id, tokens in (("good", 8), ("bad", -1)):
            content = body(tokens, stream=False)
            headers = {door.REQUEST_ID: request_id, door.DELIVERY: "results"}
            if request_id == "bad":
                headers[door.PATH] = "/v1/nothing"
            await bus.accept(routes.request("dev", MODEL, routes.INTERACTIVE), content, headers, msg_id=request_id)
        await bus.close()
        async with path.producer() as producer:
            await eventually(lambda: _fetched(producer, "good"))
            answer = await producer.result("good", timeout_s=10)
            assert answer["choices"][0]["message"]["content"] == answer_of(8)
            await eventually(lambda: _fetched(producer, "bad"))
            with pytest.raises(Unsupported):
                await producer.result("bad", timeout_s=10)

    async def test_the_same_idempotency_key_is_one_run(self, path: MainPath) -> None:
        await path.worker(simulator_itl_s=0.005)
        await path.gateway()
        async with path.producer() as one, path.producer() as other:
            asks = [
                producer.chat(MODEL, HELLO, idempotency_key="k", max_tokens=20)
                for producer in (one, other)
                for _ in range(3)
            ]
            answers = await asyncio.gather(*asks)
        assert all(answer == answers[0] for answer in answers)
        await ran_once(path)
