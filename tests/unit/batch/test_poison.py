from __future__ import annotations

import asyncio

from inferbus_batch.domain.poison import ALONE, BESIDE, GIVING_UP, DeathNote
from inferbus_batch.turns import Turns


def test_what_nobody_ended_is_a_death_and_two_make_a_chunk_suspect() -> None:
    note = DeathNote()
    assert note.how(3) == BESIDE
    assert note.counted() == note
    note = DeathNote(running=BESIDE).counted()
    assert (note.deaths, note.alone, note.how(3)) == (1, 0, ALONE)


def test_only_a_death_alone_is_proof() -> None:
    assert DeathNote(deaths=9).how(3) == ALONE
    note = DeathNote(deaths=2, running=ALONE).counted()
    assert (note.deaths, note.how(3), note.blind) == (3, GIVING_UP, False)
    assert note.how(4) == ALONE
    died_again = DeathNote(deaths=3, alone=1, running=GIVING_UP).counted()
    assert (died_again.how(3), died_again.blind) == (GIVING_UP, True)


async def test_alone_is_alone() -> None:
    turns, running, seen = Turns(), set[str](), list[frozenset[str]]()

    async def work(name: str, *, alone: bool) -> None:
        async with turns.turn(alone=alone):
            running.add(name)
            seen.append(frozenset(running))
            for _ in range(5):
                await asyncio.sleep(0)
            running.remove(name)

    await asyncio.gather(*(work(f"{n}", alone=n % 3 == 2) for n in range(12)))
    assert frozenset({"0", "1"}) in seen
    assert all(len(names) == 1 for names in seen if any(int(name) % 3 == 2 for name in names))
    assert len(seen) == 12


async def test_who_gives_up_waiting_keeps_nobody_back() -> None:
    turns = Turns()
    async with turns.turn(alone=False):
        waiting = asyncio.create_task(_once(turns, alone=True))
        await asyncio.sleep(0)
        other = asyncio.create_task(_once(turns, alone=False))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await asyncio.wait_for(other, 5)


async def _once(turns: Turns, *, alone: bool) -> None:
    async with turns.turn(alone=alone):
        pass
