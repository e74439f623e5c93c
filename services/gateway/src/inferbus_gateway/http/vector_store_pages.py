"""Pages of lists, as the OpenAI API cuts them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from inferbus.errors import InvalidRequest

T = TypeVar("T")
_MAX_PAGE = 100
ASC, DESC = "asc", "desc"


def page_of(
    newest_first: Sequence[T], id_of: Callable[[T], str], *, after: str, before: str, limit: int, order: str
) -> tuple[list[T], bool]:
    """Cut a page out of a list, and say whether there is more in its direction.

    Raises:
        InvalidRequest: there is no such order, limit or place; `param` names it.
    """
    if not 1 <= limit <= _MAX_PAGE:
        raise InvalidRequest(f"limit is {limit}; it must be from 1 to {_MAX_PAGE}", param="limit")
    if order not in (ASC, DESC):
        raise InvalidRequest(f"order is {order[:20]!r}; it must be asc or desc", param="order")
    items = list(newest_first) if order == DESC else list(reversed(newest_first))
    ids = [id_of(one) for one in items]
    if after:
        items = items[_place(ids, after, "after") + 1 :]
    elif before:
        items = items[: _place(ids, before, "before")]
        return items[-limit:], len(items) > limit
    return items[:limit], len(items) > limit


def _place(ids: list[str], id_: str, param: str) -> int:
    try:
        return ids.index(id_)
    except ValueError:
        raise InvalidRequest(f"there is no {id_[:80]!r} to go on from", param=param) from None
