"""Stages: what is done to a row on its way. Each says how many rows at once, what is tried again, and what it reads."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import random
import re
import string
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import msgspec

from inferbus.errors import InvalidRequest, Overloaded, RateLimited, TenantOverloaded, Transient
from inferbus.pipeline.row_batch import Row

Function = Callable[..., Any]
_BACKOFF_S, _MAX_BACKOFF_S = 0.5, 30.0
_NOT_NOW = (RateLimited, TenantOverloaded, Overloaded)
"""What a key may not have right now: waited for, and no attempt."""


class Place(msgspec.Struct, frozen=True):
    """Where a row is: its number in the input, and the name of its request in this stage (the same in every run)."""

    row: int
    request: str


class Asker(Protocol):
    """Asks models: `inferbus.Client`."""

    async def chat(self, model: str, messages: Sequence[Row], **options: Any) -> Row: ...

    async def embed(self, model: str, texts: str | Sequence[str], **options: Any) -> list[list[float]]: ...


class Tools(msgspec.Struct, frozen=True):
    """What stages work with. There is a client where a stage asks a model."""

    threads: ThreadPoolExecutor
    client: Any = None
    """An `Asker`; msgspec cannot say so."""


class Stage(Protocol):
    """One step. What `apply` raises is the row's error."""

    @property
    def kind(self) -> str: ...

    @property
    def concurrency(self) -> int: ...

    @property
    def replaces(self) -> bool:
        """Whether `apply` gives the row that goes on; else columns that go on with the row it had."""
        ...

    @property
    def reads(self) -> tuple[str, ...] | None:
        """The columns `apply` needs; None: all."""
        ...

    def describe(self) -> str:
        """Say what it does, in a line; a checkpoint belongs to exactly these lines."""
        ...

    async def apply(self, row: Row, place: Place, tools: Tools) -> Row | None:
        """Give what becomes of a row: another one, or columns (`replaces`); None: it is dropped."""
        ...


