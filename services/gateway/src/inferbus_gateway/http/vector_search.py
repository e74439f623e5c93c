"""POST /v1/vectors/{collection}/search: an endpoint of its own, as those of inference are, since here milliseconds count.

The body is checked and passed on as it came; of the answer the hits are, too: neither is written anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from litestar import post
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.spec import OpenAPIResponse
from litestar.params import FromPath
from litestar.types import ASGIApp, Receive
from litestar.utils.path import normalize_path

from inferbus.codec import from_json, to_json
from inferbus.contracts.vector_search import DEADLINE_MS, REQUEST_ID, SearchAnswer, VectorsRefused
from inferbus.contracts.vectors import TRACEPARENT
from inferbus.errors import NotFound
from inferbus.vectors.bodies import SearchResults, VectorSearch
from inferbus.vectors.door import SEARCH_S, refusal
from inferbus_gateway.http.exchange_response import HttpResponse
from inferbus_gateway.http.inference import HttpDeps, InferenceEndpoint
from inferbus_gateway.http.openapi import header_parameters, json_media
from inferbus_gateway.http.request_head import RequestHead, read_head
from inferbus_gateway.http.vector_operations import VectorOperation
from inferbus_gateway.http.vectors import RESERVED, ROOT
from inferbus_gateway.joined_head import JoiningProtocol
from inferbus_gateway.observer import DONE, RequestRecord

LABEL = f"{ROOT}/{{collection}}/search"
"""The path in metrics and log lines."""
TASK = "vectors"
_NOTHING = msgspec.Raw(b"[]")


class _Found(msgspec.Struct, frozen=True, kw_only=True, tag=SearchAnswer.__struct_config__.tag):
    """A `SearchAnswer` whose hits stay as they came."""

    collection: str
    hits: msgspec.Raw = _NOTHING
    model: str = ""
    tokens: int = 0
    took_s: float = 0.0


class _Results(msgspec.Struct, frozen=True, kw_only=True):
    """`SearchResults`, with hits as they came."""

    object: str = "vector.results"
    collection: str
    data: msgspec.Raw
    model: str
    tokens: int
    took_ms: float


_Answer: Any = _Found | VectorsRefused  # a union, which msgspec takes for a type


def searched(path: str) -> str | None:
    """Read the collection from a path that searches one; None for any other path."""
    if not path.startswith(ROOT):
        return None
    parts = normalize_path(path).removeprefix(ROOT).split("/")
    if len(parts) != 3 or parts[2] != "search" or parts[0] or parts[1] in RESERVED:
        return None
    return parts[1]


def results(data: bytes) -> bytes:
    """Give the service's answer the form it has for clients.

    Raises:
        InferbusError: what the service refused the search for.
    """
    answer = from_json(data, _Answer, what="answer")
    if isinstance(answer, VectorsRefused):
        raise refusal(answer)
    return to_json(
        _Results(
            collection=answer.collection, data=answer.hits, model=answer.model, tokens=answer.tokens,
            took_ms=round(answer.took_s * 1000, 3),
        )
    )  # fmt: skip


class VectorSearchEndpoint(InferenceEndpoint):
    """Serve searches; what they share with inference is how a request is read, answered and written down."""

    def __init__(self, deps: HttpDeps) -> None:
        super().__init__(deps, path=LABEL, task=TASK, view=msgspec.Struct)

    async def _serve(
        self,
        path: str,
        headers: dict[bytes, bytes],
        receive: Receive,
        response: HttpResponse,
        record: RequestRecord,
        connection: JoiningProtocol | None,  # noqa: ARG002 - the base's signature
    ) -> None:
        deps = self._deps
        head = read_head(headers)
        identity = deps.authenticator.authenticate(head.authorization)
        record.tenant = identity.tenant
        name, door = searched(path), deps.vectors
        if name is None:
            raise NotFound(f"POST {path}: no such path")
        if door is None:
            raise NotFound("this gateway has no vectors")
        async with door.admitted(identity):
            body = await self.read(receive, head)
            body = body or b"{}"
            from_json(body, VectorSearch, what="body")
            found = await door.find(
                identity, name, body, _said(head, record.request_id), timeout_s=head.deadline_s or SEARCH_S
            )
        answer = results(found)
        record.status, record.phase = 200, DONE
        await response.whole(200, answer)


def _said(head: RequestHead, request_id: str) -> dict[str, str]:
    """Say in headers on the bus what was said in those of the request."""
    said = {REQUEST_ID: request_id}
    if head.deadline_s is not None:
        said[DEADLINE_MS] = str(max(1, int(head.deadline_s * 1000)))
    if head.traceparent:
        said[TRACEPARENT] = head.traceparent
    return said


@dataclass
class SearchOperation(VectorOperation):
    """A search, whose route mentions neither body nor answer."""

    request_type = VectorSearch

    def __post_init__(self) -> None:
        super().__post_init__()
        answer = OpenAPIResponse(description="Hits, the best first.", content=json_media(SearchResults))
        self.responses = {**(self.responses or {}), "200": answer}
        told = ("X-Request-Id", "X-Inferbus-Deadline-Ms", "traceparent")
        self.parameters = [
            *(self.parameters or []),
            *(one for one in header_parameters() if getattr(one, "name", "") in told),
        ]


def build_vector_search(endpoint: VectorSearchEndpoint) -> Sequence[HTTPRouteHandler]:
    @post(f"{ROOT}/{{collection:str}}/search", status_code=200, summary="Search", operation_class=SearchOperation)
    async def search_documents(collection: FromPath[str]) -> ASGIApp:  # noqa: ARG001 - documents the path
        return endpoint.as_asgi()

    return (search_documents,)
