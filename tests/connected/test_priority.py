"""A key's priority reaches the engine, and nothing in a body does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from tests.connected.conftest import MODEL
from tests.connected.rig import Rig

from inferbus import routes
from inferbus.admission.admit import Ask
from inferbus.admission.identity import Identity
from inferbus.models import apply_model
from inferbus.testing import NatsServer, eventually

BODY = b'{"model":"m","priority":-99,"tenant":"other","max_tokens":5}'


@pytest.fixture
async def rig(server: NatsServer) -> AsyncIterator[Rig]:
    admin = await server.connect("admin")
    await apply_model(admin, MODEL)
    await admin.close()
    async with AsyncExitStack() as stack:
        yield Rig(server, stack)


async def test_more_priority_is_a_lower_number_and_batch_is_behind_all(rig: Rig) -> None:
    gateway, worker = await rig.gateway(), await rig.worker()
    asked: dict[str, int] = {}
    for priority in (0, 7, -3):
        identity = Identity(tenant="dev", priority=priority, max_tokens=9)
        ask = Ask(model="m", task="chat", path="/v1/chat/completions", body=BODY, lane=routes.INTERACTIVE)
        exchange = await gateway.admission.admit(identity, ask)
        assert exchange.tenant == "dev"
        asked[exchange.request_id] = priority
    await eventually(lambda: len(worker.engine.calls) == 3)
    for call in worker.engine.calls:  # their order is not promised: each begins when its own first frame is out
        assert call.work.priority == -asked[call.work.request_id]
        call.end()
