"""A mistake of each kind, and what its maker is told."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
from openai import AsyncOpenAI
from tests.dead_letters import DeadLetter, last_dead_letter, next_dead_letter
from tests.demos.show import Show
from tests.running_platform import CHAT, RunningPlatform

import inferbus
from inferbus import routes
from inferbus.bus import Bus
from inferbus.contracts.models import Limits, ModelEntry
from inferbus.errors import InferbusError
from inferbus.models import apply_model, remove_model
from inferbus.testing import eventually

QUESTION = [{"role": "user", "content": "Explain open."}]
WORK = routes.infer(region="local", runtime="llm", pool=CHAT, lane=routes.INTERACTIVE, bucket=0, tenant="dev")
REQUEST = routes.request("dev", CHAT, routes.INTERACTIVE)
SECOND = {"X-Inferbus-Deadline-Ms": "1000"}
RECOVERY_S = 120.0

Row = tuple[str, str, str, str]


async def by_http(show: Show, platform: RunningPlatform, client: AsyncOpenAI) -> None:
    show.section("Mistakes, and what the openai client raises")
    stranger = platform.async_openai(api_key="ib-0-0")
    cases: list[tuple[str, type[openai.APIStatusError], int, str, Awaitable[Any]]] = [
        ("malformed JSON", openai.BadRequestError, 400, "JSON", _raw(client, b'{"model": "inferbus-tiny",}')),
        ("a wrong type", openai.BadRequestError, 400, "max_tokens", _ask(client, max_tokens="many")),
        (
            "no model",
            openai.BadRequestError,
            400,
            "model",
            _raw(client, b'{"messages": [{"role": "user", "content": "x"}]}'),
        ),
        ("a wrong key", openai.AuthenticationError, 401, "key", _ask(stranger)),
        ("an unknown model", openai.NotFoundError, 404, "gpt-17", _ask(client, model="gpt-17")),
        ("a prompt over the context", openai.BadRequestError, 400, "2048", _ask(client, words=3000)),
        ("a body over the limit", openai.APIStatusError, 413, "33554432", _ask(client, words=7_000_000)),
        ("time runs out while running", openai.InternalServerError, 504, "running", _endless(client)),
    ]
    rows: list[Row] = []
    holds: list[tuple[str, bool]] = []
    for what, kind, status, word, asked in cases:
        error = await _error_of(asked)
        rows.append(_row(what, error))
        right = isinstance(error, kind) and error.status_code == status and word in error.message
        holds.append((f"{what}: {status}, {kind.__name__}, the message says {word!r}", right))
    await stranger.close()
    show.table(("mistake", "status", "raised", "message"), rows)
    for what, right in holds:
        show.claim(what, right)
    large = await client.chat.completions.create(
        model=CHAT, messages=QUESTION, max_tokens=3, metadata={"note": "n" * 3_000_000}
    )
    show.claim("a body of 3 MB is no mistake: it travels by ticket", bool(large.choices))


async def too_many(show: Show, platform: RunningPlatform, client: AsyncOpenAI) -> None:
    show.section(
        "Too many, or nobody there", "three models that are known and that nobody serves, two with a bound of 2"
    )
    cases = [
        ("a tenant's bound", Limits(max_pending_per_tenant=2), 2, openai.RateLimitError, 429),
        ("the pool's bound", Limits(max_pending=2), 2, openai.InternalServerError, 503),
        ("no worker in time", Limits(), 0, openai.InternalServerError, 503),
    ]
    rows: list[Row] = []
    holds: list[tuple[str, bool]] = []
    for what, limits, waiting, kind, status in cases:
        async with _unserved(platform, client, limits) as model, _waiting(client, model, waiting):
            error = await _error_of(_ask(client, model=model, extra_headers=SECOND))
        retry = error.response.headers.get("retry-after", "") if isinstance(error, openai.APIStatusError) else ""
        rows.append((*_row(what, error)[:3], f"{_row(what, error)[3]} (Retry-After: {retry})"))
        right = isinstance(error, kind) and error.status_code == status and retry.isdigit()
        holds.append((f"{what}: {status}, {kind.__name__}, with Retry-After", right))
    show.table(("what", "status", "raised", "message"), rows)
    for what, right in holds:
        show.claim(what, right)


async def bus_down(show: Show, platform: RunningPlatform, client: AsyncOpenAI) -> None:
    show.section("The bus is killed", "kill -9 of nats-server; the supervisor starts it again")
    ready = f"{platform.url}/health/ready"
    os.kill(platform.pid("nats"), signal.SIGKILL)
    await eventually(lambda: _has_status(ready, 503))
    show.claim("/health/ready says 503", True)
    answer = await _ask(client, max_tokens=5)
    show.claim("a request that comes meanwhile is held, and answered", bool(answer.choices))
    await eventually(lambda: _has_status(ready, 200), within_s=20)
    show.claim("/health/ready says 200 again, and nothing else was restarted", _restarts(platform) == {"nats"})


async def unreadable(show: Show, platform: RunningPlatform, client: AsyncOpenAI) -> None:
    show.section("Messages nobody can read", "published past every check: they end as dead letters, with the reason")
    letters: dict[str, DeadLetter] = {}
    async with platform.bus("operator") as operator:
        for subject, headers in ((REQUEST, {"Ib-Reply": "reply.dev.nobody"}), (WORK, {"Ib-Version": "1"})):
            before = await _newest(operator, subject)
            await operator.accept(subject, b"\xff not JSON", headers)
            letters[subject] = await next_dead_letter(operator, subject, after=before)
    show.table(("subject", "code", "reason"), [(subject, one.code, one.reason) for subject, one in letters.items()])
    show.claim("both are dead letters with a reason", all(letter.reason for letter in letters.values()))
    show.claim("gateway and workers go on", bool((await _ask(client, max_tokens=3)).choices))


async def poison(show: Show, platform: RunningPlatform, client: AsyncOpenAI) -> None:
    show.section(
        "A request that kills engines",
        "a seed and a prompt in several chunks: vLLM on a CPU dies of it. It is tried again elsewhere, then alone, "
        "and given up. Engines start three times, so this takes a while.",
    )
    neighbours = [asyncio.create_task(_ask(client, max_tokens=600, extra_body={"ignore_eos": True})) for _ in range(4)]
    async with platform.bus("operator") as operator:
        before = await _newest(operator, WORK)
        error = await _error_of(_ask(client, words=300, seed=1))
        letter: DeadLetter = await next_dead_letter(operator, WORK, after=before)
    show.table(("what", "status", "raised", "message"), [_row("poison", error)])
    show.say(f"dead letter: {letter.reason}")
    answers = await asyncio.gather(*neighbours)
    show.claim(
        "it ends as a 500 with the code `poison`", isinstance(error, openai.APIStatusError) and error.code == "poison"
    )
    show.claim("it is a dead letter", letter.code == "poison")
    show.claim(
        "four others that ran beside it are answered in full",
        all(answer.usage.completion_tokens == 600 for answer in answers),
    )


async def wrong_address(show: Show, platform: RunningPlatform) -> None:
    show.section("A producer's mistakes", "the same table of errors, as exceptions of the SDK")
    rows: list[tuple[str, str, str]] = []
    async with inferbus.Client(platform.bus_url, nkey_seed_file=platform.seed_file("dev")) as producer:
        for model, options in (("gpt-17", {}), (CHAT, {"max_tokens": "many"}), (CHAT, {"timeout_s": 0.001})):
            try:
                await producer.chat(model, QUESTION, **options)
            except InferbusError as error:
                rows.append((type(error).__name__, error.code, error.message))
    async with platform.bus("dev") as dev, platform.bus("operator") as operator:
        before = await _newest(operator, REQUEST)
        await dev.accept(
            REQUEST, json.dumps({"model": CHAT, "messages": QUESTION}).encode(), {"Ib-Reply": "reply.other.x"}
        )
        letter = await next_dead_letter(operator, REQUEST, after=before)
    rows.append(("(dead letter)", letter.code, letter.reason))
    show.table(("raised", "code", "message"), rows)
    codes = [row[1] for row in rows]
    show.claim("each says what was wrong", codes == ["not_found", "invalid_request", "deadline_queued", "forbidden"])


# --- how ------------------------------------------------------------------------------------------------------------


async def _ask(client: AsyncOpenAI, *, model: str = CHAT, words: int = 0, **options: Any) -> Any:
    messages = [{"role": "user", "content": "word " * words}] if words else QUESTION
    return await client.chat.completions.create(model=model, messages=messages, **options)


async def _endless(client: AsyncOpenAI) -> Any:
    return await _ask(client, max_tokens=1900, extra_body={"ignore_eos": True}, extra_headers=SECOND)


async def _raw(client: AsyncOpenAI, body: bytes) -> Any:
    """Send bytes the client would never make, and let it read the answer."""
    return await client.post(
        "/chat/completions", cast_to=object, content=body, options={"headers": {"Content-Type": "application/json"}}
    )


async def _error_of(asked: Awaitable[Any]) -> openai.APIError | None:
    try:
        await asked
    except openai.APIError as error:
        return error
    return None


def _row(what: str, error: openai.APIError | None) -> Row:
    if error is None:
        return what, "", "nothing", ""
    status = str(error.status_code) if isinstance(error, openai.APIStatusError) else ""
    return what, status, type(error).__name__, error.message.removeprefix(f"Error code: {status} - ")[:240]


async def _newest(operator: Bus, subject: str) -> int:
    letter = await last_dead_letter(operator, subject)
    return letter.sequence if letter else 0


@asynccontextmanager
async def _unserved(platform: RunningPlatform, client: AsyncOpenAI, limits: Limits) -> AsyncIterator[str]:
    model = "unserved"
    async with platform.bus("admin") as bus:
        await apply_model(bus, ModelEntry(name=model, pool=model, limits=limits))
        await eventually(lambda: _is_accepted(client, model), within_s=20)
        yield model
        await remove_model(bus, model)


async def _is_accepted(client: AsyncOpenAI, model: str) -> bool:
    error = await _error_of(_ask(client, model=model, extra_headers={"X-Inferbus-Deadline-Ms": "50"}))
    return error is not None and error.code == "deadline_queued"


@asynccontextmanager
async def _waiting(client: AsyncOpenAI, model: str, count: int) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(_ask(client, model=model)) for _ in range(count)]
    await asyncio.wait(tasks, timeout=0.5) if tasks else None
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _has_status(url: str, status: int) -> bool:
    async with httpx.AsyncClient() as http:
        return (await http.get(url)).status_code == status


def _restarts(platform: RunningPlatform) -> set[str]:
    return {process.name for process in platform.state.processes if process.restarts}
