from __future__ import annotations

from pathlib import Path

from inferbus.local.layout import Layout, find_layout


def test_found_from_a_folder_inside(layout: Layout) -> None:
    found = find_layout(env={}, cwd=layout.root / "services" / "llm-worker")
    assert found == Layout(root=layout.root, home=layout.root / ".inferbus")


def test_state_folder_can_be_moved(layout: Layout, tmp_path: Path) -> None:
    assert find_layout(env={"INFERBUS_HOME": str(tmp_path / "x")}, cwd=layout.root).home == tmp_path / "x"


def test_elsewhere_the_checkout_of_this_package_is_meant(tmp_path: Path) -> None:
    found = find_layout(env={}, cwd=tmp_path)
    assert (found.root / "libs/common/src/inferbus/local/layout.py").exists()


def test_only_the_owner_may_look(layout: Layout) -> None:
    assert layout.home.stat().st_mode & 0o777 == 0o700
