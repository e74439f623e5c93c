"""LineWriter: ordinary lines share a write, a warning waits for nobody and overtakes nothing."""

from __future__ import annotations

import asyncio
import io

from inferbus.telemetry.log_lines import LineWriter
from inferbus.testing import eventually


async def test_ordinary_lines_wait_for_each_other() -> None:
    stream = io.BytesIO()
    writer = LineWriter(stream)
    writer.info(b"one")
    writer.info(b"two")
    assert stream.getvalue() == b""
    await eventually(lambda: stream.getvalue() == b"one\ntwo\n")


async def test_a_warning_is_written_at_once_and_after_what_was_said_before() -> None:
    stream = io.BytesIO()
    writer = LineWriter(stream)
    writer.info(b"one")
    writer.warning(b"two")
    assert stream.getvalue() == b"one\ntwo\n"
    await asyncio.sleep(0)
    writer.error(b"three")
    assert stream.getvalue() == b"one\ntwo\nthree\n"


async def test_many_bytes_do_not_wait() -> None:
    stream = io.BytesIO()
    writer = LineWriter(stream)
    for _ in range(40):
        writer.info(b"x" * 1000)
    assert len(stream.getvalue()) > 30_000


def test_without_a_loop_nothing_waits() -> None:
    stream = io.BytesIO()
    LineWriter(stream).info(b"one")
    assert stream.getvalue() == b"one\n"


def test_a_closed_stream_is_not_written_to() -> None:
    stream = io.BytesIO()
    writer = LineWriter(stream)
    stream.close()
    writer.error(b"one")
    assert stream.closed
