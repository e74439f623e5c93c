"""Catalog: what the server's models take and give, asked once per model and version, and again when in doubt."""

from __future__ import annotations

import asyncio
import time

from inferbus.errors import InvalidRequest
from inferbus.kserve.request import Form, InferRequest
from inferbus_triton_worker.domain.checking import check_request
from inferbus_triton_worker.domain.signature import Signature
from inferbus_triton_worker.ports import Busy, TimedOut, TritonServer

_FRESH_S = 1.0
"""A request is not refused by what is known for longer: somebody else may have loaded the model anew."""
_MAX_FITTING = 256


class Catalog:
    def __init__(self, server: TritonServer) -> None:
        self._server = server
        self._known: dict[tuple[str, str], tuple[Signature, float]] = {}
        self._asking: dict[tuple[str, str], asyncio.Task[Signature]] = {}
        self._fitting: dict[tuple[str, str], dict[Form, Signature]] = {}
        """Forms of requests that fit a model, each with the signature it was compared with."""

    async def signature(self, model: str, version: str) -> Signature:
        """Give a model's signature.

        Raises:
            ServerError: there is no such model or version, or no server.
        """
        known = self._known.get((model, version))
        return known[0] if known is not None else await self._ask(model, version)

    async def checked(self, model: str, version: str, request: InferRequest) -> Signature:
        """Give the signature a request fits.

        Raises:
            InvalidRequest: it does not. ServerError: as above.
        """
        signature = await self.signature(model, version)
        fitting = self._fitting.setdefault((model, version), {})
        if request.form is not None and fitting.get(request.form) is signature:
            return signature
        try:
            check_request(signature, request)
        except InvalidRequest:
            _, since = self._known.get((model, version), (signature, 0.0))
            if time.monotonic() - since < _FRESH_S:
                raise
            signature = await self._ask(model, version)
            check_request(signature, request)
        if request.form is not None:
            if len(fitting) >= _MAX_FITTING:
                fitting.clear()
            fitting[request.form] = signature
        return signature

    def forget(self, model: str = "") -> None:
        """Ask again about a model, or about all: it was loaded, or the server refused what fits its signature."""
        self._known = {key: known for key, known in self._known.items() if model and key[0] != model}

    async def _ask(self, model: str, version: str) -> Signature:
        key = (model, version)
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.create_task(self._fetch(key))
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        return await asyncio.shield(task)  # others may wait for the same answer

    async def _fetch(self, key: tuple[str, str]) -> Signature:
        try:
            signature = await self._server.signature(*key)
        except TimedOut as exc:  # its own, not the request's
            raise Busy(f"it did not say what the model takes: {exc.message}") from exc
        self._known[key] = (signature, time.monotonic())
        return signature
