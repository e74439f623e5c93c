"""Every process of a platform is replaced under load, the bus server included, and no request notices."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from openai import AsyncOpenAI
from tests.running_platform import RunningPlatform

from inferbus import routes
from inferbus.local.identities import users_folder
from inferbus_llm_worker.adapters.simulated_words import simulated_answer

_TOKENS, _ITL_S = 50, 0.03
_STREAMS, _WHOLES = 4, 2
_RESTART_S = 55.0


class Load:
    """Clients that ask one question after the other until told to stop. The simulator's words tell stream and place."""

    def __init__(self, client: AsyncOpenAI) -> None:
        self._client = client
        self._numbers = itertools.count()
        self._stopping = False
        self.answered: list[tuple[float, float, bool]] = []
        self.wrong: list[str] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        kinds = [True] * _STREAMS + [False] * _WHOLES
        clients = [asyncio.create_task(self._keep_asking(streamed)) for streamed in kinds]
        try:
            yield
        finally:
            self._stopping = True
            await asyncio.gather(*clients)

    async def _keep_asking(self, streamed: bool) -> None:
        now = asyncio.get_running_loop().time
        while not self._stopping:
            question = [{"role": "user", "content": f"question {next(self._numbers)}"}]
            begun = now()
            try:
                answer = await self._ask(question, streamed)
            except Exception as exc:  # whatever a client is shown counts against us
                self.wrong.append(f"{question}: {exc!r}")
                continue
            if answer != simulated_answer(question, _TOKENS):
                self.wrong.append(f"{question}: {answer}")
            self.answered.append((begun, now(), streamed))

    async def _ask(self, question: list[dict[str, str]], streamed: bool) -> str:
        body = {"model": "simulator", "messages": question, "max_tokens": _TOKENS}
        answer = await self._client.chat.completions.create(**body, stream=streamed)  # type: ignore[call-overload]  # plain JSON
        if not streamed:
            return str(answer.choices[0].message.content)
        return "".join([choice.delta.content or "" async for chunk in answer for choice in chunk.choices])


async def restart(platform: RunningPlatform, *names: str) -> str:
    """Run `inferbus restart`; gives what it printed."""
    done = await asyncio.to_thread(platform.command, "restart", *names, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def under_load(platform: RunningPlatform, *names: str) -> tuple[Load, str]:
    """Restart under load. Connections are kept alive and reused, and nothing is tried twice."""
    async with platform.async_openai(max_retries=0, http_client=httpx.AsyncClient(timeout=60)) as client:
        load = Load(client)
        async with load.running():
            printed = await restart(platform, *names)
        return load, printed


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 1])
async def test_a_rolling_restart_fails_no_request(tmp_path: Path, count: int) -> None:
    """With two of each role they are drained in turn; a lone one is relieved before it is drained."""
    options = ("--simulator", "--workers", str(count), "--gateways", str(count))
    env = {"INFERBUS_LLM_WORKER_SIMULATOR_ITL_S": str(_ITL_S)}
    with RunningPlatform(tmp_path, *options, env=env) as platform:
        before = {process.name: process.pid for process in platform.state.processes}
        url = platform.url
        load, printed = await asyncio.wait_for(under_load(platform, "--rolling"), _RESTART_S)
        after = {process.name: process.pid for process in platform.state.processes}
        assert load.wrong == []
        assert {streamed for _, _, streamed in load.answered} == {True, False}
        assert len(load.answered) > 5 * (_STREAMS + _WHOLES), "the load was constant"
        assert not set(before.values()) & set(after.values()), "every process is another one"
        assert len(after) == len(before)
        assert platform.url == url
        assert all(process.restarts == 0 for process in platform.state.processes), "nothing crashed"
        done = [line.partition("-")[0].partition(":")[0] for line in printed.splitlines() if ": done after" in line]
        assert done == ["nats", "topology", "ledger", *["llm"] * count, "batch", *["gateway"] * count]
        if count == 1:
            assert "llm-0: alone at its work, so llm-1 starts first" in printed
            assert sorted(after) == ["batch-0", "gateway-1", "ledger-0", "llm-1", "nats", "topology-0"]


UPGRADED = """
from inferbus import routes
from inferbus.local.identities import users_folder
routes.KV_BUCKETS = (*routes.KV_BUCKETS, "novel")
"""


async def test_an_upgrade_whose_gateways_wait_for_what_its_topology_makes(tmp_path: Path) -> None:
    """Every process that starts from some moment on knows of one bucket more: gateways are not ready without it. And the
    bus server gets the permissions as they are then."""
    code = tmp_path / "upgrade"
    code.mkdir()
    path = os.pathsep.join([str(code), *filter(None, [os.environ.get("PYTHONPATH")])])
    with RunningPlatform(tmp_path / "home", "--simulator", env={"PYTHONPATH": path}) as platform:
        rendered = users_folder(platform.layout).config
        current = rendered.read_text()
        rendered.write_text(f"# of the release before\n{current}")
        assert not await has_bucket(platform, "novel")
        (code / "sitecustomize.py").write_text(UPGRADED)
        printed = await asyncio.wait_for(restart(platform, "--rolling"), _RESTART_S)
        assert "gateway-0: done after" in printed
        assert await has_bucket(platform, "novel")
        assert rendered.read_text() == current
        async with platform.async_openai(max_retries=0) as client:
            question = [{"role": "user", "content": "hello"}]
            answer = await client.chat.completions.create(model="simulator", messages=question, max_tokens=3)
            assert answer.choices[0].message.content == simulated_answer(question, 3)


async def has_bucket(platform: RunningPlatform, name: str) -> bool:
    async with platform.bus("admin") as bus:
        answer = await bus.request(f"$JS.API.STREAM.INFO.{routes.kv_stream(name)}")
        return b'"error"' not in answer.data
