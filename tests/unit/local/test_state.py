from __future__ import annotations

from inferbus.local.layout import Layout
from inferbus.local.state import READY, PlatformState, ProcessState, read_state, write_state


def test_read_as_written(layout: Layout) -> None:
    process = ProcessState(name="llm-0", role="llm-worker", state=READY, pid=7, restarts=2, last_exit="exit status 1")
    state = PlatformState(
        pid=6, state=READY, url="http://127.0.0.1:8080", models=["inferbus-tiny"], processes=[process]
    )
    write_state(layout, state)
    assert read_state(layout) == state
    assert layout.state.stat().st_mode & 0o777 == 0o600


def test_absent_or_unreadable_is_none(layout: Layout) -> None:
    assert read_state(layout) is None
    layout.state.write_text('{"pid": 1')
    assert read_state(layout) is None


def test_fields_of_a_later_version_are_ignored(layout: Layout) -> None:
    layout.state.write_text('{"pid": 1, "news": true}')
    assert read_state(layout) == PlatformState(pid=1)
