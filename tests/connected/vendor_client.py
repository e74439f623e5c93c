"""The vendor's own HTTP client (`tritonclient.http`), as its users have it."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from tritonclient.http import InferenceServerClient, InferInput


class Vendor:
    """The vendor's client in a thread of its own, which it must not leave; it knows the gateway's address and a key."""

    def __init__(self, url: str, key: str) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._url = url.removeprefix("http://")
        self._client: InferenceServerClient | None = None
        self._headers = {"Authorization": f"Bearer {key}"}

    async def __call__(self, name: str, *args: Any, **options: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, lambda: self._call(name, *args, **options)
        )

    def _call(self, name: str, *args: Any, **options: Any) -> Any:
        if self._client is None:
            self._client = InferenceServerClient(self._url, network_timeout=30.0)
        return getattr(self._client, name)(*args, headers=dict(self._headers), **options)  # it writes into them


def tensor(values: np.ndarray, datatype: str = "FP32", *, binary: bool = True, name: str = "x") -> InferInput:
    made = InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values, binary_data=binary)
    return made
