"""Bus, Triton workers as processes of their own, and this process as the asker, so that a test can kill each but itself.
Its end kills the workers, and sees that nothing of their servers is left."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.main_path import MainPath, Service
from tests.process_tree import descendants

from inferbus.admission.admit import Admission, Ask
from inferbus.admission.identity import Identity
from inferbus.answers.asker import Asker
from inferbus.answers.exchange import Chunk, Ended
from inferbus.bus import Bus
from inferbus.contracts.models import ModelEntry
from inferbus.contracts.presence import READY, Presence
from inferbus.models import ModelRegistry, apply_model
from inferbus.process.presence import Beacon, PresenceTable
from inferbus.testing import eventually
from inferbus_triton_worker.adapters.leftovers import MEMORY

ENVIRONMENT = Path(__file__).parents[1] / ".venv-triton"
POOL = "classic"
_LEFT_S = 30.0
_PREFIX = re.compile(r"shm-region-prefix-name=(\S+)")


class Answer:
    """What came of one request."""

    def __init__(self, status: int, data: bytes, content_type: str, rows: int) -> None:
        self.status = status
        self.data = data
        self.content_type = content_type
        self.rows = rows

    @property
    def json(self) -> Any:
        return json.loads(self.data)

    def values(self, output: str) -> list[Any]:
        return next(given["data"] for given in self.json["outputs"] if given["name"] == output)


class TritonPath(MainPath):
    """`models` are their names; all are of one pool."""

    def __init__(self, folder: Path, *models: str, **fields: Any) -> None:
        self.entries = [
            ModelEntry(name=name, pool=POOL, runtime="triton", tasks=("infer", "embeddings"), **fields)
            for name in models
        ]
        super().__init__(folder, self.entries[0])
        self.repository = folder / "models"
        self.asking: Bus
        self.admission: Admission
        self._parts: list[Any] = []

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        await self.nats.reconcile(*self.entries)
        for entry in self.entries:
            await apply_model(self._admin, entry)
        bus = self.asking = await self.nats.connect("gateway", name="gateway-0")
        presence, models = PresenceTable(bus, bus.region), ModelRegistry(bus)
        asker = Asker(bus, presence)
        beacon = Beacon(bus, lambda: _about(bus, asker))
        self._parts = [presence, asker, models, beacon]
        for part in self._parts:
            await part.start()
        await models.loaded()
        self.admission = Admission(bus, models, asker, presence)
        return self

    async def __aexit__(
        self, type_: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for part in reversed(self._parts):
            await part.stop()
        await self.asking.close()
        servers = [one for service in self._services for one in descendants(service.pid)]
        await super().__aexit__(type_, error, trace)  # kills the workers
        await eventually(lambda: not any(one.alive() for one in servers), within_s=_LEFT_S)
        prefixes = [found[1] for one in servers if (found := _PREFIX.search(one.command)) is not None]
        await eventually(lambda: not any(list(MEMORY.glob(f"{prefix}*")) for prefix in prefixes), within_s=_LEFT_S)

    async def triton(self, name: str = "triton-0", **settings: object) -> Service:
        """Start a worker, with a server of its own unless `address` says where one is."""
        fixed: dict[str, object] = {"pool": POOL, "environment": ENVIRONMENT, "repository": self.repository}
        if "address" not in settings:
            fixed["state"] = self._folder / f"state-{name}"
        return await self._start(name, "inferbus_triton_worker", "worker", "TRITON_WORKER", fixed | settings)

    async def ask(self, model: str, body: object, *, verb: str = "infer", **options: Any) -> Answer:
        """Ask once and wait for the answer; streamed parts are joined."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        path = options.pop("path", f"/v2/models/{model}/{verb}")
        wanted: dict[str, Any] = {"task": "infer", "deadline_s": 60.0} | options
        ask = Ask(model=model, path=path, body=data, **wanted)
        exchange = await self.admission.admit(Identity(tenant="dev"), ask)
        parts = b""
        try:
            while True:
                match await exchange.next():
                    case Chunk(chunk):
                        parts += chunk
                    case Ended(status, usage, whole, content_type):
                        return Answer(status, parts + whole, content_type, usage.prompt_tokens)
        finally:
            exchange.close()


def tensor(name: str, rows: list[list[Any]], datatype: str = "FP32") -> dict[str, Any]:
    return {"inputs": [{"name": name, "datatype": datatype, "shape": [len(rows), len(rows[0])], "data": rows}]}


def _about(bus: Bus, asker: Asker) -> Presence:
    return Presence(
        process="gateway-0",
        role="gateway",
        incarnation="gateway-0-1",
        region=bus.region,
        state=READY,
        asker=asker.id,
        pid=os.getpid(),
    )
