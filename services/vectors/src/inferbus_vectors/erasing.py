"""Erasing: documents removed for good, by id or by a filter, as taking them out does: with a gravestone each, so that an
older state that comes later does not bring them back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import msgspec

from inferbus.contracts.vectors import MAX_VERSION
from inferbus.errors import NotFound
from inferbus_vectors.domain.points import Found, Scope, Where, Write
from inferbus_vectors.ports import VectorIndex

_PAGE = 256


async def erase_documents(index: VectorIndex, shards: Sequence[str], where: Where, *, now: float) -> int:
    """Remove documents from the shards where their collection lies, the searched one first. Gives how many chunks there were.

    What was found is gone from all of them, also where a copy of it comes later. A document of which a newer state comes in
    meanwhile stays.
    """
    chunks = await index.count(shards[0], where)
    heads = msgspec.structs.replace(where, heads_only=True)
    for shard in shards:
        after, is_more = "", True
        while is_more:
            try:
                page = await index.read(shard, heads, after=after, limit=_PAGE)
            except NotFound:
                if shard == shards[0]:
                    raise
                break  # it is not begun yet
            graves = [_grave(where.scope, head, now) for head in page.found]
            for target in shards if graves else ():
                with contextlib.suppress(NotFound):
                    await index.write(target, graves)
            after, is_more = page.next, bool(page.next)
    return chunks


def _grave(scope: Scope, head: Found, now: float) -> Write:
    """Take a document out one version later than it is: the same state, delivered again, is older than that."""
    return Write(scope=scope, id=head.id, version=min(head.version + 1, MAX_VERSION), at=now)
