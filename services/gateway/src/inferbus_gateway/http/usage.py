"""GET /v1/usage: what the key's organisation used, from the ledger's totals. Another's cannot be asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from litestar import Request, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import QueryParameter

from inferbus.ledger.reading import Query, check_query, sum_up
from inferbus_gateway.http.inference import HttpDeps
from inferbus_gateway.http.openapi import ModelsOperation


class UsageLine(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One sum: by `day`, `model`, `team` and `key`, as asked. `cost` is in micro-units: 1,000,000 are 1.00.

    `prompt_tokens` include `cached_tokens`; `wasted_tokens` were computed where the platform failed, and cost nothing.
    """

    requests: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    wasted_tokens: int
    cost: int
    day: str | None = None
    model: str | None = None
    team: str | None = None
    key: str | None = None


class UsageList(msgspec.Struct, kw_only=True):
    object: str = "list"
    organisation: str
    data: list[UsageLine]


def build_usage(deps: HttpDeps) -> Sequence[HTTPRouteHandler]:
    @get(
        "/v1/usage",
        summary="What your organisation used, by day and model",
        description="Totals, at most a few seconds behind. Days are UTC.",
        operation_class=ModelsOperation,
    )
    async def read_usage(
        request: Request[Any, Any, Any],
        first: Annotated[str, QueryParameter(name="from", description="From this day on: 2026-11-22.")] = "",
        last: Annotated[str, QueryParameter(name="to", description="Up to this day, inclusive.")] = "",
        by: Annotated[str, QueryParameter(description="Any of day, model, team, key; commas between.")] = "day,model",
        team: Annotated[str, QueryParameter(description="Only this team's.")] = "",
        key: Annotated[str, QueryParameter(description="Only that of the key with this id.")] = "",
        model: Annotated[str, QueryParameter(description="Only this model's.")] = "",
    ) -> UsageList:
        identity = deps.authenticator.authenticate(request.headers.get("authorization"))
        dimensions = tuple(name.strip() for name in by.split(",") if name.strip())
        query = check_query(
            Query(org=identity.tenant, team=team, key=key, model=model, first=first, last=last, by=dimensions)
        )
        lines = sum_up(await deps.totals.rows(identity.tenant), query)
        return UsageList(
            organisation=identity.tenant,
            data=[
                UsageLine(
                    **msgspec.structs.asdict(line.figures),
                    **{name: getattr(line, name) for name in dimensions if name != "org"},
                )
                for line in lines
            ],
        )

    return (read_usage,)
