"""Healing: a model whose process died is loaded anew, once for all who wait. The server does not do it: it goes on saying
that the model is ready, and loading what has not changed is nothing to it. So something is changed: the time of the
model's files where they can be touched, else a parameter of its configuration.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec
import structlog

from inferbus_triton_worker.ports import ServerError, TritonServer
from inferbus_triton_worker.turns import AlonesTurns, Turns

_HEALED = "inferbus_healed"
log = structlog.get_logger()


class Healer:
    """Heals the models of one server. `repository`: where their files are, if they are here."""

    def __init__(self, server: TritonServer, repository: Path | None, turns: Turns | None = None) -> None:
        self._server = server
        self._turns = turns or AlonesTurns()
        self._repository = repository
        self._healing: dict[str, asyncio.Task[None]] = {}
        self._healed: dict[str, int] = {}
        self.count = 0
        """How many times any model was healed: remember it before a request, say it with its failure."""

    async def heal(self, model: str, seen: int) -> None:
        """See that a model is alive again, of which a request found that it was dead when the count was `seen` or more.

        Raises:
            ServerError: it cannot be loaded.
        """
        task = self._healing.get(model)
        if task is None:
            if self._healed.get(model, 0) > seen:
                return
            task = self._healing[model] = asyncio.create_task(self._load_anew(model, seen))
            task.add_done_callback(lambda _: self._healing.pop(model, None))
        await asyncio.shield(task)

    def healed_elsewhere(self, model: str) -> None:
        """Another worker of this server has healed a model."""
        self.count += 1
        self._healed[model] = self.count

    async def _load_anew(self, model: str, seen: int) -> None:
        begun = time.monotonic()
        async with self._turns.healing(model) as turn:
            if not turn.mine or self._healed.get(model, 0) > seen:  # while this one waited for its turn
                return
            try:
                if self._touch(model):
                    await self._server.load(model)
                else:
                    await self._load_changed(model)
            except ServerError as exc:
                log.error("model_not_healed", model=model, error=exc.message)
                raise
            turn.done = True
        self.count += 1
        self._healed[model] = self.count
        log.warning("model_healed", model=model, seconds=round(time.monotonic() - begun, 2))

    def _touch(self, model: str) -> bool:
        """Change the time of a model's files; says whether there are any."""
        folder = self._repository / model if self._repository is not None else None
        if folder is None or not folder.is_dir():
            return False
        try:
            for file in (folder / "config.pbtxt", *folder.glob("*/model.py")):
                if file.exists():
                    file.touch()
        except OSError as exc:  # not ours to touch
            log.warning("model_not_touched", model=model, error=str(exc))
            return False
        return True

    async def _load_changed(self, model: str) -> None:
        """Load a model with its own configuration and one parameter more, which nobody reads."""
        config = await self._server.config(model, "")
        parameters = config.setdefault("parameters", {})
        parameters[_HEALED] = {"string_value": str(time.time_ns())}  # no other worker's either
        await self._server.load(model, msgspec.json.encode(config).decode())
