"""What the commands of `inferbus vectors` share: options, and the way to the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer

from inferbus.cli.http_connection import gateway_and_key
from inferbus.vectors.http_api import VectorsApi

R = TypeVar("R")

Url = Annotated[str, typer.Option("--url", help="The gateway; default INFERBUS_URL, or the platform of this folder.")]
Key = Annotated[str, typer.Option("--key", help="An API key; default INFERBUS_API_KEY, or the development key.")]
Name = Annotated[str, typer.Argument(metavar="COLLECTION", help="Its name, or an alias.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]


def with_api(url: str, key: str, work: Callable[[VectorsApi], Awaitable[R]]) -> R:
    """Do something as a client of the gateway that is meant."""
    url, key = gateway_and_key(url, key)

    async def run() -> R:
        async with VectorsApi(url, key) as api:
            return await work(api)

    return asyncio.run(run())
