"""A suspect runs alone, does get its turn, and leaves the lock as it found it."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from inferbus.worker.exclusion import Exclusion
from inferbus.worker.poison import MAX_ENGINE_DEATHS, is_poison


class _Watcher:
    def __init__(self) -> None:
        self.shared = self.alone = 0
        self.log: list[str] = []

    async def run(self, lock: Exclusion, name: str, *, suspect: bool, steps: int) -> None:
        async with lock.alone() if suspect else lock.shared():
            self.shared += not suspect
            self.alone += suspect
            for _ in range(steps):
                assert not (self.alone and self.shared), "a suspect had company"
                assert self.alone <= 1
                await asyncio.sleep(0)
            self.shared -= not suspect
            self.alone -= suspect
        self.log.append(name)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=20))
def test_suspects_never_have_company(jobs: list[tuple[bool, int]]) -> None:
    async def scenario() -> None:
        lock, watcher = Exclusion(), _Watcher()
        async with asyncio.timeout(5):
            await asyncio.gather(
                *(watcher.run(lock, str(i), suspect=suspect, steps=steps) for i, (suspect, steps) in enumerate(jobs))
            )
        assert len(watcher.log) == len(jobs)

    asyncio.run(scenario())


async def test_newcomers_wait_for_a_waiting_suspect() -> None:
    lock, watcher = Exclusion(), _Watcher()
    release = asyncio.Event()

    async def first() -> None:
        async with lock.shared():
            await release.wait()

    running = asyncio.create_task(first())
    await asyncio.sleep(0)
    suspect = asyncio.create_task(watcher.run(lock, "suspect", suspect=True, steps=3))
    await asyncio.sleep(0)
    newcomer = asyncio.create_task(watcher.run(lock, "newcomer", suspect=False, steps=0))
    await asyncio.sleep(0)
    release.set()
    await asyncio.wait_for(asyncio.gather(running, suspect, newcomer), 5)
    assert watcher.log == ["suspect", "newcomer"]


async def test_a_cancelled_suspect_lets_the_others_go_on() -> None:
    lock, watcher = Exclusion(), _Watcher()
    release = asyncio.Event()

    async def first() -> None:
        async with lock.shared():
            await release.wait()

    running = asyncio.create_task(first())
    await asyncio.sleep(0)
    suspect = asyncio.create_task(watcher.run(lock, "suspect", suspect=True, steps=0))
    await asyncio.sleep(0)
    newcomer = asyncio.create_task(watcher.run(lock, "newcomer", suspect=False, steps=0))
    await asyncio.sleep(0)
    suspect.cancel()
    await asyncio.wait_for(newcomer, 5)
    release.set()
    await running
    assert watcher.log == ["newcomer"]


def test_one_death_alone_convicts() -> None:
    assert is_poison(3, was_alone=True)
    assert not is_poison(MAX_ENGINE_DEATHS - 1, was_alone=False)
    assert is_poison(MAX_ENGINE_DEATHS, was_alone=False)
