"""Embedding many texts: those of many documents share requests, and a text that cannot be embedded is found by halving."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from inferbus import routes
from inferbus.errors import Forbidden, InferbusError, NotFound, Permanent, Unauthenticated
from inferbus_vectors.gathering import Gathering
from inferbus_vectors.ports import Embedder, Payer

_OF_ALL = (NotFound, Forbidden, Unauthenticated)
"""Refusals of the payer or the model: no text is to blame."""


class _Key(msgspec.Struct, frozen=True):
    payer: Payer
    model: str


class Vector(msgspec.Struct, frozen=True):
    """The vector of a text, and its share of the tokens its request read."""

    vector: bytes
    tokens: float


class TextEmbedding:
    """Embeds on the batch lane, `at_once` requests of `texts` texts each in flight."""

    def __init__(self, embedder: Embedder, *, texts: int, wait_s: float, at_once: int, deadline_s: float) -> None:
        self._embedder = embedder
        self._deadline_s = deadline_s
        self._turns = asyncio.Semaphore(at_once)
        self._texts = texts
        self._gathering: Gathering[_Key, list[str], list[Vector | InferbusError]] = Gathering(
            self._embed, most=texts, wait_s=wait_s, at_once=at_once
        )

    async def embed(self, payer: Payer, model: str, texts: Sequence[str]) -> list[Vector | InferbusError]:
        """Embed texts; gives the vector of each, or why it has none."""
        key, most = _Key(payer, model), self._texts
        parts = [list(texts[at : at + most]) for at in range(0, len(texts), most)]
        found = await asyncio.gather(*(self._gathering.put(key, part, len(part)) for part in parts))
        return [one for part in found for one in part]

    async def stop(self) -> None:
        await self._gathering.stop()

    async def _embed(self, key: _Key, groups: list[list[str]]) -> list[list[Vector | InferbusError]]:
        async with self._turns:
            found = iter(await self._tried(key, [text for group in groups for text in group]))
        return [[next(found) for _ in group] for group in groups]

    async def _tried(self, key: _Key, texts: list[str]) -> list[Vector | InferbusError]:
        try:
            found = await self._embedder.embed(
                key.payer, key.model, texts, lane=routes.BATCH, deadline_s=self._deadline_s
            )
        except _OF_ALL as error:
            return [error] * len(texts)
        except Permanent as error:
            if len(texts) == 1:
                return [_of_text(error)]
            middle = len(texts) // 2
            return await self._tried(key, texts[:middle]) + await self._tried(key, texts[middle:])
        except InferbusError as error:
            return [error] * len(texts)
        share = found.tokens / max(1, len(texts))
        return [Vector(vector, share) for vector in found.vectors]


def _of_text(error: Permanent) -> InferbusError:
    return type(error)(f"the text cannot be embedded: {error.message}", param="text")
