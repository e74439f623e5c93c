"""The supervisor's socket: one command, its lines, its end, however that comes."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from inferbus.local.command_socket import CommandFailed, CommandSocket, Handle, NobodyListens, Restart, Said, command


@asynccontextmanager
async def listening(path: Path, handle: Handle) -> AsyncIterator[CommandSocket]:
    commands = CommandSocket(path, handle)
    await commands.start()
    try:
        yield commands
    finally:
        await commands.stop()


async def said(path: Path, *names: str) -> list[Said]:
    return [line async for line in command(path, Restart(names=list(names)))]


async def test_lines_come_as_they_are_said(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def handle(restart: Restart, say: Callable[[str], None]) -> None:
        say(f"restarting {restart.names}")
        await go_on.wait()
        say("done")

    async with listening(tmp_path / "commands", handle):
        lines = command(tmp_path / "commands", Restart(names=["a"]))
        assert await anext(lines) == Said(text="restarting ['a']")
        go_on.set()
        assert [line async for line in lines] == [Said(text="done"), Said(over=True)]


async def test_failures_and_bugs_end_the_command(tmp_path: Path) -> None:
    async def handle(restart: Restart, _: Callable[[str], None]) -> None:
        raise CommandFailed("not now") if restart.names else ZeroDivisionError("oops")

    async with listening(tmp_path / "commands", handle):
        assert await said(tmp_path / "commands", "a") == [Said(text="not now", over=True, error=True)]
        (bug,) = await said(tmp_path / "commands")
        assert (bug.over, bug.error) == (True, True)
        assert "oops" in bug.text


async def test_folders_of_any_depth_and_sockets_of_the_dead(tmp_path: Path) -> None:
    async def handle(_: Restart, say: Callable[[str], None]) -> None:
        say("here")

    folder = tmp_path.joinpath(*["deep-in-the-tree"] * 8)
    folder.mkdir(parents=True)
    assert len(str(folder)) > 108
    (folder / "commands").touch()  # left behind by a supervisor that was killed
    async with listening(folder / "commands", handle):
        assert stat.S_ISSOCK((folder / "commands").stat().st_mode)
        assert await said(folder / "commands") == [Said(text="here"), Said(over=True)]
    assert not (folder / "commands").exists()


async def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(NobodyListens):
        await said(tmp_path / "commands")


async def test_a_platform_that_stops_says_so(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def handle(*_: object) -> None:
        begun.set()
        await asyncio.Event().wait()

    async with listening(tmp_path / "commands", handle) as commands:
        asked = asyncio.create_task(said(tmp_path / "commands"))
        await begun.wait()
        await commands.stop()
        assert await asked == [Said(text="the platform is stopping", over=True, error=True)]


async def test_who_hangs_up_does_not_stop_the_work(tmp_path: Path) -> None:
    begun, go_on, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def handle(_: Restart, say: Callable[[str], None]) -> None:
        begun.set()
        await go_on.wait()
        say("nobody hears this")
        done.set()

    async with listening(tmp_path / "commands", handle):
        asked = asyncio.create_task(said(tmp_path / "commands"))
        await begun.wait()
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        go_on.set()
        await asyncio.wait_for(done.wait(), 5)
