"""A stream that is cut and continued is, for the client, the stream that was not.

Chunk boundaries are not compared: vLLM merges deltas when the front end lags.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from tests.engine.chat_bodies import chat
from tests.engine.resume_cases import CASES, ELSEWHERE, MULTI_BYTE, SCHEMA, USAGE, Case, assembled_messages
from tests.engine.waiting import until
from tests.recording_sink import RecordingSink, submit

from inferbus.contracts.step import Resume
from inferbus.errors import ResumeImpossible
from inferbus.worker.tasks import CHAT, COMPLETIONS, EMBEDDINGS, MESSAGES
from inferbus_llm_worker.adapters.vllm.engine import VllmEngine

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.slow]

CREATED = 1_700_000_123
keys = itertools.count()


class Cut(msgspec.Struct, frozen=True):
    """One unbroken stream and how many of its deltas were delivered."""

    body: dict[str, Any]
    unbroken: RecordingSink
    deltas: int


async def stream(engine: VllmEngine, body: dict[str, Any], path: str, resume: Resume | None = None) -> RecordingSink:
    sink = await submit(engine, body, request_id="r", key=f"r{next(keys)}", created=CREATED, path=path, resume=resume)
    assert (await sink.finish()).status == 200
    return sink


async def streams(engine: VllmEngine, bodies: Sequence[dict[str, Any]], path: str) -> list[RecordingSink]:
    return await asyncio.gather(*(stream(engine, body, path) for body in bodies))


def cuts_of(count: int, case: Case) -> set[int]:
    """Cut after the first delta, in the middle, before the last, and after it; or everywhere."""
    return set(range(1, count + 1)) if case.everywhere else {1, count // 3, count * 2 // 3, count - 1, count} - {0}


async def cut_streams(engine: VllmEngine, case: Case) -> list[Cut]:
    bodies = case.bodies()
    whole = await streams(engine, bodies, case.path)
    pairs = zip(bodies, whole, strict=True)
    return [Cut(body, sink, count) for body, sink in pairs for count in cuts_of(len(sink.deltas), case)]


async def check(engine: VllmEngine, cut: Cut, path: str) -> None:
    """Continue one cut stream and compare it with the unbroken one."""
    unbroken, deltas = cut.unbroken, cut.deltas
    resume = unbroken.resume_after(deltas, created=CREATED, fingerprint=engine.fingerprint)
    resumed = await stream(engine, cut.body, path, resume)
    where = f"after {deltas} of {len(unbroken.deltas)} deltas of {cut.body}"
    if deltas == len(unbroken.deltas):
        assert resumed.deltas == [], where
    head = b"".join(data for _, data in unbroken.deltas[:deltas])
    assert assembled(head + resumed.data, path) == assembled(unbroken.data, path), where
    assert ids_of(unbroken, deltas) + ids_of(resumed) == ids_of(unbroken), where
    assert sorted(resume.done + resumed.done) == sorted(unbroken.done), where
    assert (await resumed.finish()).usage == (await unbroken.finish()).usage, where


class ByChoice(dict[int, list[int]]):
    def __add__(self, other: ByChoice) -> ByChoice:
        return ByChoice({key: self.get(key, []) + other.get(key, []) for key in self.keys() | other.keys()})


def ids_of(sink: RecordingSink, last: int | None = None) -> ByChoice:
    found = ByChoice()
    for ids, _ in sink.deltas[:last]:
        found += ByChoice(dict(ids))
    return found


def assembled(data: bytes, path: str) -> Any:
    return assembled_messages(data) if path == MESSAGES else assembled_chat(data)


def assembled_chat(data: bytes) -> dict[str, Any]:
    """Put a stream together as a client does; of log probabilities the tokens, of usage all of it."""
    choices: dict[int, dict[str, Any]] = {}
    rest: list[Any] = []
    for line in data.decode().split("\n\n"):
        if not line.startswith("data: {"):
            rest.append(line)
            continue
        event = msgspec.json.decode(line[6:])
        if not event["choices"]:
            rest.append(event)
        for choice in event["choices"]:
            add(
                choices.setdefault(
                    choice["index"], {"text": "", "reasoning": "", "role": "", "tools": {}, "tokens": []}
                ),
                choice,
            )
            assert event["created"] == CREATED
    return {"choices": choices, "rest": rest}


def add(whole: dict[str, Any], choice: dict[str, Any]) -> None:
    delta = choice.get("delta") or {}
    whole["text"] += (delta.get("content") or "") + (choice.get("text") or "")
    whole["reasoning"] += delta.get("reasoning") or ""
    whole["role"] += delta.get("role") or ""
    for call in delta.get("tool_calls") or ():
        tool = whole["tools"].setdefault(call["index"], {"ids": 0, "name": "", "arguments": ""})
        tool["ids"] += call.get("id") is not None
        tool["name"] += call["function"].get("name") or ""
        tool["arguments"] += call["function"].get("arguments") or ""
    logprobs = choice.get("logprobs") or {}
    whole["tokens"] += [(token["token"], token["bytes"]) for token in logprobs.get("content") or ()]
    whole["tokens"] += zip(logprobs.get("tokens") or (), logprobs.get("text_offset") or (), strict=True)
    if choice["finish_reason"]:
        whole["end"] = choice["finish_reason"], choice.get("stop_reason")


@pytest.mark.parametrize("name", CASES)
async def test_goes_on_exactly_where_it_was_cut(engine: VllmEngine, name: str) -> None:
    case = CASES[name]
    cuts = await cut_streams(engine, case)
    if case.plain:  # half of them went past vLLM's own layer
        direct = engine.direct_served
        await asyncio.gather(*(check(engine, cut, case.path) for cut in cuts))
        assert 2 * (engine.direct_served - direct) == len(cuts)
    else:
        await asyncio.gather(*(check(engine, cut, case.path) for cut in cuts))
    await until(lambda: engine.unfinished == 0)


@pytest.mark.parametrize("name", ["seeded", "three choices, some ended", "tools required", "json_schema, seeded"])
async def test_a_continued_stream_is_cut_again(engine: VllmEngine, name: str) -> None:
    case = CASES[name]
    for body in case.bodies():
        whole = await stream(engine, body, case.path)
        third = len(whole.deltas) // 3
        resume = whole.resume_after(third, created=CREATED)
        second = await stream(engine, body, case.path, resume)
        more = len(second.deltas) // 2
        both = whole.followed_by(second, third, more)
        last = await stream(engine, body, case.path, both.resume_after(len(both.deltas), created=CREATED))
        assert assembled(both.data + last.data, case.path) == assembled(whole.data, case.path)
        assert ids_of(both) + ids_of(last) == ids_of(whole)
        assert (await last.finish()).usage == (await whole.finish()).usage


async def test_the_cases_cut_where_it_hurts(engine: VllmEngine) -> None:
    ended = await cut_streams(engine, CASES["three choices, some ended"])
    assert any(
        {index for index, *_ in cut.unbroken.resume_after(cut.deltas).done} in ({0}, {1}, {2}, {0, 1}, {0, 2}, {1, 2})
        for cut in ended
    )
    for name, reason in (("stop strings", "stop"), ("natural end, min_tokens", "stop"), ("tools auto", "stop")):
        cuts = await cut_streams(engine, CASES[name])
        assert any(done[1] == reason for cut in cuts for done in cut.unbroken.done), name
    tools = await cut_streams(engine, CASES["tools auto"])
    inside = [assembled(b"".join(data for _, data in cut.unbroken.deltas[: cut.deltas]), CHAT) for cut in tools]
    assert any(0 < len(tool["arguments"]) < 20 for seen in inside for tool in seen["choices"][0]["tools"].values())


async def test_a_character_of_several_bytes_is_cut_everywhere(engine: VllmEngine) -> None:
    for more in ({}, {"logprobs": True}):
        body = chat("Say it.", stream=True, max_tokens=200, structured_outputs={"choice": [MULTI_BYTE]}) | USAGE | more
        whole = await stream(engine, body, CHAT)
        assert assembled(whole.data, CHAT)["choices"][0]["text"] == MULTI_BYTE
        assert len(whole.deltas) > 40
        cuts = [Cut(body, whole, deltas) for deltas in range(1, len(whole.deltas) + 1)]
        await asyncio.gather(*(check(engine, cut, CHAT) for cut in cuts))


async def test_unseeded_sampling_goes_on_validly(engine: VllmEngine) -> None:
    body = chat("Explain Thread.", stream=True, temperature=1, ignore_eos=True, max_tokens=40) | USAGE
    for more in ({}, {"echo": False}):
        whole = await stream(engine, body | more, CHAT)
        resume = whole.resume_after(12, created=CREATED)
        resumed = await stream(engine, body | more, CHAT, resume)
        assert (await resumed.finish()).usage == (await whole.finish()).usage
        assert sum(len(ids) for ids in ids_of(resumed).values()) == 40 - sum(len(ids) for _, ids in resume.ids)


@pytest.mark.timeout(300)
async def test_another_engine_process_goes_on(engine: VllmEngine) -> None:
    cut = [(name, await cut_streams(engine, CASES[name])) for name in ELSEWHERE]
    fingerprint = engine.fingerprint
    await engine.stop()
    await engine.start()
    assert engine.fingerprint == fingerprint
    for name, cuts in cut:
        await asyncio.gather(*(check(engine, one, CASES[name].path) for one in cuts))
    await until(lambda: engine.unfinished == 0)


BODY = chat("Explain Thread.", stream=True, ignore_eos=True) | USAGE
SOME = Resume(ids=[(0, [300, 301, 302])], chunks=[[1, 2]])


@pytest.mark.parametrize(
    ("path", "body", "change"),
    [
        (CHAT, {}, {"fingerprint": "vllm-0.1-cpu-0000"}),
        (CHAT, {"echo": False}, {"fingerprint": "vllm-0.1-cpu-0000"}),
        (CHAT, {}, {"chunks": [[1, 1]]}),
        (CHAT, {}, {"ids": [(0, [300, 1 << 30, 302])]}),
        (CHAT, {}, {"ids": [(0, [300] * 2048)], "chunks": [[1] * 2048]}),
        (CHAT, {"echo": False}, {"ids": [(0, [300] * 2048)], "chunks": [[1] * 2048]}),
        (CHAT, {"stream": False}, {}),
        (CHAT, {"use_beam_search": True}, {}),
        (CHAT, SCHEMA, {}),
        (COMPLETIONS, {"prompt": ["one", "two"]}, {}),
        (EMBEDDINGS, {"input": "x"}, {}),
        ("/v1/responses", {"input": "x"}, {}),
    ],
)
async def test_what_cannot_go_on_exactly_is_refused_alone(
    engine: VllmEngine, path: str, body: dict[str, Any], change: dict[str, Any]
) -> None:
    beside = [BODY, BODY | {"echo": False}, BODY | SCHEMA]
    alone = await streams(engine, beside, CHAT)
    resume = msgspec.structs.replace(SOME, **change)
    sink = await submit(engine, BODY | body, request_id="refused", path=path, resume=resume)
    together = await streams(engine, beside, CHAT)
    end = await sink.ended()
    assert isinstance(end, ResumeImpossible), end
    assert sink.deltas == []
    assert [assembled(one.data, CHAT)["choices"] for one in together] == [
        assembled(one.data, CHAT)["choices"] for one in alone
    ]
    await until(lambda: engine.unfinished == 0)


async def test_a_client_cannot_begin_in_the_middle(engine: VllmEngine) -> None:
    xargs = {"resume_ids": [300, 301], "resume_plan": "x", "resume_ids_0": [300]}
    for more in ({}, {"kv_transfer_params": {"resume_ids": [300]}}):
        asked = await stream(engine, BODY | {"vllm_xargs": xargs} | more, CHAT)
        assert ids_of(asked) == ids_of(await stream(engine, BODY, CHAT))


async def test_ordinary_requests_beside_resumes_are_as_ever(engine: VllmEngine) -> None:
    body = chat("Describe open.", stream=True, temperature=1, seed=8, n=2, presence_penalty=0.5) | USAGE
    bodies = [body, body | {"echo": False}]
    alone = await streams(engine, bodies, CHAT)
    cuts = await cut_streams(engine, CASES["seeded"])
    together, *_ = await asyncio.gather(
        streams(engine, bodies, CHAT), *(check(engine, cut, CHAT) for cut in cuts)
    )  # fmt: skip
    assert [ids_of(sink) for sink in together] == [ids_of(sink) for sink in alone]


async def test_a_long_replay_lets_others_run(engine: VllmEngine) -> None:
    body = chat("Explain Thread.", stream=True, ignore_eos=True, max_tokens=1000, echo=False) | USAGE
    whole = await stream(engine, body, CHAT)
    loop = asyncio.get_running_loop()
    stalls = [0.0]

    async def watch() -> None:
        before = loop.time()
        while True:
            await asyncio.sleep(0)
            now = loop.time()
            stalls.append(now - before)
            before = now

    watching = asyncio.create_task(watch())
    await check(engine, Cut(body, whole, len(whole.deltas) - 2), CHAT)
    watching.cancel()
    print(f"longest stall while {len(whole.deltas)} deltas were replayed: {max(stalls) * 1000:.0f} ms")
    assert max(stalls) < 0.2


async def test_an_aborted_resume_leaves_nothing_behind(engine: VllmEngine) -> None:
    body = BODY | {"n": 3, "temperature": 1, "seed": 1, "max_tokens": 1000}
    for more in ({}, {"echo": False}):
        resume = Resume(
            ids=[(0, [300]), (1, [301, 302])], chunks=[[1], [1, 1]], done=[(1, "length", None)], created=CREATED
        )
        sink = await submit(engine, body | more, request_id="abort", resume=resume)
        await sink.until_deltas(3)
        engine.abort("abort")
        await sink.ended()
        await until(lambda: engine.unfinished == 0)
