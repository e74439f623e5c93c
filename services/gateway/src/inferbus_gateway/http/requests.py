"""GET /v1/requests/{id} and /v1/requests/{id}/events: durable requests, asked about and reconnected to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import msgspec
from litestar import Request, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.types import ASGIApp, Receive, Scope, Send

from inferbus.errors import InferbusError, NotFound, OpenAIErrorDetail, Overloaded, Unsupported, error_from, openai_body
from inferbus.routes import is_request_id
from inferbus_gateway.durable import RequestStatus
from inferbus_gateway.http.answers import TokenUsage
from inferbus_gateway.http.durable_answer import follow
from inferbus_gateway.http.exchange_response import HttpResponse
from inferbus_gateway.http.inference import HttpDeps
from inferbus_gateway.http.openapi import ModelsOperation
from inferbus_gateway.http.problems import bug
from inferbus_gateway.http.request_head import event_id_from
from inferbus_gateway.observer import RequestRecord

RECORD = "inferbus_record"
"""Where a scope's state has the `RequestRecord` of its request."""
EVENTS_PATH = "/v1/requests/{request_id}/events"


class RequestState(msgspec.Struct, kw_only=True):
    """A durable request. `status` is queued, running, completed, failed or cancelled.

    `http_status` is what the request itself was, or would have been, answered with; `answer` its body where nothing was
    streamed; the events of a stream are at `/events`. Times are Unix seconds.
    """

    id: str
    object: str = "inferbus.request"
    status: str
    model: str | None = None
    path: str | None = None
    streamed: bool
    created: int | None = None
    deadline: int | None = None
    http_status: int | None = None
    usage: TokenUsage | None = None
    answer: msgspec.Raw | None = None
    error: OpenAIErrorDetail | None = None


class EventsEndpoint:
    """Send the events of one durable stream: an ASGI application, as its answer may take long."""

    def __init__(self, deps: HttpDeps, request_id: str) -> None:
        self._deps = deps
        self._request_id = request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        record: RequestRecord = scope["state"][RECORD]
        record.request_id = self._request_id
        response = HttpResponse(send, record)
        observer = self._deps.observer
        observer.open_requests += 1
        observer.open_streams += 1
        try:
            await self._serve(headers, receive, response, record)
        except InferbusError as error:
            await response.fail(error)
        except Exception as error:
            await response.fail(bug(error, request_id=record.request_id, path=EVENTS_PATH))
        finally:
            observer.open_requests -= 1
            observer.open_streams -= 1

    async def _serve(
        self, headers: dict[bytes, bytes], receive: Receive, response: HttpResponse, record: RequestRecord
    ) -> None:
        deps = self._deps
        if deps.observer.open_requests > deps.settings.max_open_requests:
            raise Overloaded(f"this gateway has its {deps.settings.max_open_requests} open requests")
        authorization = headers.get(b"authorization")
        identity = deps.authenticator.authenticate(None if authorization is None else authorization.decode("latin-1"))
        record.tenant = identity.tenant
        after = event_id_from(headers)
        status = await deps.durable.status(identity.tenant, _checked(self._request_id))
        if not _is_streamed(status):
            raise Unsupported(f"its answer is not streamed; it is at /v1/requests/{self._request_id}")
        record.streamed, record.requested_model = True, status.record.model if status.record is not None else ""

        async def look() -> None:
            await deps.durable.status(identity.tenant, self._request_id)  # it may be late: then it ends here

        await follow(deps.durable, identity.tenant, record, receive, response, deps.settings, after, look)


def build_requests(deps: HttpDeps) -> Sequence[HTTPRouteHandler]:
    @get(
        "/v1/requests/{request_id:str}", summary="How a durable request is doing, and its answer",
        operation_class=ModelsOperation,
    )  # fmt: skip
    async def retrieve_request(request: Request[Any, Any, Any], request_id: FromPath[str]) -> RequestState:
        identity = deps.authenticator.authenticate(request.headers.get("authorization"))
        return _describe(request_id, await deps.durable.status(identity.tenant, _checked(request_id)))

    @get(
        "/v1/requests/{request_id:str}/events", sync_to_thread=False, operation_class=ModelsOperation,
        summary="The events of a durable stream, from the one after `Last-Event-ID`",
    )  # fmt: skip
    def follow_request(request_id: FromPath[str]) -> ASGIApp:
        return cast("ASGIApp", EventsEndpoint(deps, request_id))

    return retrieve_request, follow_request


def _checked(request_id: str) -> str:
    if not is_request_id(request_id):
        raise NotFound(f"no durable request {request_id[:128]}", param="request_id")
    return request_id


def _is_streamed(status: RequestStatus) -> bool:
    if status.record is not None:
        return status.record.streamed
    return status.outcome is not None and status.outcome.streamed


def _describe(request_id: str, status: RequestStatus) -> RequestState:
    record, outcome = status.record, status.outcome
    state = RequestState(id=request_id, status=status.state, streamed=_is_streamed(status))
    if record is not None:
        state.model, state.path = record.model, record.path
        state.created, state.deadline = int(record.created), int(record.deadline_at)
    if outcome is not None:
        usage = outcome.usage
        state.http_status = outcome.status
        state.usage = TokenUsage(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            total_tokens=usage.prompt_tokens + usage.completion_tokens,
        )
        if outcome.failure is not None:
            state.error = openai_body(error_from(outcome.failure.code, outcome.failure.message)).error
        elif not outcome.streamed and outcome.content_type.startswith("application/json"):
            state.answer = msgspec.Raw(outcome.body)
    return state
