from __future__ import annotations

from pathlib import Path

import pytest

from inferbus.topology.stream_memory import StreamMemory, StreamsLost


def test_what_was_there_is_not_made_anew_and_what_was_not_is(tmp_path: Path) -> None:
    file = tmp_path / "known.json"
    memory = StreamMemory("auto", file)
    memory.check(["REQUEST", "PAY"])
    memory.made(["REQUEST", "PAY"])
    for later in (memory, StreamMemory("auto", file)):
        later.check([])
        later.check(["USAGE"])
        with pytest.raises(StreamsLost, match=r"PAY\."):
            later.check(["USAGE", "PAY"])
    StreamMemory("always", file).check(["REQUEST", "PAY"])
    StreamMemory("auto", file).check(["PAY"], volatile=["PAY"])  # it was on disk once


def test_never_refuses_all_and_always_none() -> None:
    with pytest.raises(StreamsLost):
        StreamMemory("never").check(["X"])
    StreamMemory("never").check([])
    memory = StreamMemory("always")
    memory.made(["X"])
    memory.check(["X"])


def test_memory_is_written_when_it_grows_only(tmp_path: Path) -> None:
    file = tmp_path / "known.json"
    StreamMemory("auto", file).made(["A"])
    file.write_text('["A", "B"]')
    StreamMemory("auto", file).made(["A"])
    assert file.read_text() == '["A", "B"]'