class Map(msgspec.Struct, frozen=True, kw_only=True):
    """Put another row in a row's place."""

    function: Function
    name: str
    concurrency: int
    retries: int
    kind: str = "map"
    replaces: bool = True
    reads: tuple[str, ...] | None = None

    def describe(self) -> str:
        return self.name

    async def apply(self, row: Row, place: Place, tools: Tools) -> Row | None:  # noqa: ARG002 - the protocol's
        made = await _called(self.function, row, self.retries, tools)
        if not isinstance(made, dict):
            raise TypeError(f"{self.name} gave {type(made).__name__}, not a dict")
        return made


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Keep the rows a function is true of."""

    function: Function
    name: str
    concurrency: int
    retries: int
    kind: str = "filter"
    replaces: bool = False
    reads: tuple[str, ...] | None = None

    def describe(self) -> str:
        return self.name

    async def apply(self, row: Row, place: Place, tools: Tools) -> Row | None:  # noqa: ARG002 - the protocol's
        return {} if await _called(self.function, row, self.retries, tools) else None


class Infer(msgspec.Struct, frozen=True, kw_only=True):
    """Ask a model, and put its answer into a column."""

    model: str
    prompt: str | Function
    system: str
    into: str
    options: dict[str, Any]
    concurrency: int
    retries: int
    kind: str = "infer"
    replaces: bool = False

    @property
    def reads(self) -> tuple[str, ...] | None:
        return _columns_in(self.prompt) if isinstance(self.prompt, str) else None

    def describe(self) -> str:
        asked = self.prompt if isinstance(self.prompt, str) else name_of(self.prompt)
        options = f" {msgspec.json.encode(self.options, order='sorted').decode()}" if self.options else ""
        system = f" system {self.system!r}" if self.system else ""
        return f"{self.model} {asked!r}{system}{options} into {self.into}"

    async def apply(self, row: Row, place: Place, tools: Tools) -> Row | None:
        said = _filled(self.prompt, row)
        messages = said if isinstance(said, list) else [{"role": "user", "content": str(said)}]
        if self.system:
            messages = [{"role": "system", "content": self.system}, *messages]

        async def ask(request: str) -> Any:
            return await _client(tools).chat(self.model, messages, **_durable(self.options, request))

        answer = await _asked(ask, place.request, self.retries)
        return {self.into: answer["choices"][0]["message"]["content"]}


class Embed(msgspec.Struct, frozen=True, kw_only=True):
    """Embed a text, and put the vector into a column."""

    model: str
    text: str | Function
    into: str
    options: dict[str, Any]
    concurrency: int
    retries: int
    kind: str = "embed"
    replaces: bool = False

    @property
    def reads(self) -> tuple[str, ...] | None:
        return (self.text,) if isinstance(self.text, str) else None

    def describe(self) -> str:
        text = self.text if isinstance(self.text, str) else name_of(self.text)
        return f"{self.model} {text} into {self.into}"

    async def apply(self, row: Row, place: Place, tools: Tools) -> Row | None:
        text = str(row[self.text]) if isinstance(self.text, str) else str(self.text(row))

        async def ask(request: str) -> Any:
            return await _client(tools).embed(self.model, text, **_durable(self.options, request))

        return {self.into: (await _asked(ask, place.request, self.retries))[0]}


def function_of(given: Function | str) -> Function:
    """Take a function, or import the one that `module:name` says.

    Raises:
        InvalidRequest: there is none.
    """
    if callable(given):
        return given
    module, _, name = given.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as exc:
        raise InvalidRequest(f"{given!r} names no function as module:name: {exc}") from exc
    if not callable(found):
        raise InvalidRequest(f"{given!r} is no function")
    return found  # type: ignore[no-any-return]  # whatever was imported, it can be called


def name_of(function: Function) -> str:
    return f"{getattr(function, '__module__', '?')}:{getattr(function, '__qualname__', repr(function))}"


def _columns_in(prompt: str) -> tuple[str, ...] | None:
    """Say which columns a prompt names; None where that cannot be told (what is wrong with it shows with each row)."""
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(prompt) if name is not None]
    except ValueError:
        return None
    return tuple(dict.fromkeys(re.split(r"[.\[]", name)[0] for name in names))


def _filled(prompt: str | Function, row: Row) -> Any:
    return prompt.format_map(row) if isinstance(prompt, str) else prompt(row)


def _client(tools: Tools) -> Asker:
    if tools.client is None:
        raise InvalidRequest("this pipeline has no client to ask models with")
    asker: Asker = tools.client
    return asker


def _durable(options: dict[str, Any], request: str) -> dict[str, Any]:
    """Ask under a name of its own: asked again after a crash, the answer that was made is given, and nothing is spent."""
    return options | {"idempotency_key": request}


async def _called(function: Function, row: Row, retries: int, tools: Tools) -> Any:
    for attempt in range(retries + 1):
        try:
            if inspect.iscoroutinefunction(function):
                return await function(row)
            return await asyncio.get_running_loop().run_in_executor(tools.threads, function, row)
        except Exception:
            if attempt == retries:
                raise
            await asyncio.sleep(backoff_s(attempt))
    return None


async def _asked(ask: Function, request: str, retries: int) -> Any:
    """Ask until there is an answer. A failure of the moment is kept under the name it was asked by: the next attempt has
    another."""
    attempt = 0
    while True:
        try:
            return await ask(f"{request}-{attempt}" if attempt else request)
        except _NOT_NOW as exc:
            if getattr(exc, "hopeless", False):
                raise
            await asyncio.sleep(min(_MAX_BACKOFF_S, exc.retry_after_s) * random.uniform(1, 1.5))  # noqa: S311 - jitter
            attempt += isinstance(exc, Overloaded)
        except Transient:
            if attempt >= retries:
                raise
            await asyncio.sleep(backoff_s(attempt))
            attempt += 1


def backoff_s(attempt: int) -> float:
    """Give how long to wait before an attempt after the first, in seconds."""
    return min(_MAX_BACKOFF_S, _BACKOFF_S * 2.0**attempt)
