from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from inferbus.cli import logs
from inferbus.errors import NotFound
from inferbus.local.layout import Layout
from inferbus.local.state import PlatformState, ProcessState, write_state


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(root=tmp_path, home=tmp_path / "home")
    layout.make_folders()
    for name in ("gateway-0", "llm-0", "llm-1"):
        layout.log_of(name).write_text(f"{name} one\n{name} two\n")
    write_state(layout, PlatformState(pid=1, processes=[ProcessState(name="llm-0", role="llm-worker")]))
    return layout


@pytest.mark.parametrize(
    ("service", "found"),
    [
        ("", ["gateway-0", "llm-0", "llm-1"]),
        ("llm", ["llm-0", "llm-1"]),
        ("llm-1", ["llm-1"]),
        ("llm-worker", ["llm-0"]),
    ],
)
def test_found_by_process_role_or_beginning(layout: Layout, service: str, found: list[str]) -> None:
    assert [log.stem for log in logs.find(layout, service)] == found


def test_last_lines_are_marked_where_several_are_read(layout: Layout) -> None:
    assert list(logs.read(layout, "gateway", lines=1, follow=False)) == ["gateway-0 two"]
    assert list(logs.read(layout, "llm", lines=1, follow=False)) == ["llm-0        llm-0 two", "llm-1        llm-1 two"]


def test_following_gives_what_is_appended(layout: Layout) -> None:
    with closing(logs.read(layout, "gateway-0", lines=1, follow=True)) as lines:
        assert next(lines) == "gateway-0 two"
        with layout.log_of("gateway-0").open("a") as log:
            log.write("three\n")
        assert next(lines) == "three"


def test_unknown_service_names_those_there_are(layout: Layout) -> None:
    with pytest.raises(NotFound, match="gateway-0, llm-0, llm-1"):
        logs.find(layout, "triton")
