"""/v1/features: reads (`{service}:get`) and pushes (`{source}:push`), and the services there are.

A read's body is passed on as it came, and so is its answer: both are the bus's own (`contracts.features`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from litestar import Request, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.spec import OpenAPIResponse, Operation, RequestBody
from litestar.params import FromPath
from litestar.types import ASGIApp, Receive

from inferbus.admission.feature_rights import TASK
from inferbus.codec import to_json
from inferbus.contracts.features import GetAnswer, GetRequest, PushAnswer, PushMessage, ServiceRecord
from inferbus.contracts.step import Usage
from inferbus.errors import NotFound
from inferbus_gateway.features_door import FeaturesDoor
from inferbus_gateway.http.exchange_response import HttpResponse
from inferbus_gateway.http.inference import HttpDeps, InferenceEndpoint
from inferbus_gateway.http.openapi import error_responses, header_parameters, json_media
from inferbus_gateway.http.request_head import IDEMPOTENCY_KEY, read_head
from inferbus_gateway.joined_head import JoiningProtocol
from inferbus_gateway.observer import DONE, RequestRecord

PREFIX = "/v1/features/"
LABEL = "/v1/features/{name}"
"""The path in metrics and log lines."""
_GET, _PUSH = "get", "push"
FEATURE_SHAPES: tuple[type[msgspec.Struct], ...] = (GetRequest, GetAnswer, PushMessage, PushAnswer)


class ServiceList(msgspec.Struct, frozen=True, kw_only=True):
    """The services a key may read."""

    data: list[ServiceRecord]


class FeaturesEndpoint(InferenceEndpoint):
    """Serve reads and pushes; what they share with inference is how a request is read, answered and written down."""

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
        name, _, verb = path.removeprefix(PREFIX).partition(":")
        door = opened(deps.features)
        body = await self.read(receive, head)
        record.requested_model = name
        if verb == _GET:
            read = await door.read(
                identity, name, body, deadline_s=head.deadline_s, request_id=record.request_id,
                traceparent=head.traceparent,
            )  # fmt: skip
            record.usage = Usage(read.rows)
            response.tell(read.reservation.headers())
            answer = read.body
        elif verb == _PUSH:
            key = headers.get(IDEMPOTENCY_KEY, b"").decode("latin-1")
            answer = to_json(await door.push(identity, name, body, name=key))
        else:
            raise NotFound(f"POST {path}: no such path; use {PREFIX}<service>:get or {PREFIX}<source>:push")
        record.status, record.phase = 200, DONE
        await response.whole(200, answer)


@dataclass
class FeaturesOperation(Operation):
    """Reads; pushes share their path, which ends with what is to be done (`PushMessage`, `PushAnswer`)."""

    def __post_init__(self) -> None:
        body = json_media(GetRequest)
        self.request_body = RequestBody(required=True, content=body)
        answer = json_media(GetAnswer)
        self.responses = {"200": OpenAPIResponse(description="The columns; of a push what was stored.", content=answer)}
        self.responses |= error_responses(400, 401, 403, 404, 413, 429, 503)
        self.parameters = [*(self.parameters or []), *header_parameters()]


@dataclass
class ServicesOperation(Operation):
    """The list of services."""

    def __post_init__(self) -> None:
        self.responses = {"200": (self.responses or {})["200"]} | error_responses(401, 404, 503)


def build_features(deps: HttpDeps, endpoint: FeaturesEndpoint) -> Sequence[HTTPRouteHandler]:
    @get("/v1/features", summary="The feature services this key may read", operation_class=ServicesOperation)
    async def list_services(request: Request[Any, Any, Any]) -> ServiceList:
        identity = deps.authenticator.authenticate(request.headers.get("authorization"))
        return ServiceList(data=await opened(deps.features).services(identity))

    @post(
        f"{PREFIX}{{name:str}}", summary="Read a service's rows (`{service}:get`), or push some (`{source}:push`)",
        operation_class=FeaturesOperation,
    )  # fmt: skip
    async def features(name: FromPath[str]) -> ASGIApp:  # noqa: ARG001 - documents the path
        return endpoint.as_asgi()

    return list_services, features


def opened(door: FeaturesDoor | None) -> FeaturesDoor:
    """Raises NotFound where this gateway has no features."""
    if door is None:
        raise NotFound("this gateway serves no features")
    return door
