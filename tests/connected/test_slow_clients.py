"""Clients that do not read: bounded buffers, then the end of their request and of their connection."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.main_path import HELLO, MODEL, OPEN, MainPath, answer_of, ask
from tests.told_facts import told_facts

from inferbus.answers.exchange import MAX_BUFFER_BYTES
from inferbus.testing import eventually

DEAF = 20
PER_CLIENT_BYTES = 3 * MAX_BUFFER_BYTES
"""One buffer of the exchange, at most as much again in the transport, and what holding them costs. Nobody reads: unbounded,
each would grow by some 10 MB a second here."""


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[MainPath]:
    async with MainPath(tmp_path) as path:
        await path.worker()  # at full speed
        await path.gateway()
        yield path


def deaf_client(path: MainPath, request_id: str) -> socket.socket:
    """Ask for a stream without end and never read."""
    host, port = path.url.removeprefix("http://").split(":")
    body = json.dumps({"model": MODEL, "messages": HELLO, "stream": True, "max_tokens": 10**8})
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.connect((host, int(port)))
    deaf.sendall(
        (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {path.key}\r\n"
            f"X-Request-Id: {request_id}\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        ).encode()
    )
    return deaf


def memory_bytes(pid: int, field: str) -> int:
    """Read a field of /proc/<pid>/status: VmRSS now, VmHWM at most so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024


async def test_deaf_clients_cost_a_bounded_buffer_and_are_hung_up_on(path: MainPath) -> None:
    gateway = path.beat("gateway-0").pid
    async with path.client() as client:
        assert await ask(client, 2000, stream=True) == answer_of(2000)  # what is allocated once is allocated
        before = memory_bytes(gateway, "VmRSS")
        with ExitStack() as stack:
            deaf = [stack.enter_context(deaf_client(path, f"deaf-{n}")) for n in range(DEAF)]
            await eventually(lambda: path.figure("gateway-0", OPEN) == DEAF, within_s=30)
            assert await asyncio.wait_for(ask(client, 20, stream=True), 30) == answer_of(20), "others go on"
            # All while the sockets are open, and long before the kernel's own timeout of a minute.
            await eventually(lambda: path.figure("gateway-0", OPEN) == 0, within_s=45)
            await eventually(lambda: path.figure("llm-0", "inferbus_worker_running") == 0, within_s=20)
            await path.settled()
            grown = memory_bytes(gateway, "VmHWM") - before
            assert grown < DEAF * PER_CLIENT_BYTES + 16 * 1024 * 1024, f"{grown / 2**20:.0f} MB"
            assert all(_is_cut_off(one) for one in deaf)
    operator = await path.nats.connect("operator")
    try:
        told = {one.event.request_id: one.event for one in await told_facts(operator)}
    finally:
        await operator.close()
    assert set(told) == {f"deaf-{n}" for n in range(DEAF)}
    assert {event.phase for event in told.values()} == {"decode"}
    lines = [json.loads(line) for line in path.log("gateway-0").splitlines() if "request_finished" in line]
    slow = [line for line in lines if line["error"] == "slow_client"]
    assert len(slow) == DEAF
    assert all(line["status"] == 499 and line["completion_tokens"] > 0 for line in slow)


def _is_cut_off(client: socket.socket) -> bool:
    """Read what the kernels still have; then the connection is gone, in the middle of the answer."""
    client.settimeout(5)
    last = b""
    try:
        while data := client.recv(1 << 20):
            last = (last + data)[-100:]
    except ConnectionResetError:
        return True
    return not last.endswith(b"0\r\n\r\n")
