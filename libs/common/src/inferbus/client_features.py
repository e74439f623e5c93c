"""`client.features`: rows of feature services, and pushes, for producers on the bus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from inferbus import routes
from inferbus.bus import Bus
from inferbus.codec import to_json
from inferbus.contracts.features import GetAnswer, GetRequest, PushMessage
from inferbus.feature_reads import DEADLINE_S, ReadAsker, read_features


class FeatureClient:
    """Features of one tenant, over a producer's connection."""

    def __init__(self, bus: Bus, tenant: str) -> None:
        self._bus = bus
        self._tenant = tenant

    async def get(
        self,
        service: str,
        entities: Mapping[str, Any],
        *,
        features: Sequence[str] = (),
        context: Mapping[str, Any] | None = None,
        max_age_s: float | None = None,
        ages: bool = False,
        timeout_s: float = DEADLINE_S,
    ) -> GetAnswer:
        """Read rows, by column: lists of ids, or one id that holds for every row.

        Raises:
            InferbusError: why not; `param` names the field.
        """
        request = GetRequest(
            entities=dict(entities),
            features=list(features),
            context=dict(context or {}),
            max_age_s=max_age_s,
            ages=ages,
        )
        return await read_features(self._bus, ReadAsker(tenant=self._tenant, deadline_s=timeout_s), service, request)

    async def push(self, source: str, rows: Sequence[Mapping[str, Any]], *, id: str = "") -> int:
        """Store rows to be written; gives their place in the stream. Of rows that are wrong dead letters tell, later.

        Raises:
            DependencyDown, Overloaded: nothing is stored.
        """
        message = PushMessage(rows=[dict(row) for row in rows], id=id)
        msg_id = routes.push_name(self._tenant, source, id) if id else None
        return await self._bus.accept(routes.features_push(self._tenant, source), to_json(message), {}, msg_id=msg_id)


def rows_of(answer: GetAnswer) -> list[dict[str, Any]]:
    """Turn columns into rows, a dictionary each."""
    names = [column.name for column in answer.columns]
    return [
        dict(zip(names, values, strict=True))
        for values in zip(*(column.values for column in answer.columns), strict=True)
    ]
