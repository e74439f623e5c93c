"""GET /health/live, /health/ready, /metrics: open to everybody who reaches the port."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from inferbus_gateway.http.inference import HttpDeps
from inferbus_gateway.http.openapi import OpenOperation


class HealthState(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`status` is live, ready or not_ready; `reason` says why not."""

    status: str
    reason: str = ""


def build_health(deps: HttpDeps) -> Sequence[HTTPRouteHandler]:
    @get("/health/live", sync_to_thread=False, operation_class=OpenOperation, summary="The process runs")
    def live() -> HealthState:
        return HealthState(status="live")

    @get(
        "/health/ready",
        sync_to_thread=False,
        operation_class=OpenOperation,
        summary="The process can serve; 503 while it cannot",
    )
    def ready() -> Response[HealthState]:
        reason = deps.ready()
        if reason is None:
            return Response(HealthState(status="ready"))
        return Response(HealthState(status="not_ready", reason=reason), status_code=503)

    @get("/metrics", sync_to_thread=False, include_in_schema=False)
    def metrics() -> Response[bytes]:
        return Response(generate_latest(deps.registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    return live, ready, metrics
